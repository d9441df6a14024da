"""The verb extend, and update --base: locks on top of a base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from torchlocks.cli.commands.shared import mirror_option, naming_environments, print_rich, record_source

if TYPE_CHECKING:
    from torchlocks.extend.base import Base
    from torchlocks.extend.environment_file import EnvironmentFile


@click.command()
@click.argument("environment", type=click.Path(path_type=Path), default="environment.yml")
@click.option("--base", "base_name", default=None, help="ENV, ENV@REVISION, a path or a URL (default: the lock's).")
@click.option("--repository", default=None, help="Repository that has the base's REVISION: a URL or a path.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="Folder of the lock.")
@click.option(
    "--platform", "platforms", multiple=True, help="One platform; may be repeated (default: the lock's, or all)."
)
@click.option("--allow-move", "moves", multiple=True, metavar="PKG", help="Base package that may move; repeatable.")
@click.option("--channel", "channels", multiple=True, help="Channel (or its folder) instead of the file's; repeatable.")
@click.option("--snapshot", type=click.Path(path_type=Path), default=None, help="Folder of repodata to lock against.")
@click.option("--as-of", type=click.DateTime(["%Y-%m-%d"]), default=None, help="Ignore packages newer than this day.")
@mirror_option
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON, and nothing else.")
def extend(
    environment: Path,
    base_name: str | None,
    repository: str | None,
    output: Path | None,
    platforms: tuple[str, ...],
    moves: tuple[str, ...],
    channels: tuple[str, ...],
    snapshot: Path | None,
    as_of: datetime | None,
    mirror: str | None,
    as_json: bool,
) -> None:
    """Lock ENVIRONMENT (an environment.yml) on top of a base.

    Every package of the base stays exactly as it is; only additions are solved. The lock, a conda-lock.yml, is written
    into the folder of ENVIRONMENT, or of --output, with the files for other clients. An existing lock records its base,
    platforms, channels and moves, which are then the defaults.
    """
    from torchlocks.cli.console import make_progress
    from torchlocks.core.errors import BaseLockError
    from torchlocks.extend.base import open_base
    from torchlocks.extend.base_name import name_base
    from torchlocks.extend.built import read_built
    from torchlocks.extend.environment_file import read_environment_file
    from torchlocks.extend.lock import ExtendOptions, lock_file
    from torchlocks.extend.lock import extend as lock_on_base
    from torchlocks.extend.report import as_json as report_json
    from torchlocks.extend.report import as_text
    from torchlocks.lockfile.formats import read_lock

    environment_file = read_environment_file(environment)
    for note in environment_file.notes:
        click.echo(f"note: {note}", err=True)
    path = lock_file(environment.parent if output is None else output)
    if base_name:
        name = name_base(base_name, repository, path.parent)
    else:
        before = read_lock(path) if path.is_file() else None
        built = read_built(before.metadata) if before else None
        if before is None or built is None:
            raise BaseLockError(
                "No base is named, and there is no lock that was built on one.",
                where=str(path),
                fix="name it: --base cpu, --base gpu-cu118@TAG, or the path or URL of a conda-lock.yml",
            )
        name = built.base
        moves, channels = moves or built.moves, channels or built.channels or ()
        platforms = platforms or (() if environment_file.platforms else before.platforms)
    options = ExtendOptions(
        source=record_source(snapshot, as_of, mirror),
        platforms=platforms,
        moves=tuple(dict.fromkeys(moves)),
        channels=tuple(_channel(channel) for channel in channels) or None,
    )
    base = open_base(name, path.parent)
    with _naming_environments(environment_file, base, platforms):
        done = lock_on_base(environment_file, base, path, options, make_progress(quiet=as_json))
    if as_json:
        click.echo(report_json(done), nl=False)
    else:
        click.echo(as_text(done), nl=False)


@contextmanager
def _naming_environments(environment_file: EnvironmentFile, base: Base, platforms: tuple[str, ...]) -> Iterator[None]:
    """Name the environments that have torchvision or torchaudio, in an error where the base lacks what is required."""
    from torchlocks.core.layout import builtin_layout
    from torchlocks.matrix.companions import COMPANIONS
    from torchlocks.matrix.load import load_matrix

    matrix = load_matrix(builtin_layout().matrix)
    like = base.name.text.partition("@")[0]
    with ExitStack() as stack:
        for platform in platforms or environment_file.platforms or tuple(base.lock.packages):
            requested = {requirement.name for requirement in environment_file.on(platform)}
            installed = {package.name for package in base.lock.packages.get(platform, ())}
            if platform in matrix.platforms and installed and not requested & set(COMPANIONS) <= installed:
                # One platform is enough: the advice is the same for others.
                stack.enter_context(naming_environments(matrix, requested, installed, platform, like))
                break
        yield


def _channel(named: str) -> str:
    """Return a channel's name or URL; for a folder that is a channel, its URL."""
    folder = Path(named)
    is_folder = "://" not in named and (folder / "noarch" / "repodata.json").is_file()
    return folder.resolve().as_uri() if is_folder else named


def update_base(
    output: Path,
    base_name: str,
    repository: str | None,
    snapshot: Path | None,
    as_of: datetime | None,
    mirror: str | None,
) -> None:
    """Move the lock on a base in `output` to the base `base_name`, or (empty) to the current state of its own base."""
    from dataclasses import replace

    from torchlocks.cli.console import make_progress
    from torchlocks.core.errors import BaseLockError
    from torchlocks.diff.compare import diff
    from torchlocks.diff.read import Side
    from torchlocks.diff.report import as_text as diff_text
    from torchlocks.extend.base import open_base
    from torchlocks.extend.base_name import name_base
    from torchlocks.extend.built import read_built
    from torchlocks.extend.environment_file import read_environment_file
    from torchlocks.extend.lock import ExtendOptions, extend, lock_file
    from torchlocks.extend.report import as_text
    from torchlocks.lockfile.open import open_lock

    path = lock_file(output)
    before = open_lock(str(path))
    built = read_built(before.metadata)
    if built is None:
        raise BaseLockError(
            "This lock was not built on a base, so it cannot move to another.",
            where=str(path),
            fix="name the lock with --lock, or build one with `torchlocks extend`",
        )
    name = replace(built.base, commit=None)
    if base_name:
        name = name_base(base_name, repository, path.parent)
        if name.is_revision and name.repository is None:
            name = replace(name, repository=built.base.repository)
    base = open_base(name, path.parent)
    names = {package.name for packages in base.lock.packages.values() for package in packages}
    options = ExtendOptions(
        source=record_source(snapshot, as_of, mirror),
        platforms=before.platforms,
        moves=tuple(move for move in built.moves if move in names),
        channels=built.channels,
        stay=True,
    )
    environment_file = read_environment_file(path.parent / built.environment)
    done = extend(environment_file, base, path, options, make_progress())
    after = open_lock(str(path))
    sides = Side(name="before", packages=before.packages), Side(name="now", packages=after.packages)
    print_rich(diff_text(diff(*sides)))
    click.echo()
    click.echo(as_text(done), nl=False)
