"""Output for people: progress bars on a terminal, one line for each step elsewhere, and errors."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torchlocks.core.errors import TorchlocksError
from torchlocks.core.layout import as_typed_here
from torchlocks.core.printing import printable
from torchlocks.core.progress import Progress, Silent, Task, Unit

if TYPE_CHECKING:
    import rich.console
    import rich.progress
    import rich.text


def make_progress(*, quiet: bool = False) -> Progress:
    """Return progress bars if standard error is a terminal, else lines; nothing if `quiet`."""
    if quiet:
        return Silent()
    return _Bars() if sys.stderr.isatty() else _Lines()


def print_error(error: TorchlocksError) -> None:
    """Print an error to standard error: what is wrong, where, and what to do."""
    red, plain = ("\033[1;31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}error:{plain} {as_typed_here(str(error))}", file=sys.stderr)


EVERY_S = 15.0
"""Seconds between two lines about a task in a log."""


class _Lines:
    """Progress for logs: a line when a step begins, every 15 s, and when it is done; no bars, no colour."""

    def say(self, message: str) -> None:
        print(printable(as_typed_here(message), lines=True), file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        print(f"WARNING: {printable(as_typed_here(message), lines=True)}", file=sys.stderr, flush=True)

    @contextmanager
    def task(self, title: str, total: float | None = None, *, unit: Unit = "items") -> Iterator[Task]:
        task = _LineTask(total, unit)
        started = time.monotonic()
        self.say(f"{title} …")
        over = threading.Event()

        def report() -> None:
            while not over.wait(EVERY_S):
                self.say(f"{title}: {task.state()}{time.monotonic() - started:.0f} s")

        reporter = threading.Thread(target=report, daemon=True)
        reporter.start()
        try:
            yield task
        finally:
            over.set()
            reporter.join()
        amount = f"{task.done / 1e6:.0f} MB, " if unit == "bytes" else f"{task.done:.0f}, " if task.done else ""
        self.say(f"{title}: {amount}{time.monotonic() - started:.1f} s")


class _LineTask:
    def __init__(self, total: float | None, unit: Unit) -> None:
        self.done, self._total, self._unit, self._note = 0.0, total, unit, ""

    def advance(self, amount: float, note: str | None = None) -> None:
        self.done += amount
        self._note = note or self._note

    def total(self, amount: float) -> None:
        self._total = amount

    def state(self) -> str:
        """Return the amount done, the total if known, and the current item."""
        scale, name = (1e6, " MB") if self._unit == "bytes" else (1.0, "")
        known = f" of {self._total / scale:.0f}" if self._total else ""
        amount = f"{self.done / scale:.0f}{known}{name}, " if self.done or known else ""
        return f"{amount}last {self._note}, " if self._note else amount


class _Bars:
    """Progress for terminals: a bar for each task, with the current item, amounts, rate and time left."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console: rich.console.Console = Console(stderr=True, highlight=False)

    def say(self, message: str) -> None:
        self.console.print(printable(as_typed_here(message), lines=True), markup=False)

    def warn(self, message: str) -> None:
        self.console.print(
            f"WARNING: {printable(as_typed_here(message), lines=True)}", style="bold yellow", markup=False
        )

    @contextmanager
    def task(self, title: str, total: float | None = None, *, unit: Unit = "items") -> Iterator[Task]:
        import rich.progress as bars

        amount: list[bars.ProgressColumn] = (
            [bars.DownloadColumn(), bars.TransferSpeedColumn(), bars.TimeRemainingColumn()]
            if unit == "bytes"
            else [_counted(), bars.TimeElapsedColumn()]
        )
        started = time.monotonic()
        with bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=30),
            *amount,
            bars.TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
        ) as progress:
            task = _BarTask(progress, progress.add_task(title, total=total, note=""))
            yield task
        amount_done = f"{task.done / 1e6:.0f} MB, " if unit == "bytes" and task.done else ""
        self.console.print(f"{title}: {amount_done}{time.monotonic() - started:.1f} s", markup=False)


def _counted() -> rich.progress.ProgressColumn:
    """Return a column with the number of items done, and the total once it is known."""
    import rich.progress as bars

    class Counted(bars.MofNCompleteColumn):
        def render(self, task: rich.progress.Task) -> rich.text.Text:
            return super().render(task) if task.total is not None else self.text(str(int(task.completed or 0) or ""))

        @staticmethod
        def text(words: str) -> rich.text.Text:
            from rich.text import Text

            return Text(words, style="progress.download")

    return Counted()


class _BarTask:
    def __init__(self, progress: rich.progress.Progress, task: rich.progress.TaskID) -> None:
        self._progress, self._task = progress, task
        self.done = 0.0

    def advance(self, amount: float, note: str | None = None) -> None:
        self.done += amount
        if note is None:
            self._progress.update(self._task, advance=amount)
        else:
            self._progress.update(self._task, advance=amount, note=printable(note)[:40])

    def total(self, amount: float) -> None:
        self._progress.update(self._task, total=amount)
