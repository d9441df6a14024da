"""Export a lock for other tools: explicit file, pins for conda, pip and pixi, containers, batch jobs.

An export depends on the lock alone and contains its hash. Only the explicit file and the containers, which use it,
contain hashes of packages; pins are for tools that solve again, and have names, versions and builds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from torchlocks.core.errors import ExportError
from torchlocks.core.urls import strip_credentials
from torchlocks.cuda.python_packages import NOT_ON_PYPI, pypi_name
from torchlocks.export.environment import LockedTarget

if TYPE_CHECKING:
    import jinja2

    from torchlocks.lockfile.models import LockedPackage

MICROMAMBA = "2.8.1"
"""Tag of the containers' base image: the newest micromamba that the locks were tested with."""

_ANACONDA = "https://conda.anaconda.org/"


@dataclass(frozen=True, kw_only=True)
class Place:
    """What an export has besides the lock: where the environment is installed, for those that start programs in it.

    `left_out` are the Python packages whose versions PyPI's torch contradicts (see `pypi`); None if nobody asked, or if
    PyPI has no such torch.
    """

    prefix: str
    left_out: tuple[str, ...] | None = ()


@dataclass(frozen=True, kw_only=True)
class Format:
    """One export format: its name, usual file name, purpose, and the function that renders it."""

    name: str
    file: str
    purpose: str
    make: Callable[[Sequence[LockedTarget], Place], str]
    linux_only: bool = False

    def file_for(self, locked: LockedTarget) -> str:
        """Return the usual file name, with platform and environment filled in."""
        return self.file.format(platform=locked.platform, name=locked.name)


def export(form: Format, locked: Sequence[LockedTarget], place: Place) -> str:
    """Return the text of an export. `locked` are the platforms of one lock; all formats but pixi's use the first.

    Raises ExportError if the lock cannot be written in this format, LockfileError if a package has no hash.
    """
    first = locked[0]
    if form.linux_only and not first.platform.startswith("linux-"):
        raise ExportError(
            f"A {form.name} export is for Linux, and this is {first.platform}.",
            where=f"{first.name}: {first.lock.path}",
            fix="name a Linux platform with --platform, or another --format",
        )
    return form.make(locked, place)


def not_exported(locked: LockedTarget) -> tuple[str, ...]:
    """Return the packages of a lock from elsewhere that are pip's or built from source, which no export contains."""
    left_to_pip = (package.requirement for package in locked.lock.pip.get(locked.platform, ()))
    return (*left_to_pip, *locked.lock.sources.get(locked.platform, ()))


def explicit_text(locked: LockedTarget) -> str:
    """Return the explicit file, as it is committed beside the lock, but without credentials."""
    from torchlocks.lockfile.formats import write_explicit

    packages = tuple(replace(each, url=strip_credentials(each.url)) for each in locked.lock.packages[locked.platform])
    return write_explicit(replace(locked.lock, packages={locked.platform: packages}), locked.platform)


def constraints(packages: Iterable[LockedPackage]) -> tuple[dict[str, str], tuple[LockedPackage, ...]]:
    """Return (PyPI name to version of the Python packages, those whose version is not valid for pip).

    A conda package counts as a Python package if it depends on Python; conda-forge uses PyPI's names with a few
    exceptions (`pytorch`). This is a convention: the channel's records do not contain PyPI names.
    """
    found: dict[str, str] = {}
    strange = []
    for package in packages:
        needs = {spec.split()[0].split("::")[-1] for spec in package.depends or () if spec.strip()}
        if package.name in NOT_ON_PYPI or not needs & {"python", "python_abi"}:
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


def _explicit(locked: Sequence[LockedTarget], place: Place) -> str:
    return explicit_text(locked[0])


def _environment(locked: Sequence[LockedTarget], place: Place) -> str:
    import yaml

    first = locked[0]
    labels = {package.channel: _label(package.channel) for package in first.packages}
    # Without `nodefaults`, conda adds its default channels.
    channels = [*dict.fromkeys(_label(channel) for channel in _channels(first)), "nodefaults"]
    document = {
        "name": first.name,
        "channels": channels,
        "dependencies": [
            f"{labels[package.channel]}::{package.name}={package.version}={package.build}" for package in first.packages
        ],
    }
    text = yaml.safe_dump(document, sort_keys=False, width=1000)
    return _render("environment.yml.j2", first, body=text, overrides=_overrides(first))


def _constraints(locked: Sequence[LockedTarget], place: Place) -> str:
    first = locked[0]
    if any(package.depends is None for package in first.packages):
        raise ExportError(
            "Python packages cannot be identified: this lock does not list the dependencies of its packages.",
            where=str(first.lock.path),
            fix="name the conda-lock.yml or pixi.lock instead of the explicit file",
        )
    pins, strange = constraints(first.packages)
    python = first.version_of("python")
    return _render("constraints.txt.j2", first, pins=pins, strange=strange, python=python, contradicted=place.left_out)


def _pixi(locked: Sequence[LockedTarget], place: Place) -> str:
    channels = list(dict.fromkeys(_label(channel) for channel in _channels(locked[0])))
    return _render(
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
                spec["channel"] = _label(package.channel)
        if spec:
            fields = ", ".join(f"{key} = {json.dumps(value)}" for key, value in spec.items())
            pins[package.name] = json.dumps(spec["version"]) if len(spec) == 1 else f"{{ {fields} }}"
    return dict(sorted(pins.items()))


def _dockerfile(locked: Sequence[LockedTarget], place: Place) -> str:
    return _render("Dockerfile.j2", locked[0], **_image_facts(locked[0]))


def _apptainer(locked: Sequence[LockedTarget], place: Place) -> str:
    return _render("apptainer.def.j2", locked[0], **_image_facts(locked[0]))


def _slurm(locked: Sequence[LockedTarget], place: Place) -> str:
    import shlex

    first = locked[0]
    return _render(
        "job.sbatch.j2",
        first,
        prefix=shlex.quote(place.prefix),
        driver=_driver(first),
        records=records_hash(first.packages),
    )


def records_hash(packages: Iterable[LockedPackage]) -> str:
    """Return the sha256 of the names in an environment's `conda-meta`, one a line, as `sort` sorts bytes.

    By it an environment is recognised whatever client installed it: all name a package's record alike.
    """
    names = sorted(f"{each.name}-{each.version}-{each.build}.json" for each in packages)
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


def _module(locked: Sequence[LockedTarget], place: Place) -> str:
    if re.search(r"[{}\\\n]", place.prefix):
        raise ExportError(
            "A modulefile cannot name this folder: braces, backslashes and line ends have a meaning in Tcl.",
            where=place.prefix,
            fix="name another folder with --prefix",
        )
    first = locked[0]
    torch = first.version_of("pytorch")
    return _render("modulefile.j2", first, prefix=place.prefix, torch=torch, driver=_driver(first))


def _devcontainer(locked: Sequence[LockedTarget], place: Place) -> str:
    first = locked[0]
    document: dict[str, Any] = {
        "name": f"{first.name} on {first.platform}",
        "build": {"dockerfile": "Dockerfile", "context": "."},
        "containerEnv": {"TORCHLOCKS_LOCK_SHA256": first.lock.sha256},
        "remoteUser": "mambauser",
        "customizations": {"vscode": {"extensions": ["ms-python.python"]}},
    }
    if first.cuda:
        # "optional" would start the container without a GPU.
        document |= {"hostRequirements": {"gpu": True}, "runArgs": ["--gpus", "all"]}
    return json.dumps(document, indent=2) + "\n"


FORMATS: Mapping[str, Format] = {
    form.name: form
    for form in (
        Format(
            name="explicit",
            file="conda-{platform}.lock",
            purpose="conda, mamba, micromamba: every package by URL and hash",
            make=_explicit,
        ),
        Format(
            name="environment",
            file="environment.yml",
            purpose="conda, mamba, conda-lock: names, versions and builds, to be solved again",
            make=_environment,
        ),
        Format(
            name="constraints",
            file="constraints.txt",
            purpose="pip and uv: the versions of the Python packages (-c constraints.txt)",
            make=_constraints,
        ),
        Format(
            name="pixi",
            file="pixi.toml",
            purpose="pixi: a manifest for the pixi.lock beside it",
            make=_pixi,
        ),
        Format(
            name="dockerfile",
            file="Dockerfile",
            purpose="docker, podman: an image from the explicit file",
            make=_dockerfile,
            linux_only=True,
        ),
        Format(
            name="apptainer",
            file="{name}.def",
            purpose="Apptainer, Singularity: the same image for clusters",
            make=_apptainer,
            linux_only=True,
        ),
        Format(
            name="slurm",
            file="{name}.sbatch",
            purpose="Slurm: a batch job in the installed environment",
            make=_slurm,
            linux_only=True,
        ),
        Format(
            name="module",
            file="{name}.modulefile",
            purpose="Lmod and Environment Modules: `module load` for the installed environment",
            make=_module,
            linux_only=True,
        ),
        Format(
            name="devcontainer",
            file="devcontainer.json",
            purpose="VS Code, Codespaces: a development container on the Dockerfile",
            make=_devcontainer,
            linux_only=True,
        ),
    )
}


def _image_facts(locked: LockedTarget) -> dict[str, Any]:
    import hashlib

    text = explicit_text(locked)
    return {
        "micromamba": MICROMAMBA,
        "explicit": FORMATS["explicit"].file_for(locked),
        "explicit_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "torch": locked.version_of("pytorch"),
        "machine": {"linux-64": "amd64", "linux-aarch64": "arm64"}.get(locked.platform, locked.platform),
    }


def _channels(locked: LockedTarget) -> list[str]:
    """Return the channels' URLs in order of priority; channels of packages that the lock does not list come last."""
    from torchlocks.lockfile.fields import channel_urls

    named = [url for channel in locked.lock.channels for url in channel_urls(channel)]
    return list(dict.fromkeys([*named, *(package.channel for package in locked.packages)]))


def _label(channel: str) -> str:
    """Return a channel's name on anaconda.org, else its URL without credentials."""
    return strip_credentials(channel).removeprefix(_ANACONDA)


def _driver(locked: LockedTarget) -> str | None:
    """Return the oldest NVIDIA driver on Linux that runs the environment, if its row has one."""
    return locked.target.driver_floor if locked.target else None


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


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("torchlocks.pages", "templates/export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # No output is HTML; the templates quote values for their language.
        autoescape=False,
    )
    environment.filters["quoted"] = json.dumps
    return environment


def _render(template: str, locked: LockedTarget, **values: Any) -> str:
    # The file's name is written into scripts, so other characters are removed.
    file = "-".join(re.findall(r"[A-Za-z0-9_.+-]+", locked.lock.path.name)) or "the-lock"
    path = locked.lock.path.as_posix()
    if locked.target is not None:
        # In a clone; where this one is means nothing on the machine that the script is for.
        path = f"locks/{locked.name}/{file}"
    elif not re.fullmatch(r"[A-Za-z0-9_./+-]+", path):
        path = file
    return _templates().get_template(template).render(locked=locked, lock_file=file, lock_path=path, **values)
