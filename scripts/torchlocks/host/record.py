"""The facts about a machine that environments are compared with, as a value and as a file.

A record is made on one machine and may be read on another, so that `doctor` works without access to the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.version import Version

from torchlocks.core.errors import HostRecordError
from torchlocks.core.reading import TEXT_BYTES, load_json, read_bytes
from torchlocks.core.values import Strict
from torchlocks.host.nvidia import DottedVersion, Gpu

HostKind = Literal["native", "wsl", "jetson"]


@dataclass(frozen=True, kw_only=True)
class Host(Strict):
    """A machine. None means absent, or unknown (`notes` then has the reason).

    `platform` is conda's. `glibc`, `osx` and `cpu_level` are what conda calls `__glibc`, `__osx` and the build of
    `__archspec`. `driver` is the NVIDIA driver's version, under WSL that of Windows. `cuda` is conda's `__cuda`: the
    newest CUDA that the driver runs. `problem` prevents programs from using the GPUs now. `overrides` are the
    CONDA_OVERRIDE_… variables that replaced what was detected.
    """

    schema_version: Literal[1] = 1
    platform: str
    kind: HostKind = "native"
    system: str | None = None
    glibc: DottedVersion | None = None
    osx: DottedVersion | None = None
    cpu_level: str | None = None
    driver: DottedVersion | None = None
    cuda: DottedVersion | None = None
    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None
    overrides: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def has_driver(self) -> bool:
        """Whether there is an NVIDIA driver, or an override that sets one."""
        return self.driver is not None or self.cuda is not None

    @property
    def cuda_arch(self) -> str | None:
        """conda's `__cuda_arch`: the lowest compute capability of all GPUs, if there is a `__cuda` (CEP 46)."""
        known = [gpu.compute_capability for gpu in self.gpus if gpu.compute_capability]
        return min(known, key=Version) if known and self.cuda else None

    @property
    def virtual_packages(self) -> dict[str, str]:
        """The virtual packages that conda would detect here, as far as PyTorch environments use them."""
        found = {
            "__glibc": self.glibc,
            "__osx": self.osx,
            "__archspec": f"1={self.cpu_level}" if self.cpu_level else None,
            "__cuda": self.cuda,
            "__cuda_arch": self.cuda_arch,
        }
        return {name: version for name, version in found.items() if version}


def read_host(path: Path) -> Host:
    """Read a host record: the output of `torchlocks doctor --json`, or its `host` alone.

    Raises HostRecordError if the file cannot be read or is no host record.
    """
    from pydantic import TypeAdapter, ValidationError

    fix = "make one on the machine in question: torchlocks doctor --json > host.json"
    try:
        # From bytes: Windows PowerShell's `>` writes UTF-16, and a mark at the beginning.
        document = load_json(read_bytes(path, TEXT_BYTES))
    except OSError as error:
        raise HostRecordError(f"Cannot read the host record: {error.strerror}.", where=str(path), fix=fix) from error
    except (ValueError, RecursionError) as error:
        raise HostRecordError(f"The host record is not JSON: {error}.", where=str(path), fix=fix) from error
    if isinstance(document, dict) and "host" in document:
        document = document["host"]
    try:
        return TypeAdapter(Host).validate_python(document)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(key) for key in entry['loc']) or '(top level)'}: {entry['msg']}" for entry in error.errors()
        ]
        raise HostRecordError(
            "The host record is not valid.",
            where=f"{path}: {problems[0]}",
            fix=fix,
            details="\n".join(f"  also:  {problem}" for problem in problems[1:]) or None,
        ) from error
