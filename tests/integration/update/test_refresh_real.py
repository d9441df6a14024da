"""Refreshing against real channel records: a matrix of an earlier day, and a PyTorch that is yet to come."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from preloaded import run_torchlocks
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.locking.options import LockOptions, find_solver
from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.model import Matrix
from torchlocks.solve.repodata import RecordSource
from torchlocks.update.apply import write_plan
from torchlocks.update.refresh import plan

ROOT = Path(__file__).parents[3]
SNAPSHOT = os.environ.get("TORCHLOCKS_SNAPSHOT", "")
#: The matrix when the records were those of July 2026: no CUDA 13.0, hardly any torchvision, no variants.
EARLIER = Path(__file__).with_name("matrix_of_july.yml")
slow = pytest.mark.skipif(not os.environ.get("TORCHLOCKS_SLOW"), reason="takes minutes (TORCHLOCKS_SLOW=1)")

pytestmark = [
    pytest.mark.snapshot,
    pytest.mark.skipif(not SNAPSHOT, reason="needs channel records (make test SNAPSHOT=DIR)"),
]


def checkout(folder: Path, matrix: Path) -> Layout:
    folder.mkdir()
    for name in ("environment-cpu.yml", "environment-gpu.yml"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(matrix, folder / "matrix.yml")
    return Layout(folder)


def refreshed(layout: Layout, snapshot: Path, **how: object) -> Matrix:
    options = LockOptions(source=RecordSource(snapshot=snapshot), solver=find_solver())
    found = plan(layout, load_matrix(layout.matrix), options, Silent(), **how)  # type: ignore[arg-type]
    return write_plan(layout, found)


def cells(matrix: Matrix) -> dict[tuple[str, str], tuple[str, ...]]:
    return {(each.env, each.platform): (*each.holds, each.python) for each in matrix.targets()}


@slow
def test_the_matrix_of_an_earlier_day_becomes_todays(tmp_path: Path) -> None:
    layout = checkout(tmp_path / "earlier", EARLIER)
    found, today = cells(refreshed(layout, Path(SNAPSHOT))), cells(load_matrix(ROOT / "matrix.yml"))
    # The earlier row for 11.8 promised Kepler, which today's cuDNN has no code for: only an option gives that up.
    promised = {key for key in today if key[0].startswith("gpu-cu118")}
    # Torch 2.5 for the CPU is the pair of that default.
    paired = {("cpu-torch2.5-py312", "linux-64")}
    assert {key: found.get(key) for key in today if key not in promised | paired} == {
        key: cell for key, cell in today.items() if key not in promised | paired
    }
    more = cells(refreshed(layout, Path(SNAPSHOT), env="gpu-cu118", allow=["architecture"]))
    assert more["gpu-cu118", "linux-64"] == today["gpu-cu118", "linux-64"]


@slow
def test_todays_matrix_has_nothing_left_to_move(tmp_path: Path) -> None:
    run = run_torchlocks(["refresh", "--dry-run", "--snapshot", SNAPSHOT], cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].startswith("The matrix is current")


def with_torch_2_14(folder: Path, *, torchvision: bool) -> Path:
    """A copy of the CPU's records for linux-64, with a torch 2.14 like the newest one, and its torchvision."""
    source, target = Path(SNAPSHOT) / "conda-forge", folder / "conda-forge"
    for subdir in ("noarch", "linux-64"):
        (target / subdir).mkdir(parents=True)
        shutil.copy(source / subdir / "repodata.json", target / subdir)
    file = target / "linux-64" / "repodata.json"
    file.chmod(0o644)
    document = json.loads(file.read_bytes())
    for kind in ("packages", "packages.conda"):
        for name, record in list(document[kind].items()):
            if not record["build"].startswith("cpu") or record["name"] not in ("pytorch", "libtorch", "torchvision"):
                continue
            minor = "0.27." if record["name"] == "torchvision" else "2.12."
            if record["version"].startswith(minor) and (torchvision or record["name"] != "torchvision"):
                text = json.dumps([name, record]).replace(record["version"], "0.29.0" if minor == "0.27." else "2.14.0")
                text = text.replace("2.12.0", "2.14.0").replace("2.13.0a0", "2.15.0a0").replace("2.12.*", "2.14.*")
                new, changed = json.loads(text)
                document[kind][new] = changed
    file.write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("torchvision", [True, False])
def test_a_torch_that_is_yet_to_come_is_moved_to_or_made_a_variant(tmp_path: Path, torchvision: bool) -> None:
    layout = checkout(tmp_path / "today", ROOT / "matrix.yml")
    records = with_torch_2_14(tmp_path / "records", torchvision=torchvision)
    before = load_matrix(layout.matrix).target("cpu", "linux-64")
    matrix = refreshed(layout, records, env="cpu", platform="linux-64")
    default = matrix.target("cpu", "linux-64")
    if torchvision:
        assert default.holds == ("torch 2.14", "torchvision 0.29")
        assert "cpu-torch2.12-py312" in matrix.environments
    else:
        assert default.holds == before.holds
        assert matrix.target(f"cpu-torch2.14-py{before.python.replace('.', '')}", "linux-64").torchvision is None
    assert (
        matrix.rows["cpu"].platforms["win-64"].pytorch
        == load_matrix(ROOT / "matrix.yml").target("cpu", "win-64").pytorch
    )
