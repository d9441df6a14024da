"""Progress of long work: bars on a terminal, plain lines in a log, nothing when quiet.

Stages take a `Progress` and do not print themselves, so that tests and machine-readable output can replace it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

Unit = Literal["bytes", "items"]


class Task(Protocol):
    """A task in progress."""

    def advance(self, amount: float, note: str | None = None) -> None:
        """Add `amount` completed units; `note` names the current item."""

    def total(self, amount: float) -> None:
        """Set or correct the expected number of units."""


class Progress(Protocol):
    """Receiver of progress reports of a stage."""

    def say(self, message: str) -> None:
        """Print an information line: a stage begins or ends."""

    def warn(self, message: str) -> None:
        """Print a warning."""

    def task(self, title: str, total: float | None = None, *, unit: Unit = "items") -> AbstractContextManager[Task]:
        """Begin a task of `total` units (None: not known yet)."""
        ...


class _SilentTask:
    def advance(self, amount: float, note: str | None = None) -> None: ...

    def total(self, amount: float) -> None: ...


class Silent:
    """A `Progress` that prints nothing, for library use and tests."""

    def say(self, message: str) -> None: ...

    def warn(self, message: str) -> None: ...

    @contextmanager
    def task(self, title: str, total: float | None = None, *, unit: Unit = "items") -> Iterator[Task]:
        yield _SilentTask()
