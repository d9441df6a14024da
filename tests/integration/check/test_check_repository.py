"""Locks stop passing their rules when template, matrix or lock is changed; that all pass is in `cli/test_cli.py`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from torchlocks.check.model import Report
from torchlocks.check.repository import check_repository
from torchlocks.core.errors import NoSuchRowError, TemplateError
from torchlocks.core.layout import Layout
from torchlocks.matrix.load import load_matrix

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Layout:
    """A copy of what `check` reads."""
    for name in ("matrix.yml", "environment-cpu.yml", "environment-gpu.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    # Those that are checked below, and the CPU environment that the second is compared with.
    pair = load_matrix(tmp_path / "matrix.yml").cpu_pair("gpu-cu118", "linux-64")
    assert pair is not None
    for env in ("cpu", "gpu-cu118", pair):
        shutil.copytree(ROOT / "locks" / env, tmp_path / "locks" / env)
    return Layout(tmp_path)


def check(layout: Layout, *envs: str) -> Report:
    return check_repository(layout, load_matrix(layout.matrix), envs)


def found(report: Report) -> set[tuple[str, str | None]]:
    return {(finding.rule, finding.env) for finding in report.findings}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_changed_template_makes_its_locks_stale(checkout: Layout) -> None:
    edit(checkout.root / "environment-cpu.yml", "  - numpy\n", "  - numpy\n  - pandas\n")
    stale = found(check(checkout, "cpu", "gpu-cu118"))
    assert {("stale", "cpu"), ("request-unmet", "cpu"), ("parity-requests", "gpu-cu118")} <= stale
    assert ("stale", "gpu-cu118") not in stale


def test_a_comment_in_a_template_makes_nothing_stale(checkout: Layout) -> None:
    edit(checkout.root / "environment-cpu.yml", "  - numpy\n", "  # arrays\n  - numpy\n")
    assert found(check(checkout, "cpu")) == set()


def test_a_changed_row_makes_its_lock_stale(checkout: Layout) -> None:
    edit(checkout.matrix, 'build: "cuda118*"', 'build: "cuda120*"')
    assert {("stale", "gpu-cu118"), ("request-unmet", "gpu-cu118")} <= found(check(checkout, "gpu-cu118"))


def test_a_lock_without_a_row_is_found(checkout: Layout) -> None:
    shutil.copytree(checkout.locks / "cpu", checkout.locks / "gpu-cu99")
    assert ("file-unknown", "locks/gpu-cu99") in {(f.rule, f.path) for f in check(checkout, "cpu").findings}


def test_what_cannot_be_checked_is_an_error(checkout: Layout) -> None:
    with pytest.raises(NoSuchRowError):
        check(checkout, "gpu-cu99")
    (checkout.root / "environment-cpu.yml").write_text("name: {{ nothing }}\n")
    with pytest.raises(TemplateError):
        check(checkout, "cpu")


def test_a_gpu_environment_alone_is_compared_with_the_cpu_one(checkout: Layout) -> None:
    report = check(checkout, "gpu-cu118")
    assert {"parity-requests", "parity-packages"} <= set(report.rules)
    assert report.skipped == ()
    assert report.locks == 1
    pair = load_matrix(checkout.matrix).cpu_pair("gpu-cu118", "linux-64")
    assert pair is not None
    shutil.rmtree(checkout.locks / pair)
    report = check(checkout, "gpu-cu118")
    assert {skip.rule for skip in report.skipped} == {"parity-requests", "parity-versions", "parity-packages"}
