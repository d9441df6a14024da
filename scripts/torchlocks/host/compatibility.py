"""Whether an environment runs on a machine, and why not: a judgement from values alone, without looking at anything.

The rules are NVIDIA's; each function names the document it follows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from packaging.version import Version

from torchlocks.cuda.libraries import Limit
from torchlocks.cuda.packages import variant_of
from torchlocks.host.record import Host
from torchlocks.matrix.cells import Drivers, DriverVersions
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target

State = Literal["runs", "runs-with-remark", "unknown", "does-not-run"]
Kind = Literal[
    "platform",
    "glibc",
    "osx",
    "no-driver",
    "no-gpu",
    "driver-problem",
    "driver-floor",
    "minor-version",
    "forward",
    "architecture",
    "ptx",
    "ptx-driver",
    "jetson",
    "not-known",
]
Weight = Literal["remark", "open", "blocks"]

# Compute capabilities of integrated (Tegra) GPUs; 10.1 is Thor's name before CUDA 13. Source: NVIDIA's list of
# compute capabilities, Jetson.
_TEGRA = ("5.3", "6.2", "7.2", "8.7", "10.1", "11.0")


@dataclass(frozen=True, kw_only=True)
class CudaNeeds:
    """What a CUDA environment asks of the driver and the GPUs.

    `version` is that of the CUDA libraries, `toolkit` that of the compiler that torch was built with: older where a
    build runs with newer libraries. `architectures` have machine code in torch; `ptx` is the compute capability of
    its portable code, if any. The drivers are those of the two versions.
    """

    version: str
    toolkit: str
    drivers: Drivers
    toolkit_drivers: Drivers | None
    architectures: tuple[str, ...]
    ptx: str | None
    libraries: tuple[Limit, ...] = ()
    """What the libraries of the lock have code for, where a lock was read."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an environment asks of a machine: its conda platform, the oldest glibc or macOS, and CUDA, if any."""

    env: str
    platform: str
    glibc: str | None
    osx: str | None
    cuda: CudaNeeds | None
    holds: tuple[str, ...] = ()
    """torch, torchvision and torchaudio with their versions, those that the environment has."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a machine is judged as it is: what is the case, and what to do about it.

    A `remark` does not keep the environment from running, `blocks` does, and with `open` nobody can tell.
    `driver` is the oldest driver that would lift it. `gpus` are the indices of the GPUs that it is about; none where it
    is about the machine.
    """

    kind: Kind
    weight: Weight
    text: str
    fix: str | None = None
    driver: str | None = None
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The judgement on one environment and one machine; `gpus` are the indices of those that it runs on."""

    env: str
    platform: str
    cuda: str | None
    state: State
    reasons: tuple[Reason, ...]
    gpus: tuple[int, ...] = ()
    holds: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The state in a few words: `runs here`, `runs on GPU 0, not on GPU 1` …"""
        refused = [index for reason in self.blocking for index in reason.gpus]
        if self.gpus and refused:
            return f"runs on {_numbers(self.gpus)}, not on {_numbers(refused)}"
        if self.state == "unknown":
            kinds = {reason.kind for reason in self.reasons}
            return "no driver here" if "no-driver" in kinds else "no GPU here" if "no-gpu" in kinds else "not known"
        return "does not run" if self.state == "does-not-run" else "runs here"

    @property
    def blocking(self) -> tuple[Reason, ...]:
        return tuple(reason for reason in self.reasons if reason.weight == "blocks")


def needs_of(matrix: Matrix, target: Target, libraries: tuple[Limit, ...] = ()) -> Needs:
    """What `target` asks of a machine, by the matrix."""
    cuda = None
    if target.cuda is not None:
        variant = variant_of(target.build)
        toolkit = (variant.cuda if variant else None) or target.cuda
        cuda = CudaNeeds(
            version=target.cuda,
            toolkit=toolkit,
            drivers=matrix.drivers[target.cuda],
            toolkit_drivers=matrix.drivers.get(toolkit),
            # Libraries give their reason themselves; where no lock was read, the promise of the row has to do.
            architectures=target.torch_architectures if libraries else target.architectures,
            ptx=target.ptx,
            libraries=libraries,
        )
    return Needs(
        env=target.env,
        platform=target.platform,
        glibc=target.glibc,
        osx=target.virtual_packages.get("__osx"),
        cuda=cuda,
        holds=target.holds,
    )


def fits(needs: Needs, host: Host) -> Fit:
    """Judge whether the environment runs on the machine."""
    reasons = _system_reasons(needs, host)
    gpus: tuple[int, ...] = ()
    if needs.cuda is not None and not _blocked(reasons):
        reasons += _driver_reasons(needs.cuda, host)
        if host.has_driver and host.problem is None:
            found, able = _gpu_reasons(needs.cuda, host)
            if not _blocked(reasons):
                reasons, gpus = reasons + found, able
            elif all(reason.kind == "driver-floor" for reason in reasons):
                # A driver that is too old may be replaced; a GPU without code stays as it is, so both are told.
                reasons += [reason for reason in found if reason.kind == "architecture"]
    return Fit(
        env=needs.env,
        platform=needs.platform,
        cuda=needs.cuda.version if needs.cuda else None,
        state=_state(reasons, gpus),
        reasons=tuple(reasons),
        gpus=gpus,
        holds=needs.holds,
    )


def driver_versions(drivers: Drivers, host: Host) -> DriverVersions:
    """The versions that count on this machine: under WSL the driver is that of Windows.

    Source: NVIDIA, CUDA on WSL User Guide: the Windows driver serves WSL, and none is installed inside.
    """
    windows = host.kind == "wsl" or host.platform.startswith("win")
    return drivers.windows if windows else drivers.linux


def code_for(capability: str, architectures: tuple[str, ...], ptx: str | None) -> Literal["machine", "ptx"] | None:
    """What a GPU of compute capability `capability` runs of a program compiled for `architectures` and `ptx`.

    Machine code runs on GPUs of the same major and the same or a higher minor, but not across the border between
    discrete and integrated (Tegra) GPUs, nor among the latter; PTX on any that is not older than it.
    Source: NVIDIA, CUDA C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility".
    """
    gpu = Version(capability)
    if capability in architectures:
        return "machine"
    if capability not in _TEGRA and any(
        Version(each).major == gpu.major and Version(each) <= gpu for each in architectures if each not in _TEGRA
    ):
        return "machine"
    return "ptx" if ptx is not None and Version(ptx) <= gpu else None


def _system_reasons(needs: Needs, host: Host) -> list[Reason]:
    if needs.platform != host.platform:
        return [Reason(kind="platform", weight="blocks", text=f"it is for {needs.platform}, this is {host.platform}")]
    reasons: list[Reason] = []
    pairs: tuple[tuple[Kind, str, str | None, str | None], ...] = (
        ("glibc", "glibc", needs.glibc, host.glibc),
        ("osx", "macOS", needs.osx, host.osx),
    )
    for kind, name, needed, there in pairs:
        if needed is None:
            continue
        if there is None:
            text = f"it needs {name} {needed} or newer; none is known of this machine"
            reasons.append(Reason(kind=kind, weight="blocks", text=text))
        elif Version(there) < Version(needed):
            reasons.append(
                Reason(
                    kind=kind,
                    weight="blocks",
                    text=f"it was solved for {name} {needed} or newer; this machine has {there}",
                    fix=f"use a system with {name} {needed} or newer, or a container of one",
                )
            )
    return reasons


def _driver_reasons(cuda: CudaNeeds, host: Host) -> list[Reason]:
    """Driver against CUDA: newer drivers run older CUDA; within a major, any driver from the floor on runs every minor.

    An older driver runs it where a newer libcuda is installed beside it (the package cuda-compat), on data-centre GPUs.
    Source: NVIDIA, CUDA Compatibility, "Minor Version Compatibility" and "Forward Compatibility", and the driver tables
    of the CUDA Toolkit release notes.
    """
    if host.problem is not None:
        return [Reason(kind="driver-problem", weight="blocks", text="the driver does not work at present")]
    if host.kind == "jetson":
        return _jetson_reasons(cuda, host)
    if not host.has_driver:
        floor = driver_versions(cuda.drivers, host).floor
        text = f"it can be built here, for a machine with driver {floor} or newer"
        return [Reason(kind="no-driver", weight="open", text=text, driver=floor)]
    major = Version(cuda.version).major
    known = driver_versions(cuda.drivers, host)
    where = " on Windows" if host.kind == "wsl" else ""
    fix = f"install driver {known.floor} or newer{where}"
    if host.driver is not None:
        if Version(host.driver) < Version(known.floor) and _at_least(host.cuda, cuda.version):
            text = f"driver {host.driver} runs it through a libcuda for CUDA {host.cuda} (cuda-compat), if the GPU may"
            return [Reason(kind="forward", weight="remark", text=text)]
        if Version(host.driver) < Version(known.floor):
            text = f"driver {host.driver} is older than {known.floor}, the oldest that runs CUDA {major}"
            return [Reason(kind="driver-floor", weight="blocks", text=text, fix=fix, driver=known.floor)]
        before = known.shipped is not None and Version(host.driver) < Version(known.shipped)
    elif host.cuda is not None and Version(host.cuda).major < major:
        text = f"the driver runs CUDA {host.cuda} at most, and this is CUDA {cuda.version}"
        return [Reason(kind="driver-floor", weight="blocks", text=text, fix=fix, driver=known.floor)]
    else:
        before = False
    if before or (host.cuda is not None and Version(host.cuda) < Version(cuda.version)):
        return [
            Reason(
                kind="minor-version",
                weight="remark",
                text=f"{_driver(host)} is older than CUDA {cuda.version}; it runs through minor-version compatibility",
                fix=f"driver {known.shipped} or newer needs no such promise{where}" if known.shipped else None,
            )
        ]
    return []


def _at_least(cuda: str | None, needed: str) -> bool:
    return cuda is not None and Version(cuda) >= Version(needed)


def _jetson_reasons(cuda: CudaNeeds, host: Host) -> list[Reason]:
    """Jetson's drivers come with JetPack, and count otherwise than those of the driver table.

    conda-forge's CUDA packages for aarch64 are for servers (`arm-variant * sbsa`), which Jetsons run from CUDA 13 on.
    Source: NVIDIA's technical blog on CUDA 13.0 for Jetson Thor (one toolkit for Arm, Orin excepted) and on CUDA 13.2
    (Orin too); conda-forge, repodata patches for `arm-variant`.
    """
    if Version(cuda.version).major < 13:
        text = f"conda-forge's CUDA {cuda.version} for aarch64 is built for servers (SBSA), not for Jetson"
        fix = "use a CUDA 13 environment with JetPack 7, or NVIDIA's own PyTorch for JetPack"
        return [Reason(kind="jetson", weight="blocks", text=text, fix=fix)]
    if host.cuda is not None and Version(host.cuda).major < 13:
        text = f"this JetPack's driver runs CUDA {host.cuda} at most, and this is CUDA {cuda.version}"
        return [Reason(kind="driver-floor", weight="blocks", text=text, fix="JetPack 7, where the board has one")]
    if host.cuda is None:
        return [Reason(kind="not-known", weight="open", text="which CUDA this JetPack's driver runs is not known")]
    return []


def _gpu_reasons(cuda: CudaNeeds, host: Host) -> tuple[list[Reason], tuple[int, ...]]:
    """Each GPU by itself, and the indices of those that run it."""
    if not host.gpus:
        return [Reason(kind="no-gpu", weight="open", text="the driver is there, and no GPU")], ()
    alike: dict[tuple[str, str | None], list[int]] = {}
    for gpu in host.gpus:
        alike.setdefault((gpu.name, gpu.compute_capability), []).append(gpu.index)
    reasons, running = [], []
    for (name, capability), indices in alike.items():
        named = f"{_numbers(indices)} ({name})" if len(alike) > 1 else name
        found = _code_reason(cuda, host, named, capability)
        if found is not None:
            reasons.append(replace(found, gpus=tuple(indices)))
        if found is None or found.weight == "remark":
            running += indices
    return reasons, tuple(sorted(running))


def _code_reason(cuda: CudaNeeds, host: Host, name: str, capability: str | None) -> Reason | None:
    """Whether torch has code for the GPUs called `name`; None when it has machine code.

    PTX is compiled by the driver when a program starts, which takes a driver at least as new as the compiler that wrote
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
        if _older_than_its_compiler(cuda, host):
            text = f"{sm}: only PTX for it, which {_driver(host)} is too old to compile"
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


def _driver(host: Host) -> str:
    return f"driver {host.driver}" if host.driver else f"a driver for CUDA {host.cuda}"


def _older_than_its_compiler(cuda: CudaNeeds, host: Host) -> bool:
    """Whether the driver is older than the CUDA that compiled torch's PTX."""
    if host.cuda is not None:
        return Version(host.cuda) < Version(cuda.toolkit)
    shipped = driver_versions(cuda.toolkit_drivers, host).shipped if cuda.toolkit_drivers else None
    return bool(host.driver and shipped and Version(host.driver) < Version(shipped))


def _blocked(reasons: list[Reason]) -> bool:
    return any(reason.weight == "blocks" and not reason.gpus for reason in reasons)


def _state(reasons: list[Reason], gpus: tuple[int, ...]) -> State:
    if _blocked(reasons):
        return "does-not-run"
    if gpus:  # At least one GPU runs it, whatever the others do.
        return "runs-with-remark" if reasons else "runs"
    if any(reason.weight == "open" for reason in reasons):
        return "unknown"
    if any(reason.weight == "blocks" for reason in reasons):
        return "does-not-run"
    return "runs-with-remark" if reasons else "runs"


def _numbers(indices: tuple[int, ...] | list[int]) -> str:
    """`GPU 0`, or `GPUs 0 and 2`."""
    names = [str(index) for index in indices]
    if len(names) == 1:
        return f"GPU {names[0]}"
    return f"GPUs {', '.join(names[:-1])} and {names[-1]}" if names else "no GPU"
