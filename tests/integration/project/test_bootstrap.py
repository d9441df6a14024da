"""The tool's own virtual environment, made by a Python with and without pip."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
LONG = pytest.mark.skipif(not os.environ.get("TORCHLOCKS_SLOW"), reason="installs the tool: TORCHLOCKS_SLOW=1 runs it")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the script reads of a checkout, and the package that it installs."""
    folder = tmp_path / "checkout"
    for name in ("scripts", "recipes/local"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("requirements.txt", "requirements-dev.txt", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def bootstrap(python: str, checkout: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, str(checkout / "scripts" / "bootstrap.py"), str(checkout / ".venv"), "--wheels"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
        start_new_session=True,
    )


def with_index(url: str) -> dict[str, str]:
    """Variables with which pip looks at one index and nowhere else."""
    nowhere = dict.fromkeys(("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"), "")
    return {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": url, "PIP_RETRIES": "1", **nowhere}


def _runs(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_without_an_index_it_ends_with_an_error_and_what_to_check(checkout: Path) -> None:
    started = bootstrap(sys.executable, checkout, **with_index("http://127.0.0.1:9/simple"))
    _, stderr = started.communicate(timeout=60)
    assert started.returncode == 15, stderr
    assert "PIP_INDEX_URL" in stderr
    assert "Traceback" not in stderr
    assert not (checkout / ".venv" / "torchlocks-made-from").exists()
    assert not (checkout / "build" / "wheels").exists()


def test_a_folder_that_cannot_be_written_to_is_named(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = checkout / "scripts" / "bootstrap.py"
    functions: dict[str, Any] = {"__name__": "bootstrap", "__file__": str(script)}
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), functions)
    # root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(checkout))
    with pytest.raises(SystemExit) as stopped:
        functions["make_venv"](str(checkout / ".venv"))
    assert stopped.value.code == 15
    assert f"{checkout} cannot be written to" in capsys.readouterr().err
    assert not (checkout / ".venv").exists()


def test_interrupted_it_ends_with_a_line_and_leaves_nothing_running(checkout: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        started = bootstrap(sys.executable, checkout, **with_index(index))
        silent.settimeout(60)
        # Three of pip ask this index, two of them for wheels, and wait for its answer.
        asking = [silent.accept()[0] for _ in range(3)]
        os.killpg(started.pid, signal.SIGINT)
        _, stderr = started.communicate(timeout=60)
        for connection in asking:
            connection.close()
    assert started.returncode == 130
    assert "Traceback" not in stderr
    assert not (checkout / "build" / "wheels").exists()
    # pip runs itself again in the new environment, and that process ends by the same signal, in its own time.
    deadline = time.monotonic() + 20
    while _runs(started.pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@LONG
@pytest.mark.parametrize("with_pip", [True, False])
def test_the_tools_and_a_pip_are_installed_whether_or_not_that_python_has_pip(
    checkout: Path, tmp_path: Path, with_pip: bool
) -> None:
    venv.create(tmp_path / "own", with_pip=with_pip, symlinks=True)
    started = bootstrap(str(tmp_path / "own" / "bin" / "python"), checkout)
    _, stderr = started.communicate(timeout=300)
    assert started.returncode == 0, stderr
    programs = checkout / ".venv" / "bin"
    for command in (["torchlocks", "--version"], ["python", "-m", "pip", "--version"]):
        subprocess.run([programs / command[0], *command[1:]], check=True, timeout=60)
    fetched = {path.name.split("-")[0] for path in (checkout / "build" / "wheels").glob("*.whl")}
    # Without pip nothing is fetched beside the tools: the tool does that later, with its own.
    assert ("sympy" in fetched) == with_pip
