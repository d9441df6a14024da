"""Run what is measured: alternating with its reference, and once more for its peak memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.model import Measure
from torchlocks.core.errors import BenchError
from torchlocks.core.progress import Progress

BIN = Path(sys.executable).parent

OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "GNUMAKEFLAGS", "MAKEFILES")
"""Variables with which `make` passes its own command line on to a make that it runs."""

NOT_PASSED = (*OF_MAKE, "PYTHONDONTWRITEBYTECODE")
"""Variables that measured commands do not get. Images set the last, with which each start compiles everything anew."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A process: its arguments, where it runs, and variables beside this process' own."""

    arguments: tuple[str, ...]
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison: commands that run one after another, or a function where a floor is no program."""

    name: str
    commands: tuple[Command, ...] = ()
    function: Callable[[], None] | None = None

    def run(self) -> None:
        """Run it once. Raises BenchError for a command that fails."""
        for each in self.commands:
            _run(each)
        if self.function is not None:
            self.function()


def command(*arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Command:
    """A command of arguments that may be paths."""
    return Command(arguments=tuple(str(each) for each in arguments), cwd=cwd, env=env or {})


def compare(
    group: str,
    subject: Side,
    reference: Side,
    rounds: int,
    progress: Progress,
    between: Callable[[], None] = lambda: None,
    *,
    long: bool = False,
) -> Measure:
    """Run both sides alternately, so that other load affects both; `between` cleans up, untimed.

    A first run of each warms caches and measures memory; it is not counted. Sides that take `long` have none.
    """
    times: tuple[list[float], list[float]] = ([], [])
    memory: list[float | None] = []
    with progress.task(f"{group}: {subject.name}, {reference.name}", total=2 * (rounds + (not long))) as task:
        for side in (subject, reference):
            if not long:
                between()
                memory.append(_peak(side))
                task.advance(1, note=side.name)
        for _ in range(rounds):
            for side, seconds in zip((subject, reference), times, strict=True):
                between()
                started = time.perf_counter()
                side.run()
                seconds.append(time.perf_counter() - started)
                task.advance(1, note=side.name)
    between()
    return Measure(
        group=group,
        name=subject.name,
        reference=reference.name,
        seconds=tuple(times[0]),
        reference_seconds=tuple(times[1]),
        memory_mib=memory[0] if memory else None,
        reference_memory_mib=memory[1] if memory else None,
    )


def variables(what: Command) -> dict[str, str]:
    """Return the environment variables of a command: this process' own and its own, without `NOT_PASSED`.

    A measured make would otherwise take the variables of `make bench SNAPSHOT=…` for its own and refuse them.
    """
    return {**{name: value for name, value in os.environ.items() if name not in NOT_PASSED}, **what.env}


def seconds_of(*commands: Command) -> float:
    """Return how long commands take, one after another."""
    started = time.perf_counter()
    for each in commands:
        _run(each)
    return time.perf_counter() - started


def cost_of(what: Command, rounds: int = 1) -> tuple[float, float]:
    """Return the median of the seconds that a command takes, and the peak memory of all its processes in MiB."""
    seconds, memory = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        memory.append(_peak_of(what))
        seconds.append(time.perf_counter() - started)
    return median(seconds), max(memory)


def _run(what: Command) -> None:
    done = subprocess.run(what.arguments, capture_output=True, cwd=what.cwd, env=variables(what), check=False)
    if done.returncode != 0:
        raise _failed(what, done.returncode, done.stdout + done.stderr)


def _peak(side: Side) -> float | None:
    """Return the peak memory of all processes of a side at any one time, in MiB; None for a function of this
    process.
    """
    peak = 0.0
    for each in side.commands:
        peak = max(peak, _peak_of(each))
    if side.function is not None:
        side.function()
        return None
    return peak


def _peak_of(what: Command) -> float:
    """Memory that processes share counts once (PSS), where the system reports it.

    By looking, and not by `ru_maxrss`: on Linux a new process begins that with the memory of the one that started it.
    """
    import psutil

    with tempfile.TemporaryFile() as output:
        # Not through a pipe, which a full one would stop.
        process = psutil.Popen(
            what.arguments,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=what.cwd,
            env=variables(what),
        )
        peak, started = 0, time.monotonic()
        while process.poll() is None:
            now = 0
            with contextlib.suppress(psutil.Error):
                for member in (process, *process.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        full = member.memory_full_info()
                        now += getattr(full, "pss", 0) or full.rss
            peak = max(peak, now)
            # Looking costs time: often at what is short, more rarely at what goes on.
            time.sleep(min(0.25, 0.001 + (time.monotonic() - started) / 20))
        if process.returncode != 0:
            output.seek(0)
            raise _failed(what, process.returncode, output.read())
    return peak / 2**20


def _failed(what: Command, code: int, output: bytes) -> BenchError:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return BenchError(
        f"A command that was to be measured failed with {code}.",
        where=" ".join(what.arguments)[:300],
        fix="run it by itself, and correct what it reports",
        details="\n".join(f"  {line}" for line in lines[-10:]) or None,
    )


def texts(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return paths as the arguments of a command."""
    return tuple(str(path) for path in paths)
