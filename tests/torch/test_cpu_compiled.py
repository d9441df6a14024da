"""torch.compile with the host's C++ compiler. One file, so that one process compiles, and its headers once."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from torchsuite import attention, instructions, releases, skips
from torchsuite.errors import U32, UBF16
from torchsuite.tiers import Measure, check

F = torch.nn.functional


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Two seconds, which every process of the suite would take if they were imported with this file.
    import torch._dynamo.testing
    import torch._inductor.config

    if not torch._dynamo.is_dynamo_supported():
        python = ".".join(map(str, sys.version_info[:2]))
        skips.skip(skips.Reason.RELEASE, f"this torch compiles nothing on Python {python}")
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    instructions.find_widest_alone(monkeypatch)
    torch.manual_seed(4)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def made() -> set[Path]:
    """The libraries that were compiled so far; the folder is this run's own."""
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    return {path for ending in ("*.so", "*.pyd", "*.dylib") for path in folder.rglob(ending)}


@check("torch.compile writes C++ and builds it with the host's compiler against torch's headers", seconds=300)
def test_compile(compiler: str, measure: Measure) -> None:
    # One fused kernel in each direction: to compile another one takes seconds, and has no other way to fail.
    model = torch.nn.Linear(8, 8).double()

    def step(x: Any) -> Any:
        return torch.softmax(F.gelu(model(x)) * 2 + x, -1)

    before = made()
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, 8, dtype=torch.float64)
    results = []
    for function in (step, torch.compile(step, fullgraph=True)):
        y = function(x)
        results.append([y, *torch.autograd.grad((y * weights).sum(), [x, *model.parameters()])])
    for plain, compiled in zip(*results, strict=True):
        # The same operations in float64, fused: only the order of a few sums differs.
        torch.testing.assert_close(compiled, plain, rtol=1e-10, atol=1e-12)
    libraries = made() - before
    measure("libraries", len(libraries))
    assert libraries, "nothing was compiled"


@check("batches of another size must not be compiled for again; bf16 has kernels of its own", seconds=240)
def test_dynamic_shapes(compiler: str, measure: Measure) -> None:
    def step(x: Any) -> Any:
        return (x.sin() * 2 + 1).sum(-1)

    counter = torch._dynamo.testing.CompileCounterWithBackend("inductor")
    compiled = torch.compile(step, backend=counter, dynamic=True, fullgraph=True)
    for batch in (5, 7, 64):
        x = torch.randn(batch, 40).to(torch.bfloat16)
        result = compiled(x)
        assert result.dtype == torch.bfloat16
        wide = x.double().sin() * 2 + 1
        # Fused in fp32 and rounded once, or rounded after each of three operations and the sum.
        bound = 8 * UBF16 * (wide.abs() + 3).sum(-1)
        assert bool(((result.double() - wide.sum(-1)).abs() <= bound).all())
    measure("compiled_frames", counter.frame_count)
    assert counter.frame_count == 1, f"three batch sizes were compiled {counter.frame_count} times"


@check("what torch.compile cannot follow breaks the graph, and costs the speed that it was to bring")
def test_graph_break_is_counted(measure: Measure) -> None:
    def step(x: Any) -> Any:
        y = x * 2
        torch._dynamo.graph_break()
        return y + 1

    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    x = torch.randn(4)
    assert torch.equal(torch.compile(step, backend=counter)(x), x * 2 + 1)
    breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
    measure("graph_breaks", breaks)
    assert (breaks, counter.frame_count) == (1, 2)


@check("a compiled optimiser is one kernel for all parameters, with its own idea of their state", seconds=240)
def test_compiled_optimizer(compiler: str) -> None:
    start = [torch.randn(6, 5, dtype=torch.float64), torch.randn(6, dtype=torch.float64)]
    gradients = [[torch.randn_like(each) for each in start] for _ in range(3)]
    ends = []
    for compiled in (False, True):
        parameters = [each.clone().requires_grad_() for each in start]
        optimizer = torch.optim.AdamW(parameters, lr=0.01, foreach=True)
        step = torch.compile(optimizer.step, fullgraph=False) if compiled else optimizer.step
        for step_gradients in gradients:
            for parameter, gradient in zip(parameters, step_gradients, strict=True):
                parameter.grad = gradient.clone()
            step()
        ends.append(parameters)
    for plain, compiled_parameter in zip(*ends, strict=True):
        # Three steps of size 0.01. The compiled one computes 1 - 0.999^n in fp32, which cancels.
        torch.testing.assert_close(compiled_parameter, plain, rtol=0.0, atol=3 * 0.01 * U32 / 0.001)


@check("max-autotune times several kernels for one matmul and takes the quickest of them", seconds=240)
def test_max_autotune(compiler: str, measure: Measure) -> None:
    if (
        releases.older(torch.__version__, (2, 5))
        or sys.platform != "linux"
        or platform.machine() not in ("x86_64", "AMD64")
    ):
        skips.skip(skips.Reason.RELEASE, "this torch has no matmul kernels of its own for CPUs here")
    if not torch.backends.mkldnn.is_available():
        skips.skip(skips.Reason.PLATFORM, "without oneDNN torch has nothing to choose from")
    layer = torch.nn.Linear(64, 48, bias=False).eval()
    x = torch.randn(32, 64)
    # Frozen weights, since packed ones are what the kernels are for.
    with torch.no_grad(), torch._inductor.config.patch(freezing=True, max_autotune=True):
        result = torch.compile(layer, fullgraph=True)(x)
    tuned = torch._dynamo.utils.counters["inductor"]["select_algorithm_autotune"]
    measure("autotuned", tuned)
    exact = x.double() @ layer.weight.double().t()
    # A sum of 64 products: 64 u of the sum of their sizes (Higham, Accuracy and Stability, section 3.1).
    bound = 64 * U32 * (x.double().abs() @ layer.weight.double().abs().t())
    assert bool(((result.double() - exact).abs() <= bound).all())
    assert tuned == 1, "nothing was timed: the matmul has no choice of kernels"


@check("FlexAttention is a kernel that torch.compile writes for each mask", seconds=240)
def test_flex_attention(compiler: str) -> None:
    if releases.older(torch.__version__, (2, 6)) or sys.platform != "linux":
        skips.skip(skips.Reason.RELEASE, "this torch has no FlexAttention for CPUs here")
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    query, key, value = (torch.randn(1, 2, 128, 64) for _ in range(3))
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 128, 128, device="cpu")
    with torch.no_grad():
        try:
            result = torch.compile(flex_attention, fullgraph=True)(query, key, value, block_mask=mask)
        except Exception as refusal:
            if "AVX" not in str(refusal) and "not supported" not in str(refusal):
                raise
            skips.skip(skips.Reason.PLATFORM, f"no FlexAttention on this processor: {str(refusal).splitlines()[0]}")
    exact, bounds = attention.forward(query, key, value, causal=True)
    assert bool(((result.double() - exact).abs() <= bounds).all())


@check("the instructions that compiled code may use are found by compiling and running a test program", seconds=60)
def test_vector_instructions(compiler: str, measure: Measure) -> None:
    cpu_vec_isa = releases.module("torch._inductor.cpu_vec_isa", "2.5")
    found = str(cpu_vec_isa.pick_vec_isa())
    kernels = torch.backends.cpu.get_cpu_capability()
    measure("compiled", found)
    measure("kernels", kernels)
    if kernels not in ("AVX2", "AVX512"):
        skips.skip(skips.Reason.PLATFORM, f"torch's own kernels use {kernels} here")
    assert found.lower().startswith("avx"), f"torch's own kernels use {kernels}, compiled code uses {found or 'none'}"
