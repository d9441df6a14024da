"""Programs made of models: export, TorchScript, ONNX, torch.compile's front end."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from torchsuite import releases, skips
from torchsuite.tiers import Measure, check


@pytest.fixture
def model() -> Any:
    torch.manual_seed(4)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 2)).eval()


@check("an exported program is how a model leaves Python")
def test_export(model: Any, tmp_path: Path, measure: Measure) -> None:
    # As long to import as torch itself, for every process of the suite if it were done with this file.
    import torch.export

    x = torch.randn(3, 8)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
    # The file format settled late: torch 2.3 cannot read back what it wrote of this very model.
    saved = not releases.older(torch.__version__, (2, 5))
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
        skips.skip(skips.Reason.RELEASE, "TorchScript does not support Python 3.14 and newer")
    path = os.fspath(tmp_path / "model.pt")
    torch.jit.trace(model, torch.randn(3, 8)).save(path)
    y = torch.randn(5, 8)
    torch.testing.assert_close(torch.jit.load(path)(y), model(y))


def _needs_dynamo() -> None:
    import torch._dynamo

    if not torch._dynamo.is_dynamo_supported():
        skips.skip(
            skips.Reason.RELEASE, f"this torch compiles nothing on Python {sys.version_info[0]}.{sys.version_info[1]}"
        )


@check("torch.compile's front end rewrites bytecode, and so depends on the exact Python")
def test_dynamo(model: Any) -> None:
    _needs_dynamo()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 8, requires_grad=True)
    torch.testing.assert_close(compiled(x), model(x))
    (gradient,) = torch.autograd.grad(compiled(x).sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(model(x).sum(), x)[0])


@check("ONNX is how a model leaves PyTorch", seconds=120)
def test_onnx(model: Any, tmp_path: Path, measure: Measure) -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        skips.skip(skips.Reason.ABSENT, f"the environment has no {missing[0]}")
    import onnx
    from onnx.reference import ReferenceEvaluator

    path = os.fspath(tmp_path / "model.onnx")
    torch.onnx.export(model, (torch.randn(3, 8),), path, dynamo=True)
    stored = onnx.load(path)
    onnx.checker.check_model(stored)
    measure("opset", stored.opset_import[0].version)
    y = torch.randn(3, 8)
    (result,) = ReferenceEvaluator(stored).run(None, {stored.graph.input[0].name: y.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), model(y).detach(), rtol=1e-4, atol=1e-5)
