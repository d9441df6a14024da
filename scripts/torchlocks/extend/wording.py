"""Sentences about a conflict: which package requires what, and what the base has instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchlocks.extend.environment_file import Requirement
from torchlocks.extend.solve import ExtendRequest

if TYPE_CHECKING:
    from rattler import PackageRecord, RepoDataRecord
from torchlocks.extend.relaxation import CORE, Way, chains, matches, unmet

NAMED, LINES = 6, 30
"""How many packages a sentence names, and how many lines of the solver's are shown."""


def named(requirements: Sequence[Requirement]) -> str:
    return " and ".join(f"`{requirement.spec}` ({requirement.place})" for requirement in requirements)


def against(request: ExtendRequest) -> str:
    return f"the base {request.base.name.text} on {request.platform}"


def reasons_of(request: ExtendRequest, culprits: Sequence[Requirement], way: Way, among: Sequence[str]) -> list[str]:
    """Return clauses that name both sides: who requires another version of a base package, and who of `among` pins
    it.
    """
    base, new = request.by_name, way.by_name
    clauses = []
    for name in sorted(way.moves, key=lambda name: (name not in {requirement.name for requirement in culprits}, name)):
        demand = _demand(request, culprits, way, name)
        if demand is not None:
            held = _holders(base, [other for other in among if other != name], new[name])
            clauses.append(f"{demand}the base has {label(base[name])}" + (f", {held}" if held else ""))
        elif excluded := next((r for n, r in new.items() if n not in base and unmet(base[name], r)), None):
            spec = unmet(base[name], excluded)
            clauses.append(f"{label(base[name])} of the base goes with `{spec}` only, not with {label(excluded)}")
    return clauses[:3] or [f"the base has {some([label(base[name]) for name in sorted(way.moves)])}"]


def _holders(base: dict[str, RepoDataRecord], names: Sequence[str], new: PackageRecord) -> str | None:
    """Return which of the base's packages are incompatible with `new`, core packages first; None if none are."""
    found = [
        f"{label(base[name])} (needs `{spec}`)"
        for name in sorted(names, key=lambda name: (name not in CORE, name))
        if (spec := unmet(base[name], new))
    ]
    more = f" and {len(found) - 2} more" if len(found) > 2 else ""
    return f"held there by {' and '.join(found[:2])}{more}" if found else None


def _demand(request: ExtendRequest, culprits: Sequence[Requirement], way: Way, name: str) -> str | None:
    """Return who requires another `name` than the base's: empty for a requirement itself, None for no addition."""
    base, new = request.by_name, way.by_name
    if any(requirement.name == name and not matches(base[name], requirement.spec) for requirement in culprits):
        return ""
    additions = {other: record for other, record in new.items() if other not in base}
    for chain in chains([requirement.name for requirement in culprits], additions):
        last = new[chain[-1]]
        if spec := unmet(last, base[name]):
            *through, _ = chain
            via = "".join(f"{label(new[each])} needs " for each in through)
            return f"{via}{label(last)}{', which' if through else ''} needs `{spec}`, and "
    return None


def label(record: PackageRecord) -> str:
    return f"{record.name.normalized} {record.version}"


def version_of(record: PackageRecord, before: PackageRecord) -> str:
    """Return the version, with the build string if only the build differs."""
    same = str(record.version) == str(before.version)
    return f"{record.version} {record.build}" if same else str(record.version)


def some(items: Sequence[str]) -> str:
    shown = ", ".join(items[:NAMED])
    return shown if len(items) <= NAMED else f"{shown} and {len(items) - NAMED} more"


def count(number: int) -> str:
    return "one package" if number == 1 else f"{number} packages"
