"""Fixtures: the wheel, built once, and environments that it is installed in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


COMMITTED = (
    *("LICENSE", "matrix.yml", "environment-cpu.yml", "environment-gpu.yml"),
    *("docs", "evidence", "locks", "recipes", "tests/torch"),
)


MADE = shutil.ignore_patterns("__pycache__", "*.egg-info", ".pytest_cache", ".mypy_cache", ".ruff_cache")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel is built from, in a folder of its own, for no test to build in: building leaves files there."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "scripts", *COMMITTED):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, ignore=MADE) if source.is_dir() else shutil.copy(source, target)
    return folder


def build(source: Path, target: Path) -> Path:
    """Build the wheel, as pip and build do it, with the setuptools that is here."""
    command = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    target.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", command, str(target)],
        cwd=source,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build(shutil.copytree(source, folder / "source"), folder / "dist")


@dataclass(frozen=True)
class Installed:
    """An environment in which the wheel is installed, and an empty folder to work in."""

    torchlocks: Path
    folder: Path

    def run(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        # An empty variable stands for none, and keeps out what the tests' own process was started with.
        names = {**os.environ, "TORCHLOCKS_ROOT": "", "TORCHLOCKS_HOME": "", **environment}
        command = [str(self.torchlocks), *map(str, arguments)]
        run = subprocess.run(command, cwd=self.folder, env=names, capture_output=True, text=True, check=False)
        assert "Traceback" not in run.stderr, run.stderr
        return run

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*"))


@pytest.fixture(scope="session")
def tools(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, which borrows all that torchlocks depends on; returns its torchlocks."""
    home = tmp_path_factory.mktemp("tools") / "venv"
    venv.create(home, symlinks=True, with_pip=False)
    python = home / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "-q"]
    run = subprocess.run([*command, str(wheel)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (site,) = home.glob("lib/python*/site-packages")
    # A folder that a .pth file names comes last, and its own .pth files (our editable install) do not count.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin" / "torchlocks"


@pytest.fixture
def installed(tools: Path, tmp_path: Path) -> Installed:
    (tmp_path / "empty").mkdir()
    return Installed(tools, tmp_path / "empty")
