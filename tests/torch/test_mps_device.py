"""The GPU of a Mac: that torch uses it, that it computes what the CPU computes, and what falls back to the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchsuite import numerics, training
from torchsuite.tiers import Measure, check, metal_gpus

Require = Callable[[numerics.Ratios], None]


@pytest.fixture
def mps(request: pytest.FixtureRequest) -> Any:
    """The MPS device. That torch uses it is checked by `test_mps_is_used`."""
    if not torch.backends.mps.is_available():
        pytest.skip("torch does not use MPS")
    torch.manual_seed(1)
    return torch.device("mps")


@check("a torch without MPS computes everything on the CPU of a Mac that has a GPU")
def test_mps_is_used(measure: Measure) -> None:
    measure("gpus", list(metal_gpus()))
    assert torch.backends.mps.is_built(), "this torch is built without MPS"
    assert torch.backends.mps.is_available(), "the Mac has a GPU, and torch does not use it"
    a = torch.arange(64.0, device="mps").reshape(8, 8)
    assert a.device.type == "mps"
    # Whole numbers: exact in every format.
    assert torch.equal((a @ a).cpu(), a.cpu() @ a.cpu())


@check("products on Apple's GPUs come from Metal Performance Shaders")
def test_matmul(mps: Any, within_bounds: Require) -> None:
    within_bounds(numerics.matmul(mps, torch.float32))


@pytest.mark.parametrize(
    "name", ["convolution", "sums", "softmax", "normalisation", "indexing", "recurrent", "attention"]
)
@check("every operation has its own Metal kernel, or a graph that Apple's compiler compiles")
def test_numerics(mps: Any, name: str, within_bounds: Require) -> None:
    arguments = (mps, 2) if name == "convolution" else (mps,)
    if name == "sums":
        # Float64 is not on MPS: the variance is left out, and sums alone are compared.
        x = torch.rand(1_000_000)
        exact = x.double().sum().item()
        assert abs(x.to(mps).sum().item() - exact) <= exact * 2.0**-24 * 1000
        return
    within_bounds(getattr(numerics, name)(*arguments))


@check("the same training run on GPU and CPU: any operation that is wrong drives them apart")
def test_training_follows_the_cpu(mps: Any, measure: Measure) -> None:
    steps = 100
    on_cpu = training.losses(torch.device("cpu"), torch.float64, steps)
    on_gpu = training.losses(mps, torch.float32, steps)
    apart = max(abs(a - b) / a for a, b in zip(on_cpu, on_gpu, strict=True))
    measure("float32", apart)
    # As on other GPUs: 2^-24 enlarged 500 times is 3e-5.
    assert apart <= 1e-3
    assert on_gpu[-1] < on_gpu[0] / 10


FALLBACK = """
import os, warnings
os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] = "1"
import torch
x = torch.randn(8, 8, device="mps")
positive = x @ x.T + 8 * torch.eye(8, device="mps")
calls = {
    "linalg.eigvalsh": lambda: torch.linalg.eigvalsh(positive),
    "linalg.svd": lambda: torch.linalg.svd(x).S,
    "linalg.solve": lambda: torch.linalg.solve(positive, x),
    "fft": lambda: torch.fft.rfft(x).abs(),
    "sort": lambda: x.sort().values,
    "cumsum": lambda: x.cumsum(0),
    "unique": lambda: torch.unique(x),
    "histc": lambda: torch.histc(x, 4),
}
fell_back = []
for name, call in calls.items():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert call().device.type == "mps", name
    if any("fall back" in str(each.message) for each in heard):
        fell_back.append(name)
print(",".join(fell_back) or "none")
"""


@check("what MPS does not have runs on the CPU when it is allowed to, with two copies for each call", seconds=120)
def test_fallback_is_counted(mps: Any, run_python: Callable[..., str], measure: Measure) -> None:
    measure("fell_back", run_python(FALLBACK, timeout=110).split()[-1])
