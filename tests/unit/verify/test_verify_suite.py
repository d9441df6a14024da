"""The parts of the torch suite that work without torch: what counts as CUDA, and what a prefix holds."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SUITE = Path(__file__).parents[2] / "torch"


@pytest.fixture(scope="module")
def prefix_module() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SUITE))
    try:
        yield importlib.import_module("torchsuite.prefix")
    finally:
        sys.path.remove(str(SUITE))


@pytest.mark.parametrize(
    "path",
    [
        "lib/libcudart.so.12",
        "lib/libcudart-d0da41ae.so.11.0",
        "lib/libcublasLt.so.12.9.1",
        "lib/libcudnn_ops_infer.so.8",
        "lib/libcudnn_engines_precompiled.so.9",
        "lib/libcufft.so.11",
        "lib/libcusolverMg.so.11",
        "lib/libcusparseLt.so.0",
        "lib/libnccl.so.2",
        "lib/libnvrtc-builtins.so.12.4",
        "lib/libnvJitLink.so.12",
        "lib/stubs/libcuda.so",
        "lib/libcuda.so.1",
        "lib/python3.11/site-packages/torch/lib/libtorch_cuda.so",
        "lib/python3.11/site-packages/torch/lib/libc10_cuda.so",
        "lib/python3.11/site-packages/nvidia/cublas/__init__.py",
        "Library/bin/cudart64_12.dll",
        "Library/bin/cublasLt64_12.dll",
        "Library/bin/nvrtc64_120_0.dll",
        "Library/bin/nvcuda.dll",
        "Lib/site-packages/torch/lib/torch_cuda.dll",
        "lib/libmagma.so",
        "lib/libcupti.so.12",
        "lib/libcudart_static.a",
    ],
)
def test_cuda_files_are_known(prefix_module: ModuleType, path: str) -> None:
    assert prefix_module.is_cuda_file(path)


@pytest.mark.parametrize(
    "path",
    [
        "lib/libcurl.so.4",
        "lib/libcups.so.2",
        "lib/libcurses.so",
        "lib/libmagic.so.1",
        "lib/libgomp.so.1",
        "lib/libncursesw.so.6",
        "lib/python3.11/site-packages/torch/lib/libtorch_cpu.so",
        "lib/python3.11/site-packages/torch/cuda/__init__.py",
        "lib/python3.11/site-packages/torch/include/c10/cuda/CUDAStream.h",
        "lib/python3.11/site-packages/torch/_inductor/codegen/cuda/cuda_env.py",
        "share/doc/nvidia/readme",
        "lib/libnccl.txt",
    ],
)
def test_other_files_are_not_taken_for_cuda(prefix_module: ModuleType, path: str) -> None:
    assert not prefix_module.is_cuda_file(path)


@pytest.mark.parametrize(
    "name",
    ["cuda-cudart", "cuda-version", "libcublas", "cudnn", "libcudnn9", "nccl", "nvidia-cublas-cu12", "triton",
     "libmagma", "magma-cuda121", "pytorch-cuda", "cudatoolkit", "libnvjitlink", "libcusparse"],
)  # fmt: skip
def test_cuda_packages_are_known(prefix_module: ModuleType, name: str) -> None:
    assert prefix_module.is_cuda_package(name)


@pytest.mark.parametrize("name", ["numpy", "libcurl", "nvidia-ml-py", "mkl", "libtorch", "pytorch", "cupy-core-not"])
def test_other_packages_are_not_taken_for_cuda(prefix_module: ModuleType, name: str) -> None:
    assert not prefix_module.is_cuda_package(name)


def test_a_damaged_record_is_named(prefix_module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "conda-meta" / "numpy-2.4.6-py311_0.json").write_text('{"name": "num')
    with pytest.raises(ValueError, match=r"numpy-2\.4\.6-py311_0\.json"):
        _ = prefix_module.Prefix(tmp_path).records


def test_a_prefix_is_read_from_its_records(prefix_module: ModuleType, tmp_path: Path) -> None:
    meta = tmp_path / "conda-meta"
    meta.mkdir()
    paths = [
        {"_path": "bin/tool", "path_type": "hardlink", "size_in_bytes": 5},
        {"_path": "bin/script", "path_type": "hardlink", "size_in_bytes": 7, "prefix_placeholder": "/placeholder"},
        {"_path": "lib/link", "path_type": "softlink", "size_in_bytes": 9},
    ]
    record = {"name": "tool", "version": "1.0", "build": "h1_0", "paths_data": {"paths_version": 1, "paths": paths}}
    (meta / "tool-1.0-h1_0.json").write_text(json.dumps(record))
    (meta / "old-1.0-0.json").write_text(json.dumps({"name": "old", "version": "1.0", "build": "0", "files": ["a"]}))
    (meta / "history").write_text("")
    (meta / "pixi.json").write_text("{}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_text("12345")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.cpython-311.pyc").write_text("")

    prefix = prefix_module.Prefix(tmp_path)
    old, tool = prefix.records
    assert (tool.name, tool.version, tool.build) == ("tool", "1.0", "h1_0")
    # Sizes are compared only where the package's file is the installed one, byte for byte.
    sizes = {file.path: file.size for file in tool.files}
    assert sizes == {"bin/tool": 5, "bin/script": None, "lib/link": None}
    assert [file.path for file in old.files] == ["a"]
    assert prefix.owners["bin/tool"] is tool
    assert "bin/tool" in prefix.files
    assert not [path for path in prefix.files if path.endswith(".pyc")]


@pytest.mark.skipif(sys.platform == "win32", reason="about the linkers of POSIX systems")
def test_nothing_is_compiled_in_a_prefix_with_a_space(prefix_module: ModuleType) -> None:
    fixtures = importlib.import_module("torchsuite.fixtures")
    assert fixtures.unquoted("/a/b") is None
    assert "/a b/env" in fixtures.unquoted("/a b/env")
    # Such a skip has none of the codes with which a required check does not apply: it is a gap in the verdict.
    skips = importlib.import_module("torchsuite.skips")
    assert skips.split(fixtures.unquoted("/a b/env"))[0] is None
