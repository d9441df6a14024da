"""Activated environments: the variables that programs inside a prefix expect, and ways to run programs there.

The order of `PATH`, the variables of `conda-meta/state` and `etc/conda/env_vars.d`, and the scripts of
`etc/conda/activate.d` are py-rattler's to know; this module runs what it writes and reads the result. An environment
with none of these is activated by `plain_activation.py` alone.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torchlocks.core.errors import InstallError, MissingFileError
from torchlocks.core.reading import RECORD_BYTES, load_json, read_bytes
from torchlocks.core.systems import here
from torchlocks.install.foreground import run_in_foreground
from torchlocks.install.plain_activation import FOREIGN, plain_activation

#: Activation scripts set variables; one that takes longer than this hangs.
TIMEOUT_SECONDS = 60

#: What the shell sets for itself, and Python in the C locale (PEP 538); none of it is the environment's.
_SHELLS_OWN = ("_", "SHLVL", "PWD", "OLDPWD", "LC_CTYPE")


def python_of(prefix: Path) -> Path:
    """The Python of an environment. Raises MissingFileError when there is none."""
    python = here.python(prefix)
    if not python.exists():
        raise MissingFileError(
            "There is no environment here: it has no Python.",
            where=str(python),
            fix=f"install it first: make env-{'gpu CUDA=…' if prefix.name.startswith('gpu') else 'cpu'}",
        )
    return python


def activation_environment(prefix: Path, base_env: Mapping[str, str]) -> dict[str, str]:
    """`base_env` as it is after the environment at `prefix` was activated, its activation scripts included.

    Marks of another active environment are dropped first. As with conda, a script that fails does not stop
    the activation. Raises MissingFileError when `prefix` is no environment, InstallError when activation does
    not come to an end.
    """
    python_of(prefix)
    prefix = prefix.absolute()
    if (plain := plain_activation(os.fspath(prefix), base_env)) is not None:
        return plain
    base = {name: value for name, value in base_env.items() if name not in FOREIGN}
    with tempfile.TemporaryDirectory(prefix="torchlocks-activate-") as folder:
        dump, script = Path(folder) / "env.json", Path(folder) / here.ACTIVATE
        # The variables are written to a file: scripts may print what they like.
        source = "import json,os,sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
        command = [sys.executable, "-I", "-S", "-c", source, os.fspath(dump)]
        line = here.command_line(command)
        script.write_text(f"{_activation_script(prefix, base)}\n{line}\n", encoding="utf-8")
        try:
            done = subprocess.run(
                [*here.runner(os.environ), os.fspath(script)],
                env=base,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InstallError(
                f"Activation did not come to an end within {TIMEOUT_SECONDS} s.",
                where=str(prefix / "etc" / "conda" / "activate.d"),
                fix="look for a script that waits for input or for the network.",
            ) from None
        if not dump.is_file():
            raise InstallError(
                "The environment cannot be activated: a script of it ends the shell.",
                where=str(prefix / "etc" / "conda" / "activate.d"),
                fix="install the environment again, or report the package that owns the script.",
                details=(done.stderr or done.stdout).strip() or None,
            )
        try:
            activated: dict[str, str] = load_json(read_bytes(dump, RECORD_BYTES))
        except (OSError, ValueError) as error:
            raise _bad_activation(prefix, error) from None
    for name in _SHELLS_OWN:
        activated.pop(name, None)
        if name in base:
            activated[name] = base[name]
    path = next((name for name in activated if name.upper() == "PATH"), "PATH")
    activated[path] = os.pathsep.join(dict.fromkeys(activated[path].split(os.pathsep)))
    activated["CONDA_DEFAULT_ENV"] = os.fspath(prefix)
    return activated


def run_in(prefix: Path, command: str) -> int:
    """Run a shell command line in the activated environment; its exit status (128 + N after signal N)."""
    environment = activation_environment(prefix, os.environ)
    return run_in_foreground(command, environment)


def shell_in(prefix: Path) -> int:
    """An interactive shell in the activated environment; the shell's exit status.

    bash, zsh and fish read their own configuration first and are activated after it, so that a `PATH` set
    there does not hide the environment. Other shells inherit the variables.
    """
    environment = activation_environment(prefix, os.environ)
    if here.SHELL == "cmd":
        return run_in_foreground([environment.get("COMSPEC", "cmd.exe")], environment)
    shell = os.environ.get("SHELL") or here.runner(os.environ)[0]
    kind = Path(shell).name
    with tempfile.TemporaryDirectory(prefix="torchlocks-shell-") as folder:
        script = Path(folder) / "activate"
        arguments: list[str] = []
        if kind == "bash":
            before, prompt = "[ -f ~/.bashrc ] && . ~/.bashrc\n", f'PS1="({prefix.name}) $PS1"\n'
            script.write_text(before + _activation_script(prefix, environment) + "\n" + prompt, encoding="utf-8")
            arguments = ["--rcfile", os.fspath(script), "-i"]
        elif kind == "zsh":
            home = shlex.quote(os.environ.get("ZDOTDIR") or str(Path.home()))
            before = f"ZDOTDIR={home}\n[ -f {home}/.zshrc ] && . {home}/.zshrc\n"
            body = _activation_script(prefix, environment, "zsh")
            (Path(folder) / ".zshrc").write_text(f'{before}{body}\nPS1="({prefix.name}) $PS1"\n', encoding="utf-8")
            environment["ZDOTDIR"] = folder
            arguments = ["-i"]
        elif kind == "fish":
            script.write_text(_activation_script(prefix, environment, "fish") + "\n", encoding="utf-8")
            arguments = ["--init-command", f"source {shlex.quote(os.fspath(script))}"]
        return run_in_foreground([shell, *arguments], environment)


def _activation_script(prefix: Path, base: Mapping[str, str], shell: str | None = None) -> str:
    from rattler.shell import ActivationVariables, Shell, activate

    shells: dict[str, Shell] = {
        "bash": Shell.bash,
        "zsh": Shell.zsh,
        "fish": Shell.fish,
        "cmd": Shell.cmd_exe,
    }
    path = next((value for name, value in base.items() if name.upper() == "PATH"), os.defpath)
    variables = ActivationVariables(current_path=[entry for entry in path.split(os.pathsep) if entry])
    try:
        return activate(prefix, variables, shells[shell or here.SHELL]).script
    except Exception as error:
        # rattler has a class for each file that it reads: state, env_vars.d, activate.d.
        raise _bad_activation(prefix, error) from None


def _bad_activation(prefix: Path, error: Exception) -> InstallError:
    return InstallError(
        "The environment cannot be activated: a file that sets its variables is damaged.",
        where=f"{prefix / 'etc' / 'conda'}, {prefix / 'conda-meta' / 'state'}",
        fix="see which (fsck), and install the environment again.",
        details=str(error)[:2000],
    )
