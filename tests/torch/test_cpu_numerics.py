"""Numbers against references in float64, within bounds that theory gives and not experience."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from torchsuite import numerics
from torchsuite.errors import U32, UBF16, worst
from torchsuite.tiers import Measure, check

F = torch.nn.functional
CPU = torch.device("cpu")

Require = Callable[[numerics.Ratios], None]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@check("a matrix product is what everything else is made of; TF32-like shortcuts and broken BLAS kernels show here")
def test_matmul(dtype: Any, within_bounds: Require) -> None:
    within_bounds(numerics.matmul(CPU, dtype))


@check("bf16 products run on other kernels (AMX, AVX512-BF16, or emulation) than fp32")
def test_matmul_bf16(within_bounds: Require) -> None:
    within_bounds(numerics.matmul_reduced(CPU, torch.bfloat16))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@check("convolutions and their gradients run on oneDNN or on NNPACK, not on BLAS")
def test_convolution(dimensions: int, within_bounds: Require) -> None:
    within_bounds(numerics.convolution(CPU, dimensions))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=["f32", "f64", "c64"])
@check("LAPACK comes from MKL, OpenBLAS or Accelerate; a missing symbol or a wrong integer width shows at first use")
def test_linear_algebra(dtype: Any, within_bounds: Require) -> None:
    within_bounds(numerics.linear_algebra(CPU, dtype))


@pytest.mark.parametrize("size", [64, 120, 97], ids=["power-of-two", "mixed-radix", "prime"])
@check("FFT comes from MKL or pocketfft")
def test_fft(size: int, within_bounds: Require) -> None:
    within_bounds(numerics.fft(CPU, size))


@check("sums of many numbers lose digits when they are added one after the other")
def test_reductions(within_bounds: Require) -> None:
    # One by one, fp32 stops counting at 2^24; torch sums in cascades and gets this exactly.
    count = (1 << 24) + (1 << 20)
    assert torch.ones(1).expand(count).sum().item() == count
    within_bounds(numerics.sums(CPU))
    y = torch.randn(37, 53)
    assert torch.equal(y.argmin(0), torch.from_numpy(y.numpy().argmin(axis=0)))
    assert torch.equal(y.sort(dim=1).values, torch.from_numpy(np.sort(y.numpy(), axis=1)))
    assert torch.allclose(y.double().var(0), torch.from_numpy(y.double().numpy().var(axis=0, ddof=1)), rtol=1e-12)


@check("softmax and logsumexp have to survive numbers whose exponential overflows")
def test_softmax(within_bounds: Require) -> None:
    within_bounds(numerics.softmax(CPU))
    x = torch.randn(11, 257) * 1e4
    assert torch.allclose(x.double().logsumexp(1), x.logsumexp(1).double(), rtol=1e-5, atol=1e-5)
    assert torch.tensor([1e4, 1e4]).logsumexp(0).item() == pytest.approx(1e4 + math.log(2), rel=1e-7)


@check("vectorised elementary functions (SLEEF, MKL VML) are right to a few units in the last place")
def test_elementary_functions(within_bounds: Require) -> None:
    within_bounds(numerics.elementary(CPU))


@check("attention, normalisation and recurrent layers have fused CPU kernels of their own")
def test_fused_layers(within_bounds: Require) -> None:
    within_bounds({f"attention_{name}": ratio for name, ratio in numerics.attention(CPU).items()})
    within_bounds(numerics.normalisation(CPU))
    within_bounds({f"lstm_{name}": ratio for name, ratio in numerics.recurrent(CPU).items()})


@check("sparse products use MKL or hand-written kernels")
def test_sparse(within_bounds: Require) -> None:
    within_bounds(numerics.sparse(CPU))


@check("images are resized on CPU in every data pipeline")
def test_interpolation() -> None:
    image = torch.rand(1, 2, 6, 7)
    resized = F.interpolate(image, size=(11, 13), mode="bilinear", align_corners=True)
    by_hand = torch.einsum("ph,qw,bchw->bcpq", _hat_weights(6, 11), _hat_weights(7, 13), image.double())
    # Two interpolations of four roundings each, and positions that are rounded to fp32.
    assert torch.allclose(resized.double(), by_hand, atol=64 * U32)
    twice = F.interpolate(image, scale_factor=2, mode="nearest")
    assert torch.equal(twice, image.repeat_interleave(2, -1).repeat_interleave(2, -2))


def _hat_weights(size: int, target: int) -> Any:
    """Weights of linear interpolation from `size` to `target` points that share their end points."""
    position = torch.arange(target, dtype=torch.float64) * (size - 1) / (target - 1)
    return (1 - (position[:, None] - torch.arange(size, dtype=torch.float64)).abs()).clamp_min(0)


@check("embedding, gather and scatter are where index types meet; a bad bound must be an error and not a crash")
def test_indexing(within_bounds: Require) -> None:
    within_bounds(numerics.indexing(CPU))
    with pytest.raises(IndexError):
        F.embedding(torch.tensor([5]), torch.zeros(5, 2))


@check("int8 is the other way to be fast on CPU")
def test_quantization(measure: Measure) -> None:
    x = torch.linspace(-1, 1, 1001)
    scale = 2 / 255
    quantized = torch.quantize_per_tensor(x, scale=scale, zero_point=0, dtype=torch.qint8)
    error = (quantized.dequantize() - x).abs()
    inside = x.abs() <= 127 * scale
    # Rounding to the grid is off by half a step, and a rounding of fp32 beside it.
    assert error[inside].max().item() <= scale / 2 * (1 + 1e-4)
    # Products of int8 have CPU kernels since torch 2.5.
    has_product = torch._C._dispatch_has_kernel_for_dispatch_key("aten::_int_mm", "CPU")
    measure("int8_matmul", has_product)
    if has_product:
        a, b = (torch.randint(-128, 128, (32, 32), dtype=torch.int8) for _ in range(2))
        assert torch.equal(torch._int_mm(a, b).long(), a.long() @ b.long())


@check("autocast picks bf16 for products and keeps fp32 where digits matter")
def test_autocast() -> None:
    layer = torch.nn.Linear(64, 8)
    x = torch.randn(16, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        z = y.softmax(-1)
    assert y.dtype == torch.bfloat16
    assert z.dtype in (torch.float32, torch.bfloat16)
    with torch.no_grad():
        exact = layer.double()(x.double())
        scale = x.abs().double() @ layer.weight.abs().T + layer.bias.abs()
    # Inputs and weights are rounded to bf16 (2u), the sum and the bias as in a bf16 product (4u).
    assert worst(y.double() - exact, 6 * UBF16 * scale) <= 1
