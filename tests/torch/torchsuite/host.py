"""The machine that the suite runs on, as reports describe it. Standard library only."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any


def cores() -> int:
    """How many processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def describe(facts: dict[str, Any]) -> dict[str, Any]:
    """The `host` of a report; `facts` has what the suite found of NVIDIA's driver and GPUs. Memory is in bytes."""
    libc, version = platform.libc_ver()
    return {
        "system": platform.system(),
        "release": _release(),
        "machine": platform.machine(),
        "libc": f"{libc} {version}" if libc else None,
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_bytes": _memory_bytes(),
        "driver": facts.get("driver_version"),
        "driver_cuda": facts.get("driver_cuda"),
        "gpus": list(facts.get("gpus", [])),
    }


def _release() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.release()


def _cpu_model() -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if sys.platform == "linux":
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return platform.processor() or None


def _memory_bytes() -> int | None:
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
