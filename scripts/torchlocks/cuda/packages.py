"""Facts about torch and CUDA that packages state: the variant in a build string, versions, lower bounds.

These functions only read; `check` and `diff` draw conclusions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal

from packaging.version import InvalidVersion, Version

from torchlocks.lockfile.models import LockedPackage

TORCH_NAMES = ("pytorch", "libtorch")
TORCH_FAMILY = ("libtorch", "torchvision", "torchaudio", "triton")
"""Packages whose build string names the same variant as torch's."""

_CUDA_NAMES = (
    "cuda", "cuda-*", "cudatoolkit*", "cudnn", "cupti", "cusparselt", "cutensor", "nccl",
    "libcublas*", "libcudnn*", "libcudss*", "libcufft*", "libcufile*", "libcurand*", "libcusolver*", "libcusparse*",
    "libcutensor*", "libmagma*", "libnpp*", "libnvfatbin*", "libnvjitlink*", "libnvjpeg*", "libnvptxcompiler*",
    "libnvshmem*", "libnvvm*", "magma", "magma-*", "nvidia-*", "pytorch-cuda", "pytorch-gpu", "torchtriton",
)  # fmt: skip

# CUDA toolkits that compile for a compute capability: the first and the last (None: still does).
# Source: "Architecture support" in the release notes of CUDA 11.0, 11.1, 11.8, 12.0, 12.8, 12.9 and 13.0.
_TOOLKITS: dict[str, tuple[str, str | None]] = {
    "3.5": ("5.0", "11.8"),
    "3.7": ("6.5", "11.8"),
    "5.0": ("6.5", "12.9"),
    "5.2": ("7.0", "12.9"),
    "5.3": ("7.0", "12.9"),
    "6.0": ("8.0", "12.9"),
    "6.1": ("8.0", "12.9"),
    "6.2": ("8.0", "12.9"),
    "7.0": ("9.0", "12.9"),
    "7.2": ("9.2", "12.9"),
    "7.5": ("10.0", None),
    "8.0": ("11.0", None),
    "8.6": ("11.1", None),
    "8.7": ("11.4", None),
    "8.9": ("11.8", None),
    "9.0": ("11.8", None),
    "10.0": ("12.8", None),
    "10.1": ("12.8", "12.9"),
    "10.3": ("12.9", None),
    "11.0": ("13.0", None),
    "12.0": ("12.8", None),
    "12.1": ("12.9", None),
}


@dataclass(frozen=True)
class Variant:
    """The variant in a build string: CPU or CUDA, and which CUDA ("12.6", "12", or None)."""

    accelerator: Literal["cpu", "cuda"]
    cuda: str | None = None

    def __str__(self) -> str:
        return "CPU" if self.accelerator == "cpu" else f"CUDA {self.cuda}" if self.cuda else "CUDA"

    @property
    def major(self) -> int | None:
        return int(self.cuda.split(".")[0]) if self.cuda else None


# cuda118_py311…, cuda12.4_cudnn…, cuda_118_…, py311_cu124, cuda12_…: a hash in a build string is hexadecimal,
# so "cu" never comes from one.
_DOTTED = re.compile(r"cu(?:da)?_?(\d{1,2}\.\d{1,2})")
_JOINED = re.compile(r"cu(?:da)?_?(\d{2})(\d)?(?!\d)")


def variant_of(build: str) -> Variant | None:
    """Return the variant that a build string names, or None."""
    if dotted := _DOTTED.search(build):
        return Variant("cuda", dotted[1])
    if joined := _JOINED.search(build):
        return Variant("cuda", f"{joined[1]}.{joined[2]}" if joined[2] else joined[1])
    if "cuda" in build:
        return Variant("cuda")
    return Variant("cpu") if "cpu" in build else None


def built_for(package: LockedPackage) -> Variant | None:
    """Return what a package was built for, by its dependencies where they show it, else by its build string.

    Build strings can be wrong: conda-forge's torchaudio 2.5.1 for CUDA 11.8 is called `cpu_py312h254f4b0_1`, and
    depends on cudatoolkit 11.8. A build string that names CUDA is right, and often names the minor version as well.
    """
    named = variant_of(package.build)
    if named is not None and named.accelerator == "cuda":
        return named
    for spec in package.depends or ():
        name, _, bounds = spec.strip().partition(" ")
        if name in ("cudatoolkit", "cuda-version", "pytorch-cuda", "cuda-cudart"):
            lowest = re.search(r"(\d+\.\d+)", bounds)
            return Variant("cuda", lowest[1] if lowest else None)
    return named


def torch_package(packages: Iterable[LockedPackage]) -> LockedPackage | None:
    """Return `pytorch`, else `libtorch`, else None."""
    by_name = {package.name: package for package in packages}
    return next((by_name[name] for name in TORCH_NAMES if name in by_name), None)


def is_cuda_package(package: LockedPackage) -> bool:
    """Return whether a package is part of CUDA, built for it, or needs a driver."""
    variant = variant_of(package.build)
    return (
        _has_cuda_name(package.name)
        or (variant is not None and variant.accelerator == "cuda")
        or "__cuda" in package.dependency_names
    )


@lru_cache(maxsize=4096)
def _has_cuda_name(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _CUDA_NAMES)


def cuda_version(packages: Iterable[LockedPackage]) -> str | None:
    """Return the CUDA version, major.minor, of the libraries: `cuda-version`, else `cudatoolkit`, else
    `pytorch-cuda`.
    """
    by_name = {package.name: package for package in packages}
    for name in ("cuda-version", "cudatoolkit", "pytorch-cuda"):
        if name in by_name:
            return minor(by_name[name].version)
    return None


def minor(version: str) -> str:
    """Return the first two parts of a version: 12.4 of 12.4.127."""
    return ".".join(version.split(".")[:2])


def floor_of(packages: Iterable[LockedPackage], virtual: str) -> str | None:
    """Return the lowest version of a virtual package, such as `__glibc`, that all packages accept.

    It is the highest `>=` of their dependencies and constraints; None without any.
    """
    pattern = re.compile(rf"{re.escape(virtual)}\s.*?>=?\s*(\d+(?:\.\d+)*)")
    found = [
        match[1]
        for package in packages
        for spec in (*(package.depends or ()), *(package.constrains or ()))
        if (match := pattern.match(spec))
    ]
    return max(found, key=_version) if found else None


def compiles(toolkit: str, capability: str) -> bool | None:
    """Return whether a CUDA toolkit compiles for a compute capability; None for an unknown capability."""
    if capability not in _TOOLKITS:
        return None
    first, last = _TOOLKITS[capability]
    return _version(first) <= _version(toolkit) and (last is None or _version(toolkit) <= _version(last))


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        return Version("0")
