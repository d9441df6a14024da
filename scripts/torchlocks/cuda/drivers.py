"""The oldest NVIDIA driver of each CUDA major: every driver from that one on runs every minor release of it.

https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
"""

from __future__ import annotations

from collections.abc import Mapping

_FLOORS: Mapping[int, tuple[str, str]] = {
    11: ("450.80.02", "452.39"),
    12: ("525.60.13", "528.33"),
    13: ("580", "580"),
}
"""CUDA major to the drivers for Linux and for Windows."""


def driver_floor(major: int | None, subdir: str) -> str | None:
    """Return the oldest driver for a CUDA major on a platform; None if there is none or it is unknown."""
    if major is None or major not in _FLOORS or not subdir.startswith(("linux-", "win-")):
        return None
    linux, windows = _FLOORS[major]
    return windows if subdir.startswith("win-") else linux
