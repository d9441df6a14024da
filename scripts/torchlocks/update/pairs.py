"""CPU and CUDA as pairs: what the CPU row needs for them, and the same patch of torch on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from packaging.version import Version

from torchlocks.matrix.cells import Cell
from torchlocks.matrix.model import Matrix
from torchlocks.update.candidates import Build, Choice
from torchlocks.update.policy import Decision, shown
from torchlocks.update.run import Run
from torchlocks.update.search import Failed, Found
from torchlocks.update.spots import Spot


def pairs_wanted(
    matrix: Matrix, decisions: Mapping[tuple[str, str], Decision], cpu: str | None
) -> dict[str, list[Choice]]:
    """What the CPU row needs on each platform, so that every CUDA default has a pair.

    Rows that are not refreshed count with the default that they have in `matrix`.
    """
    defaults: dict[tuple[str, str], Cell | None] = {
        (name, platform): cell for name, row in matrix.rows.items() for platform, cell in row.platforms.items()
    }
    defaults |= {key: decision.default for key, decision in decisions.items()}
    wanted: dict[str, list[Choice]] = {}
    for (name, platform), default in defaults.items():
        row = matrix.rows.get(name)
        if default is None or (row is not None and row.cuda is None) or (cpu or "", platform) not in decisions:
            continue
        build = Build(pattern=decisions[cpu or "", platform].place.base.build)
        wanted.setdefault(platform, []).append(
            Choice(python=default.python, pytorch=default.pytorch, build=build, torchvision=default.torchvision)
        )
    return {platform: list(dict.fromkeys(pairs)) for platform, pairs in wanted.items()}


def _same_cell(cell: Cell, other: Cell) -> bool:
    return (cell.python, cell.pytorch, cell.torchvision) == (other.python, other.pytorch, other.torchvision)


def same_releases(
    decisions: Mapping[tuple[str, str], Decision],
    results: dict[tuple[str, str], list[Found | Failed]],
    spots: Mapping[tuple[str, str], Spot],
    run: Run,
    cpu: str | None,
) -> dict[tuple[str, str], Decision]:
    """Hold a CUDA cell at the patch of torch of its CPU pair, where the newest ones differ and that one solves."""
    held: list[tuple[tuple[str, str], Cell, Choice]] = []
    for key, decision in decisions.items():
        partner = decisions.get((cpu or "", key[1]))
        if key[0] == cpu or partner is None:
            continue
        for cell in decision.cells:
            other = next((each for each in partner.cells if _same_cell(each, cell)), None)
            mine, theirs = _version(cell, decision), _version(other, partner) if other else None
            if mine and theirs and Version(mine) > Version(theirs):
                held.append((key, cell, replace(_choice(cell, decision), release=theirs)))
    tried = run.try_all([(spots[key], [[choice]]) for key, _, choice in held])
    solved = {(key, each.choice) for key, each_of in tried.items() for each in each_of if isinstance(each, Found)}
    releases = {(key, cell.pytorch, cell.python): c.release for key, cell, c in held if (key, c) in solved}
    found = dict(decisions)
    for key, decision in decisions.items():
        if key[0] == cpu or (cpu or "", key[1]) not in decisions:
            # Where the CPU row is not refreshed, what its pairs are held at stays.
            continue
        cells = [
            cell.model_copy(update={"release": releases.get((key, cell.pytorch, cell.python))})
            if _version(cell, decision)
            else cell
            for cell in decision.cells
        ]
        default = cells[0] if decision.default else None
        found[key] = replace(decision, default=default, variants=tuple(cells[1:] if default else cells))
    return found


def _version(cell: Cell, decision: Decision) -> str | None:
    """The version of torch that a cell has without being held back; None where it was not tried."""
    for each in decision.place.found:
        if (each.choice.python, each.choice.pytorch) == (cell.python, cell.pytorch) and each.choice.release is None:
            return each.version
    return None


def _choice(cell: Cell, decision: Decision) -> Choice:
    return next(
        each.choice
        for each in decision.place.found
        if (each.choice.python, each.choice.pytorch) == (cell.python, cell.pytorch)
    )


def unpaired(
    decisions: Mapping[tuple[str, str], Decision],
    results: Mapping[tuple[str, str], Sequence[Found | Failed]],
    spots: Mapping[tuple[str, str], Spot],
    cpu: str | None,
) -> Iterable[str]:
    """Say of each CUDA default without a CPU environment of the same versions why there is none."""
    for (name, platform), decision in decisions.items():
        there = (cpu or "", platform)
        partner, default = decisions.get(there), decision.default
        if default is None or partner is None or name == cpu or any(_same_cell(c, default) for c in partner.cells):
            continue
        pair = Choice(
            python=default.python,
            pytorch=default.pytorch,
            build=spots[there].builds[0],
            torchvision=default.torchvision,
        )
        why = spots[there].offers.missing(pair, "CPU") or next(
            (each.reason for each in results[there] if isinstance(each, Failed) and each.choice.pairs_with(pair)),
            f"the CPU row has another torchvision for torch {default.pytorch} and Python {default.python}",
        )
        yield f"{name} on {platform}, {shown(default)}: {why}"
