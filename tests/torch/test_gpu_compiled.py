"""Code that is compiled at run time: by NVRTC, and by Triton with the host's C compiler."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchsuite import capability, skips
from torchsuite.tiers import Measure, check

SQUARED_DISTANCE = "template <typename T> T squared_distance(T x, T y) { return (x - y) * (x - y) + T(1); }"


@check("NVRTC compiles kernels at their first use, and needs a library that it finds by name only then")
def test_nvrtc(gpu: Any) -> None:
    function = torch.cuda.jiterator._create_jit_fn(SQUARED_DISTANCE)
    x, y = torch.arange(1000.0, device=gpu), torch.arange(1000.0, device=gpu).flip(0)
    # Whole numbers below 2^24: exact.
    assert torch.equal(function(x, y).cpu(), ((x - y).cpu() ** 2) + 1)
    # torch compiles some of its own functions so; this one has a recurrence to compare with.
    z = torch.linspace(2, 20, 100, dtype=torch.float64, device=gpu)
    one_less = torch.special.zeta(z, torch.ones_like(z)) - 1
    torch.testing.assert_close(torch.special.zeta(z, torch.full_like(z, 2.0)), one_less, rtol=1e-9, atol=1e-13)


COMPILED = """
import os, sys
from pathlib import Path
import torch

torch.manual_seed(4)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 2)).double().eval()

def step(model, x):
    return torch.softmax(model(x).sin() * 2 + x[:, :2], -1)

x = torch.randn(5, 8, dtype=torch.float64)
with torch.no_grad():
    expected = step(model, x)
    model, x = model.to(sys.argv[1]), x.to(sys.argv[1])
    result = torch.compile(step, fullgraph=True)(model, x)
torch.testing.assert_close(result.cpu(), expected, rtol=1e-10, atol=1e-12)
made = [path.suffix for path in Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*")]
made += [path.suffix for path in Path(os.environ["TRITON_CACHE_DIR"]).rglob("*")]
print(result.device.type, *sorted(set(made)))
"""


@pytest.fixture
def triton(gpu: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, measure: Measure) -> str:
    """The host's C compiler, where torch.compile can work on this GPU; caches are the check's own."""
    if not torch._dynamo.is_dynamo_supported():
        skips.skip(
            skips.Reason.RELEASE, f"this torch compiles nothing on Python {sys.version_info[0]}.{sys.version_info[1]}"
        )
    if importlib.util.find_spec("triton") is None:
        pytest.skip("the environment has no Triton")
    if why := capability.lacks(torch.cuda.get_device_capability(gpu), capability.TRITON, "Triton"):
        skips.skip(skips.Reason.GPU_TOO_OLD, why)
    compiler = next(
        (found for name in (os.environ.get("CC"), "gcc", "clang", "cc") if name and (found := shutil.which(name))), None
    )
    if compiler is None:
        pytest.skip("the host has no C compiler")
    measure("compiler", compiler)
    # No result of an earlier run replaces a compiler.
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, os.fspath(tmp_path / variable.lower()))
    return compiler


@check("torch.compile writes Triton, and Triton builds its launcher with the host's C compiler", seconds=240)
def test_compile(triton: str, run_python: Callable[..., str], measure: Measure) -> None:
    device, *made = run_python(COMPILED, "cuda", timeout=220).split()
    measure("made", made)
    assert device == "cuda"
    assert ".cubin" in made, "Triton compiled nothing for the GPU"


REDUCED_OVERHEAD = """
import torch
from torch._dynamo.utils import counters

torch.manual_seed(5)
model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)).cuda()
compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
for step in range(6):
    x = torch.randn(16, 32, device="cuda")
    torch.compiler.cudagraph_mark_step_begin()
    # The result is in memory that the next replay writes to.
    result = compiled(x).detach().clone()
    plain = model(x).detach()
    # Two sums of 32 and 64 products; TF32 is off, and 2^-24 of the terms' sizes is far below this.
    torch.testing.assert_close(result, plain, rtol=1e-4, atol=1e-5)
    model.zero_grad()
    torch.compiler.cudagraph_mark_step_begin()
    compiled(x).sum().backward()
    gradients = [each.grad.clone() for each in model.parameters()]
    model.zero_grad()
    model(x).sum().backward()
    for mine, each in zip(gradients, model.parameters()):
        torch.testing.assert_close(mine, each.grad, rtol=1e-4, atol=1e-4)
from torch._inductor import cudagraph_trees
manager = cudagraph_trees.get_container(torch.cuda.current_device()).tree_manager
print(counters["inductor"]["cudagraph_skips"], 0 if manager is None else sum(map(len, manager.roots.values())))
"""


@check("mode='reduce-overhead' replays CUDA graphs, or runs without them and without a warning", seconds=240)
def test_reduced_overhead(triton: str, run_python: Callable[..., str], measure: Measure) -> None:
    skipped, recorded = map(int, run_python(REDUCED_OVERHEAD, timeout=220).split()[-2:])
    measure("graphs_skipped", skipped)
    measure("functions_recorded", recorded)
    assert skipped == 0, f"{skipped} graphs were not recorded"
    assert recorded, "no CUDA graph was recorded"


MAX_AUTOTUNE = """
import torch
from torch._dynamo.utils import counters
from torch._inductor import config
from torch._inductor.utils import is_big_gpu

torch.manual_seed(6)
a, b = (torch.randint(-4, 5, (256, 256), device="cuda").half() for _ in range(2))
# Every choice that is timed is compiled: two formats of kernels are enough, timed in this process.
with config.patch(max_autotune_gemm=True, max_autotune_gemm_backends="ATEN,TRITON", autotune_in_subproc=False):
    result = torch.compile(lambda a, b: a @ b, fullgraph=True)(a, b)
# Sums of 256 products up to 16 are whole numbers below 2^13; fp16 has 11 bits: half a unit of 4.
exact = a.double() @ b.double()
assert bool(((result.double() - exact).abs() <= 2).all())
print(int(is_big_gpu(0)), counters["inductor"]["select_algorithm_autotune"])
"""


@check("max-autotune times kernels of Triton's against cuBLAS and takes the quickest", seconds=240)
def test_max_autotune(triton: str, run_python: Callable[..., str], measure: Measure) -> None:
    big, tuned = map(int, run_python(MAX_AUTOTUNE, timeout=220).split()[-2:])
    measure("autotuned", tuned)
    if not big:
        skips.skip(skips.Reason.PLATFORM, "torch.compile tunes no matmul on a GPU of so few multiprocessors")
    assert tuned == 1, "nothing was timed"
