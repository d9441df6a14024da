"""The spots of a refresh: every row on every platform that it may exist for, and rows for new CUDA minors.

Each spot has the records of its channels and the combinations of the first round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from packaging.version import Version

from torchlocks.cuda.packages import variant_of
from torchlocks.host.gpu_rules import code_for
from torchlocks.matrix.cells import Cell, Drivers, DriverVersions, Environment, environment_name
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target
from torchlocks.solve.repodata import RecordSource
from torchlocks.update.candidates import WINDOW, Build, Choice, Offers, offers
from torchlocks.update.policy import Loss, Place

_CUDA_PLATFORMS = ("linux-64", "linux-aarch64", "win-64")


def with_new_cuda(matrix: Matrix, source: RecordSource) -> tuple[Matrix, list[str]]:
    """Return the matrix with a row for each CUDA minor that the channels have, and the reasons for those without.

    A new row is a copy of the newest one of its major, with the driver floor of the major.
    """
    rows, drivers = dict(matrix.rows), dict(matrix.drivers)
    listed = {row.cuda: name for name, row in matrix.rows.items() if row.cuda}
    newest: dict[int, str] = {}
    for cuda in sorted(listed, key=Version):
        newest[Version(cuda).major] = listed[cuda]
    available = {
        cuda
        for name in newest.values()
        for platform in matrix.rows[name].platforms
        for cuda in offers(source, matrix.target(name, platform)).cuda_versions
    }
    no_row = []
    for cuda in sorted(available - set(listed), key=Version):
        like = newest.get(Version(cuda).major)
        if like is None:
            if Version(cuda).major > max(newest):
                no_row.append(f"CUDA {cuda}: its major has no row yet; write one by hand (docs/add-a-row.md)")
            continue
        row = matrix.rows[like]
        known = matrix.drivers[str(row.cuda)]
        drivers[cuda] = matrix.drivers.get(cuda) or Drivers(
            linux=DriverVersions(floor=known.linux.floor), windows=DriverVersions(floor=known.windows.floor)
        )
        cells = {name: replace(cell, release=None, lacks=None, oldest_gpu=None) for name, cell in row.platforms.items()}
        rows[environment_name(cuda)] = replace(row, cuda=cuda, platforms=cells, variants={})
    left_out = {cuda: why for cuda, why in matrix.left_out.items() if environment_name(cuda) not in rows}
    return rebuilt(matrix, rows, drivers, left_out), no_row


def rebuilt(
    matrix: Matrix,
    rows: Mapping[str, Environment],
    drivers: Mapping[str, Drivers] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Matrix:
    """Return the matrix with `rows`, and with `drivers` and `left_out` if they are given."""
    return Matrix(
        platforms=matrix.platforms,
        drivers=dict(matrix.drivers if drivers is None else drivers),
        rows=dict(rows),
        local=matrix.local,
        left_out=dict(matrix.left_out if left_out is None else left_out),
        parity=matrix.parity,
    )


@dataclass(frozen=True, kw_only=True)
class Spot(Place):
    """A row on a platform before solving: also its target, the builds that it can use, and the records."""

    target: Target
    builds: tuple[Build, ...]
    offers: Offers

    @property
    def id(self) -> tuple[str, str]:
        """Row and platform."""
        return self.name, self.platform

    def constrained(self, constraints: tuple[str, ...]) -> Spot:
        """Return the spot with other constraints of its row."""
        row = replace(self.row, constraints=constraints)
        return replace(self, row=row, target=replace(self.target, constraints=constraints))


def spots_of(
    wider: Matrix,
    matrix: Matrix,
    source: RecordSource,
    allow: Collection[Loss],
    *,
    row: str | None = None,
    platform: str | None = None,
) -> Iterable[Spot]:
    """Yield every row of `wider` (or `row`) on every platform (or `platform`) that it may exist for.

    `matrix` is the matrix without new rows; `allow` names what may be removed from a cell.
    """
    for name, each in wider.rows.items():
        if row not in (None, name):
            continue
        for candidate in wider.platforms:
            if platform in (None, candidate) and (each.accelerator == "cpu" or candidate in _CUDA_PLATFORMS):
                yield _spot(wider, matrix, source, allow, name, candidate)


def _spot(
    wider: Matrix, matrix: Matrix, source: RecordSource, allow: Collection[Loss], name: str, platform: str
) -> Spot:
    row = wider.rows[name]
    listed = name in matrix.rows and platform in row.platforms
    base = row.platforms.get(platform) or _borrowed(row)  # type: ignore[call-overload]
    whole = wider if platform in row.platforms else rebuilt(wider, _on(wider, name, platform, base))
    target = whole.target(name, platform)
    variants = row.variants.get(platform, ()) if listed else ()  # type: ignore[call-overload]
    # A platform that is new to an existing row needs at least the oldest torch of the row's defaults.
    extends_row = not listed and name in matrix.rows
    return Spot(
        name=name,
        row=row,
        platform=platform,
        base=base,
        current=base if listed else None,
        variants=tuple(each.cell(base) for each in variants),
        oldest_torch=min((cell.pytorch for cell in row.platforms.values()), key=Version) if extends_row else None,
        target=target,
        builds=_builds(wider, target, allow, known=listed),
        offers=offers(source, target),
    )


def _borrowed(row: Environment) -> Cell:
    """Return the cell of another platform of the row, without that platform's own fields."""
    cell = next(iter(row.platforms.values()))
    return replace(cell, release=None, lacks=None, glibc=None, oldest_gpu=None)


def _on(matrix: Matrix, name: str, platform: str, cell: Cell) -> dict[str, Environment]:
    row = matrix.rows[name]
    return {**matrix.rows, name: replace(row, platforms={**row.platforms, platform: cell})}  # type: ignore[dict-item]


def _builds(matrix: Matrix, target: Target, allow: Collection[Loss], *, known: bool) -> tuple[Build, ...]:
    """Return the torch builds that a row can use: its own, then those of its CUDA major in other rows.

    Builds for a newer CUDA than the row's, and builds without code for the row's GPUs, are left out.
    """
    own = Build(pattern=target.build, architectures=target.torch_architectures, ptx=target.ptx)
    if target.cuda is None:
        return (own,)
    # The build that a new row copied may be for a newer CUDA.
    found = {own.pattern: own} if known or Version(_cuda_of(own)) <= Version(target.cuda) else {}
    for other in matrix.targets():
        variant = variant_of(other.build.replace("*", ""))
        if (
            other.cuda is None
            or other.channels != target.channels
            or variant is None
            or variant.cuda is None
            or variant.major != int(target.cuda.split(".")[0])
            or Version(variant.cuda) > Version(target.cuda)
        ):
            continue
        build = Build(pattern=other.build, architectures=other.torch_architectures, ptx=other.ptx)
        if not known or "architecture" in allow or not _lost(own, build):
            found.setdefault(build.pattern, build)
    newest_first = sorted(found.values(), key=lambda each: Version(_cuda_of(each)), reverse=True)
    return tuple(sorted(newest_first, key=lambda each: each.pattern != own.pattern))


def _cuda_of(build: Build) -> str:
    variant = variant_of(build.pattern.replace("*", ""))
    return (variant.cuda if variant else None) or "0"


def _lost(old: Build, new: Build) -> list[str]:
    """Return the architectures with machine code in `old` and none in `new`."""
    return [each for each in old.architectures if code_for(each, new.architectures, new.ptx) != "machine"]


def first_round(spot: Spot) -> Iterable[list[list[Choice]]]:
    """Yield the combinations of the first round: for each Python, in groups of one torch each."""
    newest = spot.offers.minors(spot.builds)[:WINDOW]
    listed = {cell.pytorch for cell in (*((spot.current,) if spot.current else ()), *spot.variants)}
    for python in spot.offers.pythons():
        available = spot.offers.minors(spot.builds, python)
        complete = [
            m for m in available if any(len(c.companions) == 2 for c in spot.offers.choices(python, m, spot.builds))
        ]
        minors = [each for each in available if each in newest or each in listed or each in complete[:1]]
        groups = [spot.offers.choices(python, each, spot.builds) for each in minors]
        if groups:
            yield groups


def unknown_builds(spot: Spot) -> str | None:
    """Return a message about newer torch whose builds are in no row; None if there is none."""
    known = [Version(each) for each in spot.offers.minors(spot.builds)]
    newer: dict[str, set[str]] = {}
    for offer in spot.offers.torch:
        variant = variant_of(offer.build)
        cuda = variant.cuda if variant else None
        if spot.target.cuda and (not cuda or "." not in cuda or Version(cuda) > Version(spot.target.cuda)):
            continue
        if not known or Version(offer.version) > max(known):
            newer.setdefault(offer.version, set()).add(f"CUDA {cuda}" if cuda else "the CPU")
    if not newer:
        return None
    torch = max(newer, key=Version)
    return f"torch {torch} is built for {', '.join(sorted(newer[torch]))}, and matrix.yml has no such `build`"
