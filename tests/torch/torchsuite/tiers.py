"""The tiers of checks, in the order they run, and what each needs of the host.

A check's tier is in the name of its file: `test_<tier>_<topic>.py`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

import pytest

from torchsuite.expect import Expectation

#: static: the prefix against the lock, nothing imported. import: torch in processes of its own.
#: cpu: computation. cuda-build: a CUDA build, no GPU needed. gpu, multi-gpu: one GPU, two or more.
TIERS = ("static", "import", "cpu", "cuda-build", "gpu", "multi-gpu")

#: Tiers whose modules do not import torch into the suite's own process.
WITHOUT_TORCH = ("static", "import")

DEFAULT_SECONDS = 60.0

#: Records a measured value beside a check's outcome: a number, a string, or a list of them.
Measure = Callable[[str, object], None]


def check(reason: str, *, accelerator: str | None = None, seconds: float = DEFAULT_SECONDS) -> pytest.MarkDecorator:
    """Mark a test as a check: why it is there, the only accelerator it is for, its time limit in seconds."""
    return pytest.mark.check(reason, accelerator=accelerator, seconds=seconds)


def tier_of(file_name: str) -> str:
    """The tier of a test file. Raises ValueError when its name holds none."""
    for tier in sorted(TIERS, key=len, reverse=True):
        if file_name.startswith(f"test_{tier.replace('-', '_')}_"):
            return tier
    raise ValueError(f"{file_name}: a test file of this suite is called test_<tier>_<topic>.py")


def obstacle(tier: str, expectation: Expectation) -> str | None:
    """Why no check of this tier can run here; None when they can."""
    if tier not in expectation.tiers:
        return "tier not selected"
    if tier in ("cuda-build", "gpu", "multi-gpu") and expectation.accelerator != "cuda":
        return "a CPU environment"
    if tier in ("gpu", "multi-gpu"):
        devices = cuda_devices()
        if devices is None:
            return "not run: no NVIDIA driver"
        if devices == 0:
            return "not run: the NVIDIA driver shows no GPU"
        if tier == "multi-gpu" and devices < 2:
            return "not run: only one GPU"
    return None


@cache
def cuda_devices() -> int | None:
    """How many GPUs the NVIDIA driver offers; None without a driver.

    Asks the driver's own library (`cuInit`, `cuDeviceGetCount`), so that a broken torch cannot hide a GPU.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
