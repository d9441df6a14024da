"""`make bench`: what everything costs, as ratios to a floor or a peer measured in the same run.

Each measurement runs its subject and its reference alternately for several rounds and compares medians, so that other
load affects both. Absolute times are shown; they are of this machine and this run only.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench import channel, growth, install, lock, nothing, suite
from bench.model import Bench, Check, Curve, Measure, this_machine
from torchlocks.core.errors import BenchError, MissingFileError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.lockfile.formats import CONDA_LOCK

Part = Literal["start-up", "from-nothing", "channel", "install", "lock", "verify", "growth"]
PARTS: tuple[Part, ...] = ("start-up", "from-nothing", "channel", "install", "lock", "verify", "growth")


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What to measure. Locking and growth need a `snapshot`; `growth` is the largest number of environments."""

    rounds: int = 5
    snapshot: Path | None = None
    growth: int = 1000
    parts: tuple[Part, ...] = PARTS


def bench(layout: Layout, options: BenchOptions, progress: Progress) -> Bench:
    """Run the requested measurements.

    Raises MissingFileError if a part needs the CPU environment of the local channel and it was not built, and
    BenchError if something that is measured fails.
    """
    try:
        machine = this_machine()
    except ModuleNotFoundError as error:
        raise BenchError(
            "Measuring memory needs psutil, which is not installed.",
            where=str(error),
            fix="pip install 'torchlocks[bench]', or make bench in a checkout",
        ) from error
    measures: list[Measure] = []
    curves: list[Curve] = []
    slowest: tuple[Check, ...] = ()
    left_out: list[str] = []
    if {"start-up", "from-nothing", "install", "verify"} & set(options.parts):
        _must_be_there(layout)
    layout.build.mkdir(parents=True, exist_ok=True)
    # On the disk of the environments and of the package cache, so that hard links work for both sides.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=layout.build, ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        if "start-up" in options.parts:
            measures += suite.measure_starts(layout, options.rounds, progress)
        if "from-nothing" in options.parts:
            ground_here = install.ground_of(layout, place)
            measures += nothing.measure_from_nothing(layout, ground_here, place / "from-nothing", progress)
        if "channel" in options.parts:
            measures += channel.measure_channel(layout, place / "local-channel", progress)
        if "install" in options.parts:
            measures += install.measure_installs(install.ground_of(layout, place), options.rounds, progress)
        if "verify" in options.parts:
            measures += suite.measure_suite(layout, options.rounds, progress)
            slowest = suite.slowest_checks(layout.reports / "cpu.json")
        if options.snapshot is None:
            left_out.append("Locking and growth were not measured: they need records to lock against (SNAPSHOT=DIR).")
        else:
            ground = lock.ground_of(layout, place, options.snapshot)
            if "lock" in options.parts:
                measures += lock.measure_locks(ground, options.rounds, progress)
            if "growth" in options.parts:
                curves += growth.growth_in_environments(layout, ground, options.growth, progress)
                curves += growth.growth_in_channels(ground, options.rounds, progress)
                try:
                    curves += growth.growth_in_workers(layout, ground, options.growth, progress)
                except ModuleNotFoundError:
                    left_out.append("Dask is not installed, so no work on workers: pip install 'torchlocks[fleet]'.")
    missing = [name for name in options.parts if name in PARTS]
    if set(missing) != set(PARTS):
        left_out.append(f"Only these parts were measured: {', '.join(options.parts)}.")
    return Bench(
        machine=machine,
        measures=tuple(measures),
        curves=tuple(curves),
        slowest_checks=slowest,
        absent=tuple(name for name in install.CONDAS if shutil.which(name) is None),
        left_out=tuple(left_out),
    )


def _must_be_there(layout: Layout) -> None:
    if not (layout.local_locks / "cpu" / CONDA_LOCK).is_file() or not layout.prefix("cpu").is_dir():
        raise MissingFileError(
            "The measurements use the CPU environment of the local channel, which is not there.",
            where=str(layout.prefix("cpu")),
            fix="make env-cpu CHANNEL=local",
        )
