"""Reports that prove something of real locks, and repositories to put evidence in."""

from __future__ import annotations

import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path

from golden import LAYOUT
from torchlocks.core.files import hash_file
from torchlocks.core.layout import Layout
from torchlocks.verify.verdict import Check, Host, TierState, Verdict
from torchsuite.required import REQUIRED
from torchsuite.tier_names import TIERS
from torchsuite.verdict import conclude

UBUNTU = Host(
    system="Linux",
    release="Ubuntu 24.04.3 LTS",
    machine="x86_64",
    libc="glibc 2.39",
    cpu="A CPU",
    cores=4,
    memory_bytes=8 * 2**30,
)
A100 = UBUNTU.model_copy(update={"gpus": ("NVIDIA A100-SXM4-80GB",), "driver": "550.54.14", "driver_cuda": "12.4"})
DATE = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)


def repository(folder: Path, *envs: str) -> Layout:
    """A git repository with the matrix, the suite's table of required checks, and some of the locks."""
    layout = Layout(folder / "checkout")
    layout.root.mkdir()
    for name in ("matrix.yml", "environment-cpu.yml", "environment-gpu.yml"):
        shutil.copy(LAYOUT.root / name, layout.root)
    for env in envs:
        shutil.copytree(LAYOUT.locks / env, layout.locks / env)
    (layout.suite / "torchsuite").mkdir(parents=True)
    shutil.copy(LAYOUT.suite / "torchsuite" / "required.py", layout.suite / "torchsuite")
    git(layout, "init", "-q")
    commit(layout, "The first locks")
    return layout


def git(layout: Layout, *arguments: str) -> str:
    command = ["git", "-c", "user.name=N", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(command, cwd=layout.root, check=True, capture_output=True, text=True).stdout


def commit(layout: Layout, subject: str) -> None:
    git(layout, "add", "-A")
    git(layout, "commit", "-qm", subject)


def proving(
    layout: Layout,
    env: str,
    *,
    host: Host = UBUNTU,
    platform: str = "linux-64",
    failed: str | None = None,
    left_out: str | None = None,
    **changed: object,
) -> Verdict:
    """A report in which all required checks passed, on the lock of `env`: on GPUs where `host` has some.

    `failed` and `left_out` are ids of checks; `changed` are fields of the finished report.
    """
    cuda = env.removeprefix("gpu-cu") if env.startswith("gpu-cu") else None
    tiers = ["static", "import", "cpu", *(["cuda-build"] if cuda else []), *(["gpu"] if cuda and host.gpus else [])]
    kind = "cuda" if cuda else "cpu"
    checks = [
        Check(id=each.id, tier=tier, reason="it breaks", outcome="failed" if each.id == failed else "passed")
        for tier in tiers
        for each in REQUIRED[tier]
        if each.only in (None, kind) and each.id != left_out
    ]
    report: dict[str, object] = {
        "env": env,
        "platform": platform,
        "accelerator": kind,
        "cuda": f"{cuda[:-1]}.{cuda[-1]}" if cuda else None,
        "prefix": "/envs/it",
        "lock_path": "locks/it/conda-lock.yml",
        "lock_sha256": hash_file(layout.locks / env / "conda-lock.yml"),
        "channels": ("https://conda.anaconda.org/conda-forge",),
        "select": None,
        "tiers_selected": TIERS,
        "started_at": DATE,
        "duration_s": 12.5,
        "host": host,
        "facts": {},
        "tiers": [TierState(tier=tier, obstacle=None if tier in tiers else "not here") for tier in TIERS],
        "checks": checks,
        "complete": True,
    }
    plain = {**report, "host": host.model_dump(), "checks": [each.model_dump() for each in checks]}
    concluded = conclude({**plain, "tiers": [{"tier": t, "obstacle": None if t in tiers else "no"} for t in TIERS]})
    return Verdict.model_validate({**report, **concluded, **changed})


def written(layout: Layout, verdict: Verdict, name: str = "report") -> Path:
    """The path of a report's file in `reports/`."""
    layout.reports.mkdir(exist_ok=True)
    path = layout.reports / f"{name}.json"
    path.write_text(verdict.model_dump_json(), encoding="utf-8")
    return path
