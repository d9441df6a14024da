"""The verb update-all: relock everything and draft the pull request."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from torchlocks.cli.commands.shared import locking_options


@click.command()
@locking_options("all")
@click.option("--since", default=None, metavar="REV", help="Lock nothing: describe changes since a git revision.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=None, help="File to write (default: reports/update.md)."
)
def update_all(
    env_name: str | None,
    platform: str | None,
    snapshot: Path | None,
    as_of: datetime | None,
    mirror: str | None,
    since: str | None,
    output: Path | None,
) -> None:
    """Lock everything on the newest state of the channels, check it, and write the text of a pull request.

    Prints the title of the text, or that nothing changed.
    """
    from torchlocks.cli.commands.shared import write_or_print
    from torchlocks.cli.console import make_progress
    from torchlocks.core.layout import find_layout
    from torchlocks.locking.options import LockOptions, find_solver
    from torchlocks.matrix.load import load_matrix
    from torchlocks.solve.repodata import RecordSource, require_snapshot
    from torchlocks.update.pull_request import body, headline
    from torchlocks.update.relock import account_since, first_error
    from torchlocks.update.relock import update_all as update

    layout = find_layout()
    layout.require_checkout("update-all")
    matrix = load_matrix(layout.matrix)
    if since is not None:
        from torchlocks.check.repository import check_repository

        found = account_since(layout, matrix, since, check_repository(layout, matrix))
    else:
        if snapshot is not None:
            require_snapshot(snapshot)
        source = RecordSource(
            snapshot=snapshot.absolute() if snapshot else None,
            as_of=as_of.date() if as_of else None,
            mirror=mirror or None,
        )
        options = LockOptions(source=source, solver=find_solver())
        found = update(layout, matrix, matrix.select(env_name, platform), options, make_progress())
    write_or_print(body(found), output or layout.reports / "update.md", folder=True)
    click.echo(headline(found))
    if (error := first_error(found)) is not None:
        raise error
