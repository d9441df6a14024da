"""The tool's own virtual environment, made by a Python with and without pip."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LONG = pytest.mark.skipif(not os.environ.get("TORCHLOCKS_SLOW"), reason="installs the tool: TORCHLOCKS_SLOW=1 runs it")


def bootstrap(python: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [python, str(ROOT / "scripts" / "bootstrap.py"), str(folder)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **variables}
    )


def test_without_an_index_it_ends_with_an_error_and_what_to_check(tmp_path: Path) -> None:
    unreachable = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "nothing")}
    done = bootstrap(sys.executable, tmp_path / "tools", TORCHLOCKS_BOOTSTRAP="pip", **unreachable)
    assert done.returncode == 15, done.stderr
    assert "PIP_INDEX_URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "tools" / "torchlocks-made-from").exists()


@LONG
@pytest.mark.parametrize("with_pip", [True, False])
def test_the_tools_and_a_pip_are_installed_whether_or_not_that_python_has_pip(tmp_path: Path, with_pip: bool) -> None:
    venv.create(tmp_path / "own", with_pip=with_pip, symlinks=True)
    done = bootstrap(str(tmp_path / "own" / "bin" / "python"), tmp_path / "tools")
    assert done.returncode == 0, done.stderr
    for command in (["torchlocks", "--version"], ["python", "-m", "pip", "--version"]):
        subprocess.run([tmp_path / "tools" / "bin" / command[0], *command[1:]], check=True, timeout=60)
