"""One platform of a base and what is asked for on top of it, as the solver's question.

Every package of the base is in every answer. Those that may not move are held to their very record; those that may are
only preferred. Nothing else of the base's making counts: what it once asked for is settled by what it holds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from torchlocks.extend.base import Base, virtual_packages
from torchlocks.extend.requested import Wish
from torchlocks.lockfile.formats import select_records, to_record
from torchlocks.lockfile.pixi import read_pixi_records
from torchlocks.solve.repodata import RecordSource, records_by_url
from torchlocks.solve.solver import SolveRequest, generic_virtual_packages, solve

if TYPE_CHECKING:
    from rattler import RepoDataRecord


@dataclass(frozen=True, kw_only=True)
class Question:
    """A base on one platform, the wishes, and what may move.

    `records` are the base's packages; `moves` names those that may move; `prefer` are records of additions that should
    stay if they can (an older lock's). `channels` are all channels, the base's first.
    """

    base: Base
    platform: str
    channels: tuple[str, ...]
    wishes: tuple[Wish, ...]
    records: tuple[RepoDataRecord, ...]
    moves: frozenset[str]
    prefer: tuple[RepoDataRecord, ...]
    source: RecordSource

    @property
    def by_name(self) -> dict[str, RepoDataRecord]:
        """The base's records by name."""
        return {record.name.normalized: record for record in self.records}


def answer(
    question: Question, *, specs: Sequence[str] | None = None, moves: Collection[str] | None = None
) -> list[RepoDataRecord]:
    """The packages of the base and of the wishes, by name.

    `specs` and `moves` stand in for the question's own. A cutoff of the source is for additions alone. Raises
    SolveError, with the solver's reasons as its details, when there is no solution, and ChannelUnreachableError when a
    live channel cannot be read.
    """
    free = question.moves if moves is None else moves
    base = {name: _no_newer_than(question.source.cutoff, record) for name, record in question.by_name.items()}
    request = SolveRequest(
        channels=question.channels,
        platform=question.platform,
        specs=(*(wish.spec for wish in question.wishes), *base) if specs is None else (*specs, *base),
        virtual_packages=generic_virtual_packages(virtual_packages(question.base.lock, question.platform)),
        keep=(
            *(record for name, record in base.items() if name in free),
            *(record for record in question.prefer if record.name.normalized not in base),
        ),
        pin=tuple(record for name, record in base.items() if name not in free),
    )
    records = solve(request, question.source)
    own = {record.url: record for record in question.records}
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
    """The complete records of a base's packages on a platform, in the order of its lock.

    They come from the pixi.lock beside the base, which has all of them as they were when it was locked; else from its
    channels; and for what neither has, from its conda-lock.yml, which does not know constraints. Raises LockfileError
    where these disagree on a hash, ChannelUnreachableError when a live channel is needed and cannot be read.
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


def without_base(question: Question, specs: Sequence[str]) -> list[RepoDataRecord]:
    """What the channels have for match specs on the question's platform if there were no base.

    Raises as `answer` does.
    """
    virtual = generic_virtual_packages(virtual_packages(question.base.lock, question.platform))
    request = SolveRequest(
        channels=question.channels, platform=question.platform, specs=tuple(specs), virtual_packages=virtual
    )
    return solve(request, question.source)
