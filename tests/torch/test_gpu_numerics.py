"""The computations of the CPU's checks on the GPU, each by the library that GPUs have for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from torchsuite import capability, numerics, skips
from torchsuite.precision import tf32
from torchsuite.tiers import Measure, check

# The references on the CPU are too small to share.
pytestmark = pytest.mark.usefixtures("one_thread")

Require = Callable[[numerics.Ratios], None]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(1)
    # All digits, except where a check is about fewer: cuDNN's convolutions use TF32 unless this is turned off.
    with tf32(False):
        yield


def _needs(gpu: Any, needed: capability.Capability, what: str) -> None:
    if why := capability.lacks(torch.cuda.get_device_capability(gpu), needed, what):
        skips.skip(skips.Reason.GPU_TOO_OLD, why)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@check("cuBLAS is what everything else is made of; TF32 that was not requested shows here")
def test_matmul(gpu: Any, dtype: Any, within_bounds: Require) -> None:
    within_bounds(numerics.matmul(gpu, dtype, numerics.LARGE_SHAPES))


@check("TF32 loses the bits that it is known to lose, and no more")
def test_matmul_tf32(gpu: Any, within_bounds: Require) -> None:
    _needs(gpu, capability.TF32, "TF32")
    with tf32(True):
        within_bounds(numerics.matmul_tf32(gpu))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@check("products of half precision run on tensor cores, with kernels for each generation")
def test_matmul_half(gpu: Any, dtype: Any, within_bounds: Require) -> None:
    if dtype is torch.bfloat16:
        _needs(gpu, capability.BF16, "bf16")
    within_bounds(numerics.matmul_reduced(gpu, dtype, numerics.LARGE_SHAPES))


@check("cuDNN that does not load leaves convolutions to torch's own slow kernels without a warning")
def test_cudnn_is_used(gpu: Any, measure: Measure) -> None:
    measure("version", torch.backends.cudnn.version())
    assert torch.backends.cudnn.is_available()
    x, weight = torch.randn(2, 4, 9, 9, device=gpu), torch.randn(6, 4, 3, 3, device=gpu)
    assert torch.backends.cudnn.is_acceptable(x)
    backend = torch._C._select_conv_backend(x, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1)
    measure("backend", str(backend))
    assert "Cudnn" in str(backend)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@check("cuDNN picks among many kernels for a convolution and its gradients")
def test_convolution(gpu: Any, dimensions: int, within_bounds: Require) -> None:
    within_bounds(numerics.convolution(gpu, dimensions))


@check("convolutions use TF32 unless it is turned off, within what it loses")
def test_convolution_tf32(gpu: Any, within_bounds: Require) -> None:
    _needs(gpu, capability.TF32, "TF32")
    with tf32(True):
        within_bounds(numerics.convolution(gpu, 2, lost=numerics.UTF32, channels=(8, 8)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@check("convolutions of half precision are what networks are trained with")
def test_convolution_half(gpu: Any, dtype: Any, within_bounds: Require) -> None:
    if dtype is torch.bfloat16:
        _needs(gpu, capability.BF16, "bf16")
    within_bounds(numerics.convolution_reduced(gpu, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=["f32", "f64", "c64"])
@check("cuSOLVER and MAGMA are loaded at the first factorisation, from a library that nothing else needs")
def test_linear_algebra(gpu: Any, dtype: Any, within_bounds: Require) -> None:
    # Without MAGMA, older builds have no eigenvalues of general matrices.
    within_bounds(numerics.linear_algebra(gpu, dtype, general_eigenvalues=bool(torch.cuda.has_magma)))


@pytest.mark.parametrize("size", [64, 120, 97, 1021], ids=["power-of-two", "mixed-radix", "prime", "large-prime"])
@check("cuFFT compiles or picks a kernel for each length")
def test_fft(gpu: Any, size: int, within_bounds: Require) -> None:
    within_bounds(numerics.fft(gpu, size))


@check("cuSPARSE has its own storage, and its own idea of transposes")
def test_sparse(gpu: Any, within_bounds: Require) -> None:
    within_bounds(numerics.sparse(gpu))


@check("reductions, sorts and scans run over thousands of threads that must not lose a number")
def test_reductions(gpu: Any, within_bounds: Require) -> None:
    within_bounds(numerics.sums(gpu))


@check("elementary functions come from CUDA's math library; its fast variants are wrong by much more")
def test_elementary_functions(gpu: Any, within_bounds: Require) -> None:
    within_bounds(numerics.elementary(gpu))


@check("softmax has to survive numbers whose exponential overflows")
def test_softmax(gpu: Any, within_bounds: Require) -> None:
    within_bounds(numerics.softmax(gpu))


@check("normalisation and recurrent layers are fused kernels of torch and of cuDNN")
def test_fused_layers(gpu: Any, within_bounds: Require) -> None:
    within_bounds(numerics.normalisation(gpu))
    within_bounds(numerics.recurrent(gpu))


@check("indices run over memory unchecked; scattered additions meet in one place")
def test_indexing(gpu: Any, within_bounds: Require) -> None:
    within_bounds(numerics.indexing(gpu))
