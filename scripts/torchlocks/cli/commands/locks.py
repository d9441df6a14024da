"""Verbs on the matrix and its locks: matrix, render, lock, update, check."""

from __future__ import annotations

import sys
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from torchlocks.cli.commands.shared import (
    environment_option,
    locking_options,
    print_rich,
    record_source,
    scheduler_option,
)

if TYPE_CHECKING:
    from torchlocks.core.layout import Layout


@click.command()
@click.option("--schema", is_flag=True, help="Print the JSON schema of matrix.yml instead.")
@click.option("--markdown", is_flag=True, help="Print the table of docs/environments.md.")
@click.option("--summary", is_flag=True, help="Print the table of the README: one line for each environment.")
@click.option("--write", is_flag=True, help="Write both tables to their files.")
@click.option("--all", "variants", is_flag=True, help="With the variants: other Pythons and PyTorches.")
def matrix(schema: bool, markdown: bool, summary: bool, write: bool, variants: bool) -> None:
    """List the environments and platforms."""
    from torchlocks.core.layout import find_layout
    from torchlocks.matrix.load import load_matrix, matrix_schema

    if schema:
        click.echo(matrix_schema(), nl=False)
        return
    from torchlocks.core.printing import printable
    from torchlocks.matrix.table import matrix_markdown, matrix_table, summary_markdown

    layout = find_layout()
    loaded = load_matrix(layout.matrix)
    if write:
        from torchlocks.evidence.tables import update_tables

        layout.require_checkout("matrix --write")
        changed = update_tables(layout, loaded)
        for path in changed:
            click.echo(f"wrote {path.relative_to(layout.root)}")
        if not changed:
            click.echo("the tables are current")
        return
    if markdown or summary:
        from torchlocks.evidence.summary import all_proofs, by_environment

        proofs = all_proofs(layout)
        if summary:
            click.echo(summary_markdown(loaded, by_environment(proofs)), nl=False)
        else:
            click.echo(matrix_markdown(loaded, {cell: each.text() for cell, each in proofs.items()}), nl=False)
        return
    table = matrix_table(loaded, variants=variants, terminal=sys.stdout.isatty())
    if isinstance(table, str):
        print(printable(table, lines=True))
    else:
        print_rich(table)


@click.command()
@click.option("--env", "env_name", default=None, help="One environment (default: all).")
@click.option("--platform", default=None, help="One platform (default: all of the environment).")
def render(env_name: str | None, platform: str | None) -> None:
    """Print the rendered conda environment files."""
    from torchlocks.core.layout import find_layout
    from torchlocks.matrix.load import load_matrix
    from torchlocks.matrix.render import render as render_target

    layout = find_layout()
    for target in load_matrix(layout.matrix).select(env_name, platform):
        click.echo(f"# {target.env} on {target.platform}")
        click.echo(render_target(layout.root / target.template, target))


@click.command()
@locking_options("all")
@click.option("--conda", default=None, help="Use this conda or micromamba to solve.")
@scheduler_option
@click.option("--force", is_flag=True, help="Solve again even if nothing has changed since the last lock.")
def lock(
    env_name: str | None,
    platform: str | None,
    snapshot: Path | None,
    as_of: datetime | None,
    mirror: str | None,
    conda: str | None,
    scheduler: str | None,
    force: bool,
) -> None:
    """Solve the matrix and write the lockfiles."""
    _lock(env_name, platform, snapshot, as_of, mirror, conda, move=None, scheduler=scheduler, force=force)


@click.command()
@click.argument("packages", nargs=-1)
@locking_options("all that have the package")
@click.option(
    "--base", is_flag=False, flag_value="", default=None, help="Move a lock to its base's newest, or to BASE."
)
@click.option("--repository", default=None, help="Repository that has the revision of BASE: a URL or a path.")
@click.option("--lock", "own_lock", type=click.Path(path_type=Path), default=Path(), help="The lock on a base.")
def update(
    packages: tuple[str, ...],
    env_name: str | None,
    platform: str | None,
    snapshot: Path | None,
    as_of: datetime | None,
    mirror: str | None,
    base: str | None,
    repository: str | None,
    own_lock: Path,
) -> None:
    """Update the named packages, or with --base move a lock to a newer base; all other packages stay if possible.

    --base takes the current state of the base that the lock was built on, --base BASE another one. The lock is the
    conda-lock.yml of this folder, or --lock.
    """
    if base is not None:
        if packages or env_name or platform:
            raise click.UsageError("--base moves a whole lock; name no packages, environment or platform with it")
        from torchlocks.cli.commands.extend import update_base

        update_base(own_lock, base, repository, snapshot, as_of, mirror)
        return
    if not packages:
        raise click.UsageError("name the packages to move, or --base")
    _lock(env_name, platform, snapshot, as_of, mirror, None, move=packages)


def _lock(
    env_name: str | None,
    platform: str | None,
    snapshot: Path | None,
    as_of: datetime | None,
    mirror: str | None,
    conda: str | None,
    move: tuple[str, ...] | None,
    scheduler: str | None = None,
    force: bool = False,
) -> None:
    from torchlocks.cli.console import make_progress, print_error
    from torchlocks.core.errors import grouped
    from torchlocks.core.layout import find_layout
    from torchlocks.dask.lock import open_cluster
    from torchlocks.locking.environments import lock_environments, targets_with
    from torchlocks.locking.options import LockOptions, find_solver
    from torchlocks.matrix.load import load_matrix

    layout = find_layout()
    layout.require_checkout("lock" if move is None else "update")
    matrix = load_matrix(layout.matrix)
    targets = matrix.select(env_name, platform)
    source = record_source(snapshot, as_of, mirror)
    if move is not None:
        targets = tuple(targets_with(targets, layout.locks, move))
    options = LockOptions(
        source=source,
        solver=find_solver(conda or None),
        move=move,
        cluster=partial(open_cluster, scheduler) if scheduler is not None else None,
        cache=None if force else layout.build / "locked",
    )
    results, failures = lock_environments(layout, targets, layout.locks, options, make_progress())
    for result in results:
        state = f"wrote {', '.join(result.changed)}" if result.changed else "unchanged"
        click.echo(f"{result.env} ({', '.join(result.platforms)}): {state}")
    if not failures and any(result.changed for result in results):
        from torchlocks.publish.metapackages import update_generated

        for path in update_generated(layout, matrix):
            click.echo(f"wrote {path.relative_to(layout.root)}, which is generated from the locks")
    for error in grouped([failure.error for failure in failures]):
        print_error(error)
    if failures:
        count = len({failure.target.env for failure in failures})
        click.echo(
            f"{count} of {count + len(results)} environments could not be locked; their locks are unchanged.", err=True
        )
        raise SystemExit(failures[0].error.exit_code)


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--env", "env_name", default=None, help="One environment of the matrix (default: all).")
@click.option("--snapshot", type=click.Path(path_type=Path), default=None, help="Also lock again from it and compare.")
@click.option("--format", "form", type=click.Choice(["text", "json", "github"]), default="text", show_default=True)
@scheduler_option
@environment_option
@click.option("--rule", "chosen", multiple=True, metavar="ID", help="Only this rule's findings; may be repeated.")
@click.option("--rules", is_flag=True, help="List the rules and exit.")
@click.option("--fetch-base", is_flag=True, help="Fetch a base that is on another machine (default: no network).")
@click.option("--require-base", is_flag=True, help="Fail if a lock's base was not checked.")
@click.option("--builtin", is_flag=True, help="Check the locks that torchlocks contains, also outside of its checkout.")
def check(
    files: tuple[Path, ...],
    env_name: str | None,
    snapshot: Path | None,
    form: str,
    scheduler: str | None,
    environment: str | None,
    chosen: tuple[str, ...],
    rules: bool,
    fetch_base: bool,
    require_base: bool,
    builtin: bool,
) -> None:
    """Check the committed locks, or the given lockfiles.

    Without files, the locks of this folder are checked (a conda-lock.yml that was built on a base, or outside of a
    checkout any lock), and in a checkout of torchlocks its own. A folder as argument means the conda-lock.yml in it.
    """
    from torchlocks.check import anywhere
    from torchlocks.check import lock as checks
    from torchlocks.check import report as check_report
    from torchlocks.check.repository import check_repository
    from torchlocks.check.rules.extended import BASE_UNSEEN
    from torchlocks.cli.console import make_progress
    from torchlocks.core.errors import CheckError, MissingFileError
    from torchlocks.core.layout import builtin_layout, find_layout
    from torchlocks.matrix.load import load_matrix

    layout: Layout | None
    if rules or chosen:
        from torchlocks.check.relock import REASON, RULE

        known = {**checks.rule_reasons(), RULE: f"{REASON} (with --snapshot)"}
        if rules:
            for rule, reason in known.items():
                click.echo(f"{rule:24} {reason}")
            return
        for rule in chosen:
            if rule not in known:
                raise click.BadParameter(f"there is no rule {rule!r}; --rules lists them", param_hint="--rule")
    whole = env_name is not None or snapshot is not None or builtin or scheduler is not None
    if files and whole:
        raise click.UsageError(
            "--env, --snapshot, --scheduler and --builtin go with the locks of the matrix, and files are named"
        )
    if scheduler is not None and snapshot is not None:
        raise click.UsageError("--snapshot locks again on this machine; check with --scheduler, and again with it")
    if environment is not None and not files:
        raise click.UsageError("--environment goes with a pixi.lock that is named")
    try:
        layout = find_layout()
    except MissingFileError:
        if whole and not builtin and scheduler is None:
            raise
        layout = None
    if scheduler is not None and not builtin and (layout is None or layout.packaged):
        raise click.UsageError("--scheduler goes with the locks of a checkout of torchlocks, and this is none")
    if not files and not whole:
        files = _locks_here(layout is None or layout.packaged)
    if files:
        rows = anywhere.no_rows if layout is None else anywhere.rows_by_path(layout)
        report = anywhere.check_files_of(files, environment, fetch_base=fetch_base, rows=rows)
        report = anywhere.require_bases(report) if require_base else report
    else:
        layout = builtin_layout() if builtin else layout or find_layout()
        loaded = load_matrix(layout.matrix)
        cluster = None
        if scheduler is not None:
            from torchlocks.dask.lock import open_cluster

            cluster = partial(open_cluster, scheduler)
        progress = make_progress(quiet=form != "text")
        report = check_repository(layout, loaded, [env_name] if env_name else None, cluster=cluster, progress=progress)
        if snapshot is not None:
            from torchlocks.check.relock import check_relocked

            targets = loaded.select(env_name, None)
            report += check_relocked(layout, targets, snapshot.absolute(), progress)
    if chosen:
        report = report.only((*chosen, BASE_UNSEEN) if require_base else chosen)
    if form == "json":
        click.echo(check_report.as_json(report), nl=False)
    elif form == "github":
        click.echo(check_report.as_annotations(report), nl=False)
    else:
        print_rich(check_report.as_text(report))
    if report.failed:
        raise CheckError(
            f"The locks have errors: {check_report.summary(report)}.",
            fix="see the findings; `torchlocks check --rules` has the reason of each rule",
        )


def _locks_here(outside: bool) -> tuple[Path, ...]:
    """Return the lockfiles of the current folder to check; `outside`: it is in no checkout of torchlocks.

    Raises MissingFileError outside of a checkout if there is none.
    """
    from torchlocks.check import anywhere
    from torchlocks.core.errors import MissingFileError

    if here := anywhere.lock_on_base(Path()):
        return (here,)
    found = anywhere.locks_in(Path()) if outside else ()
    if outside and not found:
        raise MissingFileError(
            "There is no lock here, so there is nothing to check.",
            where=str(Path.cwd()),
            fix="name lockfiles, or folders with a conda-lock.yml; --builtin checks those of torchlocks itself",
        )
    return found
