"""Load one CUDA library in a separate process: does it load, from where, and which version is it?

    python -I cuda_library.py PATH

prints a JSON object: `error` is the loader's message or null, `version` the library's own word as a list of numbers or
null, `libraries` the shared libraries that came with it. `ask` runs it. No GPU and no driver is needed. Takes nothing
but the standard library.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Libraries that reach for hardware and software of clusters (RDMA cards, MPI, UCX), which bring what they need; and
#: one that torch does not use, and that NVIDIA's wheels leave without a path to its own dependencies.
_OPTIONAL = re.compile(r"^(libcufile_rdma|(lib)?nvshmem_(transport|bootstrap)|libcusolverMg)")

#: The driver's own library; the packages `cuda-compat` and the stubs contain one, too.
DRIVER = re.compile(r"^libcuda\.so|^nvcuda\.dll$")


@dataclass(frozen=True)
class Loaded:
    """The result of one process; `version` has as many numbers as the library reports."""

    path: Path
    error: str | None
    version: tuple[int, ...] | None
    libraries: tuple[str, ...]


def is_asked(path: str) -> bool:
    """Whether a CUDA file of the prefix is a library that has to load wherever the environment is installed."""
    name = path.rpartition("/")[2]
    library = re.search(r"\.so(\.\d+)*$|\.dll$", name) is not None
    extension = ".cpython-" in name or name.endswith(".pyd")
    return library and not extension and "/stubs/" not in path and not DRIVER.match(name) and not _OPTIONAL.match(name)


def ask(path: Path, timeout: float = 60.0) -> Loaded:
    """Load `path` in a fresh process of this Python."""
    command = [sys.executable, "-I", os.fspath(Path(__file__)), os.fspath(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return Loaded(path, f"loading did not finish within {timeout:.0f} s", None, ())
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Loaded(path, f"the process ended with exit code {done.returncode}: {last}", None, ())
    seen = json.loads(done.stdout)
    version = seen["version"]
    return Loaded(path, seen["error"], tuple(version) if version else None, tuple(seen["libraries"]))


def _property(function: str) -> Callable[[ctypes.CDLL], list[int]]:
    """`xxxGetProperty(libraryPropertyType, int *)`: major, minor and patch are the types 0, 1 and 2."""

    def version(library: ctypes.CDLL) -> list[int]:
        parts, value = [], ctypes.c_int(0)
        for kind in range(3):
            if getattr(library, function)(kind, ctypes.byref(value)) != 0:
                raise ValueError(function)
            parts.append(value.value)
        return parts

    return version


def _number(function: str, split: Callable[[int], list[int]]) -> Callable[[ctypes.CDLL], list[int]]:
    """A function that writes one number, which is the version in decimal digits."""

    def version(library: ctypes.CDLL) -> list[int]:
        value = ctypes.c_int(0)
        if getattr(library, function)(ctypes.byref(value)) != 0:
            raise ValueError(function)
        return split(value.value)

    return version


def _pair(function: str) -> Callable[[ctypes.CDLL], list[int]]:
    """A function that writes major and minor."""

    def version(library: ctypes.CDLL) -> list[int]:
        major, minor = ctypes.c_int(0), ctypes.c_int(0)
        if getattr(library, function)(ctypes.byref(major), ctypes.byref(minor)) != 0:
            raise ValueError(function)
        return [major.value, minor.value]

    return version


def _triple(function: str) -> Callable[[ctypes.CDLL], list[int]]:
    """A function without a result that writes major, minor and patch."""

    def version(library: ctypes.CDLL) -> list[int]:
        numbers = [ctypes.c_int(0) for _ in range(3)]
        getattr(library, function)(*map(ctypes.byref, numbers))
        return [number.value for number in numbers]

    return version


def _cudnn(library: ctypes.CDLL) -> list[int]:
    function = library.cudnnGetVersion
    function.restype = ctypes.c_size_t
    value = function()
    # Up to cuDNN 8, 8907 is 8.9.7; from 9 on, 90100 is 9.1.0.
    base = 10000 if value >= 10000 else 1000
    return [value // base, value % base // 100, value % 100]


#: How the libraries report their versions, by the start of their names (the reference manuals of CUDA, cuDNN, NCCL,
#: cuFile and NVSHMEM).
_VERSIONS: dict[str, Callable[[ctypes.CDLL], list[int]]] = {
    "cudart": _number("cudaRuntimeGetVersion", lambda n: [n // 1000, n % 1000 // 10]),
    "cublas": _property("cublasGetProperty"),
    "cublasLt": _property("cublasLtGetProperty"),
    "cufft": _property("cufftGetProperty"),
    "curand": _property("curandGetProperty"),
    "cusolver": _property("cusolverGetProperty"),
    "cusparse": _property("cusparseGetProperty"),
    "cusparseLt": _property("cusparseLtGetProperty"),
    "cudnn": _cudnn,
    "nccl": _number("ncclGetVersion", lambda n: [n // 10000, n % 10000 // 100, n % 100]),
    "nvrtc": _pair("nvrtcVersion"),
    "nvJitLink": _pair("nvJitLinkVersion"),
    # 1140 is cuFile 1.14.
    "cufile": _number("cuFileGetVersion", lambda n: [n // 1000, n % 1000 // 10]),
    "nvshmem_host": _triple("nvshmemx_vendor_get_version_info"),
}


def stem(name: str) -> str:
    """The library's name without prefix, version and ending: `cublasLt` of libcublasLt.so.12 or cublasLt64_12.dll."""
    plain = re.sub(r"^lib", "", name)
    return re.split(r"-[0-9a-f]{8}\.|\.|64_", plain)[0]


def _version(library: ctypes.CDLL, name: str) -> list[int] | None:
    teller = _VERSIONS.get(stem(name))
    try:
        return teller(library) if teller else None
    except (AttributeError, ValueError):
        return None


def main(path: Path) -> None:
    """Load the library and print what came of it."""
    sys.path.insert(0, os.fspath(Path(__file__).parents[1]))
    from torchsuite.probe import loaded_libraries

    before = set(loaded_libraries())
    try:
        library = ctypes.CDLL(os.fspath(path))
    except OSError as error:
        print(json.dumps({"error": str(error), "version": None, "libraries": []}))
        return
    libraries = sorted(set(loaded_libraries()) - before)
    print(json.dumps({"error": None, "version": _version(library, path.name), "libraries": libraries}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
