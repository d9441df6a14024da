"""The verb export: locks in the formats of other tools."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from torchlocks.cli.commands.shared import locked_options, note_environment, output_option, write_or_print

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchlocks.export.environment import LockedTarget
    from torchlocks.export.render import Place


@click.command()
@locked_options
@click.option("--format", "form", default=None, help="One format (see --list; default: all, into a folder).")
@output_option("File, or with all forms folder.")
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
    from torchlocks.core.errors import ExportError, MissingFileError
    from torchlocks.core.quantities import shortened
    from torchlocks.export.environment import find_locked
    from torchlocks.export.formats import FORMATS, not_exported
    from torchlocks.export.formats import export as export_as

    if form is not None and form not in FORMATS:
        raise ExportError(f"There is no export format {form!r}.", fix=f"use one of: {', '.join(FORMATS)}")
    if form is None and output is not None and output.exists() and not output.is_dir():
        fix = "name a folder with -o, or one form with --format"
        raise MissingFileError("The forms cannot be written: this is a file.", where=str(output), fix=fix)
    locked = find_locked(name, platform, environment)
    note_environment(locked.lock)
    if others := not_exported(locked):
        click.echo(f"note: left to pip or to be built, and in no export: {shortened(others)}", err=True)
    place = _place(locked, prefix, form)
    if form == "constraints":
        place = replace(place, left_out=_contradicted(locked))
    if form is None:
        _write_all(name, locked, _every(name, locked, platform, environment), place, output)
        return
    chosen = _every(name, locked, platform, environment) if form == "pixi" else (locked,)
    write_or_print(export_as(FORMATS[form], chosen, place), output)
    if form == "pixi" and output is not None:
        _write_pixi_lock(name, locked, output.parent)


def _contradicted(locked: LockedTarget) -> tuple[str, ...] | None:
    """Return the pins that PyPI's torch contradicts, None if PyPI has no such torch for the platform."""
    from torchlocks.export.pins import constraints
    from torchlocks.export.pypi import contradicted, uv_resolver

    if any(package.depends is None for package in locked.packages):
        return ()  # The format itself reports that.
    python = ".".join((locked.version_of("python") or "3").split(".")[:2])
    pins, _ = constraints(locked.packages)
    return contradicted(pins, uv_resolver(python, locked.platform))


def _write_pixi_lock(name: str, locked: LockedTarget, folder: Path) -> None:
    """Write the pixi.lock of the same lock into `folder`, beside the manifest."""
    from torchlocks.core.layout import find_layout
    from torchlocks.export.environment import is_lockfile
    from torchlocks.lockfile.fields import secret_line

    source = locked.lock.path.with_name("pixi.lock") if is_lockfile(name) else None
    if source is None:
        source = find_layout().locks / locked.name / "pixi.lock"
    if not source.is_file():
        click.echo("note: there is no pixi.lock beside this lock; `pixi install` makes one from pixi.toml", err=True)
    elif source.resolve() != (folder / "pixi.lock").resolve():
        text = source.read_text(encoding="utf-8")
        if secret_line(text) is not None:
            click.echo("note: the pixi.lock is not copied: it contains credentials; `pixi install` makes one", err=True)
        else:
            write_or_print(text, folder / "pixi.lock")


def _every(name: str, locked: LockedTarget, platform: str | None, environment: str | None) -> Sequence[LockedTarget]:
    from torchlocks.export.environment import find_locked

    platforms = [locked.platform] if platform else locked.platforms
    return [locked if each == locked.platform else find_locked(name, each, environment) for each in platforms]


def _place(locked: LockedTarget, prefix: str | None, form: str | None) -> Place:
    from torchlocks.core.errors import MissingFileError
    from torchlocks.core.layout import find_layout
    from torchlocks.export.render import Place

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


def _write_all(
    name: str, locked: LockedTarget, every: Sequence[LockedTarget], place: Place, folder: Path | None
) -> None:
    """Write all forms into a folder; without an index of Python packages, all but the constraints."""
    from torchlocks.core.errors import ChannelUnreachableError, ExportError, MissingFileError
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
    skipped: set[str] = set()
    try:
        place = replace(place, left_out=_contradicted(locked))
    except (ChannelUnreachableError, ExportError) as error:
        click.echo(f"note: constraints.txt is not written. {error.what}", err=True)
        skipped.add("constraints")
    # All texts are rendered before the first is written.
    texts = {
        form.file_for(locked): export_as(form, every if form.name == "pixi" else (locked,), place)
        for form in FORMATS.values()
        if form.name not in skipped and (not form.linux_only or locked.platform.startswith("linux-"))
    }
    for file, text in texts.items():
        write_or_print(text, folder / file, folder=True)
    _write_pixi_lock(name, locked, folder)


def _list(context: click.Context, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from torchlocks.export.formats import FORMATS

    for form in FORMATS.values():
        click.echo(f"{form.name:14}{form.purpose}")
    context.exit()
