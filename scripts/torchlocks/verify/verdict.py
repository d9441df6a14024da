"""The verdict on an environment: the report of the suite's command, stored in `reports/<env>.json`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from torchlocks import __version__
from torchlocks.core.reading import RECORD_BYTES, read_bytes

Accelerator = Literal["cpu", "cuda"]
Outcome = Literal["passed", "failed", "skipped"]

#: The conclusion. `partial`: a required check was not run, or proved nothing. `cuda-build`: a CUDA environment agrees
#: with its lock, and no GPU was available.
State = Literal["failed", "nothing", "partial", "cpu", "cuda-build", "gpu"]


class Frozen(BaseModel):
    """A value that is validated when it is created and does not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Check(Frozen):
    """One check and its result.

    `id` is the file and function of the suite. `why` is one line: the failure, or why it was skipped. `skip` is the
    code of a reason that leaves no gap. `error` is the full text of a failure. `values` are measured. Times are in
    seconds.
    """

    id: str
    tier: str
    reason: str
    outcome: Outcome
    why: str | None = None
    skip: str | None = None
    error: str | None = None
    duration_s: float = 0.0
    values: dict[str, JsonValue] = {}


class TierState(Frozen):
    """Whether a tier could run here; `obstacle` is the reason if not."""

    tier: str
    obstacle: str | None


class Host(Frozen):
    """The machine that the suite ran on; `memory_bytes` is the installed memory, not the free one.

    `driver` is the version of its NVIDIA driver, `driver_cuda` the newest CUDA that it runs, `gpus` their names: only
    for CUDA environments, otherwise None or empty.
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

    @classmethod
    def unknown(cls) -> Host:
        """Return a machine for a run without a report."""
        return cls(system="", release="", machine="", libc=None, cpu=None, cores=1, memory_bytes=None)


class Gap(Frozen):
    """A required check that proved nothing; `name` is its name in the headline."""

    tier: str
    id: str
    name: str
    why: str


class Verdict(Frozen):
    """The suite's report on an environment and the lock that it was installed from.

    The suite's command draws the conclusion; this is the format of its report. `lock_sha256` is the hash of the
    lockfile's bytes. `select`, `quick` and `tiers_selected` are the requested part of the suite, `workers` its number
    of processes. `client` is the program that installed the environment. `facts` are reported by the environment
    itself. `ok`: nothing failed, and at least one check ran. `complete`: the whole suite was requested, so that `ok`
    holds for the environment. `gaps` are the required checks that proved nothing, `headline` is the conclusion in one
    line. `differs` describes the differences from the committed lock, None if there are none or another lock was named.
    """

    # Reports of a newer suite may have further fields.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    schema_version: Literal[1] = 1
    torchlocks: str = __version__
    env: str
    platform: str
    accelerator: Accelerator
    cuda: str | None
    prefix: str
    client: str = "torchlocks"
    lock_path: str
    lock_sha256: str
    channels: tuple[str, ...]
    select: str | None
    quick: bool = False
    tiers_selected: tuple[str, ...]
    started_at: datetime
    duration_s: float
    workers: int = 1
    host: Host
    facts: dict[str, JsonValue]
    tiers: tuple[TierState, ...]
    checks: tuple[Check, ...]
    ok: bool
    complete: bool
    state: State
    gaps: tuple[Gap, ...] = ()
    headline: str
    differs: str | None = None

    def failure_line(self) -> str:
        """Return the failures in one line, or that no check ran."""
        if not self.failures:
            return "no check ran"
        first = self.failures[0]
        others = f", and {len(self.failures) - 1} more" if len(self.failures) > 1 else ""
        return f"{first.id}: {first.why or 'failed'}{others}"

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.outcome == "failed")


def read_verdict(path: Path) -> Verdict | None:
    """Read the verdict of a report in JSON; None if there is none, or none that can be read."""
    try:
        return Verdict.model_validate_json(read_bytes(path, RECORD_BYTES))
    except (OSError, ValidationError):
        return None
