"""Formats of few bits, layouts and deterministic algorithms on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torchsuite import capability, formats, releases, skips
from torchsuite.precision import tf32
from torchsuite.tiers import Measure, check


@check("fp8 is converted by instructions of the GPU's, or by code that emulates them")
def test_fp8_codes(gpu: Any) -> None:
    wrong = [name for name, right in formats.decodes_fp8(gpu).items() if not right]
    assert not wrong, f"wrong: {', '.join(wrong)}"


@check("fp8 products are cuBLASLt's, with scales whose meaning has changed between releases")
def test_fp8_matmul(gpu: Any, measure: Measure) -> None:
    if why := capability.lacks(torch.cuda.get_device_capability(gpu), capability.FP8, "fp8"):
        skips.skip(skips.Reason.GPU_TOO_OLD, why)
    torch.manual_seed(27)
    a, b = (torch.randn(64, 128, device=gpu).to(torch.float8_e4m3fn) for _ in range(2))
    scales = torch.tensor(2.0, device=gpu), torch.tensor(0.5, device=gpu)
    result = torch._scaled_mm(a, b.t(), scale_a=scales[0], scale_b=scales[1], out_dtype=torch.float32)
    exact = a.double() @ b.double().t()
    # The inputs are exact. Hopper's fp8 units add with 14 bits or so: 2^-13 for each of 128 terms.
    bound = 128 * 2.0**-13 * (a.double().abs() @ b.double().abs().t())
    ratio = float(((result.double() - exact).abs() / bound).max())
    measure("error_over_bound", ratio)
    assert ratio <= 1


@check("images are stored channels last for speed, by cuDNN's kernels for that layout")
def test_channels_last(gpu: Any) -> None:
    with tf32(False):
        wrong = [name for name, right in formats.channels_last(gpu).items() if not right]
    assert not wrong, f"differs: {', '.join(wrong)}"


@check("layers in int8 run on tensor cores of their own")
def test_int8_layer(gpu: Any, measure: Measure) -> None:
    if why := capability.lacks(torch.cuda.get_device_capability(gpu), capability.INT8, "int8"):
        skips.skip(skips.Reason.GPU_TOO_OLD, why)
    ratio = formats.int8_matmul(gpu)
    measure("error_over_bound", ratio)
    assert ratio <= 1


@check("weights of which two in four are zero have products of their own, cuSPARSELt's or CUTLASS's")
def test_structured_sparsity(gpu: Any, measure: Measure) -> None:
    if why := capability.lacks(torch.cuda.get_device_capability(gpu), capability.BF16, "2:4 sparsity"):
        skips.skip(skips.Reason.GPU_TOO_OLD, why)
    sparse = releases.module("torch.sparse", "2.1")
    to_sparse = releases.attribute(sparse, "to_sparse_semi_structured", "2.1")
    torch.manual_seed(28)
    weights = torch.randint(1, 4, (128, 128), device=gpu).half()
    weights *= torch.tensor([1, 0, 0, 1], device=gpu).repeat(32).half()
    x = torch.randint(-3, 4, (128, 128), device=gpu).half()
    exact = weights.double() @ x.double()
    product = to_sparse(weights)
    measure("library", type(product).__name__)
    # Sums of 64 products up to 9 are whole numbers up to 576, which fp16 represents exactly.
    assert torch.equal((product @ x).double(), exact)


DETERMINISTIC = """
import os
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
import torch
torch.use_deterministic_algorithms(True)
torch.manual_seed(26)
index, source = torch.randint(0, 16, (50000,), device="cuda"), torch.randn(50000, device="cuda")
first = torch.zeros(16, device="cuda").index_add_(0, index, source)
for _ in range(5):
    assert torch.equal(torch.zeros(16, device="cuda").index_add_(0, index, source), first)
x = torch.randn(300, 300, device="cuda")
assert torch.equal(x @ x, x @ x)
try:
    where = torch.zeros(1, 1, 2, 2, device="cuda", dtype=torch.int64)
    torch.nn.functional.max_unpool2d(torch.randn(1, 1, 2, 2, device="cuda"), where, 2)
except RuntimeError as refusal:
    assert "deterministic" in str(refusal), refusal
    print("refused")
else:
    print("has become deterministic")
"""


@check(
    "atomic additions vary in order, and operations that cannot be repeated must raise an error",
    seconds=120,
)
def test_deterministic_algorithms(gpu: Any, run_python: Callable[..., str], measure: Measure) -> None:
    measure("max_unpool2d", run_python(DETERMINISTIC, timeout=110).strip())
