"""The expectation of torch-verify without a lock, from the environment's own records."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from torchsuite import releases
from torchsuite.expect import Package
from torchsuite.prefix import Prefix, is_cuda_package

#: The package that the suite itself is installed from; it is beside the lock, and may be.
OWN_PACKAGE = "torch-verify"

_SYSTEMS = {"Linux": "linux", "Darwin": "osx", "Windows": "win"}
_MACHINES = {"x86_64": "64", "amd64": "64"}


class NoTorchError(Exception):
    """There is nothing to verify here."""


@dataclass(frozen=True)
class Found:
    """An environment as it is. `lock_sha256` and `lock_name` are empty where no lock is known."""

    prefix: Path
    platform: str
    packages: tuple[Package, ...]
    channels: tuple[str, ...]
    lock_name: str
    lock_sha256: str

    @property
    def locked(self) -> bool:
        return bool(self.lock_sha256)


def find() -> Found:
    """The environment of the running Python.

    An environment that torchlocks installed names its lock, and the packages of it; those are then what is expected.
    Elsewhere the packages are those that are there: conda's records, and torch's own metadata where it has no record.
    Raises NoTorchError, also for a torch that is too old for the checks, and ValueError for a package record that is
    none.
    """
    prefix = Prefix(Path(sys.prefix))
    records = {record.name: Package(record.name, record.version, record.build) for record in prefix.records}
    origin = _origin(prefix.root)
    packages = dict(records)
    if origin:
        packages = {package.name: package for package in map(_package, origin["records"])}
        if OWN_PACKAGE in records:
            packages[OWN_PACKAGE] = records[OWN_PACKAGE]
    if not records:
        packages |= {package.name: package for package in _cuda_distributions()}
    packages.setdefault("python", Package("python", platform.python_version(), ""))
    if "pytorch" not in packages:
        packages["pytorch"] = Package("pytorch", _torch_version(), "")
    if releases.older(packages["pytorch"].version, releases.OLDEST):
        oldest = ".".join(map(str, releases.OLDEST))
        raise NoTorchError(f"torch {packages['pytorch'].version} is older than {oldest}, the oldest that is supported")
    return Found(
        prefix=prefix.root,
        platform=conda_platform(platform.system(), platform.machine()),
        packages=tuple(packages.values()),
        channels=tuple(origin.get("channels_used", ())),
        lock_name=str(origin.get("lock_name", "")),
        lock_sha256=str(origin.get("lock_sha256", "")),
    )


def conda_platform(system: str, machine: str) -> str:
    """conda's name of a platform, such as linux-64 or osx-arm64, from Python's names of system and machine."""
    return f"{_SYSTEMS.get(system, system.lower())}-{_MACHINES.get(machine.lower(), machine.lower())}"


def _origin(root: Path) -> dict[str, list[str]]:
    """What torchlocks recorded of the installation; empty where it installed nothing."""
    try:
        origin: dict[str, list[str]] = json.loads((root / "conda-meta" / "torchlocks").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return origin


def _package(record: str) -> Package:
    # The name of a conda record: versions and builds contain no dash.
    return Package(*record.rsplit("-", 2))


def _cuda_distributions() -> list[Package]:
    """What pip installed of CUDA, in an environment without package records."""
    installed = [
        (distribution.metadata["Name"], distribution.version) for distribution in importlib.metadata.distributions()
    ]
    return [Package(name, version, "") for name, version in installed if name and is_cuda_package(name)]


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise NoTorchError(f"torch is not installed in {sys.prefix}.") from None
