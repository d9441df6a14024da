"""Runs the checks in worker processes, and adds their events up. Standard library only.

Every worker is a separate pytest that imports all checks and claims test files one by one, so that independent
checks run on all cores; the first worker, the lead, alone runs the files that need a device. A check that ends its
worker is blamed, and a new worker goes on behind it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from torchsuite import expect, host
from torchsuite.tier_names import TIERS, tier_of

#: How many processes one worker may take: each check that ends one costs the start of another.
PROCESSES = 4

#: More workers than this only wait for each other's disk and memory.
MOST_WORKERS = 8

#: Every check has its own time limit; a worker that writes no event for this long is stuck between two.
SILENCE_SECONDS = 600.0
_POLL_SECONDS = 0.05

Check = dict[str, Any]


class SelectionError(Exception):
    """The -k expression is not one; the message is pytest's."""


@dataclass
class Transcript:
    """The events so far, as `stream.py` describes them. `running` is what each worker is at."""

    tiers: list[dict[str, Any]] = field(default_factory=list)
    planned: dict[str, Check] = field(default_factory=dict)
    finished: dict[str, Check] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    running: dict[int, str | None] = field(default_factory=dict)

    def add(self, event: dict[str, Any], worker: int) -> bool:
        """Take in one event of a worker; whether it was the last of its process."""
        kind = event.pop("event")
        if kind in ("started", "collecting"):
            self.running[worker] = event["id"]
        elif kind == "finished":
            # A file that cannot be imported fails in every worker: it is one failure.
            self.finished.setdefault(event["id"], event)
            self.running[worker] = None
        elif kind == "planned":
            self.running[worker] = None
            self.planned.update({check["id"]: check for check in event["checks"]})
        elif kind == "tiers":
            self.tiers = event["tiers"]
        elif kind == "facts":
            self.facts.update(event["facts"])
        return bool(kind == "ended")

    def died(self, worker: int, why: str, error: str) -> None:
        """A worker ended before its time: blame the check that it was at."""
        guilty = self.running.get(worker) or "the suite itself"
        plan = self.planned.get(
            guilty, {"id": guilty, "tier": likely_tier(guilty), "reason": "the suite runs to its end"}
        )
        self.finished[guilty] = _check(plan, "failed", why, error)
        self.running[worker] = None

    def give_up(self) -> None:
        """Account for the checks that never ran."""
        for check, plan in self.planned.items():
            if check not in self.finished:
                self.finished[check] = _check(plan, "skipped", "not run: the suite's process ended too often")

    def checks(self) -> list[Check]:
        """Every check, in the order of the plan; those of files that were left out first by tier."""
        order = {check: place for place, check in enumerate(self.planned)}
        return sorted(
            self.finished.values(), key=lambda check: (TIERS.index(check["tier"]), order.get(check["id"], -1))
        )


@dataclass(frozen=True)
class Run:
    """What a run needs: pytest's command, the variables of its processes, what is expected, and a folder to work in.

    `events` is a file that gets every event as it happens, for a program that watches; `heard` is called with each.
    """

    command: list[str]
    variables: Mapping[str, str]
    expected: dict[str, Any]
    work: Path
    workers: int
    events: Path | None = None
    heard: Callable[[dict[str, Any]], None] = lambda event: None


class _Worker:
    """One worker: its process, its files in the run's folder, and how often it was started."""

    def __init__(self, run: Run, number: int) -> None:
        self.number = number
        self.starts = 0
        self.ended = False
        self.process: subprocess.Popen[bytes] | None = None
        self._run = run
        self._events = run.work / f"events-{number}.jsonl"
        self._log = run.work / f"suite-{number}.log"
        self._rest = ""
        self._heard = time.monotonic()
        self._events.touch()
        self._stream: TextIO = self._events.open(encoding="utf-8")

    def start(self, done: list[str]) -> None:
        """Start the process; `done` are the checks and files that it leaves out."""
        self.starts += 1
        self.ended = False
        self._heard = time.monotonic()
        expectation = self._run.work / f"expect-{self.number}.json"
        content = {
            **self._run.expected,
            "events": os.fspath(self._events),
            "done": done,
            "worker": self.number,
            "threads": max(1, host.cores() // self._run.workers),
            "claims": os.fspath(self._run.work / "claims"),
        }
        expectation.write_text(json.dumps(content), encoding="utf-8")
        temporary = ["--basetemp", os.fspath(self._run.work / f"tmp-{self.number}")]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*self._run.command, *temporary],
                env={**self._run.variables, expect.VARIABLE: os.fspath(expectation)},
                cwd=self._run.work,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A separate session, so that processes that a crash leaves behind end with it.
                start_new_session=True,
            )

    def read(self) -> list[dict[str, Any]]:
        """The events since the last call."""
        lines = (self._rest + self._stream.read()).split("\n")
        self._rest = lines.pop()
        if lines:
            self._heard = time.monotonic()
        return [json.loads(line) for line in lines]

    @property
    def silent(self) -> bool:
        return time.monotonic() - self._heard > SILENCE_SECONDS

    def stop(self) -> None:
        """End the process and all that it started."""
        if self.process is None:
            return
        if sys.platform == "win32":
            self.process.kill()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.stop()
        self._stream.close()

    def failure(self, status: int) -> str | None:
        """How the process failed, in one line; None where it came to its end. Raises SelectionError."""
        log = self.log()
        if status == 4 and (wrong := re.search(r"Wrong expression passed to '-k': (.*)", log)):
            raise SelectionError(wrong[1])
        if self.ended:
            # pytest: 0 all passed, 1 some failed, 5 nothing was selected; anything else is an error of the run itself.
            return None if status in (0, 1, 5) else f"pytest ended with exit code {status}"
        if "Timeout (" in self.faults():
            return "hung in native code and was ended"
        if status < 0:
            name = signal.Signals(-status).name
            return f"the process was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
        last = [line for line in log.splitlines() if line.strip()][-1:]
        return f"the process ended with exit code {status}{': ' + last[0].strip() if last else ''}"

    def faults(self) -> str:
        """The stacks that Python wrote down as it crashed or was ended."""
        file = self._events.with_suffix(".faults")
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""

    def log(self, lines: int = 60) -> str:
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def release(self) -> None:
        """Give back the files that the worker had claimed."""
        for claim in (self._run.work / "claims").iterdir():
            if claim.read_text(encoding="utf-8") == str(self.number):
                claim.unlink()


def execute(run: Run) -> Transcript:
    """Run the suite to its end, whichever that is, and account for every check.

    Raises SelectionError when pytest does not understand the -k expression. All processes are gone afterwards, also
    when this is interrupted.
    """
    transcript = Transcript()
    (run.work / "claims").mkdir()
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(run.events.open("a", encoding="utf-8")) if run.events else None
        workers = [_Worker(run, number) for number in range(run.workers)]
        for worker in workers:
            stack.callback(worker.close)
        for worker in workers:
            worker.start([])
        running = list(workers)
        while running:
            for worker in tuple(running):
                if _over(worker, transcript, run, output):
                    running.remove(worker)
            time.sleep(_POLL_SECONDS)
    transcript.give_up()
    return transcript


def _over(worker: _Worker, transcript: Transcript, run: Run, output: TextIO | None) -> bool:
    """Look after one worker: take in its events, start it again behind a check that ended it; whether it is over."""
    assert worker.process is not None
    status = worker.process.poll()
    for event in worker.read():
        if output:
            output.write(json.dumps(event) + "\n")
            output.flush()
        run.heard(event)
        worker.ended = transcript.add(event, worker.number) or worker.ended
    if status is None:
        if not worker.silent:
            return False
        failure: str | None = f"nothing happened for {SILENCE_SECONDS:.0f} s"
        worker.stop()
    else:
        worker.stop()
        failure = worker.failure(status)
    if failure is None:
        return True
    known = transcript.running.get(worker.number) is not None
    transcript.died(worker.number, failure, worker.faults() + worker.log())
    if not known or worker.starts == PROCESSES:
        return True
    worker.release()
    worker.start(sorted(transcript.finished))
    return False


def likely_tier(name: str) -> str:
    """The tier of a check or a file, by its name; the first one for another name, such as that of the suite itself."""
    try:
        return tier_of(name)
    except ValueError:
        return TIERS[0]


def _check(plan: Check, outcome: str, why: str, error: str | None = None) -> Check:
    return {
        "id": plan["id"],
        "tier": plan["tier"],
        "reason": plan["reason"],
        "outcome": outcome,
        "why": why,
        "skip": None,
        "error": error or None,
        "duration_s": 0.0,
        "values": {},
    }
