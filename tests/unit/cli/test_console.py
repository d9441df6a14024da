"""Progress: a log has a line now and then while a task runs, a terminal no total that nobody knows."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from torchlocks.cli import console


def test_a_log_shows_the_progress_of_a_long_task(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "EVERY_S", 0.05)
    with console.make_progress().task("Fetching", unit="bytes") as task:
        task.total(4e6)
        task.advance(1e6, "torch")
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Fetching …"
    assert lines[1].startswith("Fetching: 1 of 4 MB, last torch, ")
    assert lines[-1].startswith("Fetching: 1 MB, ")
    after = len(lines)
    time.sleep(0.1)
    assert len(capsys.readouterr().err.splitlines()) + after == after


def test_a_quick_task_has_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with console.make_progress().task("Linking", 3) as task:
        task.advance(3)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_terminal_shows_no_total_before_it_is_known() -> None:
    shown = io.StringIO()
    bars = console._Bars()
    bars.console = Console(file=shown, force_terminal=True, width=100)
    with bars.task("Verifying") as task:
        time.sleep(0.15)
        task.total(10)
        task.advance(1)
        time.sleep(0.15)
    assert "/?" not in shown.getvalue()
    assert "1/10" in shown.getvalue()
