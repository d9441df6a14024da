"""Packages that do not work together although a solver accepts them: a table of facts, each with its source.

The versions of torch's companions are those that the metadata of its wheels on PyPI pins: the last patch release of
each minor one, for Linux and Python 3.11. Minor releases are compared, since patch releases keep them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from packaging.version import InvalidVersion, Version

from torchlocks.cuda.packages import minor

MKL_WITHOUT_IJIT = "2024.1"
"""The first MKL without `iJIT_NotifyEvent`, which torch's builds of the pytorch channel take from it.

https://github.com/pytorch/pytorch/issues/123097
"""

NUMPY2_TORCH = "2.3"
"""The first torch that was built for NumPy 2. https://github.com/pytorch/pytorch/issues/107302"""

NUMPY2_TORCH_WINDOWS_WHEEL = "2.4.1"
"""The same for wheels for Windows. https://github.com/pytorch/pytorch/issues/131668"""

TORCHVISION: Mapping[str, str] = {
    **{f"1.{n}": f"0.{n + 1}" for n in range(4, 14)},
    **{f"2.{n}": f"0.{n + 15}" for n in range(13)},
}
"""torch to torchvision, whose operators are compiled for one release. https://github.com/pytorch/vision#installation"""

TORCHAUDIO: Mapping[str, str] = {
    **{f"1.{n}": f"0.{n}" for n in range(7, 14)},
    **{f"2.{n}": f"2.{n}" for n in range(11)},
}
"""torch to torchaudio. From 2.11 on torchaudio pins no torch: it uses the stable ABI.

https://docs.pytorch.org/audio/main/installation.html#compatibility-matrix
"""

TRITON: Mapping[str, str] = {
    "2.0": "2.0",
    "2.1": "2.1",
    "2.2": "2.2",
    "2.3": "2.3",
    "2.4": "3.0",
    "2.5": "3.1",
    "2.6": "3.2",
    "2.7": "3.3",
    "2.8": "3.4",
    "2.9": "3.5",
    "2.10": "3.6",
    "2.11": "3.6",
    "2.12": "3.7",
}
"""torch to the Triton that its compiler was written for."""

NCCL: Mapping[str, str] = {
    "2.1": "2.18",
    "2.2": "2.19",
    "2.3": "2.20",
    "2.4": "2.20",
    "2.5": "2.21",
    "2.6": "2.21",
    "2.7": "2.26",
    "2.8": "2.27",
    "2.9": "2.27",
    "2.10": "2.27",
    "2.11": "2.28",
    "2.12": "2.29",
}
"""torch's wheels for CUDA 12 and newer to the NCCL that they were built with."""

_PYTORCH_CHANNEL_BUILD = re.compile(r"py3\.\d+_(cuda|cpu)")


def is_pytorch_channel_build(build: str) -> bool:
    """Return whether a build string is the pytorch channel's (`py3.11_cuda12.1_cudnn9.1.0_0`), also from a mirror."""
    return _PYTORCH_CHANNEL_BUILD.match(build) is not None


def older(version: str, than: str) -> bool:
    """Return whether a version is older than another; false for a text that is no version."""
    try:
        return Version(version) < Version(than)
    except InvalidVersion:
        return False


def companion(table: Mapping[str, str], torch: str, version: str) -> str | None:
    """Return the release of a companion for a torch, if `version` is another one; None if it is right.

    None also for a torch that the table does not have.
    """
    wanted = table.get(minor(torch))
    return wanted if wanted is not None and version and minor(version) != wanted else None


def torch_of(table: Mapping[str, str], version: str) -> str | None:
    """Return the newest torch that a companion's version belongs to; None if the table does not have it."""
    return next((torch for torch, each in reversed(list(table.items())) if each == minor(version)), None)
