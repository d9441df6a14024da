"""The verdict on an environment, as `reports/<env>.json` holds it: the models are the format."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, computed_field

from torchlocks import __version__

Accelerator = Literal["cpu", "cuda"]
Outcome = Literal["passed", "failed", "skipped"]

#: The suite's tiers, in the order they run.
TIERS = ("static", "import", "cpu", "cuda-build", "gpu", "multi-gpu")


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
    """The machine that the suite ran on; `memory_bytes` is what is built in, not what is free."""

    system: str
    release: str
    machine: str
    libc: str | None
    cpu: str | None
    cores: int
    memory_bytes: int | None


class Verdict(Frozen):
    """What the suite found, bound to the lock that the environment was made from.

    `lock_sha256` is the hash of the lockfile's bytes. `select` and `tiers_selected` tell what of the suite was asked
    for. `facts` are what the environment says of itself.
    """

    # A report holds `ok` and `complete` beside the fields; reading one back works them out again.
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
