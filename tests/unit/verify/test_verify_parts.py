"""What the suite makes of CUDA's versions and libraries, and what it is sealed off from; without torch."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

import suite_sabotages
from torchlocks.verify.seal import sealed_environment

SUITE = Path(__file__).parents[2] / "torch"


@pytest.fixture(scope="module", autouse=True)
def _suite() -> Iterator[None]:
    sys.path.insert(0, str(SUITE))
    yield
    sys.path.remove(str(SUITE))


def module(name: str) -> ModuleType:
    return importlib.import_module(f"torchsuite.{name}")


@pytest.mark.parametrize(
    ("files", "cores", "processes"),
    [
        (("static_lock", "cpu_random", "cpu_data"), 2, 2),
        (("static_lock", "cpu_random", "cpu_data"), 8, 3),
        (("static_lock", "gpu_device", "gpu_runtime", "multi_gpu_together"), 8, 2),
        (("gpu_device", "gpu_runtime"), 8, 1),
        (("static_lock", "mps_device"), 8, 1),
        ((), 8, 1),
        (tuple(f"cpu_{number}" for number in range(20)), 64, 8),
    ],
)
def test_no_process_is_started_without_a_file_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], cores: int, processes: int
) -> None:
    for file in files:
        (tmp_path / f"test_{file}.py").touch()
    command = module("command")
    monkeypatch.setattr(command, "checks_folder", lambda: tmp_path)
    monkeypatch.setattr(command.host, "cores", lambda: cores)
    tiers = tuple(tier for tier in module("tier_names").TIERS if tier != "mps")
    assert command.processes(tiers) == processes


@pytest.mark.parametrize(
    ("build", "variant"),
    [
        ("cuda118_py311h1234567_303", "11.8"),
        ("cuda129_mkl_py311_h0_300", "12.9"),
        ("py3.11_cuda12.4_cudnn9.1.0_0", "12.4"),
        ("cuda_126_py312", "12.6"),
        ("cuda12_py310_0", "12"),
        ("cpu_mkl_py311_h0_100", None),
        ("", None),
        ("py311_0", None),
    ],
)
def test_build_strings_name_their_cuda(build: str, variant: str | None) -> None:
    assert module("cuda_versions").variant(build) == variant


@pytest.mark.parametrize(("number", "version"), [(8907, (8, 9, 7)), (90100, (9, 1, 0)), (92000, (9, 20, 0))])
def test_cudnn_numbers(number: int, version: tuple[int, ...]) -> None:
    assert module("cuda_versions").cudnn(number) == version


@pytest.mark.parametrize(
    ("told", "locked", "same"),
    [
        ((12, 9, 1), "12.9.1.4", True),
        ((12, 9), "12.9.79", True),
        ((12, 4, 5), "12.9.1.4", False),
        ((2, 27, 3), "2.27.3.1", True),
        ((13, 0, 1), "13.0", True),
        ((12, 9, 1), "12.9.10", False),
    ],
)
def test_versions_agree_number_by_number(told: tuple[int, ...], locked: str, same: bool) -> None:
    assert module("cuda_versions").agree(told, locked) is same


@given(numbers=st.lists(st.integers(0, 999), min_size=1, max_size=5), cut=st.integers(1, 5))
def test_a_version_agrees_with_every_beginning_of_itself_and_with_no_other(numbers: list[int], cut: int) -> None:
    agree = module("cuda_versions").agree
    locked = ".".join(map(str, numbers))
    assert agree(tuple(numbers[:cut]), locked)
    other = [*numbers[:-1], numbers[-1] + 1]
    assert not agree(tuple(other), locked)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("lib/libcublas.so.12", True),
        ("lib/python3.11/site-packages/nvidia/cudnn/lib/libcudnn.so.9", True),
        ("Library/bin/cublas64_12.dll", True),
        ("lib/stubs/libcuda.so", False),
        ("lib/libcuda.so.1", False),
        ("lib/libcudart_static.a", False),
        ("lib/python3.11/site-packages/cuda/bindings/nvrtc.cpython-311-x86_64-linux-gnu.so", False),
        ("lib/libcufile_rdma.so.1", False),
        ("lib/python3.11/site-packages/nvidia/nvshmem/lib/nvshmem_transport_ucx.so.4", False),
    ],
)
def test_libraries_that_have_to_load_anywhere(path: str, asked: bool) -> None:
    assert module("cuda_library").is_asked(path) is asked


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("libcublasLt.so.12.9.1", "cublasLt"),
        ("libcudart-d0da41ae.so.11.0", "cudart"),
        ("cublas64_12.dll", "cublas"),
        ("libnccl.so.2", "nccl"),
        ("libnvrtc-builtins.so.12.4", "nvrtc-builtins"),
    ],
)
def test_libraries_are_known_by_their_names(name: str, stem: str) -> None:
    assert module("cuda_library").stem(name) == stem


def test_a_library_that_is_none_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    text = tmp_path / "libcublas.so.12"
    text.write_text("not a library")
    loaded = module("cuda_library").ask(text)
    assert loaded.error
    assert loaded.version is None


def test_the_seed_that_everybody_knows_gives_the_numbers_that_everybody_knows() -> None:
    # torch.manual_seed(0); torch.rand(5, device="cuda"), as printed in countless reports.
    assert [round(x, 4) for x in module("philox").philox(0, 5)] == [0.3990, 0.5167, 0.0249, 0.9401, 0.9459]


def test_checks_are_read_without_running_their_file(tmp_path: Path) -> None:
    file = tmp_path / "test_gpu_one.py"
    file.write_text(
        'raise SystemExit("imported")\n'
        '@check("why it is there", seconds=5)\ndef test_one(): ...\n'
        'def test_unmarked(): ...\n@check("no check")\ndef helper(): ...\n'
        '@pytest.mark.parametrize("x", [1])\n@check("two" " parts")\ndef test_two(x): ...\n'
    )
    found = [(entry.name, entry.reason) for entry in module("tiers").declared(file)]
    assert found == [("test_one", "why it is there"), ("test_two", "two parts")]


def test_every_check_of_the_suite_has_a_reason() -> None:
    declared = module("tiers").declared
    reasons = {}
    for file in SUITE.glob("test_*.py"):
        entries = declared(file)
        assert entries, f"{file.name} has no checks"
        assert len({entry.name for entry in entries}) == file.read_text().count("\ndef test_"), file.name
        reasons.update({f"{file.name}::{entry.name}": entry.reason for entry in entries})
    assert all(len(reason) > 20 for reason in reasons.values())


# What the suite may know of the outside.


def test_a_driver_on_the_search_path_is_handed_on_without_the_rest_of_its_folder(tmp_path: Path) -> None:
    cluster, work = tmp_path / "cuda" / "lib64", tmp_path / "work"
    cluster.mkdir(parents=True)
    work.mkdir()
    for name in ("libcuda.so.1", "libnvidia-ml.so.1", "libcublas.so.12", "libtorch_cpu.so", "libcudart.so.12"):
        (cluster / name).touch()
    outside = {"LD_LIBRARY_PATH": f"/nowhere:{cluster}", "CUDA_VISIBLE_DEVICES": "", "NCCL_SOCKET_IFNAME": "ib0"}
    sealed = sealed_environment(Path(sys.prefix), outside, work)
    if sys.platform.startswith("linux"):
        given_on = Path(sealed["LD_LIBRARY_PATH"])
        assert sorted(path.name for path in given_on.iterdir()) == ["libcuda.so.1", "libnvidia-ml.so.1"]
        assert given_on.is_relative_to(work)
    assert sealed["CUDA_VISIBLE_DEVICES"] == ""
    assert sealed["NCCL_SOCKET_IFNAME"] == "ib0"


def test_a_search_path_without_a_driver_is_not_handed_on(tmp_path: Path) -> None:
    (tmp_path / "libcublas.so.12").touch()
    outside = {"LD_LIBRARY_PATH": os.fspath(tmp_path)}
    assert "LD_LIBRARY_PATH" not in sealed_environment(Path(sys.prefix), outside, tmp_path)


@pytest.mark.parametrize(
    ("version", "older"),
    [
        ("1.13.1", True),
        ("2.0.1+cu118", True),
        ("2.1.0", False),
        ("2.10.0a0", False),
        ("3", False),
        ("no version", False),
    ],
)
def test_the_oldest_torch_that_is_supported(version: str, older: bool) -> None:
    releases = module("releases")
    assert releases.older(version, releases.OLDEST) is older


def test_numpys_warning_about_an_older_torch_is_found_on_one_line() -> None:
    complaint = module("imports").numpy_complaint
    stderr = (
        "\nA module that was compiled using NumPy 1.x cannot be run in\nNumPy 2.1.0 as it may crash. To support both "
        "1.x and 2.x\nUserWarning: Failed to initialize NumPy: _ARRAY_API not found (Triggered internally)\n"
    )
    assert (
        complaint(stderr) == "A module that was compiled using NumPy 1.x cannot be run in NumPy 2.1.0 as it may crash"
    )
    assert complaint(stderr.split("x\n")[1]) == "Failed to initialize NumPy: _ARRAY_API not found"
    assert complaint("UserWarning: something else\n") is None


def test_every_check_of_the_newer_files_has_a_sabotage() -> None:
    declared = module("tiers").declared
    checks = {f"{name}::{entry.name}" for name in suite_sabotages.COVERED for entry in declared(SUITE / name)}
    assert checks <= suite_sabotages.SABOTAGES.keys()
    every = {f"{file.name}::{entry.name}" for file in SUITE.glob("test_*.py") for entry in declared(file)}
    assert suite_sabotages.SABOTAGES.keys() | suite_sabotages.OF_CUDA_BUILDS.keys() <= every


def test_one_process_of_a_run_imports_torch_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imports = module("imports")
    log, script = tmp_path / "log", tmp_path / "probe.py"
    script.write_text(
        f"import sys\nopen({str(log)!r}, 'a').write(sys.argv[1] + '\\n')\n"
        "open(sys.argv[2], 'w').write('{\"x\": 1}')\n"
    )
    monkeypatch.setattr(imports.probe, "__file__", str(script))
    first, second = imports.Imports(tmp_path), imports.Imports(tmp_path)
    assert first.get("torch").seen == second.get("torch").seen == second.get("numpy").seen == {"x": 1}
    assert log.read_text().split() == ["torch", "numpy"]
    # The process that had claimed it is gone, and left nothing: the next one imports.
    (tmp_path / "import-torch-first.json").unlink()
    (tmp_path / "import-torch-first.claim").write_text("999999999")
    assert imports.Imports(tmp_path).get("torch").seen == {"x": 1}
    assert log.read_text().split() == ["torch", "numpy", "torch"]


@pytest.mark.parametrize(
    ("number", "version"), [(400, (0, 4, 0)), (602, (0, 6, 2)), (701, (0, 7, 1)), (801, (0, 8, 1))]
)
def test_version_of_cusparselt(number: int, version: tuple[int, int, int]) -> None:
    assert module("cuda_versions").cusparselt(number) == version


@pytest.mark.parametrize(
    ("printed", "versions"),
    [
        (
            "  - Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605 for Intel(R) 64 …\n"
            "  - Intel(R) MKL-DNN v3.7.1 (Git Hash 8d263e693366ef8db40acc569cc7d8edf644556d)\n",
            {"MKL": "2024.2", "oneDNN": "3.7.1"},
        ),
        ("  - OpenMP 201511 (a.k.a. OpenMP 4.5)\n  - LAPACK is enabled (usually provided by MKL)\n", {}),
    ],
)
def test_libraries_of_a_cpu_build_by_what_torch_prints(printed: str, versions: dict[str, str]) -> None:
    assert module("cpu_libraries").running(printed) == versions


@pytest.mark.parametrize(
    ("running", "locked", "same"),
    [
        ("2024.2", "2024.2.2", True),
        ("2024.1", "2024.2.2", False),
        ("3.12.0", "3.12", True),
        ("3.7.1", "3.12", False),
    ],
)
def test_libraries_of_a_cpu_build_against_the_lock(running: str, locked: str, same: bool) -> None:
    assert module("cpu_libraries").agree(running, locked) is same
