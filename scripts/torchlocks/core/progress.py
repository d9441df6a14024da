"""Progress of long work: bars on a terminal, plain lines in a log, nothing when quiet.

Stages take a `Progress` and never print by themselves, so that tests and machine-readable output
can listen in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

Unit = Literal["bytes", "items"]


class Task(Protocol):
    """One running piece of work."""

    def advance(self, amount: float, note: str | None = None) -> None:
        """Add `amount` units; `note` names what is being worked on."""

    def total(self, amount: float) -> None:
        """Set or correct the number of units expected."""


class Progress(Protocol):
    """Where a stage tells how far it is."""

    def say(self, message: str) -> None:
        """A line the user should see: a stage begins or ends."""

    def warn(self, message: str) -> None:
        """A line the user must not miss."""

    def task(self, title: str, total: float | None = None, *, unit: Unit = "items") -> AbstractContextManager[Task]:
        """Begin a piece of work of `total` units (None: not known yet)."""
        ...


class _SilentTask:
    def advance(self, amount: float, note: str | None = None) -> None: ...

    def total(self, amount: float) -> None: ...


class Silent:
    """A `Progress` that says nothing, for library use and tests."""

    def say(self, message: str) -> None: ...

    def warn(self, message: str) -> None: ...

    @contextmanager
    def task(self, title: str, total: float | None = None, *, unit: Unit = "items") -> Iterator[Task]:
        yield _SilentTask()
