"""A plan → lines of text: what moves, what stays, and which combinations failed and why."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.version import Version

from torchlocks.matrix.cells import Cell
from torchlocks.update.candidates import versions_text
from torchlocks.update.policy import Decision, environment_of
from torchlocks.update.refresh import Plan
from torchlocks.update.search import Failed

MOST_FAILED = 3
"""Number of failed combinations to list for a row on a platform, the newest first."""


def plan_lines(plan: Plan, *, moved_only: bool = False) -> list[str]:
    """Describe a plan: a line for each row on a platform, with indented lines below it.

    With `moved_only`, unchanged rows and their failed combinations are left out.
    """
    lines: list[str] = []
    for decision in plan.decisions:
        if decision.changed or not moved_only:
            lines += _decision(decision)
    if not moved_only:
        lines += [f"no pair: {each}" for each in plan.unpaired]
        lines += [f"no row: {each}" for each in plan.no_row]
    return lines


def plan_headline(plan: Plan) -> str:
    """Return one line: how many rows on platforms move, and how many environments that adds and removes."""
    if not plan.changed:
        return "The matrix is current: the channels have nothing better"
    counts = {"moves": 0, "is new": 0, "goes": 0}
    added = removed = 0
    for decision in plan.decisions:
        before, after = _named(decision, before=True), _named(decision)
        added += len(after.keys() - before.keys())
        removed += len(before.keys() - after.keys())
        if (kind := _kind(decision)) is not None:
            counts[kind] += 1
    parts = [f"{number} default{'s' if number != 1 else ''} {_verb(kind, number)}" for kind, number in counts.items()]
    moved = [part for part, number in zip(parts, counts.values(), strict=True) if number]
    moved += [f"{added} cells are added"] if added else []
    moved += [f"{removed} cells are replaced"] if removed else []
    return ", ".join(moved) or "Variants move"


def _verb(kind: str, number: int) -> str:
    plural = {"moves": "move", "is new": "are new", "goes": "go"}
    return kind if number == 1 else plural[kind]


def _kind(decision: Decision) -> str | None:
    before, after = decision.place.current, decision.default
    if before == after:
        return None
    return "is new" if before is None else "goes" if after is None else "moves"


def _named(decision: Decision, *, before: bool = False) -> dict[str, Cell]:
    place = decision.place
    default = place.current if before else decision.default
    cells = ((default,) if default else ()) + (place.variants if before else decision.variants)
    return {environment_of(place, cell, default): cell for cell in cells}


def _decision(decision: Decision) -> Iterator[str]:
    place = decision.place
    if place.current is None and decision.default is None:
        # A platform that the row never had is listed only if a combination was solved for it.
        if place.failed or place.found or decision.kept:
            yield f"{place.name} on {place.platform}: none"
            yield from (f"  {each}" for each in decision.kept)
            yield from _failed(decision)
        return
    before, after = _named(decision, before=True), _named(decision)
    kind = _kind(decision)
    default = decision.default
    if default is None:
        yield f"{place.name} on {place.platform}: goes, nothing solves any more"
    elif kind == "is new":
        yield f"{place.name} on {place.platform}: new, {versions_text(default)}"
    elif kind == "moves" and place.current is not None:
        yield f"{place.name} on {place.platform}: {versions_text(place.current)} → {versions_text(default)}"
    else:
        yield f"{place.name} on {place.platform}: stays, {versions_text(default)}"
    if place.row.constraints:
        yield f"  constraints: {', '.join(place.row.constraints)}"
    for name in [each for each in after if each not in before and each != place.name]:
        yield f"  new: {name}, {versions_text(after[name])}"
    for name in [each for each in after if each in before and each != place.name and after[each] != before[each]]:
        yield f"  moves: {name}, {versions_text(before[name])} → {versions_text(after[name])}"
    for name in [each for each in before if each not in after]:
        yield f"  replaced: {name}, {versions_text(before[name])}"
    yield from (f"  stays: {each}" for each in decision.kept)
    yield from _failed(decision)


def _failed(decision: Decision) -> Iterator[str]:
    place, default = decision.place, decision.default
    if place.builds_unknown:
        yield f"  not tried: {place.builds_unknown}"
    better = [each for each in place.failed if default is None or not place.found or _better(each, default)]
    better.sort(key=lambda each: (Version(each.choice.pytorch), len(each.choice.companions)), reverse=True)
    for each in better[:MOST_FAILED]:
        yield f"  failed: {each.choice}: {each.reason}"
    if len(better) > MOST_FAILED:
        yield f"  failed: {len(better) - MOST_FAILED} more"


def _better(failed: Failed, default: Cell) -> bool:
    """Whether a combination would have been a better default."""
    choice = failed.choice
    rank = choice.torchvision is not None, Version(choice.pytorch), choice.torchaudio is not None
    return rank > (default.torchvision is not None, Version(default.pytorch), default.torchaudio is not None)
