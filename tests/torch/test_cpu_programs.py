"""Programs made of models: export, TorchScript, torch.compile."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.export

from torchsuite.tiers import Measure, check


@pytest.fixture
def model() -> Any:
    torch.manual_seed(4)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 2)).eval()


@check("an exported program is how a model leaves Python")
def test_export(model: Any, tmp_path: Path, measure: Measure) -> None:
    x = torch.randn(3, 8)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
    # The file format settled late: torch 2.3 cannot read back what it wrote of this very model.
    saved = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 5)
    measure("saved", saved)
    if saved:
        path = os.fspath(tmp_path / "model.pt2")
        torch.export.save(program, path)
        program = torch.export.load(path)
    for batch in (3, 17):
        y = torch.randn(batch, 8)
        torch.testing.assert_close(program.module()(y), model(y))


@check("TorchScript files are what older deployments run")
def test_torchscript(model: Any, tmp_path: Path) -> None:
    if sys.version_info >= (3, 14):
        pytest.skip("TorchScript does not support Python 3.14 and newer")
    path = os.fspath(tmp_path / "model.pt")
    torch.jit.trace(model, torch.randn(3, 8)).save(path)
    y = torch.randn(5, 8)
    torch.testing.assert_close(torch.jit.load(path)(y), model(y))


def _needs_dynamo() -> None:
    if not torch._dynamo.is_dynamo_supported():
        pytest.skip(f"this torch compiles nothing on Python {sys.version_info[0]}.{sys.version_info[1]}")


@check("torch.compile's front end rewrites bytecode, and so depends on the exact Python")
def test_dynamo(model: Any) -> None:
    _needs_dynamo()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 8, requires_grad=True)
    torch.testing.assert_close(compiled(x), model(x))
    (gradient,) = torch.autograd.grad(compiled(x).sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(model(x).sum(), x)[0])


@pytest.fixture
def compiler_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own for compiled code: nothing from an earlier run stands in for a compiler."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", os.fspath(tmp_path / "inductor"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    torch._dynamo.reset()
    yield tmp_path / "inductor"
    torch._dynamo.reset()


@check("torch.compile writes C++ and builds it with the host's compiler against torch's headers", seconds=180)
def test_compile(model: Any, compiler_cache: Path, measure: Measure) -> None:
    _needs_dynamo()
    names = (os.environ.get("CXX"), "cl") if sys.platform == "win32" else (os.environ.get("CXX"), "g++", "clang++")
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("the host has no C++ compiler")
    measure("compiler", compiler)

    def step(x: Any) -> Any:
        return torch.softmax(model(x).sin() * 2 + x[:, :2], -1)

    x = torch.randn(5, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(step, fullgraph=True)(x), step(x))
    assert list(compiler_cache.rglob("*.so")) or list(compiler_cache.rglob("*.pyd")), "nothing was compiled"
