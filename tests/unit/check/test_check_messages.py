"""Checks on other machines: what they read is sent, what they answer is checked, and what they lack is done here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchlocks.check.environment import Checked, CheckTask, check_task, task_of
from torchlocks.check.messages import pack, perform, register, unpack
from torchlocks.check.model import Finding, Report, Skipped
from torchlocks.check.rules.parity import Side
from torchlocks.core.errors import FleetError, TemplateError
from torchlocks.core.layout import Layout
from torchlocks.dask.messages import KINDS, SCHEMA, as_json, read_answer
from torchlocks.matrix.load import load_matrix

ROOT = Path(__file__).parents[3]
MATRIX = load_matrix(ROOT / "matrix.yml")
ENV = "gpu-cu118"


@pytest.fixture
def task(tmp_path: Path) -> CheckTask:
    shutil.copytree(ROOT / "locks" / ENV, tmp_path / "locks" / ENV)
    for template in ROOT.glob("environment-*.yml"):
        shutil.copy(template, tmp_path)
    return task_of(Layout(tmp_path), MATRIX, ENV)


@pytest.fixture
def answer() -> Any:
    """The answer of a worker."""
    path = f"locks/{ENV}/conda-lock.yml"
    report = Report(
        findings=(Finding(rule="stale", severity="error", env=ENV, path=path, message="other inputs"),),
        skipped=(Skipped(rule="unsorted", path=path, reason="none"),),
        locks=1,
        packages=2,
        rules=("stale",),
    )
    side = Side(requested=("numpy",), versions={"python": "3.11.9"}, names=("python", "numpy"), shared={})
    return {"checked": as_json(Checked, Checked(report=report, sides={"linux-64": side}))}


def sent(values: dict[str, Any]) -> Any:
    return json.loads(json.dumps(values))


def read(answer: dict[str, Any], task: CheckTask) -> Any:
    register()
    text = json.dumps({"schema": SCHEMA, **answer}).encode()
    return read_answer(text, KINDS[check_task], task, lambda: "node-7 (tcp://10.0.0.7:1)")


def test_a_worker_finds_the_same_without_the_files(task: CheckTask, tmp_path: Path) -> None:
    (task.folder / "pixi.lock").write_bytes(b"version: 6\r\n\xff\xed\xa0\x80\r\nenvironments: {}\n")
    (task.folder / "conda-osx-64.lock").write_bytes(b"@EXPLICIT\r\n")
    (task.folder / "notes \N{ESCAPE}[31m.txt").write_bytes(bytes(range(256)))
    expected = check_task(task)
    message = sent(pack(task))
    arrived = unpack(message)
    assert arrived.inputs is not None
    assert arrived.inputs.contents.data["pixi.lock"] == (task.folder / "pixi.lock").read_bytes()
    assert not [name for name in arrived.inputs.contents.data if name.startswith("notes")], "no rule reads it"
    shutil.rmtree(tmp_path / "locks")
    for template in tmp_path.glob("environment-*.yml"):
        template.unlink()
    found = read(sent(perform(message, None)), task)
    assert found == expected
    assert {"unreadable", "file-unknown"} <= {finding.rule for finding in found.report.findings}


def test_a_folder_that_is_not_there_is_sent_as_such(task: CheckTask) -> None:
    shutil.rmtree(task.folder)
    found = read(sent(perform(sent(pack(task)), None)), task)
    assert {finding.rule for finding in found.report.findings} == {"file-missing"}
    assert found.sides == {}


def test_a_file_that_cannot_be_sent_is_left_to_this_machine(task: CheckTask) -> None:
    with (task.folder / "pixi.lock").open("r+b") as file:
        file.truncate(33 << 20)
    assert read(sent(perform(sent(pack(task)), None)), task) is None


def test_signatures_are_left_to_this_machine_by_workers_without_ssh_keygen(
    task: CheckTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    message = sent(pack(task))
    assert read(sent(perform(message, None)), task) is not None
    (task.folder / "pixi.lock.sig").write_text("signed, me")
    assert read(sent(perform(sent(pack(task)), None)), task) is None


def test_a_template_that_cannot_be_rendered_is_an_error_before_anything_is_sent(task: CheckTask) -> None:
    (task.root / "environment-gpu.yml").write_text("name: {{ nothing }}\n")
    with pytest.raises(TemplateError, match="nothing"):
        pack(task)


def _first(name: str, **fields: object) -> Callable[[Any], None]:
    return lambda checked: checked["report"][name][0].update(fields)


@pytest.mark.parametrize(
    "forge",
    [
        lambda checked: checked.clear(),
        lambda checked: checked["report"].pop("findings"),
        lambda checked: checked["report"].update(more=1),
        lambda checked: checked["report"].update(locks="1"),
        lambda checked: checked["report"].update(locks=-1),
        lambda checked: checked["report"].update(rules=["no-such-rule"]),
        lambda checked: checked["report"].update(bases_not_checked=["locks/cpu"]),
        lambda checked: checked["sides"].update({"win-64": checked["sides"]["linux-64"]}),
        lambda checked: checked["sides"]["linux-64"].update(names="numpy"),
        _first("findings", env="cpu"),
        _first("findings", env=None),
        _first("findings", path="locks/cpu/conda-lock.yml"),
        _first("findings", path=f"locks/{ENV}x/conda-lock.yml"),
        _first("findings", rule="no-such-rule"),
        _first("findings", severity="fatal"),
        _first("findings", message="\N{ESCAPE}[2J"),
        _first("skipped", path="/etc/passwd"),
    ],
)
def test_a_forged_report_is_an_error_with_the_workers_name(
    answer: dict[str, Any], task: CheckTask, forge: Callable[[Any], None]
) -> None:
    assert isinstance(read(answer, task), Checked)
    forge(answer["checked"])
    with pytest.raises(FleetError, match="node-7") as caught:
        read(answer, task)
    assert caught.value.exit_code == 52


@pytest.mark.parametrize("answer", [{}, {"checked": 7}, {"checked": []}, {"cell": {}}])
def test_an_answer_to_something_else_is_an_error(answer: dict[str, Any], task: CheckTask) -> None:
    with pytest.raises(FleetError, match="node-7"):
        read(answer, task)
