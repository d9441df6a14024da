"""Attention as it is trained, on the GPU: each of the four backends forced, forward and backward, in two formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchsuite import attention, capability, releases, skips
from torchsuite.precision import tf32
from torchsuite.tiers import Measure, check

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["MATH", "EFFICIENT_ATTENTION", "FLASH_ATTENTION", "CUDNN_ATTENTION"])
@check("attention has four implementations, each compiled for other GPUs; a missing one is replaced without a warning")
def test_attention(
    gpu: Any,
    backend: str,
    dtype: str,
    width: int,
    within_bounds: Callable[[dict[str, float]], None],
    measure: Measure,
) -> None:
    backends = releases.module("torch.nn.attention", "2.3")
    kind = getattr(backends.SDPBackend, backend, None)
    if kind is None:
        skips.skip(skips.Reason.RELEASE, "this torch does not know it")
    device = torch.cuda.get_device_capability(gpu)
    if dtype == "bf16" and (why := capability.lacks(device, capability.BF16, "bf16")):
        skips.skip(skips.Reason.GPU_TOO_OLD, why)
    if backend == "FLASH_ATTENTION":
        if not torch.backends.cuda.is_flash_attention_available():
            pytest.skip("the build has no flash attention")
        if why := capability.lacks(device, capability.FLASH_ATTENTION, "flash attention"):
            skips.skip(skips.Reason.GPU_TOO_OLD, why)
    needed_here = capability.CUDNN_ATTENTION if backend == "CUDNN_ATTENTION" else (0, 0)
    if why := capability.lacks(device, needed_here, "cuDNN's attention"):
        skips.skip(skips.Reason.GPU_TOO_OLD, why)
    ran, refused = [], []
    for case in attention.CASES:
        if case.groups > 1 and not attention.supports_groups():
            continue
        try:
            with backends.sdpa_kernel(kind), tf32(False):
                ratios = attention.train(gpu, DTYPES[dtype], width, case)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as refusal:
            # A backend may refuse masks and groups; a kernel that fails breaks the device, and the fixture reports it.
            refused.append(f"{case.describe()}: {str(refusal).splitlines()[0]}")
            continue
        ran.append(case)
        within_bounds({f"{case.describe()}_{name}": ratio for name, ratio in ratios.items()})
    measure("refused", refused)
    if backend == "CUDNN_ATTENTION" and not ran:
        # cuDNN decides by its version and by the GPU which shapes it takes; the headline does not depend on it.
        skips.skip(skips.Reason.RELEASE, f"cuDNN has no attention for this GPU: {refused[0]}")
    needed = {attention.Case(), attention.Case(causal=True)}
    assert needed <= set(ran), f"{backend} does not run: {'; '.join(refused)}"


FLEX = """
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

torch.manual_seed(12)
query, key, value, gradient = (torch.randn(1, 2, 256, 64, device="cuda", dtype=torch.float16) for _ in range(4))
for tensor in (query, key, value):
    tensor.requires_grad_()
mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 256, 256, device="cuda")
compiled = torch.compile(flex_attention, fullgraph=True)
compiled(query, key, value, block_mask=mask).backward(gradient)
wide = [tensor.detach().double().requires_grad_() for tensor in (query, key, value)]
exact = torch.nn.functional.scaled_dot_product_attention(*wide, is_causal=True)
exact.backward(gradient.double())
for tensor, other in zip((query, key, value), wide):
    # A few roundings to fp16 of sums of 256 terms of size 1.
    apart = (tensor.grad.double() - other.grad).norm() / other.grad.norm()
    assert apart < 16 * 2.0**-11, apart.item()
print("agrees")
"""


@check("FlexAttention is a kernel that torch.compile writes for each mask", seconds=240)
def test_flex_attention(gpu: Any, run_python: Callable[..., str]) -> None:
    if not attention.supports_groups():
        skips.skip(skips.Reason.RELEASE, "this torch has no FlexAttention")
    if why := capability.lacks(torch.cuda.get_device_capability(gpu), capability.FLASH_ATTENTION, "FlexAttention"):
        skips.skip(skips.Reason.GPU_TOO_OLD, why)
    assert run_python(FLEX, timeout=220).split()[-1] == "agrees"
