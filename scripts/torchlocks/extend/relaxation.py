"""The smallest change of a base with which requirements and base have a solution.

The solver runs repeatedly with fewer constraints: which requirements fail alone, what they resolve to if all of the
base may move, and the fewest packages that have to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchlocks.core.errors import SolveError
from torchlocks.extend.environment_file import Requirement
from torchlocks.extend.solve import ExtendRequest, solve_on_base
from torchlocks.lockfile.specs import parse_spec, spec_name

if TYPE_CHECKING:
    from rattler import PackageRecord, RepoDataRecord


CORE = frozenset({"python", "pytorch", "libtorch", "pytorch-cuda", "cuda-version", "cudatoolkit"})
"""Packages that make a base what it is: with another of these it is another base."""

_SINGLES, _SHRUNK = 12, 10
"""How many base packages are tried alone, and how large a set is tried to be made smaller."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A solution in which packages of the base move. No name in `moves` can be left out."""

    moves: frozenset[str]
    records: tuple[RepoDataRecord, ...]

    @property
    def by_name(self) -> dict[str, RepoDataRecord]:
        return {record.name.normalized: record for record in self.records}


def attempt(
    request: ExtendRequest, specs: Sequence[str], moves: Collection[str] | None = None
) -> list[RepoDataRecord] | None:
    """Return a solution, or None if there is none. Raises what `solve_on_base` raises for any other reason."""
    try:
        return solve_on_base(request, specs=specs, moves=moves)
    except SolveError as error:
        if not error.details:
            raise
        return None


def shrink(request: ExtendRequest) -> list[Requirement]:
    """Return a smallest set of requirements that fail together, where each of them alone does not."""
    kept = list(request.requirements)
    for requirement in request.requirements:
        fewer = [other for other in kept if other is not requirement]
        if attempt(request, [other.spec for other in fewer]) is None:
            kept = fewer
    return kept


def smallest(request: ExtendRequest, specs: Sequence[str], free: Sequence[RepoDataRecord]) -> Way:
    """Return a minimal set of base packages that must move, and the solution with it.

    `free` is a solution in which all of the base may move. Single packages are tried first, then those that conflict
    with requirements or additions, adding the base packages that pin these until there is a solution.
    """
    base = request.by_name
    new = {record.name.normalized: record for record in free}
    moved = {name for name, record in base.items() if new[name].url != record.url} - request.moves
    wanted = in_the_way(base, specs, new) & moved
    needed = {spec_name(spec) for name in new.keys() - base.keys() for spec in new[name].depends} & base.keys()
    for name in [*sorted(wanted), *sorted(needed - wanted - CORE - request.moves)][:_SINGLES]:
        single = attempt(request, specs, {name} | request.moves)
        if single is not None:
            return Way(moves=frozenset({name}), records=tuple(single))
    moves = frozenset(wanted or moved)
    found = attempt(request, specs, moves | request.moves)
    while found is None:
        holders = {name for name in moved - moves if any(unmet(base[name], new[each]) for each in moves)}
        moves = frozenset(moves | holders) if holders else frozenset(moved)
        found = list(free) if moves == moved else attempt(request, specs, moves | request.moves)
    if len(moves) <= _SHRUNK:
        for name in sorted(moves, key=lambda name: (name not in CORE, name)):
            fewer = moves - {name}
            if fewer and (less := attempt(request, specs, fewer | request.moves)) is not None:
                moves, found = fewer, less
    return Way(moves=moves, records=tuple(found))


def in_the_way(base: dict[str, RepoDataRecord], specs: Sequence[str], new: dict[str, RepoDataRecord]) -> set[str]:
    """Return the base's packages that conflict with the match specs or with the additions in `new`."""
    added = [record for name, record in new.items() if name not in base]
    return {
        name
        for name in base
        if any(spec_name(spec) == name and not matches(base[name], spec) for spec in specs)
        or any(unmet(record, base[name]) or unmet(base[name], record) for record in added)
    }


def chains(roots: Iterable[str], records: dict[str, RepoDataRecord]) -> Iterable[tuple[str, ...]]:
    """Yield from each root the shortest dependency path to every package, nearest first."""
    waiting: deque[tuple[str, ...]] = deque((root,) for root in roots if root in records)
    seen = {chain[0] for chain in waiting}
    while waiting:
        chain = waiting.popleft()
        yield chain
        for spec in records[chain[-1]].depends:
            needed = spec_name(spec)
            if needed in records and needed not in seen:
                seen.add(needed)
                waiting.append((*chain, needed))


def matches(record: PackageRecord, spec: str) -> bool:
    parsed = parse_spec(spec)
    return parsed is not None and record.matches(parsed)


def unmet(record: PackageRecord, other: PackageRecord) -> str | None:
    """Return the dependency or constraint of `record` that `other` does not satisfy; None if it satisfies all."""
    name = other.name.normalized
    for spec in (*record.depends, *record.constrains):
        if spec_name(spec) == name and not matches(other, spec):
            return spec
    return None
