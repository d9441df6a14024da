"""Shared by several verbs: options, printing of verdicts, and access to installed environments."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

    from torchlocks.core.errors import MissingFileError
    from torchlocks.lockfile.models import Lock
    from torchlocks.matrix.model import Matrix
    from torchlocks.solve.repodata import RecordSource
    from torchlocks.verify.verdict import Verdict


def _mirror(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return a valid URL, or an empty value, which make passes if MIRROR is not set."""
    if value and not re.match(r"(file:///|[a-z][a-z0-9+.-]*://[^/])", value):
        hint = f"; the folder is {Path(value).resolve().as_uri()}" if Path(value).is_dir() else ""
        raise click.BadParameter(
            f"{value!r} is not a URL such as https://mirror.example/conda or file:///srv/conda{hint}"
        )
    return value


mirror_option = click.option(
    "--mirror", default=None, callback=_mirror, help="URL to use instead of https://conda.anaconda.org."
)

channel_option = click.option(
    "--channel", type=click.Choice(["auto", "conda-forge", "local"]), default="auto", show_default=True
)

scheduler_option = click.option(
    "--scheduler", metavar="URL", default=None, help="Use a Dask cluster, such as tcp://host:8786 (docs/fleet.md)."
)


def locking_options(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator with the options of what to lock and from which records; `default` is for the help text."""
    options = (
        click.option("--env", "env_name", default=None, help=f"One environment (default: {default})."),
        click.option("--platform", default=None, help="One platform (default: all of the environment)."),
        click.option(
            "--snapshot", type=click.Path(path_type=Path), default=None, help="Folder of repodata to lock against."
        ),
        click.option(
            "--as-of", type=click.DateTime(["%Y-%m-%d"]), default=None, help="Ignore packages newer than this day."
        ),
        mirror_option,
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def record_source(snapshot: Path | None, as_of: datetime | None = None, mirror: str | None = None) -> RecordSource:
    """Return the source of the options --snapshot, --as-of and --mirror. Raises MissingFileError for no snapshot."""
    from torchlocks.solve.repodata import RecordSource, require_snapshot

    if snapshot is not None:
        require_snapshot(snapshot)
    return RecordSource(
        snapshot=snapshot.absolute() if snapshot else None, as_of=as_of.date() if as_of else None, mirror=mirror or None
    )


def print_rich(text: RenderableType) -> None:
    """Print a table or styled text of rich, without highlighting."""
    from rich.console import Console

    Console(highlight=False).print(text)


@contextmanager
def naming_environments(
    matrix: Matrix, requested: Iterable[str], installed: Collection[str], platform: str, like: str
) -> Iterator[None]:
    """Add, to an error about torchvision or torchaudio, the environments that have them.

    `requested` are names of packages, `installed` those in the environment `like` on `platform`.
    """
    from torchlocks.core.errors import TorchlocksError
    from torchlocks.matrix.companions import advice

    try:
        yield
    except TorchlocksError as error:
        if (text := advice(matrix, list(requested), installed, platform, like)) is not None:
            error.fix = f"{error.fix}\nor see the {text}" if error.fix else f"see the {text}"
        raise


environment_option = click.option(
    "--environment", default=None, metavar="NAME", help="Environment of a pixi.lock that has several."
)


def locked_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument and options that select a lock (of the matrix, or a file), its platform and environment."""
    command = environment_option(command)
    command = click.option("--platform", default=None, help="Platform (default: this machine's, or the only one).")(
        command
    )
    return click.argument("name", metavar="ENV_OR_LOCK")(command)


def note_environment(lock: Lock) -> None:
    """Print which environment of a pixi.lock with several is used."""
    if len(lock.environments) > 1:
        from torchlocks.core.quantities import shortened

        others = shortened(set(lock.environments) - {lock.environment})
        click.echo(f"note: environment {lock.environment} of {lock.path.name}, which also has {others}", err=True)


def output_option(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option `-o`, a file or folder to write, with `text` as its help."""
    return click.option("-o", "--output", type=click.Path(path_type=Path), callback=_writable, help=text)


def _writable(context: click.Context, parameter: click.Parameter, output: Path | None) -> Path | None:
    """Refuse a file or folder to write that cannot be written, before any work is done. Raises MissingFileError.

    A folder that is not there can be created in one that is.
    """
    if output is None or context.resilient_parsing:
        return output
    # Below a file `exists` is False as well, and the file is what is in the way.
    place = output if output.exists() else next(each for each in output.absolute().parents if os.path.lexists(each))
    if place != output and not place.is_dir():
        problem = os.strerror(errno.ENOTDIR)
    elif not os.access(place, os.W_OK):
        problem = os.strerror(errno.EACCES)
    else:
        return output
    raise _not_writable(output, problem)


def _not_writable(output: Path, problem: str) -> MissingFileError:
    from torchlocks.core.errors import MissingFileError

    return MissingFileError(f"The file cannot be written: {problem}.", where=str(output), fix="name another with -o")


def write_or_print(text: str, output: Path | None, *, folder: bool = False) -> None:
    """Write `text` to a file atomically, or print it; `folder`: create its folder. Raises MissingFileError."""
    from torchlocks.core.files import write_whole

    if output is None:
        click.echo(text, nl=False)
        return
    try:
        if folder:
            output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, text)
    except OSError as error:
        from torchlocks.core.disk import disk_full, is_disk_full

        if is_disk_full(error):
            fix = "make room, or name another file with -o."
            raise disk_full(output.parent, "existing files are unchanged", fix) from None
        raise _not_writable(output, str(error.strerror or error)) from None
    click.echo(f"wrote {output}", err=True)


def show_verdict(verdict: Verdict, env_name: str, as_json: bool, reports: Path | None = None) -> None:
    """Print a verdict. Raises VerificationError if it is not ok.

    `reports` is the folder of the reports of an environment that was named by its path.
    """
    from torchlocks.core.errors import VerificationError
    from torchlocks.verify.report import summary_table, verdict_json

    if as_json:
        click.echo(verdict_json(verdict))
    else:
        print_rich(summary_table(verdict))
    if reports is not None and not verdict.ok:
        raise VerificationError(
            f"{env_name} failed its verification: {verdict.failure_line() or 'nothing ran'}.",
            where=f"{reports}/{verdict.env}.json",
            fix="see the report",
        )
    if verdict.state == "nothing" and verdict.select:
        raise VerificationError(
            f"No check matches -k {verdict.select!r}, so nothing was verified; the state of {env_name} is unchanged.",
            fix=f"-k takes parts of names, as for pytest: 'matmul and not bf16'; reports/{env_name}.html lists all",
        )
    if not verdict.ok and not verdict.complete:
        raise VerificationError(
            f"Some of the selected checks failed in {env_name}: {verdict.failure_line()}.",
            where=f"reports/selections/{env_name}.json",
            fix=f"see the report; a run of all checks decides whether it is verified: make verify ENV={env_name}",
        )
    if not verdict.ok:
        raise VerificationError(
            f"{env_name} is installed, but it failed its verification: {verdict.failure_line()}.",
            where=f"reports/{env_name}.json",
            fix=f"see the report; the environment stays in envs/{env_name}, marked unverified",
        )


def is_prefix(name: str) -> bool:
    """Return whether a verb's argument is the path of an environment rather than the name of one."""
    return "/" in name or "\\" in name or name in (".", "..")


def installed_prefix(env_name: str, *, verifying: bool = False) -> Path:
    """Return the prefix of an installed environment, by name or by its path. Raises MissingFileError."""
    from torchlocks.core.errors import MissingFileError

    if is_prefix(env_name):
        prefix = Path(os.path.abspath(env_name))  # noqa: PTH100 - without its `..`
        if not (prefix / "conda-meta").is_dir():
            raise MissingFileError(
                "There is no conda environment here.",
                where=str(prefix),
                fix="name a folder that contains conda-meta",
            )
        return prefix
    from torchlocks.core.layout import as_typed_here, find_layout
    from torchlocks.install.provenance import read_provenance

    layout = find_layout()
    prefix = layout.prefix(env_name)
    found = read_provenance(prefix)
    if found is None:
        there = sorted(p.name for p in layout.envs.glob("[!.]*") if read_provenance(p)) if layout.envs.is_dir() else []
        make = f"make env-gpu CUDA={env_name[6:-1]}.{env_name[-1]}" if env_name.startswith("gpu-cu") else "make env-cpu"
        raise MissingFileError(
            f"The environment {env_name!r} is not installed.",
            where=str(prefix),
            fix=f"{make}" + (f", or use an installed one: {', '.join(there)}" if there else ""),
        )
    if found.verified is False:
        click.echo(f"note: {env_name} failed its verification; see {found.report}", err=True)
    elif found.verified is None and not verifying:
        click.echo(as_typed_here(f"note: {env_name} was not verified yet: make verify ENV={env_name}"), err=True)
    return prefix
