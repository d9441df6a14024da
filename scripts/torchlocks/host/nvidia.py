"""The NVIDIA driver of this machine: its version, the CUDA that it runs, and the GPUs.

NVML, the driver's own library, is queried first; if it is missing or returns an error, what the kernel driver publishes
in `/proc` is used, and the facts record it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, cast

from torchlocks.core.values import Limited, Strict

DottedVersion = Annotated[str, Limited(pattern=r"^[0-9]+(\.[0-9]+)*$", max_length=40)]
T = TypeVar("T")

# Where distributions put NVML outside the linker's path, relative to the root: WSL, Fedora and RHEL, NixOS.
_NVML_FOLDERS = ("usr/lib/wsl/lib", "usr/lib64/nvidia", "run/opengl-driver/lib")

# NVML's codes, by the names in nvml.h.
_NOT_SUPPORTED, _NO_PERMISSION, _DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND = 3, 4, 9, 12
_GPU_IS_LOST, _MISMATCH = 15, 18

# The integrated GPUs of Tegra chips, by the chip's name in the device tree. Source: NVIDIA's list of compute
# capabilities (Jetson) and the names in Linux's arch/arm64/boot/dts/nvidia.
_TEGRA_CHIPS = {"tegra210": "5.3", "tegra186": "6.2", "tegra194": "7.2", "tegra234": "8.7", "tegra264": "11.0"}


@dataclass(frozen=True, kw_only=True)
class Gpu(Strict):
    """One GPU. `index` is NVML's: the order of PCI bus ids, as in nvidia-smi. Fields that could not be read are
    None.
    """

    index: int
    name: str
    compute_capability: Annotated[str, Limited(pattern=r"^[0-9]+\.[0-9]+$", max_length=10)] | None = None
    memory_bytes: int | None = None
    mig: bool | None = None
    """Whether the GPU is split into instances (Multi-Instance GPU)."""

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})"


@dataclass(frozen=True, kw_only=True)
class NvidiaFacts(Strict):
    """The driver and its GPUs.

    `driver` is the driver's version (under WSL that of Windows), `cuda` the newest CUDA version that it runs. `source`
    names where they were read. `problem` is what prevents programs from using existing GPUs now. `notes` are sentences
    on what could not be read, and why.
    """

    driver: DottedVersion | None = None
    cuda: DottedVersion | None = None
    gpus: tuple[Gpu, ...] = ()
    source: Literal["NVML", "kernel driver", "device tree"] | None = None
    problem: str | None = None
    notes: tuple[str, ...] = ()


class Nvml(Protocol):
    """The part of NVML that is used, with the functions of the module `pynvml`, whose handles are opaque."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlSystemGetDriverVersion(self) -> str: ...
    def nvmlSystemGetCudaDriverVersion_v2(self) -> int: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...
    def nvmlDeviceGetName(self, handle: Any) -> str: ...
    def nvmlDeviceGetCudaComputeCapability(self, handle: Any) -> tuple[int, int]: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...
    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]: ...


def nvidia_facts(root: Path = Path("/"), nvml: Nvml | None = None) -> NvidiaFacts:
    """Return the driver and GPUs of this machine. Never fails: what cannot be read is None, with a note.

    `root` is the folder that contains `/proc`, `/sys` and the libraries outside of the linker's path, and `nvml` the
    library that is queried; both are replaced in tests and for machines that are examined from outside.
    """
    published = _published(root)
    if nvml is None and not _has_nvml(root):
        answered: NvidiaFacts | tuple[int, str] = (_LIBRARY_NOT_FOUND, _words(_LIBRARY_NOT_FOUND, ""))
    else:
        answered = _ask_nvml(root, nvml or _pynvml())
    if isinstance(answered, NvidiaFacts):
        # NVML may report no GPU where the kernel driver lists one.
        return answered if answered.gpus else replace(answered, gpus=published.gpus)
    code, why = answered
    if published.driver is None and not published.gpus:
        # No NVML and no driver: no GPU.
        if code == _LIBRARY_NOT_FOUND:
            return NvidiaFacts()
        return NvidiaFacts(notes=(f"{why}.",), problem=None if code == _DRIVER_NOT_LOADED else why)
    lacking = "GPU memory and compute capability are not known" if published.source == "kernel driver" else ""
    notes = (why, f"driver and GPUs are as the {published.source} publishes them", lacking)
    problem = None if code == _LIBRARY_NOT_FOUND else why
    return replace(published, notes=("; ".join(n for n in notes if n) + ".",), problem=problem)


def tegra_chip(root: Path = Path("/")) -> str | None:
    """Return the Tegra chip of a Jetson, such as `tegra234`, by its device tree; `tegra` if that does not name it;
    else None.

    Source: `compatible` in the device tree, and `/etc/nv_tegra_release`, which Jetson Linux installs.
    """
    compatible = _read(root / "proc" / "device-tree" / "compatible") or ""
    if found := re.search(r"nvidia,(tegra\d+)", compatible):
        return found[1]
    return "tegra" if (root / "etc" / "nv_tegra_release").exists() else None


def _ask_nvml(root: Path, nvml: Nvml) -> NvidiaFacts | tuple[int, str]:
    """Return NVML's facts, or the code and text of its error."""
    try:
        _initialise(root, nvml)
    except nvml.NVMLError as error:
        return _code(error), _explain(error)
    try:
        return _inventory(nvml)
    finally:
        # A failure to close the library does not discard the facts.
        _or_none(nvml, nvml.nvmlShutdown)


def _initialise(root: Path, nvml: Nvml) -> None:
    try:
        return nvml.nvmlInit()
    except nvml.NVMLError as error:
        if _code(error) != _LIBRARY_NOT_FOUND or not _load_from_folders(root):
            raise
    return nvml.nvmlInit()


def _has_nvml(root: Path) -> bool:
    """Return whether NVML can be loaded, which most machines cannot: `pynvml` takes a start of Python to import."""
    if sys.platform == "win32":
        # Where it is there, pynvml knows.
        return True
    import ctypes

    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return _load_from_folders(root)
    return True


def _load_from_folders(root: Path) -> bool:
    """Load NVML from outside of the linker's path; once loaded, its name is sufficient to find it."""
    import ctypes

    for folder in _NVML_FOLDERS:
        library = root / folder / "libnvidia-ml.so.1"
        if library.exists():
            try:
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue
            return True
    return False


def _inventory(nvml: Nvml) -> NvidiaFacts:
    notes: list[str] = []
    driver = _or_note(nvml, notes, "the driver's version", nvml.nvmlSystemGetDriverVersion)
    cuda = _or_note(nvml, notes, "the driver's CUDA version", nvml.nvmlSystemGetCudaDriverVersion_v2)
    count = _or_note(nvml, notes, "the number of GPUs", nvml.nvmlDeviceGetCount) or 0
    gpus = [gpu for index in range(count) if (gpu := _gpu(nvml, index, notes)) is not None]
    version = re.match(r"\d{1,9}(\.\d{1,9}){1,3}", driver or "", re.ASCII)
    lost = [note for note in notes if "lost" in note]
    return NvidiaFacts(
        driver=version[0] if version else None,
        # NVML's number is 1000 * major + 10 * minor (nvmlSystemGetCudaDriverVersion in nvml.h).
        cuda=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
        gpus=tuple(gpus),
        source="NVML",
        problem=lost[0] if lost and not gpus else None,
        notes=tuple(notes),
    )


def _gpu(nvml: Nvml, index: int, notes: list[str]) -> Gpu | None:
    what = f"GPU {index}"
    handle = _or_note(nvml, notes, what, lambda: nvml.nvmlDeviceGetHandleByIndex(index))
    if handle is None:
        return None
    name = _or_note(nvml, notes, f"{what}: its name", lambda: nvml.nvmlDeviceGetName(handle))
    found = _or_note(
        nvml, notes, f"{what}: its compute capability", lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle)
    )
    # Integrated GPUs share the machine's memory and most GPUs cannot be split: NVML reports "not supported".
    memory = _or_none(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    mig = _or_none(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle))
    return Gpu(
        index=index,
        name=name or "NVIDIA GPU",
        compute_capability=f"{found[0]}.{found[1]}" if found else None,
        memory_bytes=int(memory.total) if memory is not None else None,
        mig=bool(mig[0]) if mig is not None else None,
    )


def _or_note(nvml: Nvml, notes: list[str], what: str, ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except nvml.NVMLError as error:
        notes.append(f"{what} could not be read: {_explain(error)}.")
        return None


def _or_none(nvml: Nvml, ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except nvml.NVMLError:
        return None


def _code(error: Exception) -> int:
    return int(getattr(error, "value", 0))


def _explain(error: Exception) -> str:
    """Return NVML's error as text, with what to do if that is known."""
    return _words(_code(error), f"NVML reports {str(error)!r}")


def _words(code: int, text: str) -> str:
    """Return what NVML's error `code` means; `text` is NVML's own for it."""
    return {
        _LIBRARY_NOT_FOUND: "NVML, the driver's library, is not installed (libnvidia-ml.so.1)",
        _DRIVER_NOT_LOADED: "NVML is installed, but the NVIDIA kernel driver is not loaded",
        _NO_PERMISSION: f"{text}: this user may not use the GPUs (/dev/nvidia*)",
        _GPU_IS_LOST: f"{text}: the GPU fell off the bus; restart the machine",
        _MISMATCH: f"{text}: the driver was replaced while it ran; restart the machine",
        _NOT_SUPPORTED: f"{text} by this GPU",
    }.get(code, text)


def _published(root: Path) -> NvidiaFacts:
    """Return what the kernel driver publishes, or the device tree of a Jetson."""
    driver = _kernel_version(root)
    gpus = tuple(
        Gpu(index=index, name=name) for index, name in enumerate(_kernel_gpus(root / "proc" / "driver" / "nvidia"))
    )
    if driver is not None and gpus:
        return NvidiaFacts(driver=driver, gpus=gpus, source="kernel driver")
    chip = tegra_chip(root)
    if chip is None:
        return NvidiaFacts(driver=driver, source="kernel driver" if driver else None)
    model = (_read(root / "proc" / "device-tree" / "model") or "NVIDIA Jetson").strip("\0\n ")
    integrated = Gpu(index=0, name=model, compute_capability=_TEGRA_CHIPS.get(chip))
    return NvidiaFacts(driver=driver, gpus=(integrated,), source="device tree")


def _kernel_version(root: Path) -> str | None:
    """Return the version of the loaded kernel driver: 535.104.05 of `NVRM version: NVIDIA UNIX …`."""
    line = _read(root / "proc" / "driver" / "nvidia" / "version") or ""
    found = re.search(r"NVRM version:.*?\s(\d{1,9}(?:\.\d{1,9}){1,3})\s", line, re.ASCII)
    if found:
        return found[1]
    module = (_read(root / "sys" / "module" / "nvidia" / "version") or "").strip()
    return module if re.fullmatch(r"\d{1,9}(\.\d{1,9}){1,3}", module, re.ASCII) else None


def _kernel_gpus(folder: Path) -> Iterator[str]:
    """Return the models of the GPUs, in the order of their PCI bus ids."""
    for information in sorted(folder.glob("gpus/*/information")):
        found = re.search(r"^Model:\s*(.+?)\s*$", _read(information) or "", re.MULTILINE)
        yield found[1] if found else "NVIDIA GPU"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _pynvml() -> Nvml:
    import pynvml

    return cast(Nvml, pynvml)
