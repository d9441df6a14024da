"""What is answered before click is imported: `--version`, `--help`, `run`, and environments that are up to date.

What this module imports is counted in milliseconds: no click, no pathlib, no dataclasses. Whatever is not plainly one
of these cases, mistakes and errors above all, is left to the command line.
"""

# Importing pathlib takes longer than all that is done here.
# ruff: noqa: PTH109, PTH113, PTH118, PTH120, PTH208
from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def quick_status(arguments: Sequence[str]) -> int | None:
    """Do what `arguments` ask for, if it is one of these cases, and return the exit status; None for all else."""
    if len(arguments) == 1 and arguments[0] in ("--help", "-h"):
        from torchlocks.cli.overview import overview

        print(overview(), end="")
        return 0
    if len(arguments) == 1 and arguments[0] == "--version":
        from torchlocks.cli.verbs import VERSION

        print(VERSION)
        return 0
    if arguments[:1] == ["run"]:
        return _run(arguments)
    if arguments[:2] != ["env", "cpu"]:
        return None
    from torchlocks.install.up_to_date import quick_answer

    answer = quick_answer(arguments)
    if answer is not None:
        print(answer)
    return None if answer is None else 0


def _run(arguments: Sequence[str]) -> int | None:
    """Run a command in an environment of this checkout that is verified and has nothing to activate but its paths."""
    name, command = arguments[1] if len(arguments) > 2 else "", arguments[2:]
    if not name or name.startswith(("-", ".")) or name == "auto" or "/" in name or "\\" in name or os.name != "posix":
        return None
    root = None if os.environ.get("TORCHLOCKS_ROOT") or os.environ.get("TORCHLOCKS_HOME") else _checkout(os.getcwd())
    if root is None:
        return None
    from torchlocks.install.plain_activation import plain_activation
    from torchlocks.install.up_to_date import read_record

    prefix = os.path.join(root, "envs", name)
    record = read_record(prefix)
    if record is None or record.get("verified") is not True:
        return None
    # A mark for messages, which programs inside the environment are not concerned with.
    base = {key: value for key, value in os.environ.items() if key != "TORCHLOCKS_MAKE"}
    environment = plain_activation(prefix, base)
    if environment is None:
        return None
    import shlex

    from torchlocks.install.foreground import run_in_foreground

    return run_in_foreground(command[0] if len(command) == 1 else shlex.join(command), environment)


def _checkout(folder: str) -> str | None:
    """Return the checkout that contains `folder`, by the rule of `layout.find_layout`; None if there is none."""
    while True:
        if os.path.isfile(os.path.join(folder, "matrix.yml")) and any(
            name.startswith("environment-") and name.endswith(".yml") for name in os.listdir(folder)
        ):
            return folder
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent
