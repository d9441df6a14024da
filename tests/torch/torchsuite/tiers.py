"""What each tier of checks needs of the host, and how checks are declared.

A check's tier is in the name of its file: `test_<tier>_<topic>.py`.
"""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from torchsuite import gpus, nodes
from torchsuite.expect import Expectation

#: Tiers whose modules do not import torch into the suite's own process.
WITHOUT_TORCH = ("static", "import", "cuda-build")

#: Tiers that only an environment for CUDA has. Several nodes compute together over gloo, too.
FOR_CUDA = ("cuda-build", "gpu", "multi-gpu")

#: Files that take longest, in the order in which they are claimed: the rest fills the gaps behind them. Those that
#: compile do not start together, since both would first wait for the same test programs, and in a new environment
#: compile the same modules of torch to bytecode.
LONG_FIRST = (
    "test_cpu_compiled.py",
    "test_cpu_distributed.py",
    "test_cpu_packaged.py",
    "test_cpu_data.py",
)

DEFAULT_SECONDS = 60.0

#: The first check that asks for an import waits for it, which has a limit of its own (`imports.py`).
IMPORT_SECONDS = 150.0

#: A GPU that is newer than the build compiles every kernel from PTX at its first use.
GPU_SECONDS = 180.0

#: Records a measured value beside a check's outcome: a number, a string, or a list of them.
Measure = Callable[[str, object], None]


def check(reason: str, *, accelerator: str | None = None, seconds: float | None = None) -> pytest.MarkDecorator:
    """Mark a test as a check: why it is there, the only accelerator it is for, its time limit in seconds.

    Without a limit the tier's own counts. `reason` is a literal: `declared` reads it without running the file.
    """
    return pytest.mark.check(reason, accelerator=accelerator, seconds=seconds)


def seconds_of(tier: str) -> float:
    """The time limit of a tier's checks that name none."""
    if tier == "import":
        return IMPORT_SECONDS
    return GPU_SECONDS if tier in ("gpu", "multi-gpu", "multi-node") else DEFAULT_SECONDS


def obstacle(tier: str, expectation: Expectation) -> str | None:
    """Why no check of this tier can run here; None when they can, or have to.

    A GPU that the machine has, or that was requested, and that cannot be used is no obstacle: the tier runs, and fails.
    """
    if tier not in expectation.tiers:
        return "tier not selected"
    if tier in FOR_CUDA and expectation.accelerator != "cuda":
        return "a CPU environment"
    if tier == "mps":
        return mps_obstacle(expectation)
    if tier == "gpu" and expectation.gpu_required:
        return None
    if tier in ("gpu", "multi-gpu") and (absence := machine().absence()):
        return absence
    if tier == "multi-gpu" and (machine().visible or 0) < 2:
        return "not run: only one GPU" if machine().visible else "not run: no GPU can be used"
    return nodes.obstacle() if tier == "multi-node" else None


def mps_obstacle(expectation: Expectation) -> str | None:
    """Why no check can run on the GPU of a Mac. Whether torch uses the GPU that is there is for a check to find out."""
    if expectation.platform != "osx-arm64":
        return "only Macs with Apple silicon have MPS"
    return None if metal_gpus() else "not run: this Mac shows no GPU"


@cache
def metal_gpus() -> tuple[str, ...]:
    """The names of this Mac's GPUs by the system, not by torch; virtual machines often have none."""
    command = ["/usr/sbin/system_profiler", "-json", "SPDisplaysDataType"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        displays = json.loads(done.stdout)["SPDisplaysDataType"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return ()
    return tuple(
        str(each.get("sppci_model", "a GPU")) for each in displays if each.get("spdisplays_mtlgpufamilysupport")
    )


@cache
def machine() -> gpus.Machine:
    """The machine's GPUs, looked for once."""
    return gpus.find()


@dataclass(frozen=True)
class Declared:
    """A check as its source declares it, its parameters aside."""

    name: str
    reason: str


def declared(file: Path) -> tuple[Declared, ...]:
    """The checks of a file that is not imported. Raises OSError and SyntaxError for a file that is no source."""
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    found = []
    for function in tree.body:
        if not (isinstance(function, ast.FunctionDef) and function.name.startswith("test_")):
            continue
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "check" and decorator.args:
                found.append(Declared(function.name, str(ast.literal_eval(decorator.args[0]))))
    return tuple(found)
