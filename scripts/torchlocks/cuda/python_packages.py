"""Names of Python packages on conda and PyPI, and pip's packages as packages of conda's kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote, urlsplit

from torchlocks.lockfile.models import LockedPackage, PipPackage

PYPI_NAMES: Mapping[str, str] = {"pytorch": "torch", "torchtriton": "triton", "msgpack-python": "msgpack"}
"""Python packages whose conda name is not that of PyPI."""

_CONDA_NAMES: Mapping[str, str] = {"torch": "pytorch"}

NOT_ON_PYPI = frozenset(
    {"python", "cpython", "python_abi", "python-gil", "python-freethreading", "pybind11-abi", "libtorch"}
)
"""Packages that depend on Python and are no Python packages: the interpreter and marks of its kind."""

PIP = "pypi"
"""The subdir of pip's packages where they are compared with conda's."""

# The build string of a Python package: py312h1234567_0, pyhd8ed1ab_0, py_0, cuda126_py312_h…, py3.11_cuda12.1_….
_PYTHON_BUILD = re.compile(r"(^|_)py(\d|h|_|$)")
_CUDA_SUFFIX = re.compile(r"-cu(\d\d)$")


def pypi_name(name: str) -> str:
    """Return the name on PyPI of a conda package, as PyPI normalizes it."""
    return re.sub(r"[-_.]+", "-", PYPI_NAMES.get(name, name)).lower()


def is_python_package(package: LockedPackage) -> bool:
    """Return whether a conda package contains a Python project: it depends on Python, or its build string names one.

    The name alone is not sufficient: conda's `graphviz` is a program, PyPI's is its Python binding.
    """
    if package.name in NOT_ON_PYPI:
        return False
    return bool(package.dependency_names & {"python", "python_abi"}) or _PYTHON_BUILD.search(package.build) is not None


def twice(packages: Iterable[LockedPackage], pip: Iterable[PipPackage]) -> list[tuple[LockedPackage, PipPackage]]:
    """Return the Python projects that conda and pip both install."""
    from_pip = {package.name: package for package in pip}
    names = ((package, pypi_name(package.name)) for package in packages if is_python_package(package))
    return [(package, from_pip[name]) for package, name in names if name in from_pip]


def as_conda(pip: Sequence[PipPackage], subdir: str) -> tuple[LockedPackage, ...]:
    """Return pip's packages for a platform under their conda names, with the variant of torch as a build string.

    A wheel names its CUDA in the local part of its version (`2.9.1+cu126`). PyPI accepts no such versions: its torch
    for Linux depends on the `nvidia-…` packages of its CUDA, and for Windows and macOS it is a CPU build.
    """
    return tuple(
        LockedPackage(
            name=_CONDA_NAMES.get(package.name, package.name),
            version=(package.version or "").partition("+")[0],
            build=_variant(package, pip, subdir),
            subdir=PIP,
            url=_url(package),
            sha256=package.sha256,
        )
        for package in pip
    )


def is_pip(package: LockedPackage) -> bool:
    """Return whether a package is one of pip's, as `as_conda` returns them."""
    return package.subdir == PIP


def pip_cuda_major(package: LockedPackage) -> int | None:
    """Return the CUDA major of a pip package: the end of its name, `nvidia-nccl-cu12`; CUDA 13's runtime has none."""
    if not is_pip(package):
        return None
    if package.name == "nvidia-cuda-runtime":
        found = re.match(r"(\d+)\.", package.version)
    else:
        found = _CUDA_SUFFIX.search(package.name)
    return int(found[1]) if found else None


def _variant(package: PipPackage, pip: Sequence[PipPackage], subdir: str) -> str:
    local = (package.version or "").partition("+")[2]
    if local or package.name != "torch" or package.version is None:
        return local
    for other in pip:
        if re.fullmatch(r"nvidia-cuda-runtime(-cu\d\d)?", other.name) and other.version:
            return "cu" + "".join(other.version.split(".")[:2])
    from_pypi = package.location is None or urlsplit(package.location).hostname == "files.pythonhosted.org"
    return "cpu" if from_pypi and not subdir.startswith("linux-") else ""


def _url(package: PipPackage) -> str:
    """Return a location whose last part names the package, for messages: the wheel's URL, or the requirement."""
    file = unquote(urlsplit(package.location or "").path.rsplit("/", 1)[-1])
    if package.location and file.endswith((".whl", ".tar.gz", ".zip")):
        return package.location
    return f"pip/{PIP}/{package.requirement}" if package.version else f"pip/{PIP}/{package.name}"
