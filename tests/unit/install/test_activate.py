"""Activation, with scripts that do what real ones do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from torchlocks.core.errors import InstallError, MissingFileError
from torchlocks.install.activate import activation_environment, run_in
from torchlocks.install.plain_activation import plain_activation

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the scripts here are for bash")

SYSTEM = "/usr/bin:/bin"


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A prefix with a space in its name, and a Python that is this one."""
    prefix = tmp_path / "an env"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python").symlink_to(sys.executable)
    (prefix / "conda-meta").mkdir()
    (prefix / "etc" / "conda" / "activate.d").mkdir(parents=True)
    return prefix


def script(prefix: Path, text: str, name: str = "script.sh") -> None:
    (prefix / "etc" / "conda" / "activate.d" / name).write_text(text)


def test_an_activated_environment_comes_first_on_the_path(prefix: Path) -> None:
    activated = activation_environment(prefix, {"PATH": SYSTEM, "KEEP": "me"})
    assert activated["PATH"] == f"{prefix / 'bin'}:{SYSTEM}"
    assert activated["CONDA_PREFIX"] == str(prefix)
    assert activated["CONDA_SHLVL"] == "1"
    assert activated["KEEP"] == "me"
    assert set(activated) == {"PATH", "CONDA_PREFIX", "CONDA_SHLVL", "CONDA_DEFAULT_ENV", "KEEP"}


@pytest.mark.parametrize("path", [SYSTEM, "/b:/usr/bin::/b:/bin", ":/usr/bin:/bin", "/usr/bin:/bin:"])
def test_what_needs_no_shell_is_what_a_shell_makes_of_it(
    prefix: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {"PATH": path, "KEEP": "a 'b'\n$c", "SHLVL": "3", "PWD": "/else", "_": "x", "VIRTUAL_ENV": "/venv"}
    plain = plain_activation(str(prefix), base)
    assert plain == activation_environment(prefix, base)
    monkeypatch.setattr("torchlocks.install.activate.plain_activation", lambda *_: None)
    assert plain == activation_environment(prefix, base)


def test_all_that_only_a_shell_knows_is_left_to_it(prefix: Path) -> None:
    assert plain_activation(str(prefix), {"PATH": SYSTEM}) is not None
    assert plain_activation(str(prefix), {}) is None
    assert plain_activation(str(prefix), {"PATH": SYSTEM, "BASH_ENV": "/etc/lmod"}) is None
    for name in ("etc/conda/activate.d/a.sh", "etc/conda/env_vars.d/a.json", "conda-meta/state"):
        (prefix / name).parent.mkdir(exist_ok=True)
        (prefix / name).write_text("{}")
        assert plain_activation(str(prefix), {"PATH": SYSTEM}) is None
        (prefix / name).unlink()
    (prefix / "bin" / "python").unlink()
    assert plain_activation(str(prefix), {"PATH": SYSTEM}) is None


def test_scripts_and_state_set_variables(prefix: Path) -> None:
    script(prefix, 'echo "scripts may print"; export MADE="in $CONDA_PREFIX"; export LINES="one\ntwo"; false\n')
    (prefix / "conda-meta" / "state").write_text(json.dumps({"env_vars": {"STATED": "a 'quoted' value"}}))
    activated = activation_environment(prefix, {"PATH": SYSTEM})
    assert activated["MADE"] == f"in {prefix}"
    assert activated["LINES"] == "one\ntwo"
    assert activated["STATED"] == "a 'quoted' value"


def test_marks_of_another_environment_are_dropped(prefix: Path) -> None:
    foreign = {"CONDA_PREFIX": "/elsewhere", "CONDA_SHLVL": "3", "VIRTUAL_ENV": "/venv", "PYTHONHOME": "/home"}
    activated = activation_environment(prefix, {"PATH": SYSTEM, **foreign})
    assert activated["CONDA_PREFIX"] == str(prefix)
    assert activated["CONDA_SHLVL"] == "1"
    assert "VIRTUAL_ENV" not in activated
    assert "PYTHONHOME" not in activated


def test_a_script_that_ends_the_shell_is_an_error_with_its_output(prefix: Path) -> None:
    script(prefix, 'echo "no licence" >&2; exit 3\n')
    with pytest.raises(InstallError, match="ends the shell") as caught:
        activation_environment(prefix, {"PATH": SYSTEM})
    assert "no licence" in (caught.value.details or "")


def test_a_folder_that_is_no_environment_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no environment") as caught:
        activation_environment(tmp_path / "cpu", {"PATH": SYSTEM})
    assert "make env-cpu" in (caught.value.fix or "")


@pytest.mark.parametrize(("command", "status"), [("true", 0), ("exit 7", 7), ("kill -TERM $$", 128 + 15)])
def test_commands_hand_back_their_status(prefix: Path, command: str, status: int) -> None:
    assert run_in(prefix, command) == status


def test_commands_run_in_the_activated_environment(prefix: Path, tmp_path: Path) -> None:
    script(prefix, "export MADE=yes\n")
    (prefix / "bin" / "greet").write_text("#!/bin/sh\necho greetings $MADE $1\n")
    (prefix / "bin" / "greet").chmod(0o755)
    out = tmp_path / "out"
    assert run_in(prefix, f"greet 'two words' > '{out}'") == 0
    assert out.read_text() == "greetings yes two words\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "dash"])
def test_a_shell_is_activated_after_its_own_configuration(prefix: Path, tmp_path: Path, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script(prefix, "export MADE=yes\n")
    home = tmp_path / "home"
    home.mkdir()
    # A start-up file that puts another folder first, as installers like to add.
    for name in (".bashrc", ".zshrc"):
        (home / name).write_text("export PATH=/opt/first:$PATH CONFIGURED=yes\n")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from torchlocks.install.activate import *; raise SystemExit(shell_in(Path({str(prefix)!r})))",
        ],
        input='echo "path=$PATH made=$MADE"\nexit 5\n',
        env={"PATH": os.environ["PATH"], "HOME": str(home), "SHELL": program},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert f"path={prefix / 'bin'}:" in done.stdout
    assert "made=yes" in done.stdout
    assert ("/opt/first" in done.stdout) == (shell in ("bash", "zsh")), "the shell did not read its own configuration"
