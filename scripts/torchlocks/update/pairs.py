"""Pairs of CPU and CUDA environments: the combinations that the CPU row needs, and equal torch releases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from packaging.version import Version

from torchlocks.matrix.cells import Cell
from torchlocks.matrix.model import Matrix
from torchlocks.update.candidates import Build, Choice, is_pair, versions_text
from torchlocks.update.policy import Decision
from torchlocks.update.run import Run
from torchlocks.update.search import Failed, Found
from torchlocks.update.spots import Spot


def pairs_wanted(
    matrix: Matrix, decisions: Mapping[tuple[str, str], Decision], cpu: str | None
) -> dict[str, list[Choice]]:
    """Return the combinations that the CPU row needs, by platform, so that every CUDA default has a pair.

    Rows that are not refreshed have their default in `matrix`.
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


def same_releases(
    decisions: Mapping[tuple[str, str], Decision],
    results: dict[tuple[str, str], list[Found | Failed]],
    spots: Mapping[tuple[str, str], Spot],
    run: Run,
    cpu: str | None,
) -> dict[tuple[str, str], Decision]:
    """Pin a CUDA cell to the torch release of its CPU pair, if the newest ones differ and that one solves."""
    pinned: list[tuple[tuple[str, str], Cell, Choice]] = []
    for key, decision in decisions.items():
        partner = decisions.get((cpu or "", key[1]))
        if key[0] == cpu or partner is None:
            continue
        for cell in decision.cells:
            other = next((each for each in partner.cells if is_pair(each, cell)), None)
            gpu, cpu_release = _version(cell, decision), _version(other, partner) if other else None
            if gpu and cpu_release and Version(gpu) > Version(cpu_release):
                pinned.append((key, cell, replace(_choice(cell, decision), release=cpu_release)))
    tried = run.try_all([(spots[key], [[choice]]) for key, _, choice in pinned])
    solved = {(key, each.choice) for key, each_of in tried.items() for each in each_of if isinstance(each, Found)}
    releases = {(key, cell.pytorch, cell.python): c.release for key, cell, c in pinned if (key, c) in solved}
    found = dict(decisions)
    for key, decision in decisions.items():
        if key[0] == cpu or (cpu or "", key[1]) not in decisions:
            # If the CPU row is not refreshed, the pins of its pairs stay.
            continue
        cells = [
            replace(cell, release=releases.get((key, cell.pytorch, cell.python))) if _version(cell, decision) else cell
            for cell in decision.cells
        ]
        default = cells[0] if decision.default else None
        found[key] = replace(decision, default=default, variants=tuple(cells[1:] if default else cells))
    return found


def _version(cell: Cell, decision: Decision) -> str | None:
    """Return the torch version of an unpinned cell; None if it was not solved."""
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
    """Yield, for each CUDA default without a CPU pair, the reason."""
    for (name, platform), decision in decisions.items():
        there = (cpu or "", platform)
        partner, default = decisions.get(there), decision.default
        if default is None or partner is None or name == cpu or any(is_pair(c, default) for c in partner.cells):
            continue
        pair = Choice(
            python=default.python,
            pytorch=default.pytorch,
            build=spots[there].builds[0],
            torchvision=default.torchvision,
        )
        why = spots[there].offers.missing(pair, "CPU") or next(
            (each.reason for each in results[there] if isinstance(each, Failed) and is_pair(each.choice, pair)),
            f"the CPU row has another torchvision for torch {default.pytorch} and Python {default.python}",
        )
        yield f"{name} on {platform}, {versions_text(default)}: {why}"
