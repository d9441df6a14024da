"""Each of the suite's newer checks fails when what it checks is broken: the table is in `suite_sabotages.py`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import suite_sabotages
from torchlocks.core.layout import Layout
from torchlocks.install.activate import python_of

LAYOUT = Layout(Path(__file__).resolve().parents[3])
CHILD = Path(__file__).parents[1] / "sabotage_child.py"


@pytest.fixture(scope="module")
def outcomes(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, str]]]:
    """By check: the outcome and reason of each of its cases, in an environment where all of them pass otherwise."""
    work = tmp_path_factory.mktemp("sabotage")
    command = [os.fspath(python_of(environment)), "-I", os.fspath(CHILD), os.fspath(LAYOUT.suite), os.fspath(work)]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=500, check=False)
    assert (work / "events.jsonl").is_file(), done.stdout + done.stderr
    found: dict[str, list[tuple[str, str]]] = {}
    for line in (work / "events.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "finished":
            found.setdefault(event["id"].partition("[")[0], []).append((event["outcome"], event["why"] or ""))
    return found


@pytest.mark.parametrize("check", suite_sabotages.SABOTAGES)
def test_a_sabotaged_check_fails(outcomes: dict[str, list[tuple[str, str]]], check: str) -> None:
    cases = outcomes[check]
    if all(outcome == "skipped" for outcome, _ in cases):
        pytest.skip(cases[0][1])
    assert {outcome for outcome, _ in cases} == {"failed"}
