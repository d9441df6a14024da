"""The verbs refresh and update-all: better rows for the matrix, newer locks, and the draft of a pull request."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from torchlocks.cli.commands.shared import (
    locking_options,
    output_option,
    record_source,
    scheduler_option,
    write_or_print,
)

if TYPE_CHECKING:
    from torchlocks.locking.options import LockOptions

allow_option = click.option(
    "--allow-loss",
    "allow",
    multiple=True,
    type=click.Choice(["platform", "torchvision", "architecture"]),
    help="Allow cells to lose this if nothing else solves; may be repeated.",
)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--branch", required=True, help="The branch of the pull request; it is replaced.")
@click.option(
    "--body", type=click.Path(path_type=Path), required=True, help="Its text; the first heading is the title."
)
def pull_request(paths: tuple[str, ...], branch: str, body: Path) -> None:
    """Commit the changes below PATH on a branch, and open or update its pull request; for workflows."""
    import os

    from torchlocks.cli.action import write_summary
    from torchlocks.core.layout import find_layout
    from torchlocks.update.open_request import open_request

    layout = find_layout()
    layout.require_checkout("pull-request")
    done = open_request(layout, branch, body, paths)
    click.echo(done)
    write_summary(os.environ, f"{done}\n")


@click.command()
@locking_options("all rows")
@scheduler_option
@click.option("--dry-run", is_flag=True, help="Print the plan, and write and lock nothing.")
@allow_option
def refresh(
    env_name: str | None,
    platform: str | None,
    snapshot: Path | None,
    as_of: datetime | None,
    mirror: str | None,
    scheduler: str | None,
    dry_run: bool,
    allow: tuple[str, ...],
) -> None:
    """Move the matrix to newer PyTorch, Python and CUDA, and to torchvision and torchaudio that have appeared.

    Solves what the channels have for every row and platform, writes the new matrix.yml, and locks what changed.
    Prints what moved, and which combinations failed and why.
    """
    from torchlocks.cli.console import make_progress
    from torchlocks.core.layout import find_layout
    from torchlocks.matrix.load import load_matrix
    from torchlocks.update.apply import apply
    from torchlocks.update.plan_text import plan_headline, plan_lines
    from torchlocks.update.refresh import plan

    layout = find_layout()
    if not dry_run:
        layout.require_checkout("refresh")
    matrix = load_matrix(layout.matrix)
    options = _options(snapshot, as_of, mirror, scheduler)
    progress = make_progress()
    found = plan(layout, matrix, options, progress, env=env_name, platform=platform, allow=allow)  # type: ignore[arg-type]
    for line in plan_lines(found):
        click.echo(line)
    click.echo(plan_headline(found))
    if dry_run or not found.changed:
        return
    applied = apply(layout, found, options, progress)
    for result in applied.locked:
        click.echo(f"locked {result.env}" if result.changed else f"{result.env} is unchanged")
    for name in applied.removed:
        click.echo(f"removed locks/{name}")
    for name in applied.recipes:
        click.echo(f"wrote {name}")
    if applied.failures:
        raise applied.failures[0].error


@click.command()
@locking_options("all")
@scheduler_option
@click.option("--refresh/--no-refresh", default=True, help="Move the matrix first (default), or keep it as it is.")
@allow_option
@click.option("--since", default=None, metavar="REV", help="Lock nothing: describe changes since a git revision.")
@output_option("File to write (default: reports/update.md).")
def update_all(
    env_name: str | None,
    platform: str | None,
    snapshot: Path | None,
    as_of: datetime | None,
    mirror: str | None,
    scheduler: str | None,
    refresh: bool,
    allow: tuple[str, ...],
    since: str | None,
    output: Path | None,
) -> None:
    """Move the matrix, lock everything on the newest state of the channels, check it, and draft a pull request.

    Prints the title of the text, or that nothing changed.
    """
    from torchlocks.cli.console import make_progress
    from torchlocks.core.layout import find_layout
    from torchlocks.matrix.load import load_matrix
    from torchlocks.update.apply import remove_locks, write_plan
    from torchlocks.update.plan_text import plan_lines
    from torchlocks.update.pull_request import body, headline
    from torchlocks.update.refresh import plan
    from torchlocks.update.relock import account_since, first_error, keep_plan, kept_plan
    from torchlocks.update.relock import update_all as update

    layout = find_layout()
    layout.require_checkout("update-all")
    matrix = load_matrix(layout.matrix)
    if since is not None:
        from torchlocks.check.repository import check_repository

        found = account_since(layout, matrix, since, check_repository(layout, matrix))
        lines = kept_plan(layout)
    else:
        options, progress, lines = _options(snapshot, as_of, mirror, scheduler), make_progress(), []
        before = matrix
        if refresh:
            planned = plan(layout, matrix, options, progress, env=env_name, platform=platform, allow=allow)  # type: ignore[arg-type]
            lines = plan_lines(planned, moved_only=True)
            if planned.changed:
                matrix = write_plan(layout, planned)
                remove_locks(layout, before, matrix)
        targets = matrix.select(env_name, platform)
        if env_name is not None:
            # The variants of the row move with it.
            row = matrix.row_of(env_name)
            targets = tuple(each for each in matrix.select(None, platform) if matrix.row_of(each.env) == row)
        found = update(layout, matrix, targets, options, progress)
        keep_plan(layout, lines)
    write_or_print(body(found, lines), output or layout.reports / "update.md", folder=True)
    click.echo(headline(found))
    if (error := first_error(found)) is not None:
        raise error


def _options(snapshot: Path | None, as_of: datetime | None, mirror: str | None, scheduler: str | None) -> LockOptions:
    from functools import partial

    from torchlocks.locking.options import LockOptions, find_solver

    cluster = None
    if scheduler:
        from torchlocks.dask.lock import open_cluster
        from torchlocks.update.messages import register

        register()
        cluster = partial(open_cluster, scheduler)
    return LockOptions(source=record_source(snapshot, as_of, mirror), solver=find_solver(), cluster=cluster)
