"""What an environment requires of a machine, and the reasons for which it runs there or does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torchlocks.cuda.libraries import Limit
from torchlocks.matrix.cells import Drivers

State = Literal["runs", "runs-with-remark", "unknown", "does-not-run"]

Kind = Literal[
    "platform",
    "glibc",
    "osx",
    "no-driver",
    "no-gpu",
    "driver-problem",
    "driver-floor",
    "minor-version",
    "forward",
    "architecture",
    "ptx",
    "ptx-driver",
    "jetson",
    "not-known",
]

Weight = Literal["remark", "open", "blocks"]


@dataclass(frozen=True, kw_only=True)
class CudaNeeds:
    """What a CUDA environment requires of the driver and the GPUs.

    `version` is that of the CUDA libraries, `toolkit` that of the compiler that torch was built with: older if a build
    runs with newer libraries. `architectures` have machine code in torch; `ptx` is the compute capability of its
    portable code, if any. The drivers are those of the two versions.
    """

    version: str
    toolkit: str
    drivers: Drivers
    toolkit_drivers: Drivers | None
    architectures: tuple[str, ...]
    ptx: str | None
    libraries: tuple[Limit, ...] = ()
    """What the libraries of the lock have code for, where a lock was read."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an environment requires of a machine: its conda platform, the oldest glibc or macOS, and CUDA, if any."""

    env: str
    platform: str
    glibc: str | None
    osx: str | None
    cuda: CudaNeeds | None
    holds: tuple[str, ...] = ()
    """torch, torchvision and torchaudio with their versions, those that the environment has."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One reason for or against compatibility: the fact, and what to do about it.

    A `remark` does not prevent the environment from running, `blocks` does, and `open` cannot be decided. `driver` is
    the oldest driver that would resolve it. `gpus` are the indices of the affected GPUs; empty if it concerns the
    machine.
    """

    kind: Kind
    weight: Weight
    text: str
    fix: str | None = None
    driver: str | None = None
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Compatibility:
    """The compatibility of one environment with one machine; `gpus` are the indices of those that it runs on."""

    env: str
    platform: str
    cuda: str | None
    state: State
    reasons: tuple[Reason, ...]
    gpus: tuple[int, ...] = ()
    holds: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The state in a few words: `runs here`, `runs on GPU 0, not on GPU 1` …"""
        refused = [index for reason in self.blocking for index in reason.gpus]
        if self.gpus and refused:
            return f"runs on {numbered(self.gpus)}, not on {numbered(refused)}"
        if self.state == "unknown":
            kinds = {reason.kind for reason in self.reasons}
            return "no driver here" if "no-driver" in kinds else "no GPU here" if "no-gpu" in kinds else "not known"
        return "does not run" if self.state == "does-not-run" else "runs here"

    @property
    def blocking(self) -> tuple[Reason, ...]:
        return tuple(reason for reason in self.reasons if reason.weight == "blocks")


def numbered(indices: tuple[int, ...] | list[int]) -> str:
    """Format indices as `GPU 0`, or `GPUs 0 and 2`."""
    names = [str(index) for index in indices]
    if len(names) == 1:
        return f"GPU {names[0]}"
    return f"GPUs {', '.join(names[:-1])} and {names[-1]}" if names else "no GPU"
