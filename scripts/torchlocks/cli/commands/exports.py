"""The verb export: locks in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from torchlocks.cli.commands.shared import locked_options, note_environment, write_or_print

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchlocks.export.environment import LockedTarget
    from torchlocks.export.formats import Place


@click.command()
@locked_options
@click.option("--format", "form", default=None, help="One format (see --list; default: all, into a folder).")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="File, or with all forms folder.")
@click.option("--prefix", default=None, help="Where the environment is installed, for slurm and module.")
@click.option("--list", "show", is_flag=True, expose_value=False, is_eager=True, callback=lambda c, p, v: _list(c, v))
def export(
    name: str,
    platform: str | None,
    environment: str | None,
    form: str | None,
    output: Path | None,
    prefix: str | None,
) -> None:
    """Write a lock for other tools: explicit, environment, constraints, pixi, dockerfile, apptainer, slurm, module …

    pixi's manifest contains all platforms of the lock, unless --platform names one.
    """
    from torchlocks.core.errors import ExportError
    from torchlocks.core.quantities import shortened
    from torchlocks.export.environment import find_locked
    from torchlocks.export.formats import FORMATS, not_exported
    from torchlocks.export.formats import export as export_as

    if form is not None and form not in FORMATS:
        raise ExportError(f"There is no export format {form!r}.", fix=f"use one of: {', '.join(FORMATS)}")
    locked = find_locked(name, platform, environment)
    note_environment(locked.lock)
    if others := not_exported(locked):
        click.echo(f"note: left to pip or to be built, and in no export: {shortened(others)}", err=True)
    place = _place(locked, prefix, form)
    if form is None:
        _write_all(locked, _every(name, locked, platform, environment), place, output)
        return
    chosen = _every(name, locked, platform, environment) if form == "pixi" else (locked,)
    write_or_print(export_as(FORMATS[form], chosen, place), output)


def _every(name: str, locked: LockedTarget, platform: str | None, environment: str | None) -> Sequence[LockedTarget]:
    from torchlocks.export.environment import find_locked

    platforms = [locked.platform] if platform else locked.platforms
    return [locked if each == locked.platform else find_locked(name, each, environment) for each in platforms]


def _place(locked: LockedTarget, prefix: str | None, form: str | None) -> Place:
    from torchlocks.core.errors import MissingFileError
    from torchlocks.core.layout import find_layout
    from torchlocks.export.formats import Place

    if prefix is not None:
        # A folder of this machine is named in full: a job does not start where this command does.
        return Place(prefix=str(Path(prefix).absolute()) if Path(prefix).is_dir() else prefix)
    try:
        found = find_layout().prefix(locked.name)
    except MissingFileError:
        found = Path.cwd() / "envs" / locked.name
    if form in (None, "slurm", "module") and not (found / "conda-meta").is_dir():
        click.echo(f"note: there is no environment at {found}; name another place with --prefix", err=True)
    return Place(prefix=str(found))


def _write_all(locked: LockedTarget, every: Sequence[LockedTarget], place: Place, folder: Path | None) -> None:
    from torchlocks.core.errors import MissingFileError
    from torchlocks.core.layout import find_layout
    from torchlocks.export.formats import FORMATS
    from torchlocks.export.formats import export as export_as

    if folder is None:
        try:
            build = find_layout().build
        except MissingFileError:
            # A lock of another repository.
            build = Path("build")
        folder = build / "exports" / f"{locked.name}-{locked.platform}"
    # All texts are rendered before the first is written.
    texts = {
        form.file_for(locked): export_as(form, every if form.name == "pixi" else (locked,), place)
        for form in FORMATS.values()
        if not form.linux_only or locked.platform.startswith("linux-")
    }
    for file, text in texts.items():
        write_or_print(text, folder / file, folder=True)


def _list(context: click.Context, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from torchlocks.export.formats import FORMATS

    for form in FORMATS.values():
        click.echo(f"{form.name:14}{form.purpose}")
    context.exit()
