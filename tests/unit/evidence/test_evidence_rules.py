"""The rules of `check` on evidence: forged, misplaced and badly signed records, and locks that never were."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from evidence_samples import A100, commit, git, proving, repository, written
from torchlocks.check.rules.evidence import check_evidence
from torchlocks.core.layout import Layout
from torchlocks.evidence import store
from torchlocks.evidence.record import record_of
from torchlocks.evidence.signing import sign_record, verify_record
from torchlocks.evidence.store import read_record, write_record
from torchlocks.lockfile.formats import parse_lock

Document = dict[str, Any]
SSH = shutil.which("ssh-keygen") is None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = repository(tmp_path_factory.mktemp("made"), "gpu-cu126")
    write_record(layout, record_of(layout, written(layout, proving(layout, "gpu-cu126", host=A100)), environ={}))
    return layout


@pytest.fixture
def layout(made: Layout, tmp_path: Path) -> Layout:
    """A repository with a record of gpu-cu126 on an A100."""
    shutil.copytree(made.root, tmp_path / "checkout")
    return Layout(tmp_path / "checkout")


def the_record(layout: Layout) -> Path:
    return next(layout.evidence.rglob("*.json"))


def rules(layout: Layout) -> list[str]:
    return sorted({finding.rule for finding in check_evidence(layout).findings})


def change(layout: Layout, edit: Callable[[Document], object]) -> None:
    path = the_record(layout)
    document = json.loads(path.read_text(encoding="utf-8"))
    edit(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def test_a_record_that_is_as_it_was_made(layout: Layout) -> None:
    report = check_evidence(layout)
    assert (report.findings, report.skipped) == ((), ())
    assert "evidence-claim" in report.rules


def test_a_lock_that_several_records_name_is_read_once(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_record(the_record(layout))
    for client in ("conda", "pixi"):
        assert write_record(layout, first.model_copy(update={"client": client}))
    read = Mock(wraps=parse_lock)
    monkeypatch.setattr(store, "parse_lock", read)
    assert rules(layout) == []
    assert len(list(layout.evidence.rglob("*.json"))) == 3
    assert read.call_count == 1


def test_nothing_to_check(tmp_path: Path) -> None:
    assert check_evidence(Layout(tmp_path)).rules == ()


def _results(document: Document, result: str) -> None:
    document["required"][0]["result"] = result


def _without_gpu_checks(document: Document) -> None:
    document["required"] = [each for each in document["required"] if each["tier"] != "gpu"]


def _one_less(document: Document) -> None:
    document["required"] = [each for each in document["required"] if "matmul" not in each["id"]]


def _one_more(document: Document) -> None:
    document["required"].append({"tier": "gpu", "id": "test_gpu_a.py::test_a", "result": "passed"})


@pytest.mark.parametrize(
    ("rule", "edit"),
    [
        ("evidence-claim", lambda document: _results(document, "not-proven")),
        ("evidence-claim", _without_gpu_checks),
        ("evidence-claim", _one_less),
        ("evidence-claim", _one_more),
        ("evidence-claim", lambda document: document.update(required_set="0" * 64)),
        ("evidence-claim", lambda document: document.update(date="2126-01-01T00:00:00Z")),
        ("evidence-claim", lambda document: document.update(date="2026-01-01T00:00:00")),
        ("evidence-claim", lambda document: document["machine"].update(gpus=[])),
        ("evidence-packages", lambda document: document["packages"].pop()),
        ("evidence-lock", lambda document: document.update(lock_sha256="0" * 64)),
        ("evidence-name", lambda document: document.update(client="conda")),
        ("evidence-name", lambda document: document["machine"].update(driver="580.1")),
        ("evidence-invalid", lambda document: document.update(hostname="gpu17")),
        ("evidence-invalid", lambda document: document["machine"].update(user="alice")),
        ("evidence-invalid", lambda document: document.pop("packages")),
    ],
)
def test_a_forged_record(layout: Layout, rule: str, edit: Callable[[Document], object]) -> None:
    change(layout, edit)
    assert rule in rules(layout)


def test_files_that_are_no_records(layout: Layout) -> None:
    (layout.evidence / "host.log").write_text("gpu17\n")
    (layout.evidence / "x.json").write_text("{}")
    assert rules(layout) == ["evidence-invalid", "evidence-name"]


def test_a_lock_that_changed_and_one_that_never_was(layout: Layout) -> None:
    lock = layout.locks / "gpu-cu126" / "conda-lock.yml"
    lock.write_text(lock.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    # The state that was proven is in a commit.
    assert rules(layout) == []
    git(layout, "checkout", "--orphan", "other")
    commit(layout, "Without the history")
    assert rules(layout) == ["evidence-lock"]


def test_without_git_what_cannot_be_known_is_reported(layout: Layout) -> None:
    lock = layout.locks / "gpu-cu126" / "conda-lock.yml"
    lock.write_text(lock.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    shutil.rmtree(layout.root / ".git")
    report = check_evidence(layout)
    assert report.findings == ()
    assert {skip.rule for skip in report.skipped} == {"evidence-lock", "evidence-packages"}


def test_an_older_set_of_required_checks_is_found_in_history(layout: Layout) -> None:
    table = layout.suite / "torchsuite" / "required.py"
    text = table.read_text(encoding="utf-8")
    extra = '        Required("test_static_lock.py::test_new", "something new"),\n    ),\n    "import": ('
    table.write_text(text.replace('    ),\n    "import": (', extra, 1), encoding="utf-8")
    assert table.read_text(encoding="utf-8") != text
    commit(layout, "Require more")
    assert rules(layout) == []
    change(layout, _one_less)
    assert rules(layout) == ["evidence-claim"]


@pytest.mark.skipif(SSH, reason="ssh-keygen is not installed")
def test_signatures(layout: Layout, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me", "-f", key], check=True)
    record = the_record(layout)
    sign_record(record, key)
    assert rules(layout) == []
    allowed = tmp_path / "allowed"
    public = key.with_suffix(".pub").read_text(encoding="utf-8")
    allowed.write_text(f"me@example.org {public}", encoding="utf-8")
    assert verify_record(record, allowed).identity == "me@example.org"
    record.write_text(record.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert rules(layout) == ["evidence-signature"]


def test_a_repository_check_has_the_rules(layout: Layout) -> None:
    from torchlocks.check.lock import rule_reasons
    from torchlocks.check.repository import check_repository
    from torchlocks.matrix.load import load_matrix

    matrix = load_matrix(layout.matrix)
    change(layout, lambda document: document.update(hostname="gpu17"))
    few = replace_environments(matrix, ("cpu", "gpu-cu126"))
    report = check_repository(layout, few, content_hash=lambda *_: "")
    assert "evidence-invalid" in {finding.rule for finding in report.findings}
    assert "evidence-invalid" in rule_reasons()


def replace_environments(matrix: Any, names: tuple[str, ...]) -> Any:
    return replace(matrix, rows={name: replace(matrix.rows[name], variants={}) for name in names})
