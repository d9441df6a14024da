"""Match specs and channel records → a solution, by rattler's solver."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchlocks.core.errors import SolveError, TorchlocksError
from torchlocks.core.reading import is_costly_spec
from torchlocks.solve.repodata import RecordSource

if TYPE_CHECKING:
    from rattler import GenericVirtualPackage, MatchSpec, RepoDataRecord


@dataclass(frozen=True, kw_only=True)
class SolveRequest:
    """The input of a solve. `keep` are records that are preferred; `pin` are records that must not change."""

    channels: tuple[str, ...]
    platform: str
    specs: tuple[str, ...]
    virtual_packages: tuple[GenericVirtualPackage, ...]
    keep: tuple[RepoDataRecord, ...] = ()
    pin: tuple[RepoDataRecord, ...] = ()


def solve(request: SolveRequest, source: RecordSource) -> list[RepoDataRecord]:
    """Return the packages that satisfy the request, sorted by name, with strict channel priority.

    Raises SolveError with the solver's reason if there is no solution, and ChannelUnreachableError if a live
    channel cannot be read.
    """
    from rattler.exceptions import SolverError
    from rattler.solver import solve_with_sparse_repodata

    specs = match_specs(request.specs)
    subdirs = (request.platform, "noarch")
    try:
        opened = [repodata for channel in request.channels for repodata in source.sparse(channel, subdirs)]
        records = asyncio.run(
            solve_with_sparse_repodata(
                specs,
                opened,
                virtual_packages=list(request.virtual_packages),
                locked_packages=list(request.keep),
                pinned_packages=list(request.pin),
                exclude_newer=source.cutoff,
            )
        )
    except SolverError as error:
        raise SolveError(
            f"No solution for {request.platform}: {' and '.join(request.specs)} cannot be installed together.",
            fix=_hint(str(error), request),
            details=_readable(str(error)),
        ) from error
    except TorchlocksError:
        raise
    except Exception as error:
        raise SolveError(f"The solver failed: {error}", where=" ".join(request.channels)) from error
    return sorted(records, key=lambda record: record.name.normalized)


def generic_virtual_packages(named: Mapping[str, str]) -> tuple[GenericVirtualPackage, ...]:
    """Convert virtual packages, name to "version" or "version build", to the solver's type."""
    from rattler import BuildString, GenericVirtualPackage, PackageName, Version

    found = []
    for name, text in named.items():
        version, _, build = text.partition(" ")
        found.append(GenericVirtualPackage(PackageName(name), Version(version), BuildString(build or "0")))
    return tuple(found)


def match_specs(specs: Sequence[str]) -> list[MatchSpec]:
    from rattler import MatchSpec
    from rattler.exceptions import InvalidMatchSpecError

    parsed = []
    for spec in specs:
        if is_costly_spec(spec):
            raise SolveError(f"A match spec has {len(spec)} characters: it is none.", fix="correct it in the template")
        try:
            # Not strict: build strings of the pytorch channel contain dots (`py3.11_cuda12.4_…`).
            parsed.append(MatchSpec(spec, strict=False))
        except InvalidMatchSpecError as error:
            raise SolveError(f"{spec!r} is not a match spec: {error}.", fix="correct it in the template") from error
    return parsed


def _readable(message: str) -> str:
    """Return the solver's tree of reasons, without its prefix and repeated lines."""
    lines = message.removeprefix("Cannot solve the request because of: ").strip().splitlines()
    return "\n".join(line for line, before in zip(lines, ["", *lines], strict=False) if line != before)


def _hint(message: str, request: SolveRequest) -> str | None:
    """Return a sentence with the usual cause of the solver's reasons, or None."""
    builds = [spec for spec in request.specs if spec.startswith("pytorch ")]
    if len(builds) > 1:
        return "one environment contains one build of PyTorch: CPU and CUDA builds need an environment each"
    virtual = {package.name.normalized: str(package.version) for package in request.virtual_packages}
    if "no candidates were found" in message:
        if "__cuda" in message and "__cuda" not in virtual:
            return "a CUDA build is requested where there is no CUDA (no __cuda): use a GPU environment"
        if "__cuda" in message:
            return f"some packages need a newer driver than __cuda {virtual['__cuda']} allows"
        if "__glibc" in message and "__glibc" in virtual:
            return f"some packages need a newer glibc than {virtual['__glibc']}"
    if "strict channel priority" in message:
        return "the package is in several channels, and only the first that has it counts"
    return None
