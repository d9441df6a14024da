"""The verdict on an environment, as `reports/<env>.json` holds it: the models are the format."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, computed_field

from torchlocks import __version__

Accelerator = Literal["cpu", "cuda"]
Outcome = Literal["passed", "failed", "skipped"]

#: The suite's tiers, in the order they run.
TIERS = ("static", "import", "cpu", "cuda-build", "gpu", "multi-gpu", "multi-node")

#: What a verdict comes to. `partial`: only a part of the suite was asked for, or ran. `cuda-build`: a CUDA environment
#: is what its lock says, and no GPU was there to compute on.
State = Literal["failed", "nothing", "partial", "cpu", "cuda-build", "gpu"]


class Frozen(BaseModel):
    """A value that is checked when it is made and does not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(Frozen):
    """One check and what came of it.

    `id` is the file and function of the suite. `why` is one line: the failure, or why it was skipped. `error` is
    the full text of a failure. `values` are what the check measured. Times are in seconds.
    """

    id: str
    tier: str
    reason: str
    outcome: Outcome
    why: str | None = None
    error: str | None = None
    duration_s: float = 0.0
    values: dict[str, JsonValue] = {}


class TierState(Frozen):
    """Whether a tier could run here; `obstacle` says why not."""

    tier: str
    obstacle: str | None


class Host(Frozen):
    """The machine that the suite ran on; `memory_bytes` is what is built in, not what is free.

    `driver` is the version of its NVIDIA driver, `driver_cuda` the newest CUDA that it runs, `gpus` their names: looked
    for where the environment is one for CUDA, and None or empty elsewhere.
    """

    system: str
    release: str
    machine: str
    libc: str | None
    cpu: str | None
    cores: int
    memory_bytes: int | None
    driver: str | None = None
    driver_cuda: str | None = None
    gpus: tuple[str, ...] = ()


class Verdict(Frozen):
    """What the suite found, bound to the lock that the environment was made from.

    `lock_sha256` is the hash of the lockfile's bytes. `select` and `tiers_selected` tell what of the suite was asked
    for. `facts` are what the environment says of itself.
    """

    # A report holds `ok`, `complete`, `state` and `headline` beside the fields; reading one back works them out again.
    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    torchlocks: str = __version__
    env: str
    platform: str
    accelerator: Accelerator
    cuda: str | None
    prefix: str
    lock_path: str
    lock_sha256: str
    channels: tuple[str, ...]
    select: str | None
    tiers_selected: tuple[str, ...]
    started_at: datetime
    duration_s: float
    host: Host
    facts: dict[str, JsonValue]
    tiers: tuple[TierState, ...]
    checks: tuple[Check, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Nothing failed, and something ran."""
        return not self.failures and any(check.outcome == "passed" for check in self.checks)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def complete(self) -> bool:
        """The whole suite was asked for, so that `ok` speaks for the environment."""
        return self.select is None and self.tiers_selected == TIERS

    @computed_field  # type: ignore[prop-decorator]
    @property
    def state(self) -> State:
        """What the checks come to, in one word."""
        if not self.ok:
            return "failed" if self.failures else "nothing"
        passed = {check.tier for check in self.checks if check.outcome == "passed"}
        reached: tuple[State, ...] = ("cpu",) if self.accelerator == "cpu" else ("gpu", "cuda-build")
        return next((tier for tier in reached if self.complete and tier in passed), "partial")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def headline(self) -> str:
        """What the checks come to, in one line."""
        passed = sum(check.outcome == "passed" for check in self.checks)
        if self.state == "failed":
            return f"FAILED: {self.failure_line()}"
        if self.state == "nothing":
            return "nothing ran, so nothing is proven"
        if self.state == "partial":
            return f"{passed} checks passed, of a part of the suite"
        if self.state == "cpu":
            return "CPU environment verified"
        if self.state == "gpu":
            return f"CUDA environment verified on {_gpus(self.host.gpus)}"
        obstacle = next((tier.obstacle for tier in self.tiers if tier.tier == "gpu"), None) or "no check ran on it"
        return f"CUDA build verified, GPU not verified ({obstacle.removeprefix('not run: ')})"

    def failure_line(self) -> str:
        """What is wrong, in one line: the failures by name, or that nothing ran."""
        if not self.failures:
            return "no check ran"
        first = self.failures[0]
        others = f", and {len(self.failures) - 1} more" if len(self.failures) > 1 else ""
        return f"{first.id}: {first.why or 'failed'}{others}"

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.outcome == "failed")


def read_verdict(path: Path) -> Verdict | None:
    """The verdict of a report in JSON; None where there is none, or none that can be read: it proves nothing."""
    try:
        return Verdict.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _gpus(names: tuple[str, ...]) -> str:
    """`2 x NVIDIA H100`; drivers that name no GPU leave the number of kinds unknown."""
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "a GPU"
