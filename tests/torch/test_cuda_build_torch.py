"""A build for CUDA, without a GPU: what torch reports is compared with the lock and its row."""

from __future__ import annotations

import re
from typing import Any

import pytest

from torchsuite import cuda_versions, skips
from torchsuite.expect import Expectation
from torchsuite.imports import Imports
from torchsuite.prefix import Prefix
from torchsuite.tiers import Measure, check


@pytest.fixture
def torch_reports(imports: Imports) -> dict[str, Any]:
    """The report of a fresh process on a CUDA build; another check requires that it is one."""
    seen = imports.get("torch").seen
    if not seen:
        pytest.skip("torch cannot be imported")
    if seen["torch_cuda"] is None:
        pytest.skip("torch is a build for the CPU")
    return seen


@check("a CPU build in a CUDA environment computes everything, ten times slower, without a warning", accelerator="cuda")
def test_torch_is_a_cuda_build(imports: Imports, measure: Measure) -> None:
    seen = imports.get("torch").seen
    if not seen:
        pytest.skip("torch cannot be imported")
    measure("version.cuda", seen["torch_cuda"])
    assert seen["torch_cuda"] is not None, f"torch {seen['torch_version']} is a build for the CPU"


@check("the CUDA that torch was built for is the one that its build string and its row name", accelerator="cuda")
def test_cuda_version(torch_reports: dict[str, Any], expectation: Expectation, measure: Measure) -> None:
    built_for = str(torch_reports["torch_cuda"])
    libraries = cuda_versions.of_libraries(expectation)
    measure("built_for", built_for)
    measure("libraries", libraries)
    variant = cuda_versions.variant(expectation.torch.build)
    assert variant in (None, built_for, built_for.split(".")[0]), (
        f"the lock has the build {expectation.torch.build}, torch reports CUDA {built_for}"
    )
    has = f"torch is built for CUDA {built_for}" + (f", with the libraries of {libraries}" if libraries else "")
    assert expectation.cuda in (None, built_for, libraries), f"not CUDA {expectation.cuda}: {has}"
    # Within a major, libraries of one minor run code of another (NVIDIA's minor-version compatibility).
    assert libraries is None or libraries.split(".")[0] == built_for.split(".")[0], has


@check("no kernel image is available: a GPU that the row promises has to be in the build", accelerator="cuda")
def test_architectures(torch_reports: dict[str, Any], expectation: Expectation, measure: Measure) -> None:
    flags = torch_reports["cuda_build"]["architectures"]
    found = sorted({f"{match[1]}.{match[2]}" for match in re.finditer(r"\bsm_(\d+?)(\d)[a-z]?\b", flags)}, key=_order)
    ptx = sorted(
        {f"{match[1]}.{match[2]}" for match in re.finditer(r"\bcompute_(\d+?)(\d)[a-z]?\b", flags)}, key=_order
    )
    measure("architectures", found)
    measure("ptx", ptx)
    assert found, f"the build names no architecture: {flags!r}"
    if not expectation.architectures:
        skips.skip(skips.Reason.NO_ROW, "no row lists what this build should run on")
    missing = [each for each in expectation.architectures if each not in found]
    assert not missing, f"the row promises machine code for {', '.join(missing)}, torch has {', '.join(found)}"
    if expectation.ptx:
        assert expectation.ptx in ptx, (
            f"the row promises PTX of {expectation.ptx}, torch has {', '.join(ptx) or 'none'}"
        )


def _order(capability: str) -> tuple[int, ...]:
    return tuple(map(int, capability.split(".")))


@check("cuDNN of another version than the locked one has other kernels, or none for this GPU", accelerator="cuda")
def test_cudnn(torch_reports: dict[str, Any], expectation: Expectation, measure: Measure) -> None:
    found = torch_reports["cuda_build"]["cudnn"]
    assert isinstance(found, int), f"torch has no working cuDNN: {found}"
    version = cuda_versions.cudnn(found)
    measure("version", ".".join(map(str, version)))
    _same(version, expectation, "cudnn", "libcudnn", "libcudnn9", "nvidia-cudnn-cu*")


@check("torch calls functions of the cuDNN it was compiled against, which an older one lacks", accelerator="cuda")
def test_cudnn_is_not_older_than_compiled(torch_reports: dict[str, Any], measure: Measure) -> None:
    running, compiled = torch_reports["cuda_build"]["cudnn"], torch_reports["cuda_build"]["cudnn_compiled"]
    assert isinstance(running, int), f"torch has no working cuDNN: {running}"
    assert isinstance(compiled, list), f"torch does not report which cuDNN it was compiled against: {compiled}"
    major, minor, _ = cuda_versions.cudnn(running)
    measure("compiled", ".".join(map(str, compiled)))
    measure("running", f"{major}.{minor}")
    # cuDNN is compatible within a major, towards newer minors.
    assert (major, minor) >= tuple(compiled[:2]), f"compiled against {compiled}, runs with {major}.{minor}"
    assert major == compiled[0], f"compiled against {compiled}, runs with {major}.{minor}"


@check("2:4 sparsity is cuSPARSELt's; an older one than torch was compiled against lacks functions", accelerator="cuda")
def test_cusparselt(torch_reports: dict[str, Any], expectation: Expectation, measure: Measure) -> None:
    compiled = torch_reports["cuda_build"]["cusparselt"]
    if not isinstance(compiled, int):
        skips.skip(skips.Reason.RELEASE, "this torch is built without cuSPARSELt")
    version = cuda_versions.cusparselt(compiled)
    measure("compiled", ".".join(map(str, version)))
    package = cuda_versions.package(expectation, "cusparselt", "libcusparselt", "nvidia-cusparselt-cu*")
    if package is None:
        skips.skip(skips.Reason.ABSENT, "the lock has no package cusparselt")
    assert cuda_versions.numbers(package.version)[:2] >= version[:2], (
        f"compiled against {'.'.join(map(str, version))}, the lock has {package.name} {package.version}"
    )


@check("symmetric memory between GPUs is NVSHMEM's, which torch looks for at its first use", accelerator="cuda")
def test_nvshmem(torch_reports: dict[str, Any], prefix: Prefix, measure: Measure) -> None:
    found = torch_reports["cuda_build"]["nvshmem"]
    measure("available", found)
    if not any(path.endswith("/libtorch_nvshmem.so") for path in prefix.files):
        skips.skip(skips.Reason.RELEASE, "this torch is built without NVSHMEM")
    assert found is True, f"torch is built for NVSHMEM and does not find it: {found}"


@check("NCCL is what GPUs speak to each other; torch may have one built in that no lock names", accelerator="cuda")
def test_nccl(torch_reports: dict[str, Any], expectation: Expectation, measure: Measure) -> None:
    if expectation.platform.startswith("win"):
        skips.skip(skips.Reason.PLATFORM, "there is no NCCL for Windows")
    found = torch_reports["cuda_build"]["nccl"]
    assert isinstance(found, list), f"torch has no working NCCL: {found}"
    measure("version", ".".join(map(str, found)))
    _same(tuple(found[:3]), expectation, "nccl", "nvidia-nccl-cu*")


def _same(found: tuple[int, ...], expectation: Expectation, *names: str) -> None:
    """Require the version that torch reports to be that of the locked package, if one of these names is in the lock."""
    package = cuda_versions.package(expectation, *names)
    if package is None:
        skips.skip(skips.Reason.ABSENT, f"the lock has no package {names[0]}")
    assert cuda_versions.agree(found, package.version), (
        f"the lock has {package.name} {package.version}, torch runs with {'.'.join(map(str, found))}"
    )
