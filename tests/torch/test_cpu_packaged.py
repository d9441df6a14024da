"""Compiled models that leave Python, and C++ that comes in: what is built with the host's compiler."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from torchsuite import instructions, skips
from torchsuite.tiers import check


@check("an AOTInductor package is how a compiled model leaves Python", seconds=300)
def test_package(compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As long to import as torch itself, for every process of the suite if it were done with this file.
    import torch._inductor
    import torch.export
    from torch._inductor import config

    if not hasattr(torch._inductor, "aoti_load_package") or sys.platform == "win32":
        skips.skip(skips.Reason.RELEASE, "this torch packages no compiled models here")
    instructions.find_widest_alone(monkeypatch)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()
    x = torch.randn(3, 8)
    dynamic = ({0: torch.export.Dim("batch", min=2, max=64)},)
    # Headers that are compiled once pay for many packages and stay in the user's folder for temporary files; the
    # wrapper that calls the kernels is not what a check of correctness optimises.
    settings = {"precompile_headers": False, "compile_wrapper_opt_level": "O0"}
    package = torch._inductor.aoti_compile_and_package(
        torch.export.export(model, (x,), dynamic_shapes=dynamic),
        package_path=os.fspath(tmp_path / "model.pt2"),
        inductor_configs={
            f"aot_inductor.{name}": value for name, value in settings.items() if hasattr(config.aot_inductor, name)
        },
    )
    loaded = torch._inductor.aoti_load_package(package)
    for batch in (3, 17):
        y = torch.randn(batch, 8)
        torch.testing.assert_close(loaded(y), model(y))


@check("C++ extensions are built against torch's headers by ninja and the host's compiler", seconds=300)
def test_cpp_extension(compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.cpp_extension import load

    if importlib.util.find_spec("ninja") is None and shutil.which("ninja") is None:
        skips.skip(skips.Reason.ABSENT, "the environment has no ninja")
    source = tmp_path / "twice.cpp"
    source.write_text(EXTENSION, encoding="utf-8")
    # The environment's own ninja, which is not on PATH where nothing was activated.
    monkeypatch.setenv("PATH", sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", os.defpath))
    build = tmp_path / "build"
    build.mkdir()
    load("torch_verify_twice", os.fspath(source), build_directory=os.fspath(build), is_python_module=False)
    assert torch.ops.torch_verify.twice(torch.arange(3.0)).tolist() == [0.0, 2.0, 4.0]


EXTENSION = """
#include <torch/library.h>
at::Tensor twice(const at::Tensor& x) { return x.mul(2); }
TORCH_LIBRARY(torch_verify, library) { library.def("twice", &twice); }
"""
