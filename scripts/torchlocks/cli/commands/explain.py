"""Verbs that explain locks: why, diff."""

from __future__ import annotations

from pathlib import Path

import click

from torchlocks.cli.commands.shared import environment_option, naming_environments, print_rich, record_source


@click.command()
@click.argument("what", metavar="PACKAGE_OR_SPEC")
@click.option("--env", "env_name", default="cpu", show_default=True, help="Environment of the matrix.")
@click.option("--lock", "own_lock", default=None, metavar="LOCK", help="A lockfile from anywhere, instead of --env.")
@click.option("--platform", default=None, help="Platform (default: this machine's).")
@environment_option
@click.option("--snapshot", type=click.Path(path_type=Path), default=None, help="Folder of repodata for the solver.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, and nothing else.")
def why(
    what: str,
    env_name: str,
    own_lock: str | None,
    platform: str | None,
    environment: str | None,
    snapshot: Path | None,
    as_json: bool,
) -> None:
    """Explain why a package is in a lock, or why a match spec has no solution.

    A name ('cudnn') is looked up in the committed lock, or in --lock. A match spec ('numpy <2', 'pytorch * cpu*') is
    solved together with the environment's own specs; so is a name if there is no lock.
    """
    from torchlocks.core.layout import find_layout
    from torchlocks.host.detect import host_platform
    from torchlocks.lockfile.formats import CONDA_LOCK
    from torchlocks.lockfile.open import open_lock
    from torchlocks.lockfile.specs import spec_name
    from torchlocks.matrix.load import load_matrix
    from torchlocks.matrix.render import render as render_target
    from torchlocks.matrix.render import requested
    from torchlocks.solve import why as reasons

    def show(answer: reasons.Why) -> None:
        if as_json:
            click.echo(reasons.as_json(answer), nl=False)
        else:
            print_rich(reasons.as_text(answer))

    is_name = what.isascii() and what.replace("-", "").replace("_", "").replace(".", "").isalnum()
    if own_lock is not None:
        from torchlocks.export.environment import find_locked

        if not is_name:
            raise click.UsageError("a match spec is solved with an environment of the matrix; --lock takes a name")
        locked = find_locked(own_lock, platform, environment, lockfile=True)
        show(reasons.why(locked.lock, locked.platform, what))
        return
    if environment is not None:
        raise click.UsageError("--environment goes with --lock and a pixi.lock")
    layout = find_layout()
    matrix = load_matrix(layout.matrix)
    target = matrix.target(env_name, platform or host_platform())
    rendered = render_target(layout.root / target.template, target)
    path = layout.locks / env_name / CONDA_LOCK
    packages = [each.split()[0] for each in target.holds]
    with naming_environments(matrix, [spec_name(what)], packages, target.platform, env_name):
        if is_name and path.is_file():
            show(reasons.why(open_lock(str(path)), target.platform, what, requested(rendered)))
            return
        from torchlocks.solve.why_not import try_with

        for line in try_with(target, rendered, [what], record_source(snapshot)):
            click.echo(f"There is a solution: {env_name} on {target.platform} would have {line}.")


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--format", "form", type=click.Choice(["text", "markdown", "json"]), default="text", show_default=True)
@environment_option
def diff(before: str, after: str, form: str, environment: str | None) -> None:
    """Compare two locks: files, folders, REV:PATH in git, or the prefixes of environments."""
    from torchlocks.diff.compare import diff as compare
    from torchlocks.diff.read import read_side
    from torchlocks.diff.report import as_json, as_markdown, as_text

    sides = [read_side(each, environment) for each in (before, after)]
    if environment is not None and not any(side.environment for side in sides):
        raise click.UsageError("--environment is for a pixi.lock, and neither is one")
    found = compare(*sides)
    if form == "text":
        print_rich(as_text(found))
    else:
        click.echo(as_markdown(found) if form == "markdown" else as_json(found), nl=False)
