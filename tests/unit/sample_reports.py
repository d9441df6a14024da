"""Checks and verdicts of no real run."""

from __future__ import annotations

from datetime import datetime, timezone

from torchlocks.verify.verdict import Check, Host, Outcome, Verdict
from torchsuite.tier_names import TIERS
from torchsuite.verdict import conclude

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
    """A report of the CPU environment with these checks, as the suite concludes it."""
    report = {
        "env": "cpu",
        "platform": "linux-64",
        "accelerator": "cpu",
        "cuda": None,
        "prefix": "/envs/cpu",
        "lock_path": "locks/cpu/conda-lock.yml",
        "lock_sha256": "ab" * 32,
        "channels": ("https://conda.anaconda.org/conda-forge",),
        "select": None,
        "tiers_selected": TIERS,
        "started_at": datetime(2026, 11, 23, tzinfo=timezone.utc),
        "duration_s": 12.5,
        "host": HOST,
        "facts": {
            "torch_version": "2.12.0",
            "torch_config": "long\ntext",
            "devices": [{"name": "x"}],
            "seconds": 0.123456,
        },
        "tiers": [{"tier": tier, "obstacle": "a CPU environment" if "gpu" in tier else None} for tier in TIERS],
        "checks": [check.model_dump() for check in checks],
        "complete": True,
    }
    concluded = conclude({**report, "host": HOST.model_dump()})
    return Verdict.model_validate({**report, **concluded})
