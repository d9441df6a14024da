"""What the environment is expected to be: the lock's side of every comparison.

The file named by `TORCH_VERIFY_EXPECT` contains one JSON object with the fields of `Expectation`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torchsuite.found import Found

VARIABLE = "TORCH_VERIFY_EXPECT"


@dataclass(frozen=True)
class Package:
    """One package of the lock."""

    name: str
    version: str
    build: str


@dataclass(frozen=True)
class Expectation:
    """The environment as its lock describes it.

    `tiers` are the tiers to run. `cuda` is the CUDA version (`12.9`) or None. `python` and `torch`
    are the locked packages of these names. `events` is the file to which results are written. `done` are the
    checks and files that an earlier process of this run has seen to, up to the one that ended it. Where not `locked`,
    no lock is known: `packages` are what was found, and there is nothing to compare them with. `architectures` are the
    compute capabilities ("9.0") that torch's row promises machine code for, `ptx` the one that newer GPUs compile from,
    `driver_floor` the oldest driver that the lock runs on; empty or None without a row. Where `gpu_required`, a
    machine without a GPU is a failure, and not only one whose GPU is not used. `worker` is the number of this process
    among those of the run, `claims` the folder in which they claim test files; without one, this process runs all.
    `only` are the ids of the checks to run; None: all. `threads` is how many threads a
    computation may use beside the other processes; None: as many as torch likes.
    """

    env: str
    platform: str
    accelerator: Literal["cpu", "cuda"]
    cuda: str | None
    prefix: Path
    python: Package
    torch: Package
    packages: tuple[Package, ...]
    tiers: tuple[str, ...]
    events: Path
    done: frozenset[str]
    locked: bool = True
    architectures: tuple[str, ...] = ()
    ptx: str | None = None
    driver_floor: str | None = None
    gpu_required: bool = False
    worker: int = 0
    claims: Path | None = None
    only: tuple[str, ...] | None = None
    threads: int | None = None

    @property
    def lead(self) -> bool:
        """Whether this process reports what every process sees, and runs what needs a device."""
        return self.worker == 0

    def wants(self, check: str) -> bool:
        """Whether a check or a file is among those to run."""
        return self.only is None or any(
            check in (each, each.partition("::")[0]) or check.startswith(f"{each}[") for each in self.only
        )

    def package(self, name: str) -> Package | None:
        """The locked package of that name."""
        return next((package for package in self.packages if package.name == name), None)


def load(path: Path | None = None) -> Expectation:
    """Read the expectation from `path`, or from the file that the environment variable names.

    Raises KeyError when the variable is not set, OSError and ValueError when the file is no good.
    """
    data = json.loads((path or Path(os.environ[VARIABLE])).read_text(encoding="utf-8"))
    packages = tuple(Package(**package) for package in data["packages"])
    by_name = {package.name: package for package in packages}
    return Expectation(
        env=data["env"],
        platform=data["platform"],
        accelerator=data["accelerator"],
        cuda=data["cuda"],
        prefix=Path(data["prefix"]),
        python=by_name["python"],
        torch=by_name["pytorch"],
        packages=packages,
        tiers=tuple(data["tiers"]),
        events=Path(data["events"]),
        done=frozenset(data["done"]),
        locked=data.get("locked", True),
        architectures=tuple(data.get("architectures", ())),
        ptx=data.get("ptx"),
        driver_floor=data.get("driver_floor"),
        gpu_required=data.get("gpu_required", False),
        worker=data.get("worker", 0),
        claims=Path(data["claims"]) if data.get("claims") else None,
        threads=data.get("threads"),
        only=tuple(data["only"]) if data.get("only") is not None else None,
    )


def document(environment: Found, accelerator: str, cuda: str | None, tiers: tuple[str, ...]) -> dict[str, Any]:
    """The suite's input for an environment without a lock: the JSON that `load` reads, but for `events`."""
    return {
        "env": environment.prefix.name,
        "platform": environment.platform,
        "accelerator": accelerator,
        "cuda": cuda,
        "prefix": os.fspath(environment.prefix),
        "packages": [asdict(package) for package in environment.packages],
        "tiers": tiers,
        "done": [],
        "locked": environment.locked,
        "gpu_required": accelerator == "cuda",
    }
