"""Plan a newer matrix: solve newer torch, Python and CUDA for every row and platform, and select the best.

`spots` lists rows and platforms, `candidates` combinations, `search` solves them (`run`: in parallel), `policy`
selects, and `pairs` compares CPU and CUDA. A plan changes nothing; `apply` writes and locks it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.locking.options import LockOptions
from torchlocks.matrix.model import Matrix
from torchlocks.update.candidates import Choice, is_pair
from torchlocks.update.pairs import pairs_wanted, same_releases, unpaired
from torchlocks.update.policy import Decision, Loss, decide
from torchlocks.update.run import Run
from torchlocks.update.search import Failed, Found
from torchlocks.update.spots import Spot, first_round, rebuilt, spots_of, unknown_builds, with_new_cuda


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A planned refresh: `before` is the present matrix, `matrix` the new one.

    `unpaired` has the reasons why CUDA defaults have no CPU pair; `no_row` why CUDA versions get no row.
    """

    before: Matrix
    matrix: Matrix
    decisions: tuple[Decision, ...]
    unpaired: tuple[str, ...]
    no_row: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether the matrix must change."""
        return any(decision.changed for decision in self.decisions)


def plan(
    layout: Layout,
    matrix: Matrix,
    options: LockOptions,
    progress: Progress,
    *,
    env: str | None = None,
    platform: str | None = None,
    allow: Collection[Loss] = (),
) -> Plan:
    """Solve candidates for the rows of a matrix (or row `env`, or `platform`), and select their new cells.

    `allow` names what may be removed from a cell. Raises NoSuchRowError for a row or platform that does not exist,
    ChannelUnreachableError for a live channel that cannot be read, and what the cluster of `options` raises.
    """
    if env is not None or platform is not None:
        matrix.select(env, platform)
    row = matrix.row_of(env) if env is not None else None
    # A single row is refreshed without new rows, so that other channels are not read.
    wider, no_row = with_new_cuda(matrix, options.source) if row is None else (matrix, [])
    spots = list(spots_of(wider, matrix, options.source, allow, row=row, platform=platform))
    run = Run(layout=layout, options=options, progress=progress, allow=allow)
    results: dict[tuple[str, str], list[Found | Failed]] = {spot.id: [] for spot in spots}
    results |= run.try_all([(spot, groups) for spot in spots for groups in first_round(spot)])
    wider, spots, results = _constrained(wider, spots, results, run)
    cpu = next((name for name, row in wider.rows.items() if row.accelerator == "cpu"), None)
    preferred = _cpu_pythons(spots, results, cpu, matrix, allow)
    decisions = {
        key: _decide(spot, results[key], preferred.get(spot.platform), (), allow) for spot in spots if (key := spot.id)
    }
    # Pairs: a second round, for combinations that were not yet solved for the CPU rows.
    wanted = pairs_wanted(wider, decisions, cpu)
    by_id = {spot.id: spot for spot in spots}
    missing = [
        (by_id[cpu or "", place], [[pair]])
        for place, pairs in wanted.items()
        for pair in pairs
        if not any(is_pair(each.choice, pair) for each in results[cpu or "", place])
    ]
    for key, more in run.try_all(missing).items():
        results[key] = [*results[key], *more]
    for place, pairs in wanted.items():
        key = (cpu or "", place)
        decisions[key] = _decide(by_id[key], results[key], preferred.get(place), pairs, allow)
    decisions = same_releases(decisions, results, by_id, run, cpu)
    done = tuple(decisions[spot.id] for spot in spots)
    new = [name for name in wider.rows if name not in matrix.rows]
    unsolved = [name for name in new if not any(each.default for each in done if each.place.name == name)]
    return Plan(
        before=matrix,
        matrix=_with(wider, matrix, done, unsolved),
        decisions=tuple(each for each in done if each.place.name not in unsolved),
        unpaired=tuple(unpaired(decisions, results, by_id, cpu)),
        no_row=(*no_row, *(_no_row(wider.rows[name].cuda or "", matrix) for name in unsolved)),
    )


def _constrained(
    matrix: Matrix, spots: Sequence[Spot], results: dict[tuple[str, str], list[Found | Failed]], run: Run
) -> tuple[Matrix, list[Spot], dict[tuple[str, str], list[Found | Failed]]]:
    """Add constraints to rows that promise GPUs for which the newest libraries have no code.

    A row gets constraints if with them everything solves that solves without, and more.
    """
    rows, changed, tried = dict(matrix.rows), list(spots), dict(results)
    for name in dict.fromkeys(spot.name for spot in spots):
        of_row = [spot for spot in spots if spot.name == name]
        needed = {
            each: None
            for spot in of_row
            for failed in results[spot.id]
            if isinstance(failed, Failed)
            for each in failed.constraints
        }
        constraints = (*rows[name].constraints, *(each for each in needed if each not in rows[name].constraints))
        if constraints == rows[name].constraints:
            continue
        constrained = [spot.constrained(constraints) for spot in of_row]
        again: dict[tuple[str, str], list[Found | Failed]] = {spot.id: [] for spot in constrained}
        again |= run.try_all([(spot, groups) for spot in constrained for groups in first_round(spot)])
        counts = [(_solved(again[spot.id]), _solved(results[spot.id])) for spot in constrained]
        if all(now >= before for now, before in counts) and any(now > before for now, before in counts):
            rows[name] = replace(rows[name], constraints=constraints)
            tried |= again
            changed = [next((one for one in constrained if one.id == spot.id), spot) for spot in changed]
    return rebuilt(matrix, rows), changed, tried


def _solved(results: Iterable[Found | Failed]) -> set[tuple[str, str]]:
    return {(each.choice.pytorch, each.choice.python) for each in results if isinstance(each, Found)}


def _no_row(cuda: str, matrix: Matrix) -> str:
    return f"CUDA {cuda}: " + matrix.left_out.get(cuda, "no torch that solves can run with its libraries")


def _with(plan_of: Matrix, before: Matrix, decisions: Iterable[Decision], without: Collection[str]) -> Matrix:
    """Return the matrix with the default of each decision; `matrix_file` writes the variants."""
    rows = {name: row for name, row in plan_of.rows.items() if name not in without}
    for decision in decisions:
        row = rows.get(decision.place.name)
        if row is not None:
            platforms = {name: cell for name, cell in row.platforms.items() if name != decision.place.platform}
            if decision.default is not None:
                platforms[decision.place.platform] = decision.default  # type: ignore[index]
            rows[decision.place.name] = replace(row, platforms=platforms, variants={})
    used = {row.cuda for row in rows.values()}
    drivers = {cuda: each for cuda, each in plan_of.drivers.items() if cuda in before.drivers or cuda in used}
    left_out = {cuda: why for cuda, why in before.left_out.items() if cuda not in used}
    return rebuilt(plan_of, rows, drivers, left_out)


def _decide(
    spot: Spot,
    results: Sequence[Found | Failed],
    preferred: str | None,
    pairs: Collection[Choice],
    allow: Collection[Loss],
) -> Decision:
    place = replace(
        spot,
        found=tuple(each for each in results if isinstance(each, Found)),
        failed=tuple(each for each in results if isinstance(each, Failed)),
        builds_unknown=unknown_builds(spot),
    )
    return decide(place, preferred=preferred, pairs=pairs, allow=allow)


def _cpu_pythons(
    spots: Iterable[Spot],
    results: Mapping[tuple[str, str], Sequence[Found | Failed]],
    cpu: str | None,
    matrix: Matrix,
    allow: Collection[Loss],
) -> dict[str, str]:
    """Return the Python of the CPU default by platform, which CUDA defaults prefer."""
    cells = dict(matrix.rows[cpu].platforms) if cpu in matrix.rows else {}
    found = {str(name): cell.python for name, cell in cells.items()}
    for spot in spots:
        if spot.name == cpu:
            decision = _decide(spot, results[spot.id], None, (), allow)
            if decision.default is not None:
                found[spot.platform] = decision.default.python
    return found
