"""How the cost of locking and checking grows: with the number of environments and the size of a channel.

And how it falls with the number of Dask workers.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.lock import Ground, copy_inputs, lock_command
from bench.model import Curve
from bench.run import BIN, command, cost_of, seconds_of
from torchlocks.core.errors import SolveError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.locking.cell import Cell, CellTask, solve_cell
from torchlocks.locking.files import FilesTask, lock_files
from torchlocks.locking.options import find_solver
from torchlocks.locking.texts import platform_metadata, tool_metadata
from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.render import render, requested
from torchlocks.matrix.target import Target
from torchlocks.solve.repodata import RecordSource, channel_name

STEPS = (1, 3, 10, 30, 100, 300, 1000, 3000)
COPIES = (1, 2, 5, 10, 20)
WORKERS = (1, 2, 4)
MOST_ON_WORKERS = 100
"""Environments that are locked and checked on Dask workers, at most."""
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

_SEARCH_SECONDS = 20.0
"""How long to look for rows that solve; what is found by then is used, in turn."""


def growth_in_environments(layout: Layout, ground: Ground, largest: int, progress: Progress) -> list[Curve]:
    """Lock and check 1 … `largest` environments, rows made of the real ones with other Pythons and torch versions."""
    sizes = [size for size in STEPS if size <= largest]
    if not sizes:
        return []
    rows = _rows(ground, progress, max(sizes))
    lock_costs, check_costs, again_costs = [], [], []
    with progress.task("Growth in environments", total=sum(sizes)) as task:
        for size in sizes:
            with tempfile.TemporaryDirectory(dir=ground.place) as folder:
                checkout = Path(folder) / "checkout"
                copy_inputs(layout, checkout)
                _write_matrix(layout, checkout, rows, size)
                here = Ground(checkout=checkout, place=ground.place, snapshot=ground.snapshot)
                # Short runs are repeated: one alone is not reliable.
                rounds = 3 if size <= 30 else 1
                lock_costs.append(cost_of(lock_command(here, "--force"), rounds))
                seconds_of(lock_command(here))
                again_costs.append(cost_of(lock_command(here), rounds))
                check = command(BIN / "torchlocks", "check", cwd=checkout)
                check_costs.append(cost_of(check, rounds))
            task.advance(size, note=f"{size} environments")
    distinct = len({json.dumps(row, sort_keys=True) for row in rows[: max(sizes)]})
    note = f"{distinct} different rows, used in turn"
    unit = "environments"
    steps = tuple(float(size) for size in sizes)
    stages = _stages(ground)
    costs = {"lock": lock_costs, "lock, nothing to do": again_costs, "check": check_costs}
    return [
        Curve(
            name=name,
            unit=unit,
            sizes=steps,
            seconds=tuple(seconds for seconds, _ in found),
            memory_mib=tuple(memory for _, memory in found),
            stages=stages if name == "lock" else {},
            note=note,
        )
        for name, found in costs.items()
    ]


def growth_in_channels(ground: Ground, rounds: int, progress: Progress) -> list[Curve]:
    """Lock one environment against channels that are 1 … 20 times as large, by copies under other names."""
    target = ground.targets()[0]
    one = ("--force", "--env", target.env, "--platform", target.platform)
    costs, stages = [], {}
    with progress.task("Growth in channel size", total=len(COPIES)) as task:
        for copies in COPIES:
            with tempfile.TemporaryDirectory(dir=ground.place) as folder:
                snapshot = Path(folder)
                for channel in target.channels:
                    for subdir in (target.platform, "noarch"):
                        _multiply(ground.snapshot / channel_name(channel) / subdir, snapshot, copies)
                here = Ground(checkout=ground.checkout, place=ground.place, snapshot=snapshot)
                costs.append(cost_of(lock_command(here, *one), rounds))
                if copies == COPIES[-1]:
                    stages = _stages(here, [target])
            task.advance(1, note=f"x {copies}")
    return [
        Curve(
            name=f"lock {target.env} on {target.platform}",
            unit="times the channel's records",
            sizes=tuple(float(copies) for copies in COPIES),
            seconds=tuple(seconds for seconds, _ in costs),
            memory_mib=tuple(memory for _, memory in costs),
            stages=stages,
        )
    ]


def growth_in_workers(layout: Layout, ground: Ground, largest: int, progress: Progress) -> list[Curve]:
    """Lock and check up to `largest` environments on 1, 2 and 4 Dask workers of this machine, each with one thread.

    Raises ModuleNotFoundError if Dask is not installed.
    """
    from distributed import LocalCluster

    # A library that configures logging (conda-lock) shows every connection of the cluster otherwise.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    size = min(largest, MOST_ON_WORKERS)
    seconds: dict[str, list[float]] = {"lock": [], "check": []}
    with (
        progress.task("Locking and checking on Dask workers", total=len(WORKERS)) as task,
        tempfile.TemporaryDirectory(dir=ground.place, ignore_cleanup_errors=True) as folder,
    ):
        checkout = Path(folder) / "checkout"
        copy_inputs(layout, checkout)
        _write_matrix(layout, checkout, _rows(ground, progress, size), size)
        here = Ground(checkout=checkout, place=ground.place, snapshot=ground.snapshot)
        for workers in WORKERS:
            with LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                local_directory=folder,
            ) as cluster:
                lock = lock_command(here, "--force", "--scheduler", cluster.scheduler_address)
                arguments = ("check", "--scheduler", cluster.scheduler_address)
                check = command(BIN / "torchlocks", *arguments, cwd=checkout)
                for name, each in (("lock", lock), ("check", check)):
                    # The first time, workers import what they need.
                    seconds_of(each)
                    seconds[name].append(seconds_of(each))
            task.advance(1, note=f"{workers} workers")
    return [
        Curve(
            name=f"{name} {size} environments",
            unit="Dask workers on this machine",
            sizes=tuple(map(float, WORKERS)),
            seconds=tuple(found),
            note=f"on {os.cpu_count()} cores; -1 is half the time on twice the workers",
        )
        for name, found in seconds.items()
    ]


def _rows(ground: Ground, progress: Progress, wanted: int) -> list[dict[str, Any]]:
    """Rows of a matrix, one platform each: the real cells, then these with other pins, as far as they solve."""
    matrix = load_matrix(ground.layout.matrix)
    real = [_row(asdict(matrix.environments[t.env]), t.platform) for t in matrix.targets()]
    if wanted <= len(real):
        return real
    found = list(real)
    source = RecordSource(snapshot=ground.snapshot)
    until = time.monotonic() + _SEARCH_SECONDS
    with progress.task("Looking for rows that solve", total=wanted) as task:
        task.advance(len(found))
        for target, row in _variants(matrix.targets(), real):
            if len(found) >= wanted or time.monotonic() > until:
                break
            rendered = render(ground.checkout / target.template, target)
            with suppress(SolveError):
                _answers([target], [rendered], source)
                found.append(row)
                task.advance(1)
    return found


def _row(row: dict[str, Any], platform: str) -> dict[str, Any]:
    return {**row, "platforms": {platform: row["platforms"][platform]}, "variants": {}}


def _variants(targets: Sequence[Target], rows: Sequence[dict[str, Any]]) -> Iterator[tuple[Target, dict[str, Any]]]:
    minors = sorted({target.pytorch for target in targets} | {"2.6", "2.8", "2.9", "2.11"})
    for python in PYTHONS:
        for pytorch in minors:
            for target, row in zip(targets, rows, strict=True):
                if (python, pytorch) != (target.python, target.pytorch):
                    cell = {
                        **row["platforms"][target.platform],
                        **{
                            "python": python,
                            "pytorch": pytorch,
                            "release": None,
                            "torchvision": None,
                            "torchaudio": None,
                        },
                    }
                    changed = replace(
                        target, python=python, pytorch=pytorch, release=None, torchvision=None, torchaudio=None
                    )
                    yield changed, {**row, "platforms": {target.platform: cell}}


def _write_matrix(layout: Layout, checkout: Path, rows: Sequence[dict[str, Any]], size: int) -> None:
    """A matrix of `size` environments, each a row of `rows` in turn under a name of its own."""
    import yaml

    document = yaml.safe_load(layout.matrix.read_text(encoding="utf-8"))
    document["environments"] = {f"e{number:05}": rows[number % len(rows)] for number in range(size)}
    # JSON is YAML.
    (checkout / "matrix.yml").write_text(json.dumps(document), encoding="utf-8")


def _multiply(folder: Path, snapshot: Path, copies: int) -> None:
    """`folder` of a channel with `copies` times its records: all but the first are under names of their own."""
    source = folder / "repodata.json"
    target = snapshot / folder.parent.name / folder.name / "repodata.json"
    target.parent.mkdir(parents=True)
    if copies == 1:
        shutil.copy(source, target)
        return
    document = json.loads(source.read_bytes())
    for section in ("packages", "packages.conda"):
        records = document.get(section, {})
        more = {}
        for copy in range(1, copies):
            for name, record in records.items():
                renamed = f"copy{copy}-{record['name']}"
                more[f"copy{copy}-{name}"] = {
                    **record,
                    "name": renamed,
                    "depends": [f"copy{copy}-{spec}" for spec in record.get("depends", ())],
                }
        records.update(more)
    target.write_text(json.dumps(document), encoding="utf-8")


def _stages(ground: Ground, targets: Sequence[Target] | None = None) -> dict[str, float]:
    """Where the time of locking goes: each stage of all `targets` (default: the matrix), on one core, by itself."""
    stages: dict[str, float] = {}

    def done(stage: str, began: float) -> float:
        now = time.perf_counter()
        stages[stage] = round(stages.get(stage, 0.0) + now - began, 4)
        return now

    chosen = tuple(targets or ground.targets())
    source, solver = RecordSource(snapshot=ground.snapshot), find_solver()
    imports = "import conda_lock.conda_lock, rattler, torchlocks.locking.cell"
    stages["start-up and imports"] = round(seconds_of(command(sys.executable, "-c", imports)), 4)
    import conda_lock.conda_lock  # noqa: F401 - so that no stage below pays for it
    import rattler  # noqa: F401

    at = time.perf_counter()
    rendered = [render(ground.checkout / target.template, target) for target in chosen]
    at = done("rendering", at)
    for target in chosen:
        source.identity(target.channels, [target.platform, "noarch"])
    at = done("hashing the records", at)
    for target in chosen:
        for channel in target.channels:
            source.sparse(channel, (target.platform, "noarch"))
    at = done("opening the records", at)
    _answers(chosen, rendered, source)
    at = done("solving", at)
    task = [
        CellTask(run="stages", target=target, rendered=text, source=source, solver=solver)
        for target, text in zip(chosen, rendered, strict=True)
    ]
    cells = [cell for cell in map(solve_cell, task) if isinstance(cell, Cell)]
    done("conda-lock around the solver", at)
    stages["conda-lock around the solver"] = round(stages["conda-lock around the solver"] - stages["solving"], 4)
    at = time.perf_counter()
    for cell in cells:
        here = platform_metadata(cell.target.platform, cell.target.virtual_packages, "bench")
        metadata = {**tool_metadata("bench"), **here}
        lock_files(FilesTask(cells=(cell,), metadata=metadata))
    done("making the three files", at)
    return stages


def _answers(targets: Sequence[Target], rendered: Sequence[str], source: RecordSource) -> None:
    from torchlocks.solve.solver import SolveRequest, generic_virtual_packages, solve

    for target, text in zip(targets, rendered, strict=True):
        solve(
            SolveRequest(
                channels=target.channels,
                platform=target.platform,
                specs=requested(text),
                virtual_packages=generic_virtual_packages(target.virtual_packages),
            ),
            source,
        )
