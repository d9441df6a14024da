"""Reduce the host of a report to its kind: an operating system of a closed list, versions, and names of GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from torchlocks.core.errors import EvidenceError
from torchlocks.evidence.model import GPU, Machine
from torchlocks.verify.verdict import Host

_VERSION = re.compile(r"\d{1,5}(?:\.\d{1,6}){0,3}")

#: How /etc/os-release begins its name, and the name in records.
_LINUX = {
    "ubuntu": "Ubuntu",
    "debian": "Debian",
    "fedora": "Fedora",
    "red hat enterprise linux": "RHEL",
    "rocky linux": "Rocky Linux",
    "almalinux": "AlmaLinux",
    "centos": "CentOS",
    "sles": "SLES",
    "suse linux enterprise server": "SLES",
    "opensuse": "openSUSE",
    "amazon linux": "Amazon Linux",
    "arch linux": "Arch Linux",
}

_ARCHITECTURES: dict[str, Literal["x86_64", "aarch64", "arm64", "ppc64le"]] = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "aarch64": "aarch64",
    "arm64": "arm64",
    "ppc64le": "ppc64le",
}


def machine_of(host: Host, *, with_gpus: bool) -> Machine:
    """Return the kind of a report's host. `with_gpus`: name its GPUs and driver.

    Only what is recognised is taken over, since the texts of a host can contain anything. Raises EvidenceError if the
    processor is of no known kind.
    """
    architecture = _ARCHITECTURES.get(host.machine.lower())
    if architecture is None:
        raise EvidenceError(
            "The report does not name a known processor architecture.",
            where="host.machine",
            fix=f"run the suite on one of: {', '.join(sorted(set(_ARCHITECTURES.values())))}",
        )
    return Machine(
        system=system_of(host.system, host.release),
        architecture=architecture,
        glibc=_number(host.libc or "") if (host.libc or "").startswith("glibc ") else None,
        gpus=tuple(_gpus(host.gpus)) if with_gpus else (),
        driver=_number(host.driver or "") if with_gpus else None,
    )


def system_of(system: str, release: str) -> str:
    """Return the operating system of a record: `Ubuntu 24.04` for `Ubuntu 24.04.1 LTS`; `Linux` for one not listed."""
    if system == "Windows":
        version = _windows(release)
        return f"Windows {version}" if version else "Windows"
    if system == "Darwin":
        kernel = re.match(r"(\d{2})\.", release)
        # macOS 11 to 15 have the kernels 20 to 24, macOS 26 has 25.
        major = int(kernel[1]) if kernel else 0
        return f"macOS {major - 9 if major < 25 else major + 1}" if major >= 20 else "macOS"
    plain = release.strip().lower()
    # A name of a closed list with a number behind it, and nothing of what a site may have written there.
    for begins, name in _LINUX.items():
        if re.match(rf"{re.escape(begins)}\b", plain):
            words = "gnu/linux|linux|leap|stream|release"
            found = re.match(rf"{re.escape(begins)}(?:[ /]+(?:{words}))*\s+v?(\d[\d.]*)", plain)
            version = _number(found[1]) if found else None
            parts = version.split(".")[: 2 if name in ("Ubuntu", "openSUSE", "RHEL") else 1] if version else []
            return f"{name} {'.'.join(parts)}" if parts else name
    return "Linux"


def _windows(release: str) -> str | None:
    found = re.fullmatch(r"(?:Windows )?(?:Server )?(20(?:16|19|22|25|28)|10|11)(?:Server)?", release.strip())
    return found[1] if found else None


def _number(text: str) -> str | None:
    found = _VERSION.search(text)
    return found[0] if found else None


def _gpus(names: tuple[str, ...]) -> Iterator[str]:
    """Return names of GPUs as their driver has them; `NVIDIA GPU` for one that is of another form."""
    for name in names:
        full = name if name.startswith("NVIDIA ") else f"NVIDIA {name}"
        yield full if re.fullmatch(GPU, full) else "NVIDIA GPU"
