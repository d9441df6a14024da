"""Select the default and the variants of a row on a platform from the combinations that solve. No I/O.

The default is the newest torch that has torchvision, with the Python of the CPU default if that one solves, and
torchaudio if that torch has it. Variants are, for each Python, the newest torch, the newest one with torchvision and
the newest one with torchvision and torchaudio; the three newest torch minors that have torchvision (or the three
newest, if none has it); and the combinations that pairs need.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from packaging.version import Version

from torchlocks.matrix.cells import Cell, Environment, variant_name
from torchlocks.update.candidates import Choice, is_pair, versions_text
from torchlocks.update.search import Failed, Found

NEWEST_MINORS = 3

Loss = Literal["platform", "torchvision", "architecture"]
"""What an update may remove from a cell, if allowed."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A row on a platform: its cells, and the results of solving. `current` is None for a new platform of the row.

    `base` has the fields that a combination does not determine (`glibc`, `cuda_version`); `oldest_torch` is the minimum
    for a new platform; `builds_unknown` describes newer builds of torch that were not solved.
    """

    name: str
    row: Environment
    platform: str
    base: Cell
    current: Cell | None
    variants: tuple[Cell, ...]
    found: tuple[Found, ...] = ()
    failed: tuple[Failed, ...] = ()
    oldest_torch: str | None = None
    builds_unknown: str | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The new cells of a row on a platform; `default` is None if there are none. `kept` has reasons for what stays."""

    place: Place
    default: Cell | None
    variants: tuple[Cell, ...]
    kept: tuple[str, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The default and the variants."""
        return ((self.default,) if self.default else ()) + self.variants

    @property
    def changed(self) -> bool:
        """Whether the matrix must change."""
        return (self.default, set(map(_key, self.variants))) != (
            self.place.current,
            set(map(_key, self.place.variants)),
        ) or any(cell not in self.place.variants for cell in self.variants)


def best(found: Iterable[Found], current: Cell | None, preferred: str | None) -> Found | None:
    """Return the best combination as the default; `preferred` is the Python of the CPU default."""

    def rank(each: Found) -> tuple[object, ...]:
        choice = each.choice
        return (
            choice.torchvision is not None,
            Version(choice.pytorch),
            choice.python == preferred,
            choice.torchaudio is not None,
            current is not None and choice.python == current.python,
            Version(choice.python),
        )

    return max(found, key=rank, default=None)


def decide(place: Place, *, preferred: str | None, pairs: Collection[Choice], allow: Collection[Loss]) -> Decision:
    """Select the default and the variants of a place.

    `pairs` are combinations that CUDA defaults need in the CPU row. A cell is unchanged if every solution would remove
    its platform or its torchvision, unless `allow` contains that loss.
    """
    kept: list[str] = []
    chosen = best(place.found, place.current, preferred)
    if chosen is not None and place.oldest_torch and Version(chosen.choice.pytorch) < Version(place.oldest_torch):
        why = f"only {chosen.choice} solves, which is older than on the row's other platforms"
        return Decision(place=place, default=None, variants=(), kept=(why,))
    if chosen is None:
        if place.current is None or "platform" in allow:
            return Decision(place=place, default=None, variants=(), kept=())
        kept.append("nothing solves any more; its lock stays (--allow-loss platform removes it)")
        return Decision(place=place, default=place.current, variants=place.variants, kept=tuple(kept))
    default = cell_of(chosen, place, default=True)
    current = place.current
    if current and current.torchvision and not default.torchvision and "torchvision" not in allow:
        kept.append("no torch that solves has torchvision any more (--allow-loss torchvision takes one without)")
        default = current
    elif current and _same(default, current):
        default = replace(current, oldest_gpu=default.oldest_gpu)
    wanted = _variants(place, default, preferred, pairs)
    taken = {_key(default), *map(_key, wanted)}
    for variant in place.variants:
        if _key(variant) in taken:
            continue
        newer = _superseding(variant, (default, *wanted), place)
        if newer is None:
            wanted.append(variant)
            taken.add(_key(variant))
            if not any(_key(cell_of(each, place)) == _key(variant) for each in place.found):
                kept.append(f"{versions_text(variant)} no longer solves, and nothing newer replaces it; its lock stays")
    return Decision(place=place, default=default, variants=_ordered(wanted, place.variants), kept=tuple(kept))


def cell_of(found: Found, place: Place, *, default: bool = False) -> Cell:
    """Return a solved combination as a cell of a place."""
    choice, row = found.choice, place.row
    build = choice.build
    lacks = None
    if default and not choice.torchvision:
        lacks = f"no {f'CUDA {row.cuda}' if row.cuda else 'CPU'} build of torchvision for this torch"
        if place.current is not None and place.current.lacks and not place.current.torchvision:
            lacks = place.current.lacks
    return replace(
        place.base,
        python=choice.python,
        pytorch=choice.pytorch,
        release=choice.release,
        build=build.pattern,
        torchvision=choice.torchvision,
        torchaudio=choice.torchaudio,
        lacks=lacks,
        architectures=build.architectures if row.cuda and build.architectures != row.architectures else None,
        ptx=build.ptx if row.cuda and build.ptx != row.ptx else None,
        oldest_gpu=_oldest_gpu(found, row),
    )


def _oldest_gpu(found: Found, row: Environment) -> str | None:
    """Return a cell's own `oldest_gpu`; None if the row's is correct for its libraries."""
    limit = found.oldest_gpu
    if row.cuda is None or limit is None or limit == row.oldest_gpu:
        return None
    lost = any(Version(each) < Version(limit) for each in found.choice.build.architectures)
    stricter = row.oldest_gpu is not None and Version(row.oldest_gpu) > Version(limit)
    return limit if lost or stricter else None


def environment_of(place: Place, cell: Cell, default: Cell | None) -> str:
    """Return the name of the environment of a cell of a place."""
    if default is not None and _key(cell) == _key(default):
        return place.name
    return variant_name(place.name, cell.pytorch, cell.python)


def _variants(place: Place, default: Cell, preferred: str | None, pairs: Collection[Choice]) -> list[Cell]:
    """Return the variants that the policy requires, one for each Python and torch."""
    found = place.found
    # First: there is one environment for each torch and Python, and only one torchvision makes the pair.
    wanted = [each for each in found if any(is_pair(each.choice, pair) for pair in pairs)]
    for python in sorted({each.choice.python for each in found}, key=Version, reverse=True):
        of_python = [each for each in found if each.choice.python == python]
        wanted.append(max(of_python, key=lambda each: (Version(each.choice.pytorch), len(each.choice.companions))))
        if with_vision := [each for each in of_python if each.choice.torchvision]:
            wanted.append(max(with_vision, key=lambda each: Version(each.choice.pytorch)))
        if complete := [each for each in with_vision if each.choice.torchaudio]:
            wanted.append(max(complete, key=lambda each: Version(each.choice.pytorch)))
    for minor in _newest_minors(found):
        one = best((each for each in found if each.choice.pytorch == minor), default, preferred)
        vision = one is not None and one.choice.torchvision is not None
        as_good = [each for each in wanted if each.choice.pytorch == minor and (each.choice.torchvision or not vision)]
        if one is not None and not as_good:
            wanted.append(one)
    cells: dict[tuple[str, str], Cell] = {}
    for each in wanted:
        cell = replace(cell_of(each, place), lacks=None)
        known = next((one for one in place.variants if _same(one, cell)), None)
        if known is not None:
            cell = replace(cell, release=known.release)
        if _key(cell) != _key(default):
            cells.setdefault(_key(cell), cell)
    return list(cells.values())


def _newest_minors(found: Sequence[Found]) -> list[str]:
    """Return the newest torch minors that have torchvision; the newest of all if none has it."""
    complete = [each for each in found if each.choice.torchvision]
    minors = {each.choice.pytorch for each in complete or found}
    return sorted(minors, key=Version, reverse=True)[:NEWEST_MINORS]


def _superseding(variant: Cell, cells: Iterable[Cell], place: Place) -> Cell | None:
    """Return the cell that replaces a variant: same Python, newer torch, and all of its companions."""
    if variant.pytorch in _newest_minors(place.found):
        return None
    for cell in cells:
        if (
            cell.python == variant.python
            and Version(cell.pytorch) > Version(variant.pytorch)
            and (cell.torchvision or not variant.torchvision)
            and (cell.torchaudio or not variant.torchaudio)
        ):
            return cell
    return None


def _ordered(cells: Sequence[Cell], before: Sequence[Cell]) -> tuple[Cell, ...]:
    """Return known variants in their previous order, then new ones, newest torch first."""
    order = {_key(cell): number for number, cell in enumerate(before)}
    new = sorted(
        (cell for cell in cells if _key(cell) not in order),
        key=lambda cell: (-Version(cell.pytorch).minor, Version(cell.python)),
    )
    return (*sorted((cell for cell in cells if _key(cell) in order), key=lambda cell: order[_key(cell)]), *new)


def _key(cell: Cell) -> tuple[str, str]:
    return cell.pytorch, cell.python


def _same(one: Cell, other: Cell) -> bool:
    """Whether two cells have the same versions and builds."""
    parts = ("python", "pytorch", "build", "torchvision", "torchaudio")
    return all(getattr(one, part) == getattr(other, part) for part in parts)
