"""The GPUs: that there are as many as the driver shows, that each computes, and that this build has code for them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from torchsuite import capability, skips, usable
from torchsuite.expect import Expectation
from torchsuite.tiers import Measure, check, machine


@check("a GPU that was expected and is not used makes everything run on the CPU without a warning")
def test_the_gpu_is_used(measure: Measure) -> None:
    here = machine()
    measure("installed", here.installed)
    measure("visible", here.visible or 0)
    measure("gpus", list(here.listed))
    if absence := here.absence():
        pytest.fail(f"a GPU is needed: {absence.removeprefix('not run: ')}")
    reason = usable.reason_unused(torch)
    assert reason is None, reason
    # The work itself: a product whose terms are whole numbers is exact in every format.
    a = torch.arange(64.0, device="cuda").reshape(8, 8)
    assert a.is_cuda
    assert torch.equal((a @ a).cpu(), a.cpu() @ a.cpu())


@check("torch counts GPUs by itself; one too few is a GPU that is idle")
def test_device_count(gpu: Any, measure: Measure) -> None:
    measure("torch", torch.cuda.device_count())
    measure("driver", machine().visible)
    assert torch.cuda.device_count() == machine().visible


@check("an older driver than the lock's floor runs into functions that it does not have")
def test_driver_floor(gpu: Any, expectation: Expectation, measure: Measure) -> None:
    driver = machine().driver
    measure("driver", driver)
    measure("driver_cuda", machine().cuda)
    if expectation.driver_floor is None:
        skips.skip(skips.Reason.NO_ROW, "no row has the oldest driver")
    if driver is None:
        pytest.skip("the driver's version is not known")
    # An older driver is enough where a newer libcuda is beside it (NVIDIA's cuda-compat, on data-centre GPUs).
    newer = bool(machine().cuda and expectation.cuda) and _numbers(machine().cuda) >= _numbers(expectation.cuda)
    measure("forward_compatibility", newer and _numbers(driver) < _numbers(expectation.driver_floor))
    assert newer or _numbers(driver) >= _numbers(expectation.driver_floor), (
        f"the driver is {driver}, CUDA {expectation.cuda} needs {expectation.driver_floor} or newer"
    )


def _numbers(version: str | None) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version or "")]


@check("no kernel image is available: every GPU needs machine code of its generation, or PTX to compile it from")
def test_architectures(gpu: Any, measure: Measure) -> None:
    built = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_capability(index)
        how = capability.how_it_runs(device, built)
        measure(f"device_{index}", f"{device[0]}.{device[1]}: {how}")
        assert how is not None, f"GPU {index} is of compute capability {device[0]}.{device[1]}, torch has {built}"


@check("a GPU that is broken, or in another process's hands, shows at its first kernel; the others go on")
def test_every_device_computes(gpu: Any, measure: Measure) -> None:
    torch.manual_seed(1)
    a, b = torch.randint(-8, 8, (100, 80)).float(), torch.randint(-8, 8, (80, 60)).float()
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        properties = torch.cuda.get_device_properties(device)
        measure(f"device_{index}", f"{properties.name}, {properties.total_memory >> 20} MiB")
        # Products and sums of small whole numbers are exact in fp32, and in TF32 as well.
        product = a.to(device) @ b.to(device)
        assert product.device == device
        assert torch.equal(product.cpu(), a @ b)
        assert torch.equal(product.sort(dim=1).values.cpu(), (a @ b).sort(dim=1).values)
        torch.cuda.synchronize(device)


@check("memory that is given back and not counted as free ends in an error hours later")
def test_memory_accounts(gpu: Any) -> None:
    before = torch.cuda.memory_allocated(gpu)
    block = torch.empty(1 << 20, dtype=torch.float32, device=gpu)
    assert torch.cuda.memory_allocated(gpu) == before + (4 << 20)
    assert torch.cuda.max_memory_allocated(gpu) >= before + (4 << 20)
    del block
    assert torch.cuda.memory_allocated(gpu) == before
    free, total = torch.cuda.mem_get_info(gpu)
    assert 0 < free <= total
