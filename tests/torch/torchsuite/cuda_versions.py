"""Versions of CUDA: those of a lock, and whether a library's own version agrees."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from torchsuite.expect import Expectation, Package

#: Packages with the whole toolkit, whose libraries have separate versions.
WHOLE_TOOLKITS = ("cudatoolkit", "cuda-toolkit")


def variant(build: str) -> str | None:
    """The CUDA version that a build string of torch names: 12.6 of cuda126_py312…, 12 of cuda12_…, None of others."""
    if dotted := re.search(r"cu(?:da)?_?(\d{1,2}\.\d{1,2})", build):
        return dotted[1]
    if joined := re.search(r"cu(?:da)?_?(\d{2})(\d)?(?!\d)", build):
        return f"{joined[1]}.{joined[2]}" if joined[2] else joined[1]
    return None


def package(expectation: Expectation, *patterns: str) -> Package | None:
    """The first locked package whose name matches one of the patterns."""
    return next(
        (found for pattern in patterns for found in expectation.packages if fnmatchcase(found.name, pattern)), None
    )


def of_libraries(expectation: Expectation) -> str | None:
    """The CUDA version, major.minor, of the locked libraries; None if no package determines it."""
    names = ("cuda-version", "cudatoolkit", "cuda-cudart", "nvidia-cuda-runtime*", "pytorch-cuda")
    found = package(expectation, *names)
    return ".".join(found.version.split(".")[:2]) if found else None


def cudnn(number: int) -> tuple[int, int, int]:
    """cuDNN's version of the number that it reports: up to cuDNN 8, 8907 is 8.9.7; from 9 on, 90100 is 9.1.0."""
    base = 10000 if number >= 10000 else 1000
    return number // base, number % base // 100, number % 100


def cusparselt(number: int) -> tuple[int, int, int]:
    """cuSPARSELt's version of the number in its header: 602 is 0.6.2."""
    return number // 1000, number % 1000 // 100, number % 100


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, to be compared: (0, 7, 1) of 0.7.1."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def agree(found: tuple[int, ...], locked: str) -> bool:
    """Whether the numbers that a library reports begin the locked version: (12, 9, 1) and 12.9.1.4."""
    return all(mine == theirs for mine, theirs in zip(found, numbers(locked), strict=False))
