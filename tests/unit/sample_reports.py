"""Checks and verdicts of no real run."""

from __future__ import annotations

from datetime import datetime, timezone

from torchlocks.verify.verdict import TIERS, Check, Host, Outcome, TierState, Verdict

HOST = Host(
    system="Linux",
    release="A Linux 1",
    machine="x86_64",
    libc="glibc 2.36",
    cpu="A CPU",
    cores=4,
    memory_bytes=8 * 2**30,
    driver="570.26",
    gpus=("NVIDIA T4",),
)


def check(name: str, outcome: Outcome = "passed", tier: str = "cpu", **more: object) -> Check:
    fields = {"id": f"test_a.py::test_{name}", "tier": tier, "reason": "it breaks", "outcome": outcome, **more}
    return Check.model_validate(fields)


def verdict(*checks: Check) -> Verdict:
    return Verdict(
        env="cpu",
        platform="linux-64",
        accelerator="cpu",
        cuda=None,
        prefix="/envs/cpu",
        lock_path="locks/cpu/conda-lock.yml",
        lock_sha256="ab" * 32,
        channels=("https://conda.anaconda.org/conda-forge",),
        select=None,
        tiers_selected=TIERS,
        started_at=datetime(2026, 11, 23, tzinfo=timezone.utc),
        duration_s=12.5,
        host=HOST,
        facts={
            "torch_version": "2.12.0",
            "torch_config": "long\ntext",
            "devices": [{"name": "x"}],
            "seconds": 0.123456,
        },
        tiers=tuple(TierState(tier=t, obstacle="a CPU environment" if "gpu" in t else None) for t in TIERS),
        checks=checks,
    )
