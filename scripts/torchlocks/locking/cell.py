"""One cell of the matrix, an environment on a platform, solved through conda-lock.

This runs in a worker: a process of this machine, or of another one without shared files. So all inputs and outputs are
values, and only scratch files are written.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchlocks.core.errors import SolveError, TorchlocksError
from torchlocks.core.text import last_lines
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI
from torchlocks.lockfile.pixi import write_pixi
from torchlocks.locking.conda_lock import environment_variables, solving_in_process, virtual_repository
from torchlocks.locking.options import Solver, find_solver
from torchlocks.matrix.target import Target
from torchlocks.solve.executable import KEEP, MOVE
from torchlocks.solve.repodata import RecordSource, records_by_url

if TYPE_CHECKING:
    from conda_lock.lockfile.v2prelim.models import LockedDependency
    from conda_lock.models.lock_spec import LockSpecification
    from conda_lock.virtual_package import FakeRepoData

_ONE_AT_A_TIME = threading.Lock()
"""conda-lock passes settings in environment variables of the process; a worker may have threads."""


@dataclass(frozen=True, kw_only=True)
class CellTask:
    """What to solve. `run` is the same for all cells of one run, which share open channels.

    `keep` is the text of a pixi.lock whose packages stay, except those in `move`.
    """

    run: str
    target: Target
    rendered: str
    source: RecordSource
    solver: Solver
    keep: str | None = None
    move: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A solved target: conda-lock's packages for one platform (JSON), and the hash of the inputs.

    `pixi` is a pixi.lock of this platform alone: the channel's complete records, which conda-lock does not keep.
    """

    target: Target
    packages: str
    content_hash: str
    pixi: str


def content_hash(rendered: str, platform: str, virtual_packages: Mapping[str, str]) -> str:
    """Return conda-lock's content hash of an environment file on a platform, with virtual packages (name → version)."""
    from conda_lock.content_hash import compute_content_hashes

    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        spec, repo = _specification(rendered, platform, virtual_packages, Path(scratch))
        with repo:
            return str(compute_content_hashes(spec, repo)[platform])


def solve_cell(task: CellTask) -> Cell | TorchlocksError:
    """Solve one cell; an expected failure is returned, so that the other cells continue."""
    try:
        with _ONE_AT_A_TIME:
            return _solve(task)
    except TorchlocksError as error:
        return error


def _solve(task: CellTask) -> Cell:
    from conda_lock.conda_lock import create_lockfile_from_spec
    from conda_lock.lookup import DEFAULT_MAPPING_URL

    target = task.target
    source = _opened_once(task.run, task.source)
    with tempfile.TemporaryDirectory(prefix="torchlocks-") as folder:
        scratch = Path(folder)
        if task.keep is not None:
            (scratch / PIXI).write_text(task.keep, encoding="utf-8")
        variables = {
            **source.environment(),
            KEEP: str(scratch / PIXI) if task.keep is not None else "",
            MOVE: " ".join(task.move),
            # The user's own CONDA_FLAGS would change the solution, and the lock would not record them.
            "CONDA_FLAGS": "",
            # As torchlocks' own solver does; conda's default mixes the CUDA libraries of several channels.
            "CONDA_CHANNEL_PRIORITY": "strict",
            "MAMBA_CHANNEL_PRIORITY": "strict",
        }
        # This worker may be on another machine, with torchlocks in another place.
        solver = find_solver() if task.solver.own else task.solver
        spec, repo = _specification(task.rendered, target.platform, target.virtual_packages, scratch)
        output = io.StringIO()
        with (
            environment_variables(variables),
            solving_in_process(solver, source, scratch),
            repo,
            contextlib.redirect_stderr(output),
            contextlib.redirect_stdout(output),
        ):
            try:
                content = create_lockfile_from_spec(
                    conda=solver.executable,
                    spec=spec,
                    platforms=[target.platform],
                    lockfile_path=scratch / CONDA_LOCK,
                    virtual_package_repo=repo,
                    mapping_url=DEFAULT_MAPPING_URL,
                )
            except subprocess.CalledProcessError as error:
                raise _solver_error(target, error) from error
            except (RuntimeError, TypeError, LookupError, ValueError, AttributeError) as error:
                if solver.own:
                    raise
                raise SolveError(
                    "conda-lock cannot read what the solver answered.",
                    where=f"{target.env} on {target.platform}",
                    fix=f"see that {solver.executable.name} works, or leave CONDA_EXE unset",
                    details=f"{type(error).__name__}: {error}"[:2000],
                ) from error
    urls = {package.url: package.name for package in content.package if package.manager == "conda"}
    records = records_by_url(source, target.channels, target.platform, urls)
    return Cell(
        target=target,
        packages=_packages_adapter().dump_json(content.package).decode(),
        content_hash=content.metadata.content_hash[target.platform],
        pixi=write_pixi({target.platform: list(records.values())}, target.channels),
    )


def packages_of(cell: Cell) -> list[LockedDependency]:
    """Return conda-lock's packages of a cell."""
    found: list[LockedDependency] = _packages_adapter().validate_json(cell.packages)
    return found


@lru_cache(maxsize=1)
def _packages_adapter() -> Any:
    from conda_lock.lockfile.v2prelim.models import LockedDependency
    from pydantic import TypeAdapter

    return TypeAdapter(list[LockedDependency])


@lru_cache(maxsize=1)
def _opened_once(run: str, source: RecordSource) -> RecordSource:
    """Return the source of a run with its open channels, shared by all cells that this process solves."""
    return source


def _specification(
    rendered: str, platform: str, virtual_packages: Mapping[str, str], scratch: Path
) -> tuple[LockSpecification, FakeRepoData]:
    """Parse a rendered environment with conda-lock, with its virtual packages.

    conda-lock's default has `__cuda 11.4` on every platform, which would put CUDA into CPU locks; so every platform has
    its own list, and a CPU environment has no `__cuda`.
    """
    import yaml
    from conda_lock.lookup import DEFAULT_MAPPING_URL
    from conda_lock.src_parser import make_lock_spec

    environment = scratch / "environment.yml"
    environment.write_text(rendered, encoding="utf-8")
    virtual = scratch / "virtual-packages.yml"
    virtual.write_text(yaml.safe_dump({"subdirs": {platform: {"packages": dict(virtual_packages)}}}))
    spec = make_lock_spec(src_files=[environment], platform_overrides=[platform], mapping_url=DEFAULT_MAPPING_URL)
    return spec, virtual_repository(virtual, scratch)


def _solver_error(target: Target, error: subprocess.CalledProcessError) -> TorchlocksError:
    """Return the solver's error, rebuilt from the JSON that it prints."""
    where = f"{target.env} on {target.platform}"
    try:
        data: dict[str, Any] = json.loads(error.stdout)
        if not isinstance(data, dict):
            raise TypeError
    except (TypeError, ValueError):
        tail = last_lines((str(error.stdout or "") + str(error.stderr or "")).strip())
        code = f"It ended with exit code {error.returncode}"
        what = f"{code}; the end of its output is below." if tail else f"{code} and without a message."
        return SolveError(f"The solver failed. {what}", where=where, details=tail or None)
    if isinstance(problems := data.get("solver_problems"), list) and problems:
        # micromamba names no error beside these.
        text = "\n".join(f"  {each}" for each in problems)
        return SolveError("There is no solution.", where=where, details=text)
    failure = TorchlocksError.from_data(data, SolveError)
    failure.where = f"{where}: {failure.where}" if failure.where else where
    return failure
