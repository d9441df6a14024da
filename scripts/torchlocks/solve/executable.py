"""The conda executable that conda-lock drives, on py-rattler.

conda-lock has no solver of its own: it runs a conda command and reads JSON back. conda and micromamba
cannot be had from PyPI, so this module is the small part of conda's command line that conda-lock needs:

    torchlocks-conda --version
    torchlocks-conda create  --prefix P --dry-run --json --override-channels --channel C … SPEC …
    torchlocks-conda install -p P --dry-run --json --override-channels --channel C … SPEC …
    torchlocks-conda list    -p P --no-pip --json
    torchlocks-conda info    --json

It only reports what would be installed (`--dry-run`); it changes nothing. `CONDA_SUBDIR` sets the platform. A channel
whose packages all begin with `__` contains the virtual packages, which are then not detected on the machine.
`repodata.RecordSource` is passed in environment variables.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from torchlocks import __version__
from torchlocks.core.errors import SolveError, TorchlocksError
from torchlocks.core.process_exit import exit_process
from torchlocks.core.urls import file_path
from torchlocks.solve.repodata import RecordSource, records_by_url
from torchlocks.solve.solver import SolveRequest, match_specs, solve

if TYPE_CHECKING:
    from rattler import GenericVirtualPackage, RepoDataRecord

KEEP, MOVE = "TORCHLOCKS_KEEP", "TORCHLOCKS_MOVE"
"""Environment variables: a pixi.lock whose packages should stay, and names in it that may move."""


def _virtual_packages(channel: str, platform: str) -> tuple[GenericVirtualPackage, ...] | None:
    """Return the virtual packages of a channel that contains nothing else; None for any other channel."""
    from rattler import BuildString, GenericVirtualPackage, PackageName, Version

    if "://" in channel and not channel.startswith("file://"):
        return None
    folder = file_path(channel) if channel.startswith("file://") else Path(channel)
    found: dict[str, dict[str, Any]] = {}
    for subdir in ("noarch", platform):
        try:
            packages = json.loads((folder / subdir / "repodata.json").read_bytes())["packages"]
        except (OSError, KeyError, ValueError):
            continue
        found.update({entry["name"]: entry for entry in packages.values()})
    if not found or not all(name.startswith("__") for name in found):
        return None
    return tuple(
        GenericVirtualPackage(PackageName(name), Version(entry["version"]), BuildString(entry["build"] or "0"))
        for name, entry in sorted(found.items())
    )


def _request(arguments: argparse.Namespace) -> SolveRequest:
    from rattler import VirtualPackage

    platform = _platform(arguments)
    channels: list[str] = []
    virtual: tuple[GenericVirtualPackage, ...] | None = None
    for channel in arguments.channels or ["conda-forge"]:
        here = _virtual_packages(channel, platform)
        if here is None:
            channels.append(channel)
        else:
            virtual = here
    if virtual is None:
        virtual = tuple(package.into_generic() for package in VirtualPackage.detect())
    return SolveRequest(
        channels=tuple(channels),
        platform=platform,
        specs=tuple(arguments.specs),
        virtual_packages=virtual,
    )


def _platform(arguments: argparse.Namespace) -> str:
    from rattler.platform import Subdir

    return arguments.environ.get("CONDA_SUBDIR") or str(Subdir.current())


def _kept_records(platform: str, environ: Mapping[str, str]) -> list[RepoDataRecord]:
    """Return the packages that an update should keep, from the environment's own pixi.lock."""
    from rattler import LockFile

    file, free = environ.get(KEEP), set(environ.get(MOVE, "").split())
    if not file:
        return []
    environment = LockFile.from_path(Path(file)).default_environment()
    records = environment.conda_repodata_records() if environment else {}
    return [
        record
        for name, found in records.items()
        if name == platform
        for record in found
        if record.name.normalized not in free
    ]


def _actions(records: Sequence[RepoDataRecord], prefix: str) -> dict[str, Any]:
    """Return conda's output of `create --dry-run --json`, as far as conda-lock reads it."""
    fetch, link = [], []
    for record in records:
        base_url, subdir, file_name = record.url.rsplit("/", 2)
        about = {
            "name": record.name.normalized,
            "version": str(record.version),
            "channel": base_url,
            "build_number": record.build_number,
        }
        fetch.append(
            about
            | {
                "build": str(record.build),
                "subdir": subdir,
                "fn": file_name,
                "url": record.url,
                "md5": record.md5.hex() if record.md5 else "",
                "sha256": record.sha256.hex() if record.sha256 else None,
                "size": record.size,
                "depends": record.depends,
                "constrains": record.constrains,
                "license": record.license,
                "timestamp": int(record.timestamp.timestamp() * 1000) if record.timestamp else 0,
            }
        )
        dist_name = file_name.removesuffix(".conda").removesuffix(".tar.bz2")
        link.append(
            about
            | {"base_url": base_url, "build_string": str(record.build), "dist_name": dist_name, "platform": subdir}
        )
    return {
        "actions": {"FETCH": fetch, "LINK": link, "PREFIX": prefix},
        "dry_run": True,
        "prefix": prefix,
        "success": True,
    }


def _create(arguments: argparse.Namespace, source: RecordSource) -> dict[str, Any]:
    request = _request(arguments)
    request = replace(request, keep=tuple(_kept_records(request.platform, arguments.environ)))
    return _actions(solve(request, source), arguments.prefix)


def _install(arguments: argparse.Namespace, source: RecordSource) -> dict[str, Any]:
    """Update the named packages of a prefix that has only `conda-meta/*.json`; all others stay if possible."""
    installed = _conda_meta(arguments.prefix)
    named = {spec.name.normalized for spec in match_specs(arguments.specs) if spec.name}
    stay = [entry for entry in installed if entry["name"] not in named]
    request = _request(arguments)
    # The channel's records, since those that conda-lock wrote are not complete.
    urls = {entry["url"]: entry["name"] for entry in stay}
    kept = records_by_url(source, request.channels, request.platform, urls)
    request = replace(request, specs=(*request.specs, *urls.values()), keep=tuple(kept.values()))
    before = {entry["url"] for entry in installed}
    return _actions([record for record in solve(request, source) if record.url not in before], arguments.prefix)


def _list(arguments: argparse.Namespace, source: RecordSource) -> list[dict[str, Any]]:
    wanted = ("name", "version", "build", "build_number", "channel")
    return [
        {key: entry.get(key) for key in wanted}
        | {
            "base_url": str(entry["channel"]).rsplit("/", 1)[0],
            "build_string": entry.get("build"),
            "dist_name": f"{entry['name']}-{entry['version']}-{entry.get('build')}",
            "platform": entry.get("subdir"),
        }
        for entry in _conda_meta(arguments.prefix)
    ]


def _info(arguments: argparse.Namespace, source: RecordSource) -> dict[str, Any]:
    folder = arguments.environ.get("CONDA_PKGS_DIRS")
    return {
        "conda_version": f"torchlocks {__version__}",
        "pkgs_dirs": [folder] if folder else [],
        "platform": _platform(arguments),
    }


def _conda_meta(prefix: str) -> list[dict[str, Any]]:
    folder = Path(prefix) / "conda-meta"
    if not folder.is_dir():
        raise SolveError(f"{prefix} is not a conda environment: it has no conda-meta folder.", where=prefix)
    return [json.loads(file.read_bytes()) for file in sorted(folder.glob("*.json"))]


class _Parser(argparse.ArgumentParser):
    """Raises usage errors as SolveError, so that they are printed as JSON as well."""

    def error(self, message: str) -> NoReturn:
        raise SolveError(f"torchlocks-conda: {message}.", fix="see torchlocks-conda --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="torchlocks-conda", description="The part of conda that conda-lock needs, on py-rattler.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command")
    for name, run in (
        ("create", _create),
        ("install", _install),
        ("update", _install),
        ("list", _list),
        ("info", _info),
    ):
        command = commands.add_parser(name)
        command.set_defaults(run=run, specs=[], channels=[], prefix="")
        command.add_argument("--json", action="store_true", help="accepted; the answer always is JSON")
        if name == "info":
            continue
        command.add_argument("-p", "--prefix", required=True)
        if name == "list":
            command.add_argument("--no-pip", action="store_true")
            continue
        command.add_argument(
            "--dry-run", action="store_true", required=True, help="required: nothing is ever installed"
        )
        command.add_argument("--override-channels", action="store_true")
        command.add_argument("--strict-channel-priority", action="store_true", help="accepted; it always is strict")
        command.add_argument("-c", "--channel", dest="channels", action="append", default=[])
        command.add_argument("specs", nargs="*")
    return parser


def answer(argv: Sequence[str], environ: Mapping[str, str], source: RecordSource) -> tuple[int, str]:
    """Return exit code and standard output of one command of the executable.

    `environ` are the environment variables of the executable; `source` is the source of records. Expected failures are
    not raised but returned as JSON.
    """
    try:
        arguments = _parser().parse_args(argv)
        if arguments.version:
            # conda-lock and ensureconda parse a version number from this line.
            return 0, f"conda {__version__} (torchlocks-conda)"
        if arguments.command is None:
            return 2, _parser().format_help()
        arguments.environ = environ
        return 0, json.dumps(arguments.run(arguments, source))
    except TorchlocksError as error:
        # `message` is what conda-lock shows; `locking.cell` rebuilds the exception from the rest.
        return error.exit_code, json.dumps({"success": False, "message": str(error), **error.as_data()})


def main(argv: Sequence[str] | None = None) -> int:
    """Print the answer to one command as JSON; return 0, or the error's exit code."""
    code, text = answer(sys.argv[1:] if argv is None else argv, os.environ, RecordSource.from_environment())
    print(text)
    return code


def command() -> NoReturn:
    """The `torchlocks-conda` command."""
    exit_process(main())


if __name__ == "__main__":
    command()
