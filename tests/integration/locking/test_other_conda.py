"""CONDA_EXE: what another solver is given, and what its errors become."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from small_matrix import small_matrix
from support import torchlocks

CONDA = """#!{python}
import json, os, sys
if "--version" in sys.argv:
    print("conda 25.1.0")
    sys.exit(0)
if "create" in sys.argv:
    names = ("CONDA_CHANNEL_PRIORITY", "MAMBA_CHANNEL_PRIORITY", "CONDA_FLAGS")
    seen = {{name: os.environ.get(name) for name in names}}
    open({seen!r}, "w").write(json.dumps(seen))
    sys.stdout.write({said!r})
    sys.stderr.write({errors!r})
    sys.exit({code})
print("{{}}")
"""


def stand_in(folder: Path, said: str, errors: str = "", code: int = 1) -> Path:
    path = folder / "conda"
    text = CONDA.format(python=sys.executable, seen=str(folder / "seen"), said=said, errors=errors, code=code)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("said", "errors", "words"),
    [
        ("", "killed by the kernel\n", "killed by the kernel"),
        ("", "", "exit code 1"),
        ("no JSON at all", "", "no JSON at all"),
        ("[]", "", "cannot read"),
        (json.dumps({"success": False, "solver_problems": ["nothing provides x"]}), "", "nothing provides x"),
        (json.dumps({"message": "UnsatisfiableError: x", "exception_name": "UnsatisfiableError"}), "", "Unsatisfiable"),
    ],
)
def test_another_solver_keeps_to_channel_priority_and_its_reason_is_reported(
    tmp_path: Path, said: str, errors: str, words: str
) -> None:
    matrix = small_matrix(tmp_path / "matrix", 1)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    settings = {"CONDA_FLAGS": "--no-deps", "TMPDIR": str(temporary)}
    run = torchlocks(matrix.root, "lock", "--conda", str(stand_in(tmp_path, said, errors)), **settings)
    assert run.returncode == 20
    assert not list(temporary.iterdir())
    assert words in run.stderr
    assert "without a reason" not in run.stderr
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen == {"CONDA_CHANNEL_PRIORITY": "strict", "MAMBA_CHANNEL_PRIORITY": "strict", "CONDA_FLAGS": ""}


def test_another_solver_does_not_take_a_mirror(tmp_path: Path) -> None:
    matrix = small_matrix(tmp_path / "matrix", 1)
    conda = str(stand_in(tmp_path, ""))
    run = torchlocks(matrix.root, "lock", "--conda", conda, "--mirror", "https://mirror.example/conda")
    assert run.returncode == 20
    assert "mirror" in run.stderr
    assert not (tmp_path / "seen").exists(), "it was not run"
