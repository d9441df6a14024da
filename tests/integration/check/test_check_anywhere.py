"""Checking and reading locks of any repository, by path, and what is there to check without one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conftest import LAYOUT
from support import torchlocks

LOCK = LAYOUT.root / "tests" / "data" / "locks" / "cpu" / "conda-lock.yml"


def test_a_folder_without_a_lock_is_an_error_and_builtin_checks_what_is_brought(tmp_path: Path) -> None:
    nothing = torchlocks(tmp_path, "check")
    assert nothing.returncode == 14
    assert "--builtin" in nothing.stderr
    builtin = torchlocks(tmp_path, "check", "--builtin", "--env", "cpu", "--format", "json")
    assert builtin.returncode == 0, builtin.stderr
    assert json.loads(builtin.stdout)["locks"] > 1
    assert torchlocks(tmp_path, "check", "--builtin", str(LOCK)).returncode == 2


def test_a_lock_of_the_folder_is_checked_whatever_made_it(tmp_path: Path) -> None:
    shutil.copy(LOCK, tmp_path / "conda-lock.yml")
    run = torchlocks(tmp_path, "check", "--format", "json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["locks"] == 1


def test_a_lock_of_the_checkout_is_known_by_its_path(tmp_path: Path) -> None:
    ours = LAYOUT.locks / "cpu" / "conda-lock.yml"
    run = torchlocks(tmp_path, "check", str(ours), "--format", "json", TORCHLOCKS_ROOT=str(LAYOUT.root))
    assert run.returncode == 0, run.stdout
    assert "request-unmet" in json.loads(run.stdout)["rules"]
    elsewhere = shutil.copy(ours, tmp_path / "conda-lock.yml")
    run = torchlocks(tmp_path, "check", str(elsewhere), "--format", "json", TORCHLOCKS_ROOT=str(LAYOUT.root))
    assert "request-unmet" not in json.loads(run.stdout)["rules"]


def test_a_lock_of_ours_that_is_not_its_row_is_found_by_its_path(tmp_path: Path) -> None:
    for name in ("matrix.yml", "environment-cpu.yml", "environment-gpu.yml"):
        shutil.copy(LAYOUT.root / name, tmp_path / name)
    shutil.copytree(LAYOUT.locks / "cpu", tmp_path / "locks" / "cpu")
    matrix = (tmp_path / "matrix.yml").read_text()
    (tmp_path / "environment-cpu.yml").write_text(
        (tmp_path / "environment-cpu.yml").read_text().replace("dependencies:", "dependencies:\n  - notthere", 1)
    )
    run = torchlocks(tmp_path, "check", "locks/cpu/pixi.lock", "locks/cpu/conda-linux-64.lock", "--format", "json")
    assert run.returncode == 61, matrix[:100]
    found = json.loads(run.stdout)["findings"]
    assert {"request-unmet", "stale"} <= {each["rule"] for each in found}
    assert len(found) == len({json.dumps(each, sort_keys=True) for each in found}), "each once"


@pytest.mark.parametrize("named", ["conda-lock.yml", ".", "sub"])
def test_verbs_on_locks_take_a_lock_of_any_repository(tmp_path: Path, named: str) -> None:
    folder = tmp_path / "sub" if named == "sub" else tmp_path
    folder.mkdir(exist_ok=True)
    shutil.copy(LOCK, folder / "conda-lock.yml")
    on = ("--platform", "linux-64")
    why = torchlocks(tmp_path, "why", "numpy", "--lock", named, *on, "--json")
    assert why.returncode == 0, why.stderr
    assert json.loads(why.stdout)["chains"]
    licences = torchlocks(tmp_path, "licences", named, *on, "--json")
    assert len(json.loads(licences.stdout)["packages"]) > 50
    sbom = torchlocks(tmp_path, "sbom", named, *on)
    assert len(json.loads(sbom.stdout)["components"]) > 50
    export = torchlocks(tmp_path, "export", named, *on)
    assert export.returncode == 0, export.stderr
    assert list((tmp_path / "build" / "exports").rglob("environment.yml"))
    diff = torchlocks(tmp_path, "diff", named, named, "--format", "json")
    assert diff.returncode == 0, diff.stderr
