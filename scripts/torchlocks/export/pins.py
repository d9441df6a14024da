"""Pins for tools that solve again: conda's environment file, constraints for pip, a manifest for pixi."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torchlocks.core.errors import ExportError
from torchlocks.core.urls import strip_credentials
from torchlocks.cuda.python_packages import NOT_ON_PYPI, pypi_name
from torchlocks.export.environment import LockedTarget
from torchlocks.export.render import Place, render

if TYPE_CHECKING:
    from torchlocks.lockfile.models import LockedPackage

_ANACONDA = "https://conda.anaconda.org/"


def constraints(packages: Iterable[LockedPackage]) -> tuple[dict[str, str], tuple[LockedPackage, ...]]:
    """Return (PyPI name to version of the Python packages, those whose version is not valid for pip).

    A conda package counts as a Python package if it depends on Python; conda-forge uses PyPI's names with a few
    exceptions (`pytorch`). This is a convention: the channel's records do not contain PyPI names.
    """
    found: dict[str, str] = {}
    strange = []
    for package in packages:
        if package.name in NOT_ON_PYPI or not package.dependency_names & {"python", "python_abi"}:
            continue
        version = _pip_version(package.version)
        if version is None:
            strange.append(package)
            continue
        found[pypi_name(package.name)] = version
    return dict(sorted(found.items())), tuple(strange)


def _pip_version(text: str) -> str | None:
    """Return a conda version for pip's `==`, without its local part; None if pip would read another version.

    `2025c` is a date to conda, and a release candidate to pip. pip's `==2.7.1` accepts 2.7.1+cu126 as well.
    """
    from packaging.version import InvalidVersion, Version

    try:
        version = Version(text)
    except InvalidVersion:
        return None
    return version.public if str(version) == text else None


def environment_file(locked: Sequence[LockedTarget], place: Place) -> str:
    import yaml

    first = locked[0]
    labels = {package.channel: channel_label(package.channel) for package in first.packages}
    # Without `nodefaults`, conda adds its default channels.
    channels = [*dict.fromkeys(channel_label(channel) for channel in _channels(first)), "nodefaults"]
    document = {
        "name": first.name,
        "channels": channels,
        "dependencies": [
            f"{labels[package.channel]}::{package.name}={package.version}={package.build}" for package in first.packages
        ],
    }
    text = yaml.safe_dump(document, sort_keys=False, width=1000)
    return render("environment.yml.j2", first, body=text, overrides=_overrides(first))


def constraints_file(locked: Sequence[LockedTarget], place: Place) -> str:
    first = locked[0]
    if any(package.depends is None for package in first.packages):
        raise ExportError(
            "Python packages cannot be identified: this lock does not list the dependencies of its packages.",
            where=str(first.lock.path),
            fix="name the conda-lock.yml or pixi.lock instead of the explicit file",
        )
    pins, strange = constraints(first.packages)
    python = first.version_of("python")
    return render("constraints.txt.j2", first, pins=pins, strange=strange, python=python, contradicted=place.left_out)


def pixi_manifest(locked: Sequence[LockedTarget], place: Place) -> str:
    channels = list(dict.fromkeys(channel_label(channel) for channel in _channels(locked[0])))
    return render(
        "pixi.toml.j2",
        locked[0],
        channels=channels,
        every=locked,
        pins={each.platform: _pixi_pins(each, len(channels) > 1) for each in locked},
        requirements=_system_requirements(locked),
    )


def _pixi_pins(locked: LockedTarget, several: bool) -> dict[str, str]:
    """Return the specs, as TOML, of the packages that make an environment; pixi.lock has the others.

    `several`: name the channel of PyTorch's packages, since there is more than one.
    """
    pins = {}
    for package in locked.packages:
        spec: dict[str, str] = {}
        if package.name in ("python", "cuda-version", "pytorch-cuda", "cudatoolkit"):
            spec["version"] = ".".join(package.version.split(".")[:2]) + ".*"
        elif package.name in ("pytorch", "torchvision", "torchaudio"):
            spec["version"] = f"=={package.version}"
            if package.name == "pytorch" and (build := re.search(r"cpu|cuda\d+(\.\d+)?", package.build)):
                spec["build"] = f"*{build[0]}*"
            if several:
                spec["channel"] = channel_label(package.channel)
        if spec:
            fields = ", ".join(f"{key} = {json.dumps(value)}" for key, value in spec.items())
            pins[package.name] = json.dumps(spec["version"]) if len(spec) == 1 else f"{{ {fields} }}"
    return dict(sorted(pins.items()))


def _channels(locked: LockedTarget) -> list[str]:
    """Return the channels' URLs in order of priority; channels of packages that the lock does not list come last."""
    from torchlocks.lockfile.fields import channel_urls

    named = [url for channel in locked.lock.channels for url in channel_urls(channel)]
    return list(dict.fromkeys([*named, *(package.channel for package in locked.packages)]))


def channel_label(channel: str) -> str:
    """Return a channel's name on anaconda.org, else its URL without credentials."""
    return strip_credentials(channel).removeprefix(_ANACONDA)


def _overrides(locked: LockedTarget) -> dict[str, str]:
    """Return the variables with which conda solves for another machine."""
    return {
        f"CONDA_OVERRIDE_{name.removeprefix('__').upper()}": version
        for name, version in locked.virtual_packages.items()
        if name in ("__cuda", "__glibc", "__osx")
    }


def _system_requirements(locked: Sequence[LockedTarget]) -> dict[str, str]:
    """Return pixi's system requirements as TOML values: the strictest of all platforms."""
    from packaging.version import Version

    def highest(name: str) -> str | None:
        versions = [each.virtual_packages[name] for each in locked if name in each.virtual_packages]
        return max(versions, key=Version, default=None)

    wanted = {"cuda": highest("__cuda"), "linux": highest("__linux"), "macos": highest("__osx")}
    values = {name: json.dumps(version) for name, version in wanted.items() if version}
    if glibc := highest("__glibc"):
        values["libc"] = f'{{ family = "glibc", version = {json.dumps(glibc)} }}'
    return dict(sorted(values.items()))
