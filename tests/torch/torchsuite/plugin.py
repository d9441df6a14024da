"""The pytest plugin that runs the checks: tiers, time limits, and results streamed as they happen."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import textwrap
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypedDict

import pytest

from torchsuite import skips
from torchsuite.expect import Expectation
from torchsuite.imports import Imports
from torchsuite.prefix import Prefix
from torchsuite.selection import can_select
from torchsuite.stream import Stream
from torchsuite.tier_names import ON_DEVICES, TIERS, tier_of
from torchsuite.tiers import (
    DEFAULT_SECONDS,
    LONG_FIRST,
    WITHOUT_TORCH,
    declared,
    machine,
    obstacle,
    seconds_of,
)

#: After its time limit a check is interrupted; where that does not help (a deadlock in native code), the process
#: is ended this many seconds later, with every thread's stack written down.
GRACE_SECONDS = 10.0

#: A failure in one line; what is longer is in the error's full text.
WHY_CHARACTERS = 300

_PHASES = pytest.StashKey[list[pytest.TestReport]]()


@dataclass(frozen=True)
class Suite:
    """What one run works with."""

    expectation: Expectation
    prefix: Prefix
    stream: Stream
    imports: Imports


SUITE = pytest.StashKey[Suite]()


class Plugin:
    """Registered by fixtures.py once the expectation is read."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._stream = suite.stream
        self._faults = suite.expectation.events.with_suffix(".faults").open("w", encoding="utf-8")
        faulthandler.enable(file=self._faults)

    def pytest_unconfigure(self) -> None:
        faulthandler.disable()
        self._faults.close()
        self._stream.close()

    def pytest_sessionstart(self) -> None:
        if not self._suite.expectation.lead:
            return
        tiers = [{"tier": tier, "obstacle": obstacle(tier, self._suite.expectation)} for tier in TIERS]
        self._stream.emit("tiers", tiers=tiers)
        if self._suite.expectation.accelerator == "cuda":
            found = machine()
            gpus = {"gpus": found.listed, "gpus_installed": found.installed, "gpus_visible": found.visible or 0}
            self._stream.emit("facts", facts={"driver_version": found.driver, "driver_cuda": found.cuda, **gpus})

    def pytest_sessionfinish(self) -> None:
        self._stream.emit("ended")

    # Collection: which modules are imported at all.

    def pytest_ignore_collect(self, collection_path: Path, config: pytest.Config) -> bool | None:
        """Leave out, and report, modules that cannot or need not be imported: a broken torch must not end the run."""
        if not (collection_path.name.startswith("test_") and collection_path.suffix == ".py"):
            return None
        expectation = self._suite.expectation
        if collection_path.name in expectation.done or not expectation.wants(collection_path.name):
            return True
        tier = tier_of(collection_path.name)
        select = config.getoption("keyword")
        selected = not select or can_select(select, collection_path)
        if tier in WITHOUT_TORCH and selected:
            return None
        if tier in ON_DEVICES and not expectation.lead:
            return True
        why = None if tier in WITHOUT_TORCH else obstacle(tier, expectation)
        if why is None and not selected:
            why = _not_selected(config)
        if why is None and self._suite.imports.get("torch").failure is not None:
            why = "not run: torch cannot be imported"
        if why is None:
            return None
        self._left_out(collection_path, tier, why)
        return True

    def _left_out(self, file: Path, tier: str, why: str) -> None:
        """Account for the checks of a file that is not imported, each by its name."""
        if not self._suite.expectation.lead:
            return
        try:
            checks = declared(file)
        except (OSError, SyntaxError) as error:
            self._finished(file.name, tier, "the file can be read", outcome="failed", why=str(error))
            return
        for entry in checks:
            name = f"{file.name}::{entry.name}"
            if name not in self._suite.expectation.done and self._suite.expectation.wants(name):
                self._finished(name, tier, entry.reason, outcome="skipped", why=why)

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        if isinstance(collector, pytest.Module):
            self._stream.emit("collecting", id=collector.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            error = report.longreprtext
            reason = "the file can be imported"
            self._finished(
                report.nodeid, tier_of(report.nodeid), reason, outcome="failed", why=first_error(error), error=error
            )

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        expectation = self._suite.expectation
        items[:] = [item for item in items if item.nodeid not in expectation.done and expectation.wants(item.nodeid)]
        items.sort(key=lambda item: TIERS.index(_tier(item)))
        for item in items:
            marker = item.get_closest_marker("check")
            if marker is None:
                raise pytest.UsageError(f"{item.nodeid} has no @check")
            only = marker.kwargs["accelerator"]
            why = obstacle(_tier(item), self._suite.expectation)
            if why is None and only not in (None, self._suite.expectation.accelerator):
                why = skips.coded(skips.Reason.OTHER_ACCELERATOR, f"for {only} environments")
            if why is not None:
                item.add_marker(pytest.mark.skip(reason=why))

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        if not self._suite.expectation.lead:
            return
        for item in items:
            self._finished(item.nodeid, _tier(item), _reason(item), outcome="skipped", why=_not_selected(item.config))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if not self._suite.expectation.lead:
            self._stream.emit("planned", checks=[])
            return
        checks = [{"id": item.nodeid, "tier": _tier(item), "reason": _reason(item)} for item in session.items]
        self._stream.emit("planned", checks=checks)

    def pytest_runtestloop(self, session: pytest.Session) -> object:
        """Run the checks file by file: those that no other process has claimed."""
        claims = self._suite.expectation.claims
        if claims is None:
            return None  # pytest's own loop
        for file, items in by_file(session.items):
            if not claim(claims, file, self._suite.expectation.worker):
                continue
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return True

    # Running: time limits, and one event a check.

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        item.stash[_PHASES] = []
        self._stream.emit("started", id=item.nodeid)
        faulthandler.dump_traceback_later(_seconds(item) + GRACE_SECONDS, exit=True, file=self._faults)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()
            phases = item.stash[_PHASES]
            self._finished(
                item.nodeid,
                _tier(item),
                _reason(item),
                **outcome_of(phases),
                duration_s=sum(report.duration for report in phases),
                values=dict(item.user_properties),
            )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        with limit(_seconds(item)):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        with limit(_seconds(item)):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        item.stash[_PHASES].append(report)
        return report

    def _finished(
        self,
        check: str,
        tier: str,
        reason: str,
        *,
        outcome: str,
        why: str | None,
        skip: str | None = None,
        error: str | None = None,
        duration_s: float = 0.0,
        values: dict[str, object] | None = None,
    ) -> None:
        self._stream.emit(
            "finished",
            id=check,
            tier=tier,
            reason=reason,
            outcome=outcome,
            why=why,
            skip=skip,
            error=error,
            duration_s=duration_s,
            values=values or {},
        )


def by_file(items: Iterable[pytest.Item]) -> list[tuple[str, list[pytest.Item]]]:
    """The checks of each file, what takes longest first; what needs a device comes before all else."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path.name, []).append(item)

    def place(file: str) -> tuple[bool, int]:
        return tier_of(file) not in ON_DEVICES, LONG_FIRST.index(file) if file in LONG_FIRST else len(LONG_FIRST)

    return [(file, files[file]) for file in sorted(files, key=place)]


def claim(claims: Path, file: str, worker: int) -> bool:
    """Whether this process is the first to claim a file. The claim's text is the worker's number."""
    try:
        with (claims / file).open("x", encoding="utf-8") as made:
            made.write(str(worker))
    except FileExistsError:
        return False
    return True


def _not_selected(config: pytest.Config) -> str:
    return f"not selected by {config.getoption('keyword')!r}"


def _tier(item: pytest.Item) -> str:
    return tier_of(item.path.name)


def _reason(item: pytest.Item) -> str:
    marker = item.get_closest_marker("check")
    return marker.args[0] if marker else ""


def _seconds(item: pytest.Item) -> float:
    marker = item.get_closest_marker("check")
    if marker is None:
        return DEFAULT_SECONDS
    return float(marker.kwargs["seconds"] or seconds_of(_tier(item)))


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Interrupt the body after so many seconds, where the system has timers (POSIX)."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        pytest.fail(f"did not finish within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Outcome(TypedDict):
    """The outcome of a check: passed, failed or skipped; why, in one line; the code of a skip; the text of an error."""

    outcome: str
    why: str | None
    skip: str | None
    error: str | None


def outcome_of(phases: list[pytest.TestReport]) -> Outcome:
    """The one outcome of a check's phases (set-up, call, tear-down): the worst of them."""
    skipped: str | None = None
    for report in phases:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message.strip().splitlines()[0] if crash else first_error(report.longreprtext)
            why = why.removeprefix("Failed: ").removeprefix("AssertionError: ")
            why = textwrap.shorten(why, WHY_CHARACTERS)
            return {"outcome": "failed", "why": why, "skip": None, "error": report.longreprtext}
        if report.skipped and isinstance(report.longrepr, tuple):
            skipped = str(report.longrepr[2]).removeprefix("Skipped: ")
    if not phases:
        return {"outcome": "failed", "why": "interrupted", "skip": None, "error": None}
    if skipped is not None:
        code, why = skips.split(skipped)
        return {"outcome": "skipped", "why": why, "skip": code, "error": None}
    return {"outcome": "passed", "why": None, "skip": None, "error": None}


def first_error(text: str) -> str:
    """The line of a pytest report with the failure: its first `E` line, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return errors[0] if errors else lines[-1] if lines else "no message"
