"""Build strings, floors and toolkits are read as the channels write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlocks.cuda.packages import (
    Variant,
    compiles,
    cuda_version,
    floor_of,
    is_cuda_package,
    torch_package,
    variant_of,
)
from torchlocks.lockfile.models import LockedPackage


def package(name: str, version: str = "1", build: str = "h0_0", *depends: str) -> LockedPackage:
    return LockedPackage(
        name=name,
        version=version,
        build=build,
        subdir="noarch",
        url=f"https://conda.anaconda.org/conda-forge/noarch/{name}-{version}-{build}.conda",
        depends=depends,
    )


@pytest.mark.parametrize(
    ("build", "variant"),
    [
        ("cpu_mkl_py311_h338015a_100", Variant("cpu")),
        ("cpu_generic_py311_hbaf2b46_0", Variant("cpu")),
        ("py3.11_cpu_0", Variant("cpu")),
        ("cuda118_py311hb9b6578_303", Variant("cuda", "11.8")),
        ("cuda126_mkl_py312_h30b5a27_300", Variant("cuda", "12.6")),
        ("cuda130_generic_hfd4fa11_200", Variant("cuda", "13.0")),
        ("py3.11_cuda12.4_cudnn9.1.0_0", Variant("cuda", "12.4")),
        ("py3.11_cuda11.8_cudnn8.7.0_0", Variant("cuda", "11.8")),
        ("py311_cu124", Variant("cuda", "12.4")),
        ("cuda_py312_h4a51b5c_1", Variant("cuda")),
        ("cuda126py312hebffaa9_1", Variant("cuda", "12.6")),
        ("cuda12_h0bf6b1d_0", Variant("cuda", "12")),
        ("py311h2e04523_0", None),
        ("h7508c33_1_cpython", None),
        ("8_h5875eb1_mkl", None),
    ],
)
def test_the_variant_of_a_build(build: str, variant: Variant | None) -> None:
    assert variant_of(build) == variant


@given(st.from_regex(r"\A(py3[0-9]{1,2})?h[0-9a-f]{7}_[0-9]{1,3}\Z"))
def test_no_hash_looks_like_a_variant(build: str) -> None:
    assert variant_of(build) is None


def test_variants_for_people() -> None:
    assert [str(variant_of(build)) for build in ("cpu_0", "cuda118_0", "cuda_0")] == ["CPU", "CUDA 11.8", "CUDA"]


@pytest.mark.parametrize(
    ("candidate", "is_cuda"),
    [
        (package("cuda-cudart"), True),
        (package("libcublas-dev"), True),
        (package("pytorch", "2.0", "cuda118_0"), True),
        (package("pytorch", "2.0", "cpu_0"), False),
        (package("anything", "1", "h0_0", "__cuda >=12"), True),
        (package("libcurl"), False),
        (package("numpy", "2.0", "py311h0_0", "python", "__glibc >=2.17"), False),
    ],
)
def test_what_belongs_to_cuda(candidate: LockedPackage, is_cuda: bool) -> None:
    assert is_cuda_package(candidate) is is_cuda


def test_floors_are_the_highest_demand() -> None:
    packages = [
        package("a", "1", "0", "__glibc >=2.17,<3.0.a0"),
        package("b", "1", "0", "__glibc >=2.9", "__cuda"),
        package("c", "1", "0", "__glibc >=2.28,<3.0.a0", "__cuda >=12"),
    ]
    assert floor_of(packages, "__glibc") == "2.28"
    assert floor_of(packages, "__cuda") == "12"
    assert floor_of(packages, "__osx") is None


def test_the_cuda_version_of_a_lock() -> None:
    assert cuda_version([package("cudatoolkit", "11.8.0"), package("cuda-version", "11.8")]) == "11.8"
    assert cuda_version([package("cudatoolkit", "11.8.0")]) == "11.8"
    assert cuda_version([package("pytorch-cuda", "12.4")]) == "12.4"
    assert cuda_version([package("numpy")]) is None


def test_torch_is_found_by_either_name() -> None:
    torch, library = package("pytorch"), package("libtorch")
    assert torch_package([library, torch]) is torch
    assert torch_package([library]) is library
    assert torch_package([package("numpy")]) is None


@pytest.mark.parametrize(
    ("toolkit", "capability", "answer"),
    [
        ("11.8", "3.5", True),
        ("12.0", "3.5", False),
        ("11.8", "9.0", True),
        ("11.7", "8.9", False),
        ("12.6", "10.0", False),
        ("12.8", "12.0", True),
        ("12.9", "7.0", True),
        ("13.0", "7.0", False),
        ("13.0", "7.5", True),
        ("13.0", "11.0", True),
        ("12.8", "99.9", None),
    ],
)
def test_which_toolkit_compiles_for_which_gpu(toolkit: str, capability: str, answer: bool | None) -> None:
    assert compiles(toolkit, capability) is answer
