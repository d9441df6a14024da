"""TF32, switched on and off: products and convolutions in fp32 that drop digits for speed.

Only the older of torch's two sets of switches is used: they may not be mixed in one process, and torch.compile still
reads the older one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Products and convolutions with TF32 where the GPU has it, or without; as it was, afterwards."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
