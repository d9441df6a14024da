"""Compute capabilities of GPUs: which code runs on which, and what a generation can do.

The rules are those of the CUDA programming guide: machine code (`sm_86`) runs on GPUs of the same major version and the
same or a higher minor one; PTX (`compute_90`) is compiled by the driver for GPUs of the same or a higher capability.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Capability = tuple[int, int]

#: The first generation whose products compute in these formats: tensor cores for fp16 came before.
BF16: Capability = (8, 0)
TF32: Capability = (8, 0)
FLASH_ATTENTION: Capability = (8, 0)
CUDNN_ATTENTION: Capability = (8, 0)
FP8: Capability = (8, 9)
#: cuBLASLt multiplies int8 from Turing on.
INT8: Capability = (7, 5)

#: Triton compiles for GPUs from Volta on.
TRITON: Capability = (7, 0)


def how_it_runs(device: Capability, built: Sequence[str]) -> str | None:
    """What of a build's architectures (`sm_80`, `compute_90`) runs on a GPU: "machine code", "PTX", or None."""
    flags = [match for flag in built if (match := re.fullmatch(r"(sm|compute)_(\d+?)(\d)([af]?)", flag))]
    for kind, name in (("sm", "machine code"), ("compute", "PTX")):
        for flag in flags:
            major, minor, special = int(flag[2]), int(flag[3]), flag[4]
            # Code with features of one architecture (`sm_90a`) runs on that one alone.
            exact = special == "a" and (major, minor) == device
            older = (major, minor) <= device and (kind == "compute" or major == device[0]) and special != "a"
            if flag[1] == kind and (exact or older):
                return name
    return None


def lacks(device: Capability, needed: Capability, what: str) -> str | None:
    """The reason to skip a check that a GPU is too old for; None where it is not."""
    if device >= needed:
        return None
    return f"{what} needs compute capability {needed[0]}.{needed[1]}, this GPU has {device[0]}.{device[1]}"
