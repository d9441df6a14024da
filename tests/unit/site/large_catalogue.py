"""A catalogue of many environments, out of the committed locks under other names."""

from __future__ import annotations

from dataclasses import replace

from torchlocks.diff.compare import changes
from torchlocks.site.catalogue import Catalogue, Cell
from torchlocks.site.history import Commit, History, Step
from torchlocks.site.index import IndexEnvironment


def enlarged(catalogue: Catalogue, count: int) -> Catalogue:
    """Return a catalogue of `count` environments on the platforms of the first ones, half of them variants."""
    cells: list[Cell] = []
    environments: list[IndexEnvironment] = []
    given = catalogue.index.environments
    for number in range(count):
        env = given[number % len(given)]
        name = f"{env.name}-n{number:04}"
        mine = []
        for cell in catalogue.cells:
            if cell.target.env == env.name:
                entry = cell.entry.model_copy(update={"page": f"env/{name}/{cell.target.platform}.html"})
                mine.append(replace(cell, target=replace(cell.target, env=name), entry=entry))
        cells += mine
        update = {
            "name": name,
            "variant_of": None if number % 2 else f"{env.name}-n0001",
            "platforms": tuple(cell.entry for cell in mine),
        }
        environments.append(env.model_copy(update=update))
    index = catalogue.index.model_copy(update={"environments": tuple(environments)})
    return replace(catalogue, index=index, cells=tuple(cells))


def moved(catalogue: Catalogue) -> History:
    """Return a history in which every lock has changed five times."""
    steps = {}
    for cell in catalogue.cells:
        versions = {package.name: package.version for package in cell.packages[:9]}
        moves = changes(cell.packages[:30], cell.packages[30:])
        steps[f"{cell.target.env}/{cell.target.platform}"] = tuple(
            Step(
                commit=Commit(f"{number:07}", "2026-01-01", "Move the locks"),
                first=number == 5,
                packages=len(cell.packages),
                changes=() if number == 5 else moves,
                versions={name: f"{version}.{number}" for name, version in versions.items()},
            )
            for number in range(6)
        )
    return History(steps=steps, note=None)
