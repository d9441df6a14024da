"""What the suite finds of a machine's GPUs, and what it makes of a driver that withholds them; without torch."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from driver_stand_in import CUDA, DRIVER, NAME, compiler, make_driver

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stand-in for a driver is Linux'"),
    pytest.mark.skipif(compiler() is None, reason="no C compiler to make a stand-in for a driver with"),
]

SUITE = Path(__file__).parents[2] / "torch"

ASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
from torchsuite import gpus
seen = gpus.find()
print(json.dumps({
    "driver": seen.driver, "cuda": seen.cuda, "listed": seen.listed, "visible": seen.visible, "installed":
    seen.installed, "absence": seen.absence(), "unused": seen.reason_unused(), "words": seen.describe(),
}))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_driver(tmp_path_factory.mktemp("driver"))


def seen(driver: Path | None, **variables: str) -> dict[str, Any]:
    """What the suite finds, with the stand-in as the machine's driver."""
    hidden = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | variables
    if driver:
        environment["LD_LIBRARY_PATH"] = str(driver)
    command = [sys.executable, "-c", ASK, str(SUITE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _has_driver() -> bool:
    return bool(seen(None)["installed"])


needs_none = pytest.mark.skipif(_has_driver(), reason="this machine has GPUs of its own")


@needs_none
def test_a_machine_without_a_driver() -> None:
    found = seen(None)
    assert (found["installed"], found["visible"], found["driver"]) == (0, None, None)
    assert found["absence"] == "not run: no NVIDIA driver"
    assert found["unused"] is None


@needs_none
def test_gpus_that_work(driver: Path) -> None:
    found = seen(driver, STAND_IN_GPUS="2")
    assert (found["installed"], found["visible"]) == (2, 2)
    assert (found["driver"], found["cuda"]) == (DRIVER, CUDA)
    assert (found["absence"], found["unused"]) == (None, None)
    assert found["words"] == f"2 x {NAME}"


@needs_none
def test_a_driver_without_gpus_expects_nothing(driver: Path) -> None:
    found = seen(driver, STAND_IN_GPUS="0")
    assert found["absence"] == "not run: the NVIDIA driver shows no GPU"
    assert found["unused"] is None


@needs_none
def test_a_part_of_the_gpus_is_what_a_scheduler_gives(driver: Path) -> None:
    found = seen(driver, STAND_IN_GPUS="4", CUDA_VISIBLE_DEVICES="1,3")
    assert (found["installed"], found["visible"]) == (4, 2)
    assert (found["absence"], found["unused"]) == (None, None)


@needs_none
@pytest.mark.parametrize("value", ["", "-1", "9"])
def test_gpus_that_a_variable_hides_were_expected(driver: Path, value: str) -> None:
    found = seen(driver, CUDA_VISIBLE_DEVICES=value)
    assert found["absence"] is None
    assert found["unused"] == f"the machine has 1 GPU, but CUDA_VISIBLE_DEVICES={value} hides it"


@needs_none
@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("803", "cuInit returned 803, the driver's library and its kernel module are of different versions"),
        ("999", "cuInit returned 999, an unknown error of the driver"),
        ("12345", "cuInit returned 12345, an error of the driver"),
        # A driver that crashes takes its process along; the management library has spoken before.
        ("-1", "the driver ended the process that asked it, with exit code -6"),
    ],
)
def test_a_driver_that_fails_is_reported(driver: Path, result: str, words: str) -> None:
    found = seen(driver, STAND_IN_INIT=result)
    assert found["unused"] == f"the machine has 1 GPU, but CUDA offers none: {words}"


@needs_none
def test_a_machine_whose_driver_library_is_missing_has_a_gpu_that_is_not_used(tmp_path: Path) -> None:
    found = seen(make_driver(tmp_path, cuda=False))
    assert found["absence"] is None
    assert found["unused"].startswith("the machine has 1 GPU, but the driver's libcuda.so.1 cannot be loaded")


@needs_none
def test_a_container_that_was_refused_the_gpus_of_its_host_expects_none(tmp_path: Path) -> None:
    refused = make_driver(tmp_path, nvml=False, cuda=False)
    assert seen(refused, NVIDIA_VISIBLE_DEVICES="void")["absence"] in (
        "not run: this container was given no GPU",
        "not run: no NVIDIA driver",
    )
    # With a GPU in it, the word does not count.
    whole = make_driver(tmp_path / "whole")
    assert seen(whole, NVIDIA_VISIBLE_DEVICES="void")["absence"] is None


def test_a_container_sees_the_kernel_module_of_its_host() -> None:
    machine = suite_module("gpus").Machine
    host = {"driver": "575.57.08", "kernel": ("0000:41:00.0",), "problem": "libcuda.so.1: cannot open"}
    without = machine(**host, container=True)
    assert without.absence() == "not run: this container was given no GPU"
    assert without.reason_unused() is None
    # With a device file it was given one, and outside of a container nothing can have withheld it.
    assert machine(**host, container=True, nodes=("/dev/nvidia0",)).reason_unused()
    assert machine(**host).absence() is None
    assert machine(container=True).absence() == "not run: no NVIDIA driver"


def suite_module(name: str) -> Any:
    sys.path.insert(0, str(SUITE))
    try:
        return importlib.import_module(f"torchsuite.{name}")
    finally:
        sys.path.remove(str(SUITE))


@pytest.mark.parametrize(
    ("device", "built", "how"),
    [
        ((8, 6), ["sm_80"], "machine code"),
        ((8, 0), ["sm_86"], None),
        ((9, 0), ["sm_80", "sm_86", "compute_86"], "PTX"),
        ((9, 0), ["sm_80", "sm_86", "sm_89"], None),
        ((9, 0), ["sm_90a"], "machine code"),
        ((12, 0), ["sm_90", "sm_100", "sm_120"], "machine code"),
        ((12, 1), ["sm_120"], "machine code"),
        ((10, 3), ["sm_100f"], "machine code"),
        ((5, 0), ["sm_60", "compute_60"], None),
        ((3, 5), ["sm_35", "sm_50"], "machine code"),
        ((9, 0), ["compute_90a"], "PTX"),
        ((10, 0), ["compute_90a"], None),
    ],
)
def test_which_code_runs_on_which_gpu(device: tuple[int, int], built: list[str], how: str | None) -> None:
    assert suite_module("capability").how_it_runs(device, built) == how
