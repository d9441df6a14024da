"""Cost of the other verbs: nothing to do, listing, and the torch suite."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from bench.model import Check, Measure
from bench.run import BIN, Command, Side, command, compare, seconds_of
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.install.activate import python_of
from torchlocks.verify.verdict import Verdict

GROUP = "start-up"
STARTS = (
    *(("--help",), ("--version",), ("run", "cpu", "true"), ("matrix",), ("doctor",), ("pick",)),
    ("check", "--env", "cpu"),
)
"""Arguments of `torchlocks` that are compared with a start of Python."""


def measure_starts(layout: Layout, rounds: int, progress: Progress) -> Iterator[Measure]:
    """`make env-cpu` with nothing to do, and the least that the command line does."""
    make_it = command("make", "env-cpu", "CHANNEL=local", cwd=layout.root)
    make_it_again = Side(name="make env-cpu, nothing to do", commands=(make_it,))
    python = command(sys.executable, "-c", "pass")
    floor = Side(
        name="make itself (make --version) and one start of Python",
        commands=(command("make", "--version"), python),
    )
    # The first time there may be something to do.
    seconds_of(make_it)
    yield compare(GROUP, make_it_again, floor, 2 * rounds, progress)
    for arguments in STARTS:
        subject = Side(name=f"torchlocks {' '.join(arguments)}", commands=(_torchlocks(layout, *arguments),))
        yield compare(GROUP, subject, Side(name="one start of Python", commands=(python,)), rounds, progress)


def measure_suite(layout: Layout, rounds: int, progress: Progress) -> Iterator[Measure]:
    """Measure the whole suite in the CPU environment, against importing torch there."""
    python = python_of(layout.prefix("cpu"))
    suite = Side(name="the torch suite, all checks", commands=(_torchlocks(layout, "verify", "cpu"),))
    importing = Side(name="import torch, in the same environment", commands=(command(python, "-c", "import torch"),))
    yield compare("verify", suite, importing, max(1, rounds // 4), progress, long=True)


def slowest_checks(report: Path, count: int = 10) -> tuple[Check, ...]:
    """Return the checks that took longest, from a report of the suite."""
    verdict = Verdict.model_validate_json(report.read_text(encoding="utf-8"))
    found = sorted(verdict.checks, key=lambda check: -check.duration_s)[:count]
    return tuple(Check(name=check.id, seconds=check.duration_s) for check in found)


def _torchlocks(layout: Layout, *arguments: str) -> Command:
    return command(BIN / "torchlocks", *arguments, cwd=layout.root)
