"""Computations on a device against references in float64 on the CPU, within bounds that theory gives.

Every function returns ratios of error to bound by name: above 1 a bound is broken. The CPU's checks and the GPU's run
the same functions; where a GPU rounds otherwise than IEEE 754 asks, its units of rounding are named here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from torchsuite.errors import LAPACK_THRESHOLD, U32, gamma, unit, worst

F = torch.nn.functional

#: TF32 keeps 10 bits behind the point; tensor cores cut inputs off and do not round them. NVIDIA, "CUDA C++
#: Programming Guide", alternate floating point; Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021.
UTF32 = 2.0**-10

#: Tensor cores cut off sums in fp32, too: one bit worse than rounding (Fasi et al.).
UTENSOR = 2 * U32

#: Sizes around the blocking of kernels: single elements, odd edges, whole tiles.
SHAPES = ((1, 1, 1), (3, 5, 7), (17, 64, 33), (64, 64, 64), (129, 65, 31), (1, 64, 256))

#: And those that keep a GPU's tensor cores busy.
LARGE_SHAPES = (*SHAPES, (256, 512, 256), (1000, 200, 500))

Ratios = dict[str, float]


def matmul(device: Any, dtype: Any, shapes: tuple[tuple[int, int, int], ...] = SHAPES) -> Ratios:
    """Products in float32 or float64: |fl(AB) - AB| <= gamma_k |A||B| for any order of summation (Higham §3.5).

    The reference has an error, too, and as large a one for float64 where long double is no longer than double.
    """
    ratios = []
    for rows, inner, columns in shapes:
        a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
        exact = np.matmul(a.numpy().astype(np.longdouble), b.numpy().astype(np.longdouble))
        result = (a.to(device) @ b.to(device)).cpu()
        error = torch.from_numpy((result.numpy() - exact).astype(np.float64))
        bound = gamma(inner, unit(dtype)) + gamma(inner, float(np.finfo(np.longdouble).eps) / 2)
        ratios.append(worst(error, bound * (a.abs().double() @ b.abs().double())))
    return {"error_over_bound": max(ratios)}


def matmul_reduced(
    device: Any, dtype: Any, shapes: tuple[tuple[int, int, int], ...] = ((33, 64, 65),), partial_sums: int = 4
) -> Ratios:
    """Products of bf16 or fp16: accumulated in fp32 and rounded once.

    A kernel that splits the terms may round its partial sums, too, of which there are few.
    """
    ratios = []
    for rows, inner, columns in shapes:
        a, b = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
        exact, scale = a.double() @ b.double(), a.abs().double() @ b.abs().double()
        result = (a.to(device) @ b.to(device)).cpu().double()
        ratios.append(worst(result - exact, (partial_sums * unit(dtype) + gamma(2 * inner, UTENSOR)) * scale))
    return {"error_over_bound": max(ratios)}


def matmul_tf32(device: Any, shapes: tuple[tuple[int, int, int], ...] = LARGE_SHAPES) -> Ratios:
    """Products in fp32 that may use TF32: both factors lose bits, the sums are in fp32."""
    ratios = []
    for rows, inner, columns in shapes:
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        exact, scale = a.double() @ b.double(), a.abs().double() @ b.abs().double()
        bound = (2 * UTF32 + UTF32**2 + gamma(2 * inner, UTENSOR)) * scale
        ratios.append(worst((a.to(device) @ b.to(device)).cpu().double() - exact, bound))
    return {"error_over_bound": max(ratios)}


def convolution(device: Any, dimensions: int, lost: float = 0.0, channels: tuple[int, int] = (4, 6)) -> Ratios:
    """A zero-padded convolution in fp32 and both of its gradients; `lost` is what each factor may lose before.

    Each output sums inputs·3^d products. Winograd's transforms, which a kernel may use, lose up to a digit: hence 16.
    """
    convolve: Callable[..., Any] = (F.conv1d, F.conv2d, F.conv3d)[dimensions - 1]
    inputs, outputs = channels
    x = torch.randn(2, inputs, *[9] * dimensions)
    weight = torch.randn(outputs, inputs, *[3] * dimensions)
    wide = [tensor.double().requires_grad_() for tensor in (x, weight)]
    scale = [tensor.double().abs().requires_grad_() for tensor in (x, weight)]
    exact, size = convolution_by_hand(*wide), convolution_by_hand(*scale)
    here = [tensor.to(device).requires_grad_() for tensor in (x, weight)]
    result = convolve(*here, padding=1)

    def ratio(computed: Any, right: Any, magnitude: Any, terms: int) -> float:
        bound = 16 * (2 * lost + gamma(terms, UTENSOR if lost else U32)) * magnitude.detach()
        return worst(computed.detach().cpu().double() - right.detach(), bound)

    taps = 3**dimensions
    ratios = {"forward": ratio(result, exact, size, inputs * taps)}
    every_other = (slice(None), slice(None), *[slice(None, None, 2)] * dimensions)
    strided = convolve(*here, padding=1, stride=2)
    ratios["strided"] = ratio(strided, exact[every_other], size[every_other], inputs * taps)

    # The gradient of a sum of outputs, weighted by whole numbers, which every format represents exactly.
    direction = torch.randint(-4, 5, result.shape).float()
    result.backward(direction.to(device))
    exact.backward(direction.double())
    size.backward(direction.double().abs())
    terms = {"input_gradient": outputs * taps, "weight_gradient": 2 * 9**dimensions}
    for name, mine, right, magnitude in zip(terms, here, wide, scale, strict=True):
        ratios[name] = ratio(mine.grad, right.grad, magnitude.grad, terms[name])
    return ratios


def convolution_by_hand(x: Any, weight: Any) -> Any:
    """A zero-padded convolution with a 3^d kernel as a sum of shifted products, in the dtype of its input."""
    dimensions, size = x.dim() - 2, x.shape[-1]
    padded = F.pad(x, [1, 1] * dimensions)
    total = torch.zeros(x.shape[0], weight.shape[0], *x.shape[2:], dtype=x.dtype)
    for offset in np.ndindex(*[3] * dimensions):
        window = (slice(None), slice(None), *[slice(start, start + size) for start in offset])
        tap = (slice(None), slice(None), *offset)
        total = total + torch.einsum("bi...,oi->bo...", padded[window], weight[tap])
    return total


def convolution_reduced(device: Any, dtype: Any) -> Ratios:
    """A convolution in bf16 or fp16, whose 16 channels suit tensor cores: sums in fp32, rounded a few times."""
    x, weight = torch.randn(2, 16, 12, 12).to(dtype), torch.randn(16, 16, 3, 3).to(dtype)
    exact = convolution_by_hand(x.double(), weight.double())
    scale = convolution_by_hand(x.double().abs(), weight.double().abs())
    result = F.conv2d(x.to(device), weight.to(device), padding=1).cpu().double()
    # Winograd's transforms round in the format itself, and lose a digit there.
    return {"error_over_bound": worst(result - exact, (16 * unit(dtype) + gamma(2 * 144, UTENSOR)) * scale)}


def linear_algebra(device: Any, dtype: Any, general_eigenvalues: bool = True) -> Ratios:
    """Factorisations by their residuals, against what LAPACK's own tests allow.

    The residuals are computed on the CPU in the higher precision, so that a wrong product hides nothing.
    """
    n = 40
    wide = torch.complex128 if dtype.is_complex else torch.float64
    a = torch.randn(n, n, dtype=dtype)
    tolerance = LAPACK_THRESHOLD * n * 2 * unit(dtype)
    norm = torch.linalg.norm(a.to(wide))
    ratios: Ratios = {}

    def residual(name: str, difference: Any, scale: Any) -> None:
        ratios[name] = float(torch.linalg.norm(difference) / scale) / tolerance

    there, exact, identity = a.to(device), a.to(wide), torch.eye(n, dtype=wide)
    b = torch.randn(n, 3, dtype=dtype)
    x = _wide(torch.linalg.solve(there, b.to(device)), wide)
    residual("solve", exact @ x - b.to(wide), norm * torch.linalg.norm(x))
    inverse = _wide(torch.linalg.inv(there), wide)
    residual("inverse", exact @ inverse - identity, norm * torch.linalg.norm(inverse))

    u, s, vh = torch.linalg.svd(there)
    u, vh = _wide(u, wide), _wide(vh, wide)
    residual("svd", u @ torch.diag(s.cpu()).to(wide) @ vh - exact, norm)
    residual("svd_left", u.mH @ u - identity, 1.0)
    ratios["svd_order"] = 0.0 if bool((s[:-1] >= s[1:]).all()) else math.inf

    q, r = (_wide(part, wide) for part in torch.linalg.qr(there))
    residual("qr", q @ r - exact, norm)
    residual("qr_orthogonal", q.mH @ q - identity, 1.0)

    hermitian = a + a.mH
    values, vectors = torch.linalg.eigh(hermitian.to(device))
    vectors = _wide(vectors, wide)
    residual("eigh", hermitian.to(wide) @ vectors - vectors * values.cpu(), torch.linalg.norm(hermitian))

    positive = a @ a.mH + n * torch.eye(n, dtype=dtype)
    lower = _wide(torch.linalg.cholesky(positive.to(device)), wide)
    residual("cholesky", lower @ lower.mH - positive.to(wide), torch.linalg.norm(positive))

    if general_eigenvalues:
        general, right = (_wide(part, torch.complex128) for part in torch.linalg.eig(there))
        residual("eig", exact.to(right.dtype) @ right - right * general, norm)

    # A consistent overdetermined system has its solution back; the matrix is well conditioned by construction.
    tall = torch.cat([a / norm.to(a.real.dtype), torch.eye(n, dtype=dtype)])
    solution = torch.randn(n, 2, dtype=dtype)
    right_side = tall.to(wide) @ solution.to(wide)
    found = torch.linalg.lstsq(tall.to(device), right_side.to(dtype).to(device)).solution
    residual("lstsq", _wide(found, wide) - solution.to(wide), torch.linalg.norm(solution))

    sign, logarithm = (part.cpu() for part in torch.linalg.slogdet(positive.to(device)))
    by_cholesky = 2 * lower.diagonal().real.log().sum()
    ratios["slogdet_sign"] = float((sign - 1).abs()) / tolerance
    ratios["slogdet"] = float((logarithm - by_cholesky).abs() / by_cholesky.abs()) / tolerance
    return ratios


def _wide(tensor: Any, dtype: Any) -> Any:
    return tensor.cpu().to(dtype)


def fft(device: Any, size: int) -> Ratios:
    """Fourier transforms against the matrix of the definition: O(u log n) in norm (Higham §24.1).

    Primes go through a longer convolution, hence the constant.
    """
    x = torch.randn(8, size, dtype=torch.complex64)
    index = torch.arange(size, dtype=torch.float64)
    dft = torch.exp(-2j * math.pi * torch.outer(index, index).remainder(size) / size)
    exact = x.to(torch.complex128) @ dft
    bound = 20 * U32 * math.log2(size)
    there = x.to(device)
    forward = torch.fft.fft(there)
    real = x.real.contiguous().to(device)
    halves = torch.fft.rfft(real) - torch.fft.fft(real)[:, : size // 2 + 1]
    plane = torch.randn(12, 10).to(device)
    around = torch.fft.irfft2(torch.fft.rfft2(plane), s=plane.shape) - plane
    return {
        "forward": _norm(forward.cpu() - exact) / _norm(exact) / bound,
        "there_and_back": _norm(torch.fft.ifft(forward).cpu() - x) / _norm(x) / (2 * bound),
        "real": _norm(halves) / _norm(real) / (2 * bound * math.sqrt(size)),
        "plane": _norm(around) / _norm(plane) / (2 * 20 * U32 * math.log2(plane.numel())),
    }


def _norm(tensor: Any) -> float:
    return float(torch.linalg.norm(tensor))


def sums(device: Any) -> Ratios:
    """Sums of many numbers, which lose digits when they are added one after the other.

    Pairwise: log2(n) additions on any path, with accumulators and a serial stretch of 512 beside it.
    """
    x = torch.rand(1_000_000)
    exact = math.fsum(x.tolist())
    there = x.to(device)
    whole = (torch.arange(1 << 20) % 7).to(device)
    y = torch.randn(37, 53, dtype=torch.float64)
    return {
        "sum": abs(there.sum().item() - exact) / exact / gamma(20 + 512, U32),
        "mean": abs(there.mean().item() * 1e6 - exact) / exact / gamma(20 + 513, U32),
        "whole_numbers": 0.0 if whole.sum().item() == sum(n % 7 for n in range(1 << 20)) else math.inf,
        "extremes": 0.0 if torch.equal(y.to(device).amax(1).cpu(), y.amax(1)) else math.inf,
        "sorted": 0.0 if torch.equal(y.to(device).sort(dim=1).values.cpu(), y.sort(dim=1).values) else math.inf,
        "running": 0.0 if torch.equal(whole.cumsum(0).cpu(), whole.cpu().cumsum(0)) else math.inf,
        "variance": worst(y.to(device).var(0).cpu() - y.var(0), 1e-12 * y.var(0)),
    }


def elementary(device: Any) -> Ratios:
    """Elementary functions in fp32, promised right to under 4 units in the last place.

    By SLEEF (u10, u35) and VML on the CPU, by the table of the CUDA C++ Programming Guide on GPUs; zeros need an
    absolute part beside it.
    """
    x = torch.linspace(-8, 8, 10_007)
    positive = torch.logspace(-30, 30, 10_007)
    functions: dict[str, tuple[Callable[[Any], Any], Any]] = {
        "exp": (torch.exp, x), "log": (torch.log, positive), "sin": (torch.sin, x), "cos": (torch.cos, x),
        "tanh": (torch.tanh, x), "erf": (torch.erf, x), "sqrt": (torch.sqrt, positive), "sigmoid": (torch.sigmoid, x),
        "log1p": (torch.log1p, positive), "expm1": (torch.expm1, x), "atan": (torch.atan, x),
    }  # fmt: skip
    ratios = {}
    for name, (function, values) in functions.items():
        exact = function(values.double())
        error = function(values.to(device)).cpu().double() - exact
        ratios[name] = worst(error, 8 * U32 * exact.abs() + 4 * U32 * 1e-3)
    return ratios


def softmax(device: Any) -> Ratios:
    """softmax of numbers whose exponential overflows: exp() of a difference that is exact to one rounding of |x|."""
    ratios = {}
    for scale in (1.0, 100.0, 1e4):
        x = torch.randn(11, 257) * scale
        exact = x.double() - x.double().amax(1, keepdim=True)
        exact = exact.exp() / exact.exp().sum(1, keepdim=True)
        bound = (gamma(257 + 8, U32) + 2 * U32 * x.abs().max().double()) * exact + 1e-37
        ratios[f"scale_{scale:g}"] = worst(F.softmax(x.to(device), 1).cpu().double() - exact, bound)
    return ratios


def attention(device: Any, dtype: Any = torch.float32, width: int = 16) -> Ratios:
    """Fused attention: two products of `width` and 19 terms around a softmax, whose input is off by gamma·|scores|."""
    query, key, value = (torch.randn(2, 4, 19, width).to(dtype) for _ in range(3))
    exact = (query.double() @ key.double().mT / math.sqrt(width)).softmax(-1) @ value.double()
    result = F.scaled_dot_product_attention(query.to(device), key.to(device), value.to(device)).cpu()
    scores = (query.abs().double() @ key.abs().double().mT / math.sqrt(width)).max()
    rounding = gamma(64, U32) + 2 * gamma(width + 2, U32) * scores
    if dtype != torch.float32:
        # Weights are rounded to the format between the products, and so is the result; sums are in fp32.
        rounding = 4 * unit(dtype) + 2 * gamma(2 * width, UTENSOR) * scores + gamma(64, UTENSOR)
    bound = rounding * value.abs().max().double()
    return {"error_over_bound": worst(result.double() - exact, bound.expand_as(exact))}


def normalisation(device: Any) -> Ratios:
    """Layer and batch normalisation: a mean and a variance over 64 terms, and a division."""
    x = torch.randn(64, 64)
    wide, bound = x.double(), torch.full((64, 64), gamma(64, U32) * 16).double()
    layer = (wide - wide.mean(1, keepdim=True)) / (wide.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    batch = (wide - wide.mean(0)) / (wide.var(0, correction=0) + 1e-5).sqrt()
    there = x.to(device)
    by_batch = F.batch_norm(there, None, None, training=True)
    return {
        "layer": worst(F.layer_norm(there, (64,)).cpu().double() - layer, bound),
        "batch": worst(by_batch.cpu().double() - batch, bound),
    }


def recurrent(device: Any) -> Ratios:
    """An LSTM in fp32 against itself in float64.

    A step computes gates from sums of products, within gamma of the sum of their sizes; sigmoid (slope at most 1/4)
    and tanh pass that on to a state of four gates. With weights as they are initialised, a step does not enlarge the
    error that the state has already, so errors add up.
    """
    inputs, hidden, steps = 8, 16, 6
    wide = torch.nn.LSTM(inputs, hidden, batch_first=True).double()
    layer = torch.nn.LSTM(inputs, hidden, batch_first=True)
    layer.load_state_dict(wide.state_dict())
    # In fp32 both start from the same weights.
    wide.load_state_dict({name: weight.double() for name, weight in layer.state_dict().items()})
    x = torch.randn(5, steps, inputs)
    with torch.no_grad():
        exact = wide(x.double())[0]
        result = layer.to(device)(x.to(device))[0].cpu().double()
    largest = float(x.abs().max()) * inputs / math.sqrt(hidden) + math.sqrt(hidden)
    one_step = (gamma(inputs + hidden + 4, U32) * largest + 16 * U32) * 4
    bound = one_step * steps
    return {"error_over_bound": worst(result - exact, torch.full_like(exact, bound))}


def sparse(device: Any) -> Ratios:
    """Sparse products, in both layouts, against the dense one."""
    dense = torch.randn(50, 40) * (torch.rand(50, 40) < 0.1)
    right = torch.randn(40, 6)
    exact = dense.double() @ right.double()
    bound = gamma(40, U32) * (dense.abs().double() @ right.abs().double()) + 1e-30
    there = dense.to(device)
    ratios = {}
    for name, stored in (("coo", there.to_sparse()), ("csr", there.to_sparse_csr())):
        ratios[f"{name}_stores"] = 0.0 if torch.equal(stored.to_dense().cpu(), dense) else math.inf
        ratios[name] = worst((stored @ right.to(device)).cpu().double() - exact, bound)
    return ratios


def indexing(device: Any) -> Ratios:
    """Gather, scatter with collisions (atomic additions on GPUs), masks and embeddings: exact, all of them."""
    x = torch.arange(12.0).reshape(3, 4).to(device)
    index = torch.tensor([[0, 1], [2, 3], [1, 0]]).to(device)
    many = (torch.arange(100_000) % 10).to(device)
    counts = torch.zeros(10, device=device).scatter_add_(0, many, torch.ones(100_000, device=device))
    table = torch.arange(20.0).reshape(10, 2).to(device)
    right = {
        "gather": x.gather(1, index).tolist() == [[0.0, 1.0], [6.0, 7.0], [9.0, 8.0]],
        "scatter": counts.tolist() == [10_000.0] * 10,
        "mask": torch.equal(x[torch.tensor([True, False, True], device=device)], x[[0, 2]]),
        "nonzero": (many == 3).nonzero().numel() == 10_000,
        "embedding": torch.equal(F.embedding(many[:10], table), table),
        "unique": torch.unique(many).tolist() == list(range(10)),
    }
    return {name: 0.0 if fine else math.inf for name, fine in right.items()}
