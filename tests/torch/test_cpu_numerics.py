"""Numbers against references in float64, within bounds that theory gives and not experience."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from torchsuite.errors import LAPACK_THRESHOLD, U32, UBF16, gamma, unit, worst
from torchsuite.tiers import Measure, check

F = torch.nn.functional


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@check("a matrix product is what everything else is made of; TF32-like shortcuts and broken BLAS kernels show here")
def test_matmul(dtype: Any, measure: Measure) -> None:
    # Sizes around the blocking of kernels: single elements, odd edges, whole tiles.
    ratios = []
    for rows, inner, columns in [(1, 1, 1), (3, 5, 7), (17, 64, 33), (64, 64, 64), (129, 65, 31), (1, 64, 256)]:
        a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
        exact = np.matmul(a.numpy().astype(np.longdouble), b.numpy().astype(np.longdouble))
        error = torch.from_numpy(((a @ b).numpy() - exact).astype(np.float64))
        # |fl(AB) - AB| <= gamma_k |A||B| for any order of summation (Higham §3.5). The reference has an error of its
        # own, and as large a one for float64 where long double is no longer than double.
        bound = gamma(inner, unit(dtype)) + gamma(inner, float(np.finfo(np.longdouble).eps) / 2)
        ratios.append(worst(error, bound * (a.abs().double() @ b.abs().double())))
    measure("error_over_bound", max(ratios))
    assert max(ratios) <= 1


@check("bf16 products run on other kernels (AMX, AVX512-BF16, or emulation) than fp32")
def test_matmul_bf16(measure: Measure) -> None:
    a, b = torch.randn(33, 64).bfloat16(), torch.randn(64, 65).bfloat16()
    exact, scale = a.double() @ b.double(), a.abs().double() @ b.abs().double()
    # Accumulated in fp32 and rounded to bf16 once; a kernel that splits the 64 terms may round up to four times.
    ratio = worst((a @ b).double() - exact, 4 * UBF16 * scale)
    measure("error_over_bound", ratio)
    assert ratio <= 1


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@check("convolutions run on oneDNN or on NNPACK, not on BLAS")
def test_convolution(dimensions: int, measure: Measure) -> None:
    convolve: Callable[..., Any] = (F.conv1d, F.conv2d, F.conv3d)[dimensions - 1]
    x = torch.randn(2, 4, *[9] * dimensions)
    weight = torch.randn(6, 4, *[3] * dimensions)
    exact = _convolution_by_hand(x.double(), weight.double())
    scale = _convolution_by_hand(x.abs().double(), weight.abs().double())
    result = convolve(x, weight, padding=1)
    # Each output sums 4·3^d products. Winograd's transforms, which a kernel may use, lose up to a digit: hence 16.
    ratio = worst(result.double() - exact, 16 * gamma(4 * 3**dimensions, U32) * scale)
    measure("error_over_bound", ratio)
    assert ratio <= 1
    strided = convolve(x, weight, padding=1, stride=2)
    every_other = (slice(None), slice(None), *[slice(None, None, 2)] * dimensions)
    assert worst(strided.double() - exact[every_other], 16 * gamma(4 * 3**dimensions, U32) * scale[every_other]) <= 1


def _convolution_by_hand(x: Any, weight: Any) -> Any:
    """A zero-padded convolution with a 3^d kernel as a sum of shifted products, in the dtype of its input."""
    dimensions, size = x.dim() - 2, x.shape[-1]
    padded = F.pad(x, [1, 1] * dimensions)
    total = torch.zeros(x.shape[0], weight.shape[0], *x.shape[2:], dtype=x.dtype)
    for offset in np.ndindex(*[3] * dimensions):
        window = (slice(None), slice(None), *[slice(start, start + size) for start in offset])
        tap = (slice(None), slice(None), *offset)
        total += torch.einsum("bi...,oi->bo...", padded[window], weight[tap])
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=["f32", "f64", "c64"])
@check("LAPACK comes from MKL, OpenBLAS or Accelerate; a missing symbol or a wrong integer width shows at first use")
def test_linear_algebra(dtype: Any, measure: Measure) -> None:
    n = 40
    a = torch.randn(n, n, dtype=dtype)
    identity = torch.eye(n, dtype=dtype)
    norm, tolerance = torch.linalg.norm(a), LAPACK_THRESHOLD * n * 2 * unit(dtype)

    def residual(name: str, difference: Any, scale: Any) -> None:
        ratio = float(torch.linalg.norm(difference) / scale) / tolerance
        measure(name, ratio)
        assert ratio <= 1, f"{name}: the residual is {ratio:.3g} times what LAPACK's own tests allow"

    b = torch.randn(n, 3, dtype=dtype)
    x = torch.linalg.solve(a, b)
    residual("solve", a @ x - b, norm * torch.linalg.norm(x))
    residual("inverse", a @ torch.linalg.inv(a) - identity, norm * torch.linalg.norm(torch.linalg.inv(a)))

    u, s, vh = torch.linalg.svd(a)
    residual("svd", u @ torch.diag(s).to(dtype) @ vh - a, norm)
    residual("svd_left", u.mH @ u - identity, 1.0)
    assert bool((s[:-1] >= s[1:]).all())

    q, r = torch.linalg.qr(a)
    residual("qr", q @ r - a, norm)
    residual("qr_orthogonal", q.mH @ q - identity, 1.0)

    hermitian = a + a.mH
    values, vectors = torch.linalg.eigh(hermitian)
    residual("eigh", hermitian @ vectors - vectors * values, torch.linalg.norm(hermitian))

    positive = a @ a.mH + n * identity
    lower = torch.linalg.cholesky(positive)
    residual("cholesky", lower @ lower.mH - positive, torch.linalg.norm(positive))

    general, right = torch.linalg.eig(a)
    residual("eig", a.to(right.dtype) @ right - right * general, norm)

    # A consistent overdetermined system has its solution back; the matrix is well conditioned by construction.
    tall = torch.cat([a / norm, identity])
    solution = torch.randn(n, 2, dtype=dtype)
    residual("lstsq", torch.linalg.lstsq(tall, tall @ solution).solution - solution, torch.linalg.norm(solution))

    sign, logarithm = torch.linalg.slogdet(positive)
    by_cholesky = 2 * lower.diagonal().real.log().sum()
    assert abs(sign - 1) <= tolerance
    assert abs(logarithm - by_cholesky) <= tolerance * abs(by_cholesky)


@pytest.mark.parametrize("size", [64, 120, 97], ids=["power-of-two", "mixed-radix", "prime"])
@check("FFT comes from MKL or pocketfft")
def test_fft(size: int, measure: Measure) -> None:
    x = torch.randn(8, size, dtype=torch.complex64)
    index = torch.arange(size, dtype=torch.float64)
    dft = torch.exp(-2j * math.pi * torch.outer(index, index).remainder(size) / size)
    exact = x.to(torch.complex128) @ dft
    # O(u log n) in norm (Higham §24.1); primes go through a longer convolution, hence the constant.
    bound = 20 * U32 * math.log2(size)
    error = float(torch.linalg.norm(torch.fft.fft(x) - exact) / torch.linalg.norm(exact))
    back = float(torch.linalg.norm(torch.fft.ifft(torch.fft.fft(x)) - x) / torch.linalg.norm(x))
    real = x.real.contiguous()
    halves = torch.fft.rfft(real) - torch.fft.fft(real)[:, : size // 2 + 1]
    measure("error_over_bound", error / bound)
    assert error <= bound
    assert back <= 2 * bound
    assert float(torch.linalg.norm(halves) / torch.linalg.norm(real)) <= 2 * bound * math.sqrt(size)
    plane = torch.randn(12, 10)
    assert torch.allclose(torch.fft.irfft2(torch.fft.rfft2(plane), s=plane.shape), plane, atol=1e-5)


@check("sums of many numbers lose digits when they are added one after the other")
def test_reductions(measure: Measure) -> None:
    # One by one, fp32 stops counting at 2^24; torch sums in cascades and gets this exactly.
    count = (1 << 24) + (1 << 20)
    assert torch.ones(1).expand(count).sum().item() == count
    x = torch.rand(1_000_000)
    exact = math.fsum(x.tolist())
    # Pairwise summation: log2(n) additions on any path, four accumulators and a serial stretch of 512 beside it.
    relative = abs(x.sum().item() - exact) / exact
    measure("sum", relative)
    assert relative <= gamma(20 + 512, U32)
    assert abs(x.mean().item() * 1e6 - exact) / exact <= gamma(20 + 513, U32)
    y = torch.randn(37, 53)
    assert torch.equal(y.amax(1), torch.from_numpy(y.numpy().max(axis=1)))
    assert torch.equal(y.argmin(0), torch.from_numpy(y.numpy().argmin(axis=0)))
    assert torch.equal(y.sort(dim=1).values, torch.from_numpy(np.sort(y.numpy(), axis=1)))
    assert torch.allclose(y.double().var(0), torch.from_numpy(y.double().numpy().var(axis=0, ddof=1)), rtol=1e-12)
    assert torch.equal(torch.arange(1000).cumsum(0), torch.from_numpy(np.arange(1000).cumsum()))


@check("softmax and logsumexp have to survive numbers whose exponential overflows")
def test_softmax() -> None:
    for scale in (1.0, 100.0, 1e4):
        x = torch.randn(11, 257) * scale
        exact = x.double() - x.double().amax(1, keepdim=True)
        exact = exact.exp() / exact.exp().sum(1, keepdim=True)
        # Every result is exp() of a difference that is exact to one rounding of |x|, summed over 257 terms.
        bound = (gamma(257 + 8, U32) + 2 * U32 * x.abs().max().double()) * exact + 1e-37
        assert worst(F.softmax(x, 1).double() - exact, bound) <= 1
        assert torch.allclose(x.double().logsumexp(1), x.logsumexp(1).double(), rtol=1e-5, atol=1e-5)
    assert torch.tensor([1e4, 1e4]).logsumexp(0).item() == pytest.approx(1e4 + math.log(2), rel=1e-7)


@check("vectorised elementary functions (SLEEF, MKL VML) are right to a few units in the last place")
def test_elementary_functions(measure: Measure) -> None:
    x = torch.linspace(-8, 8, 10_007)
    positive = torch.logspace(-30, 30, 10_007)
    functions: dict[str, tuple[Callable[[Any], Any], Any]] = {
        "exp": (torch.exp, x), "log": (torch.log, positive), "sin": (torch.sin, x), "cos": (torch.cos, x),
        "tanh": (torch.tanh, x), "erf": (torch.erf, x), "sqrt": (torch.sqrt, positive), "sigmoid": (torch.sigmoid, x),
        "log1p": (torch.log1p, positive), "expm1": (torch.expm1, x), "atan": (torch.atan, x),
    }  # fmt: skip
    for name, (function, values) in functions.items():
        exact = function(values.double())
        # SLEEF (u10, u35) and VML promise under 4 units in the last place; zeros need an absolute part beside it.
        ratio = worst(function(values).double() - exact, 8 * U32 * exact.abs() + 4 * U32 * 1e-3)
        measure(name, ratio)
        assert ratio <= 1, f"{name} is wrong by {ratio:.3g} times the bound"


@check("attention and layer normalisation have fused CPU kernels of their own")
def test_fused_layers() -> None:
    query, key, value = (torch.randn(2, 4, 19, 16) for _ in range(3))
    exact = (query.double() @ key.double().mT / 4).softmax(-1) @ value.double()
    result = F.scaled_dot_product_attention(query, key, value)
    # Two products of 16 and 19 terms around a softmax whose input is off by gamma_16·|scores|.
    scores = (query.abs().double() @ key.abs().double().mT / 4).max()
    bound = (gamma(64, U32) + 2 * gamma(18, U32) * scores) * value.abs().max().double()
    assert worst(result.double() - exact, bound.expand_as(exact)) <= 1
    x = torch.randn(5, 64)
    wide = x.double()
    normal = (wide - wide.mean(1, keepdim=True)) / (wide.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(F.layer_norm(x, (64,)).double(), normal, atol=gamma(64, U32) * 16)


@check("sparse products use MKL or hand-written kernels")
def test_sparse() -> None:
    dense = torch.randn(50, 40) * (torch.rand(50, 40) < 0.1)
    right = torch.randn(40, 6)
    exact = dense.double() @ right.double()
    bound = gamma(40, U32) * (dense.abs().double() @ right.abs().double()) + 1e-30
    for sparse in (dense.to_sparse(), dense.to_sparse_csr()):
        assert torch.equal(sparse.to_dense(), dense)
        assert worst((sparse @ right).double() - exact, bound) <= 1


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
def test_indexing() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    index = torch.tensor([[0, 1], [2, 3], [1, 0]])
    assert torch.equal(x.gather(1, index), torch.tensor([[0.0, 1.0], [6.0, 7.0], [9.0, 8.0]]))
    added = torch.zeros(3, 4).scatter_add_(1, index, torch.ones(3, 2))
    assert added.sum().item() == 6
    assert torch.equal(x[torch.tensor([True, False, True])], x[[0, 2]])
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
