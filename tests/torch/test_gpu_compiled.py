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
    # torch compiles some of its own functions so; this one has a recurrence to be held against.
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


@check("torch.compile writes Triton, and Triton builds its launcher with the host's C compiler", seconds=240)
def test_compile(
    gpu: Any, run_python: Callable[..., str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch, measure: Measure
) -> None:
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
    # Caches of its own: nothing from an earlier run stands in for a compiler.
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, os.fspath(tmp_path / variable.lower()))
    device, *made = run_python(COMPILED, "cuda", timeout=220).split()
    measure("made", made)
    assert device == "cuda"
    assert ".cubin" in made, "Triton compiled nothing for the GPU"
