"""Detect this machine: its conda platform, C library, CPU and NVIDIA driver."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.errors import HostRecordError, NoSuchRowError

if TYPE_CHECKING:
    from torchlocks.host.nvidia import Gpu, NvidiaFacts
    from torchlocks.host.record import Host, HostKind

_PLATFORMS = {
    ("linux", "x86_64"): "linux-64",
    ("linux", "aarch64"): "linux-aarch64",
    ("linux", "arm64"): "linux-aarch64",
    ("darwin", "x86_64"): "osx-64",
    ("darwin", "arm64"): "osx-arm64",
    ("win32", "amd64"): "win-64",
    ("win32", "x86_64"): "win-64",
}


def host_platform() -> str:
    """Return the conda platform of this machine, such as `linux-64`; `CONDA_SUBDIR` overrides it, as for conda.

    Raises NoSuchRowError on a machine without environments.
    """
    named = os.environ.get("CONDA_SUBDIR")
    if named:
        return named
    here = sys.platform, platform.machine().lower()
    if here not in _PLATFORMS:
        raise NoSuchRowError(
            f"There are no environments for this machine ({here[1]} {here[0]}).",
            fix=f"environments exist for {', '.join(sorted(set(_PLATFORMS.values())))}",
        )
    return _PLATFORMS[here]


def detect_host(
    root: Path = Path("/"),
    *,
    nvidia: NvidiaFacts | None = None,
    virtual: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Host:
    """Detect this machine.

    The variables that override conda's virtual packages (CONDA_OVERRIDE_CUDA, _CUDA_ARCH, _GLIBC, _OSX, _ARCHSPEC) are
    honoured as conda does: a value replaces what is detected, an empty one removes it. `root`, `nvidia` (the driver),
    `virtual` (what rattler detects) and `environ` are this machine's by default. Raises HostRecordError for a variable
    that is no version, NoSuchRowError if there are no environments.
    """
    from torchlocks.host.nvidia import Gpu, nvidia_facts
    from torchlocks.host.record import Host

    environ = os.environ if environ is None else environ
    facts = nvidia_facts(root) if nvidia is None else nvidia
    seen = _virtual_packages(environ) if virtual is None else virtual
    _must_be_versions(seen, environ)
    notes = list(facts.notes)
    subdir = host_platform()
    linux = subdir.startswith("linux")
    gpus = _with_capability(facts.gpus, seen.get("__cuda_arch"))
    # Where NVML is missing, rattler asks libcuda.
    driver, cuda, problem = facts.driver, facts.cuda or seen.get("__cuda"), facts.problem
    if facts.source == "kernel driver" and cuda is None and problem is None:
        problem = (
            "the kernel driver is loaded, but its library libcuda is not installed; "
            "a container must be started with GPUs (docker run --gpus all)"
        )
    stated = _version(environ, "CONDA_OVERRIDE_CUDA")
    if stated is not None:
        notes.append(_overridden("CUDA", stated, f"driver {driver}" if driver else "no driver"))
        driver, cuda, problem = None, stated or None, None
        gpus = gpus if stated else ()
    architecture = _version(environ, "CONDA_OVERRIDE_CUDA_ARCH")
    # CEP 46: there is no __cuda_arch where there is no __cuda.
    if architecture is not None and (cuda or driver):
        notes.append(_overridden("CUDA_ARCH", architecture, ", ".join(map(str, gpus)) or "no GPU"))
        stated_gpu = Gpu(index=0, name="the GPU of CONDA_OVERRIDE_CUDA_ARCH", compute_capability=architecture or None)
        gpus = (stated_gpu,) if architecture else ()
    elif architecture:
        notes.append(
            f"CONDA_OVERRIDE_CUDA_ARCH={architecture} has no effect without a driver: set CONDA_OVERRIDE_CUDA too."
        )
    if environ.get("CUDA_VISIBLE_DEVICES") is not None and gpus:
        notes.append(f"CUDA_VISIBLE_DEVICES={environ['CUDA_VISIBLE_DEVICES']!r} decides which GPUs programs see.")
    return Host(
        platform=subdir,
        kind=_kind(root),
        system=_system(),
        glibc=seen.get("__glibc") if linux else None,
        osx=seen.get("__osx") if subdir.startswith("osx") else None,
        cpu_level=seen.get("__archspec"),
        driver=driver,
        cuda=cuda,
        gpus=gpus,
        problem=problem,
        overrides=tuple(sorted(f"{k}={v}" for k, v in environ.items() if k.startswith("CONDA_OVERRIDE_"))),
        notes=tuple(notes),
    )


def _virtual_packages(environ: Mapping[str, str]) -> dict[str, str]:
    """Return virtual packages with versions (`__archspec`: its build, the CPU's level), as rattler detects them."""
    from rattler import VirtualPackage, VirtualPackageOverrides
    from rattler.exceptions import DetectVirtualPackageError

    try:
        detected = VirtualPackage.detect(VirtualPackageOverrides.from_env())
    except DetectVirtualPackageError as error:
        named = ", ".join(sorted(name for name in environ if name.startswith("CONDA_OVERRIDE_")))
        raise HostRecordError(
            "conda's virtual packages cannot be detected on this machine.",
            where=f"{error}" + (f" ({named})" if named else ""),
            fix="correct or unset the CONDA_OVERRIDE_… variable",
        ) from error
    generic = [package.into_generic() for package in detected]
    return {
        each.name.normalized: str(each.build_string if each.name.normalized == "__archspec" else each.version)
        for each in generic
    }


def _must_be_versions(seen: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Refuse an override that conda accepts as a version (`2.x`, `abc`) and that cannot be compared."""
    for name, example in (("glibc", "2.28"), ("osx", "13.0")):
        variable, version = f"CONDA_OVERRIDE_{name.upper()}", seen.get(f"__{name}")
        if version is not None and environ.get(variable) and not re.fullmatch(r"[0-9]+(\.[0-9]+)*", version):
            raise HostRecordError(
                f"{variable}={environ[variable]} is not a version such as {example}.",
                where="the environment's variables",
                fix=f"give major and minor, leave it empty for none at all, or unset {variable}",
            )


def _version(environ: Mapping[str, str], name: str) -> str | None:
    """Return the version of an override, empty for "absent", or None if the variable is not set."""
    value = environ.get(name)
    if value is not None and not re.fullmatch(r"(\d{1,4}\.\d{1,4}(\.\d{1,4})*)?", value.strip(), re.ASCII):
        raise HostRecordError(
            f"{name}={value} is not a version such as 12.4.",
            where="the environment's variables",
            fix=f"give major and minor, leave it empty for none at all, or unset {name}",
        )
    return value.strip() if value is not None else None


def _overridden(name: str, stated: str, there: str) -> str:
    return f"CONDA_OVERRIDE_{name}={stated} replaces what the machine has ({there})."


def _with_capability(gpus: tuple[Gpu, ...], lowest: str | None) -> tuple[Gpu, ...]:
    """Add the capability that rattler found through libcuda, if all GPUs are alike and NVML returned none."""
    if lowest is None or len({gpu.name for gpu in gpus}) != 1 or any(gpu.compute_capability for gpu in gpus):
        return gpus
    return tuple(replace(gpu, compute_capability=lowest) for gpu in gpus)


def _kind(root: Path) -> HostKind:
    """Source: Microsoft's WSL kernels name themselves in osrelease; Jetsons are known by their device tree."""
    from torchlocks.host.nvidia import tegra_chip

    try:
        release = (root / "proc" / "sys" / "kernel" / "osrelease").read_text(encoding="utf-8")
    except OSError:
        release = ""
    if "microsoft" in release.lower():
        return "wsl"
    return "jetson" if tegra_chip(root) else "native"


def _system() -> str:
    """Return the distribution's name for itself, or the kernel's."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return f"{platform.system()} {platform.release()}"
