"""NVIDIA's rules on drivers, of servers and of Jetson boards: which CUDA a driver runs."""

from __future__ import annotations

from packaging.version import Version

from torchlocks.host.needs import CudaNeeds, Reason
from torchlocks.host.record import Host
from torchlocks.matrix.cells import Drivers, DriverVersions


def driver_versions(drivers: Drivers, host: Host) -> DriverVersions:
    """Return the driver versions for this machine: under WSL those of Windows.

    Source: NVIDIA, CUDA on WSL User Guide: the Windows driver serves WSL, and none is installed inside.
    """
    windows = host.kind == "wsl" or host.platform.startswith("win")
    return drivers.windows if windows else drivers.linux


def driver_reasons(cuda: CudaNeeds, host: Host) -> list[Reason]:
    """Compare driver and CUDA: newer drivers run older CUDA, and within a major every driver from the floor on runs
    every minor.

    An older driver runs it if a newer libcuda is installed beside it (the package cuda-compat), on data-centre GPUs.
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
        if Version(host.driver) < Version(known.floor) and host.cuda and Version(host.cuda) >= Version(cuda.version):
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
                text=f"{named_driver(host)} is older than CUDA {cuda.version}; "
                "it runs through minor-version compatibility",
                fix=f"driver {known.shipped} or newer needs no such promise{where}" if known.shipped else None,
            )
        ]
    return []


def _jetson_reasons(cuda: CudaNeeds, host: Host) -> list[Reason]:
    """Compare a Jetson's driver and CUDA; it comes with JetPack, and the driver table does not apply.

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


def named_driver(host: Host) -> str:
    return f"driver {host.driver}" if host.driver else f"a driver for CUDA {host.cuda}"


def older_than_its_compiler(cuda: CudaNeeds, host: Host) -> bool:
    """Return whether the driver is older than the CUDA that compiled torch's PTX."""
    if host.cuda is not None:
        return Version(host.cuda) < Version(cuda.toolkit)
    shipped = driver_versions(cuda.toolkit_drivers, host).shipped if cuda.toolkit_drivers else None
    return bool(host.driver and shipped and Version(host.driver) < Version(shipped))
