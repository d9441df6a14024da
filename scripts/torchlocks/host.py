"""This machine, as far as environments care: its conda platform and its NVIDIA driver."""

from __future__ import annotations

import os
import platform
import sys

from torchlocks.errors import NoSuchRowError

_PLATFORMS = {
    ("linux", "x86_64"): "linux-64",
    ("linux", "aarch64"): "linux-aarch64",
    ("linux", "arm64"): "linux-aarch64",
    ("darwin", "x86_64"): "osx-64",
    ("darwin", "arm64"): "osx-arm64",
    ("win32", "amd64"): "win-64",
    ("win32", "x86_64"): "win-64",
}


def host_platform() -> str:
    """The conda platform of this machine, such as `linux-64`; `CONDA_SUBDIR` overrides it, as for conda.

    Raises NoSuchRowError on a machine for which there are no environments.
    """
    named = os.environ.get("CONDA_SUBDIR")
    if named:
        return named
    here = sys.platform, platform.machine().lower()
    if here not in _PLATFORMS:
        raise NoSuchRowError(
            f"There are no environments for this machine ({here[1]} {here[0]}).",
            fix=f"environments exist for {', '.join(sorted(set(_PLATFORMS.values())))}",
        )
    return _PLATFORMS[here]


def driver_cuda() -> str | None:
    """The newest CUDA version that the NVIDIA driver of this machine runs, or None without a driver.

    That is conda's `__cuda`, which `CONDA_OVERRIDE_CUDA` overrides (empty: no driver).
    """
    from rattler import VirtualPackage, VirtualPackageOverrides

    for package in VirtualPackage.detect(VirtualPackageOverrides.from_env()):
        generic = package.into_generic()
        if generic.name.normalized == "__cuda":
            return str(generic.version)
    return None
