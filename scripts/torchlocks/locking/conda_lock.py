"""What is replaced inside conda-lock while it solves. pyproject.toml caps conda-lock's version for this.

conda-lock has no public interface for either: `tests/unit/locking/test_conda_lock.py` fails when its internals
change, and describes when a workaround is no longer needed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from torchlocks.locking.options import Solver
from torchlocks.solve.executable import answer
from torchlocks.solve.repodata import RecordSource

if TYPE_CHECKING:
    from conda_lock.virtual_package import FakeRepoData


def virtual_repository(specification: Path, scratch: Path) -> FakeRepoData:
    """Return conda-lock's channel of virtual packages, made from a file of its format, in the folder `scratch`.

    conda-lock makes it in a temporary folder that it deletes in an `atexit` function, which does not run in processes
    that end with `process_exit.exit_process`. `$RUNNER_TEMP` is the only way to choose that folder.
    """
    from conda_lock.virtual_package import virtual_package_repo_from_specification

    with environment_variables({"RUNNER_TEMP": str(scratch)}):
        return virtual_package_repo_from_specification(specification)


@contextmanager
def solving_in_process(solver: Solver, source: RecordSource, scratch: Path) -> Iterator[None]:
    """Answer conda-lock's calls of torchlocks' own executable in this process, with records that are open already.

    conda-lock calls the executable as it does any conda, and reads the same JSON back; what is saved is a start of
    Python and opening the channels for every cell. All other calls, and other solvers, are run as they are. The folder
    of packages that conda-lock names to its conda, which stays empty here, goes with `scratch`. Another solver keeps
    conda-lock's folder from cell to cell, with the channel records in it.
    """
    from conda_lock import conda_solver, invoke_conda

    if not solver.own:
        if invoke_conda.CONDA_PKGS_DIRS is not None and not Path(invoke_conda.CONDA_PKGS_DIRS).is_dir():
            invoke_conda.CONDA_PKGS_DIRS = None
        yield
        return

    def run(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if arguments[0] != str(solver.executable):
            done: subprocess.CompletedProcess[str] = subprocess.run(arguments, **options)
            return done
        code, text = answer(arguments[1:], options["env"], source)
        return subprocess.CompletedProcess(arguments, code, stdout=text, stderr="")

    module: Any = conda_solver
    real, folder = module.subprocess, invoke_conda.CONDA_PKGS_DIRS
    module.subprocess = SimpleNamespace(**{**vars(subprocess), "run": run})
    (scratch / "pkgs").mkdir()
    invoke_conda.CONDA_PKGS_DIRS = str(scratch / "pkgs")
    try:
        yield
    finally:
        module.subprocess, invoke_conda.CONDA_PKGS_DIRS = real, folder


@contextmanager
def environment_variables(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
