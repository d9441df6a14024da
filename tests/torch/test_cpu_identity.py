"""What torch in this process is, and what it was built with."""

from __future__ import annotations

import platform
import shutil
import sys

import torch

from torchsuite import cpu_libraries, skips
from torchsuite.expect import Expectation
from torchsuite.tiers import Measure, check


@check("a CPU environment's torch offers no CUDA device, even on a machine that has one", accelerator="cpu")
def test_no_cuda(measure: Measure) -> None:
    measure("version.cuda", torch.version.cuda)
    assert torch.version.cuda is None
    assert getattr(torch.version, "hip", None) is None
    assert not torch.cuda.is_available()
    assert torch.cuda.device_count() == 0
    assert not torch.backends.cuda.is_built()


@check("the fast kernels are in the build: without oneDNN, LAPACK or OpenMP torch works, but slowly or not for long")
def test_backends(measure: Measure, expectation: Expectation) -> None:
    available = {
        "mkldnn": torch.backends.mkldnn.is_available(),
        "mkl": torch.backends.mkl.is_available(),
        "openmp": torch.backends.openmp.is_available(),
        "lapack": torch._C.has_lapack,
    }
    for name, value in available.items():
        measure(name, value)
    measure("cpu_capability", torch.backends.cpu.get_cpu_capability())
    measure("quantized_engines", list(torch.backends.quantized.supported_engines))
    assert available["lapack"]
    if sys.platform != "darwin":
        assert available["openmp"]
    if platform.machine() in ("x86_64", "AMD64"):
        assert available["mkldnn"]
    if "mkl" in expectation.torch.build:
        assert available["mkl"]


@check("MKL and oneDNN are loaded by name: those that run must be those of the lock")
def test_library_versions(measure: Measure, expectation: Expectation) -> None:
    running = cpu_libraries.running(torch.__config__.show())
    compared = 0
    for library, version in running.items():
        measure(library, version)
        package = next((each for each in expectation.packages if each.name in cpu_libraries.PACKAGES[library]), None)
        if package is None:
            continue
        compared += 1
        assert cpu_libraries.agree(version, package.version), (
            f"the lock has {package.name} {package.version}, torch runs with {library} {version}"
        )
    if not compared:
        skips.skip(skips.Reason.ABSENT, "no MKL or oneDNN of its own is in the lock: torch has them built in, or none")


@check("workers hand tensors over through shared memory; a container's 64 MB of it are gone quickly")
def test_shared_memory(measure: Measure) -> None:
    if sys.platform.startswith("linux"):
        free = shutil.disk_usage("/dev/shm").free >> 20
        measure("dev_shm_free_mib", free)
        assert free >= 32, f"/dev/shm has {free} MiB free: start the container with a larger --shm-size"
    shared = torch.arange(1 << 20, dtype=torch.float32).share_memory_()
    assert shared.is_shared()
    assert shared.sum(dtype=torch.float64).item() == (1 << 20) * ((1 << 20) - 1) / 2
