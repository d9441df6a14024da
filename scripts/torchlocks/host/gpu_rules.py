"""NVIDIA's rules on GPUs: which code runs on which compute capability."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from packaging.version import Version

from torchlocks.host.driver_rules import driver_versions, named_driver, older_than_its_compiler
from torchlocks.host.needs import CudaNeeds, Reason, numbered
from torchlocks.host.record import Host

# Compute capabilities of integrated (Tegra) GPUs; 10.1 is Thor's name before CUDA 13. Source: NVIDIA's list of
# compute capabilities, Jetson.
_TEGRA = ("5.3", "6.2", "7.2", "8.7", "10.1", "11.0")


def code_for(capability: str, architectures: tuple[str, ...], ptx: str | None) -> Literal["machine", "ptx"] | None:
    """Return which code of a program for `architectures` and `ptx` runs on a GPU of compute capability `capability`.

    Machine code runs on GPUs of the same major and the same or a higher minor, but not from discrete to integrated
    (Tegra) GPUs or back, nor among the latter; PTX on any that is not older than it. Source: NVIDIA, CUDA C++
    Programming Guide, "Binary Compatibility" and "PTX Compatibility".
    """
    gpu = Version(capability)
    if capability in architectures:
        return "machine"
    if capability not in _TEGRA and any(
        Version(each).major == gpu.major and Version(each) <= gpu for each in architectures if each not in _TEGRA
    ):
        return "machine"
    return "ptx" if ptx is not None and Version(ptx) <= gpu else None


def gpu_reasons(cuda: CudaNeeds, host: Host) -> tuple[list[Reason], tuple[int, ...]]:
    """Return the reasons for each kind of GPU, and the indices of the GPUs that run it."""
    if not host.gpus:
        return [Reason(kind="no-gpu", weight="open", text="the driver is there, and no GPU")], ()
    alike: dict[tuple[str, str | None], list[int]] = {}
    for gpu in host.gpus:
        alike.setdefault((gpu.name, gpu.compute_capability), []).append(gpu.index)
    reasons, running = [], []
    for (name, capability), indices in alike.items():
        named = f"{numbered(indices)} ({name})" if len(alike) > 1 else name
        found = _code_reason(cuda, host, named, capability)
        if found is not None:
            reasons.append(replace(found, gpus=tuple(indices)))
        if found is None or found.weight == "remark":
            running += indices
    return reasons, tuple(sorted(running))


def _code_reason(cuda: CudaNeeds, host: Host, name: str, capability: str | None) -> Reason | None:
    """Return whether torch has code for the GPUs called `name`; None if it has machine code.

    The driver compiles PTX when a program starts, which requires a driver at least as new as the compiler that wrote
    it: minor-version compatibility does not cover it. Source: NVIDIA, CUDA Compatibility, "Application Considerations".
    """
    if capability is None:
        text = f"the compute capability of {name} is not known, and so not whether torch has code for it"
        return Reason(kind="not-known", weight="open", text=text)
    code = code_for(capability, cuda.architectures, cuda.ptx)
    sm = f"{name} is sm_{capability.replace('.', '')}"
    lacking = next((limit for limit in cuda.libraries if Version(capability) < Version(limit.oldest)), None)
    if code is not None and lacking is not None:
        return Reason(kind="architecture", weight="blocks", text=f"{sm}, and {lacking}")
    if code == "machine":
        return None
    if code == "ptx":
        if older_than_its_compiler(cuda, host):
            text = f"{sm}: only PTX for it, which {named_driver(host)} is too old to compile"
            compiler = driver_versions(cuda.toolkit_drivers, host).shipped if cuda.toolkit_drivers else None
            fix = f"install driver {compiler} or newer" if compiler else f"install a driver for CUDA {cuda.toolkit}"
            return Reason(kind="ptx-driver", weight="blocks", text=text, fix=fix, driver=compiler)
        text = f"{sm}: only PTX for it, which the driver compiles, so that the first start is slow"
        fix = "an environment with machine code for it starts at once"
        return Reason(kind="ptx", weight="remark", text=text, fix=fix)
    oldest, newest = cuda.architectures[0], cuda.architectures[-1]
    if capability in _TEGRA and any(a.split(".")[0] == capability.split(".")[0] for a in cuda.architectures):
        # Seen with torch 2.10 and JetPack 7.2 to work, with torch 2.12 not to (conda-forge/pytorch-cpu-feedstock 527).
        text = f"{sm}, an integrated GPU: torch has code for its discrete relatives alone, which may or may not run"
        return Reason(kind="architecture", weight="open", text=text)
    if Version(capability) < Version(oldest):
        text = f"{sm}, and torch has no code for GPUs older than sm_{oldest.replace('.', '')}"
    elif Version(capability) > Version(newest):
        text = f"{sm}, and torch has code up to sm_{newest.replace('.', '')}, and no PTX for newer GPUs"
    else:
        text = f"{sm}, and torch has code for older and for newer GPUs, but not for it"
    return Reason(kind="architecture", weight="blocks", text=text)
