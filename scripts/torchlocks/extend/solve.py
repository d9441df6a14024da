"""One platform of a base and the requirements on top of it, as a request to the solver.

Every package of the base is in every solution. Those that may not move are pinned to their record; those that may are
preferred. The base's original specs are ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from torchlocks.extend.base import Base, virtual_packages
from torchlocks.extend.environment_file import Requirement
from torchlocks.lockfile.formats import select_records, to_record
from torchlocks.lockfile.pixi import read_pixi_records
from torchlocks.solve.repodata import RecordSource, records_by_url
from torchlocks.solve.solver import SolveRequest, generic_virtual_packages, solve

if TYPE_CHECKING:
    from rattler import RepoDataRecord


@dataclass(frozen=True, kw_only=True)
class ExtendRequest:
    """A base on one platform, the requirements, and what may move.

    `records` are the base's packages; `moves` names those that may move; `prefer` are records of additions that are
    kept if possible (an older lock's). `channels` are all channels, the base's first.
    """

    base: Base
    platform: str
    channels: tuple[str, ...]
    requirements: tuple[Requirement, ...]
    records: tuple[RepoDataRecord, ...]
    moves: frozenset[str]
    prefer: tuple[RepoDataRecord, ...]
    source: RecordSource

    @property
    def by_name(self) -> dict[str, RepoDataRecord]:
        """The base's records by name."""
        return {record.name.normalized: record for record in self.records}


def solve_on_base(
    request: ExtendRequest, *, specs: Sequence[str] | None = None, moves: Collection[str] | None = None
) -> list[RepoDataRecord]:
    """Return the packages of the base and of the requirements.

    `specs` and `moves` replace those of the request. A cutoff of the source applies to additions alone. Raises
    SolveError with the solver's reasons as details if there is no solution, ChannelUnreachableError if a live channel
    cannot be read.
    """
    free = request.moves if moves is None else moves
    base = {name: _no_newer_than(request.source.cutoff, record) for name, record in request.by_name.items()}
    solve_request = SolveRequest(
        channels=request.channels,
        platform=request.platform,
        specs=(*(requirement.spec for requirement in request.requirements), *base)
        if specs is None
        else (*specs, *base),
        virtual_packages=generic_virtual_packages(virtual_packages(request.base.lock, request.platform)),
        keep=(
            *(record for name, record in base.items() if name in free),
            *(record for record in request.prefer if record.name.normalized not in base),
        ),
        pin=tuple(record for name, record in base.items() if name not in free),
    )
    records = solve(solve_request, request.source)
    own = {record.url: record for record in request.records}
    return [own.get(record.url, record) for record in records]


def _no_newer_than(cutoff: datetime | None, record: RepoDataRecord) -> RepoDataRecord:
    """Return the record, or a copy with the cutoff's time if it is newer: a cutoff does not apply to the base.

    rattler's solver applies `exclude_newer` to locked and pinned packages as well, and drops records without a time.
    """
    from rattler import RepoDataRecord

    if cutoff is None or (record.timestamp is not None and record.timestamp <= cutoff):
        return record
    copy = RepoDataRecord(record, file_name=record.file_name, url=record.url, channel=record.channel)
    copy.timestamp = cutoff
    return copy


def base_records(base: Base, platform: str, source: RecordSource) -> tuple[RepoDataRecord, ...]:
    """Return the complete records of a base's packages on a platform, in the order of its lock.

    They come from the pixi.lock beside the base, then from its channels, then from its conda-lock.yml, which has no
    constraints. Raises LockfileError if these disagree on a hash, ChannelUnreachableError if a live channel is needed
    and cannot be read.
    """
    packages = {package.url: package for package in base.complete.packages[platform]}
    known = {record.url: record for record in _pixi_records(base, platform)}
    missing = {url: package.name for url, package in packages.items() if url not in known}
    if missing:
        known = {**records_by_url(source, base.lock.channels, platform, missing), **known}
    unknown = [to_record(package) for url, package in packages.items() if url not in known]
    here = replace(base.lock, packages={platform: base.lock.packages[platform]})
    return tuple(select_records(here, [*known.values(), *unknown])[platform])


def _pixi_records(base: Base, platform: str) -> list[RepoDataRecord]:
    return read_pixi_records(base.pixi).get(platform, []) if base.pixi else []


def without_base(request: ExtendRequest, specs: Sequence[str]) -> list[RepoDataRecord]:
    """Solve match specs on the request's platform without the base. Raises as `solve_on_base` does."""
    virtual = generic_virtual_packages(virtual_packages(request.base.lock, request.platform))
    solve_request = SolveRequest(
        channels=request.channels, platform=request.platform, specs=tuple(specs), virtual_packages=virtual
    )
    return solve(solve_request, request.source)
