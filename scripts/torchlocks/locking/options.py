"""How to lock: which solver, which records, and on which machines."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torchlocks import __version__
from torchlocks.core.errors import MissingFileError
from torchlocks.core.systems import here
from torchlocks.solve.repodata import RecordSource

if TYPE_CHECKING:
    from torchlocks.matrix.target import Target


class RecordTask(Protocol):
    """A task that solves for a target from a source of records: a dataclass with these fields."""

    @property
    def source(self) -> RecordSource:
        """The records to solve from."""

    @property
    def target(self) -> Target:
        """The environment on a platform that the task is about."""


Cluster = Callable[[Sequence[RecordTask]], AbstractContextManager[Executor]]
"""Opens an executor whose workers can do the tasks it is called with."""


@dataclass(frozen=True, kw_only=True)
class Solver:
    """The conda executable that conda-lock runs. `own` is the one that is part of torchlocks."""

    executable: Path
    own: bool

    @property
    def name(self) -> str:
        """The solver's name in a lock's metadata."""
        if self.own:
            return f"torchlocks-conda {__version__} (py-rattler {version('py-rattler')})"
        answer = subprocess.run([str(self.executable), "--version"], capture_output=True, text=True, check=False)
        return f"{self.executable.name} {answer.stdout.strip().removeprefix('conda ')}"


@dataclass(frozen=True, kw_only=True)
class LockOptions:
    """How to lock. With `move`, packages stay as in the environment's pixi.lock, except those named.

    `cluster` opens an executor on other machines that solves the cells, instead of processes of this machine
    (`torchlocks.dask.lock.open_cluster`). `cache` is a folder with hashes of the inputs of locks; unchanged
    environments are then not solved again.
    """

    source: RecordSource
    solver: Solver
    move: tuple[str, ...] | None = None
    cluster: Cluster | None = None
    cache: Path | None = None


def find_solver(named: str | None = None) -> Solver:
    """Return the solver: `named` (a path or a command), else torchlocks' own.

    Raises MissingFileError if the named one does not exist; conda-lock itself would download another.
    """
    if named:
        found = shutil.which(named)
        if found is None:
            raise MissingFileError(
                f"The conda executable {named!r} does not exist, or cannot be run.",
                where="CONDA_EXE",
                fix="name a conda, mamba or micromamba, or leave CONDA_EXE unset to use torchlocks' own solver",
            )
        return Solver(executable=Path(found).absolute(), own=Path(found).stem == "torchlocks-conda")
    name = here.program("torchlocks-conda")
    # Beside the interpreter in a virtual environment; `pip install --user` and Windows have other folders.
    schemes = (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
    folders = [Path(sys.executable).parent, *(Path(sysconfig.get_path("scripts", scheme)) for scheme in schemes)]
    own = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if own is None:
        raise MissingFileError(
            "torchlocks is not completely installed: its solver is missing.",
            where=f"no {name} in {' or '.join(map(str, dict.fromkeys(folders)))}",
            fix="in a checkout, remove .venv and run make again; elsewhere, install torchlocks again with pip",
        )
    return Solver(executable=own, own=True)
