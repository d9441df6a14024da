"""Attention as it is trained, on the CPU: each backend forced, forward and backward, in three formats."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from torchsuite import attention, releases, skips
from torchsuite.tiers import Measure, check

CPU = torch.device("cpu")

# One thread: the computations are too small to share.
pytestmark = pytest.mark.usefixtures("one_thread")

#: The CPU's fused kernel is called flash attention.
BACKENDS = {"math": "MATH", "flash": "FLASH_ATTENTION"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
@check("attention has a fused kernel on CPUs for each format, with a backward by hand, which trains a wrong model")
def test_attention(
    backend: str, dtype: str, width: int, within_bounds: Callable[[dict[str, float]], None], measure: Measure
) -> None:
    backends = releases.module("torch.nn.attention", "2.3")
    kind = getattr(backends.SDPBackend, BACKENDS[backend])
    ran, refused = [], []
    for case in attention.CASES:
        if case.groups > 1 and not attention.supports_groups():
            continue
        try:
            with backends.sdpa_kernel(kind):
                ratios = attention.train(CPU, DTYPES[dtype], width, case)
        except RuntimeError as refusal:
            refused.append(f"{case.describe()}: {str(refusal).splitlines()[0]}")
            continue
        ran.append(case)
        within_bounds({f"{case.describe()}_{name}": ratio for name, ratio in ratios.items()})
    measure("refused", refused)
    # What a training run of a language model does; the rest is the kernel's to refuse.
    needed = {attention.Case(), attention.Case(causal=True)}
    if not needed & set(ran) and dtype == "fp16":
        skips.skip(skips.Reason.RELEASE, f"this torch has no {backend} attention in fp16 on CPUs")
    assert needed <= set(ran), f"{backend} attention does not run: {'; '.join(refused)}"
