"""The GPUs of this machine that a CUDA environment must use, as reported by the machine and its driver, not torch.

    python -I gpus.py

prints what is known as JSON, line by line: first without CUDA, which may crash or hang, then with it. `find` runs it
in a separate process, so that no driver is loaded into the suite and one that crashes is a result. Takes nothing but
the standard library.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

#: Where drivers are kept that the loader does not search by itself: containers of clusters, WSL, NixOS.
HIDING_PLACES = ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/wsl/lib", "/run/opengl-driver/lib")

#: Results of cuInit and cuDeviceGetCount that have a plain meaning (`CUresult` in cuda.h).
_RESULTS = {
    3: "the driver is not initialised",
    34: "the library is CUDA's stub, not a driver",
    35: "the driver is older than the CUDA that asks",
    46: "the device is busy or in exclusive mode",
    100: "no device",
    101: "an invalid device is named",
    802: "the system is not ready: the fabric manager does not run",
    803: "the driver's library and its kernel module are of different versions",
    804: "the compatibility library does not run on this GPU",
    999: "an unknown error of the driver",
}

#: NVML: the sizes of its text buffers, and no error.
_TEXT, _SUCCESS = 96, 0


@dataclass(frozen=True)
class Machine:
    """What is known of the NVIDIA GPUs here, each from an independent source.

    `listed` are those that NVML names, `nodes` their device files, `kernel` the PCI addresses that the kernel module
    has: none of them knows of CUDA_VISIBLE_DEVICES. `visible` is the number that CUDA gives to a process started with
    the variables of this one; None where `libcuda` cannot be loaded, and `problem` is then the reason.
    `cuda` is the newest CUDA version that the driver runs, such as "12.9". `container`: in a container, which sees
    the kernel module of its host whether it was given GPUs or not.
    """

    driver: str | None = None
    cuda: str | None = None
    listed: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    kernel: tuple[str, ...] = ()
    visible: int | None = None
    problem: str | None = None
    hidden_by: dict[str, str] = field(default_factory=dict)
    container: bool = False

    @property
    def installed(self) -> int:
        """How many GPUs the machine has, by whichever source names most."""
        return max(len(self.listed), len(self.nodes), len(self.kernel), self.visible or 0)

    @property
    def withheld(self) -> bool:
        """A container without the GPUs of its host: no device file, and nothing of the driver that finds one."""
        refused = self.hidden_by.get("NVIDIA_VISIBLE_DEVICES") in ("void", "none")
        return (refused or self.container) and not (self.listed or self.nodes or self.visible)

    def absence(self) -> str | None:
        """Why nothing can be expected of a GPU here; None where the machine has one."""
        if self.withheld:
            if self.installed or "NVIDIA_VISIBLE_DEVICES" in self.hidden_by:
                return "not run: this container was given no GPU"
        elif self.installed:
            return None
        if self.visible is None and self.driver is None:
            return "not run: no NVIDIA driver"
        return "not run: the NVIDIA driver shows no GPU"

    def reason_unused(self) -> str | None:
        """Why CUDA offers nothing of a machine that has GPUs; None where it does, or where the machine has none."""
        if not self.installed or self.withheld or self.visible:
            return None
        had = f"the machine has {count(self.installed)}"
        if self.visible is None:
            return f"{had}, but {self.problem}"
        if (named := self.hidden_by.get("CUDA_VISIBLE_DEVICES")) is not None:
            return f"{had}, but CUDA_VISIBLE_DEVICES={named} hides {'it' if self.installed == 1 else 'them'}"
        return f"{had}, but CUDA offers none: {self.problem or 'cuDeviceGetCount returns 0'}"

    def describe(self) -> str:
        """The GPUs in a few words: `2 x NVIDIA H100 80GB HBM3`."""
        names = dict.fromkeys(self.listed)
        if len(names) == 1:
            return f"{len(self.listed)} x {self.listed[0]}"
        return ", ".join(f"{self.listed.count(name)} x {name}" for name in names) or count(self.installed)


def count(gpus: int) -> str:
    """`1 GPU`, `2 GPUs`."""
    return f"{gpus} GPU{'' if gpus == 1 else 's'}"


def find(timeout: float = 60.0) -> Machine:
    """Look from a fresh process, with the variables of this one."""
    command = [sys.executable, "-I", os.fspath(Path(__file__))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        output, _ = process.communicate(timeout=timeout)
        ended = f"the driver ended the process that asked it, with exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        ended = f"the driver did not respond within {timeout:.0f} s"
    lines = output.splitlines()
    if not lines:
        return Machine(driver=_kernel_version(), nodes=_nodes(), kernel=_kernel(), visible=0, problem=ended)
    seen = json.loads(lines[-1])
    known: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in seen.items()}
    machine = Machine(**known)
    return machine if len(lines) == 2 else replace(machine, visible=0, problem=ended)


def look() -> Iterator[Machine]:
    """Ask NVML, the device files and the kernel module, then CUDA as well, in this process."""
    driver, listed = _nvml()
    named = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
    without_cuda = Machine(
        driver=driver or _kernel_version(),
        listed=listed,
        nodes=_nodes(),
        kernel=_kernel(),
        hidden_by={name: os.environ[name] for name in named if name in os.environ},
        container=_container(),
    )
    yield without_cuda
    cuda, visible, problem = _cuda()
    yield replace(without_cuda, cuda=cuda, visible=visible, problem=problem)


def _nvml() -> tuple[str | None, tuple[str, ...]]:
    """The driver's version and the names of its GPUs, by the management library; it does not touch the GPUs."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() != _SUCCESS:
            return None, ()
    except (OSError, AttributeError):
        return None, ()
    version, number = ctypes.create_string_buffer(_TEXT), ctypes.c_uint(0)
    known = nvml.nvmlSystemGetDriverVersion(version, _TEXT) == _SUCCESS
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(number)) != _SUCCESS:
        number.value = 0
    names = []
    for index in range(number.value):
        device, name = ctypes.c_void_p(), ctypes.create_string_buffer(_TEXT)
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == _SUCCESS:
            known = nvml.nvmlDeviceGetName(device, name, _TEXT) == _SUCCESS
            names.append(name.value.decode(errors="replace") if known else "a GPU without a name")
    nvml.nvmlShutdown()
    return (version.value.decode(errors="replace") if known else None), tuple(names)


def _cuda() -> tuple[str | None, int | None, str | None]:
    """The driver's CUDA version, how many GPUs it gives to this process, and what is wrong."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        found = [folder for folder in HIDING_PLACES if Path(folder, "libcuda.so.1").exists()]
        hint = f" (it is in {found[0]}, which LD_LIBRARY_PATH does not name)" if found else ""
        return None, None, f"the driver's libcuda.so.1 cannot be loaded: {error}{hint}"
    version, devices = ctypes.c_int(0), ctypes.c_int(0)
    known = driver.cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}" if known else None
    for function, arguments in (("cuInit", (0,)), ("cuDeviceGetCount", (ctypes.byref(devices),))):
        if (result := getattr(driver, function)(*arguments)) != 0:
            return cuda, 0, f"{function} returned {result}, {_RESULTS.get(result, 'an error of the driver')}"
    return cuda, devices.value, None


def _nodes() -> tuple[str, ...]:
    """The GPUs' device files (Linux; WSL has one for all of them, of another name)."""
    return tuple(sorted(path.as_posix() for path in Path("/dev").glob("nvidia[0-9]*")))


def _kernel() -> tuple[str, ...]:
    """The GPUs that the kernel module has, by their PCI addresses (Linux)."""
    return tuple(sorted(path.name for path in Path("/proc/driver/nvidia/gpus").glob("*")))


def _container() -> bool:
    """Whether this is a container, by the marks that Docker, Podman and Kubernetes leave in it."""
    return (
        any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
        or "KUBERNETES_SERVICE_HOST" in os.environ
    )


def _kernel_version() -> str | None:
    """The version of the kernel module, where there is one and the management library is missing."""
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="ascii").strip()
    except OSError:
        return None


if __name__ == "__main__":
    for machine in look():
        print(json.dumps(asdict(machine)), flush=True)
