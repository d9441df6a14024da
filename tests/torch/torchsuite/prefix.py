"""The environment on disk: its conda-meta records and its files."""

from __future__ import annotations

import json
import os
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any


@dataclass(frozen=True)
class RecordedFile:
    """One file of a package as conda-meta records it; `size` in bytes where it is the installed size."""

    path: str
    size: int | None


@dataclass(frozen=True)
class Record:
    """One installed package: its file in conda-meta, and its contents."""

    source: str
    name: str
    version: str
    build: str
    files: tuple[RecordedFile, ...]


@dataclass(frozen=True)
class Prefix:
    """An environment's folder. Paths inside it are relative, with forward slashes."""

    root: Path

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The conda-meta records. Raises ValueError, with its name, when one is not a record."""
        return tuple(_record(path) for path in sorted((self.root / "conda-meta").glob("*.json")) if _is_record(path))

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Every file in the prefix, bytecode excepted; links to folders are not followed."""
        return tuple(path for path in _walk(str(self.root), "") if not is_bytecode(path))

    @cached_property
    def owners(self) -> dict[str, Record]:
        """Which record owns a file."""
        return {file.path: record for record in self.records for file in record.files}

    @cached_property
    def site_packages(self) -> str:
        """Where Python packages are, relative to the prefix."""
        return PurePosixPath(Path(sysconfig.get_path("purelib")).resolve().relative_to(self.root.resolve())).as_posix()


def is_bytecode(path: str) -> bool:
    """Whether a file is compiled by Python as it goes, and so belongs to nobody."""
    return path.endswith(".pyc")


def _is_record(path: Path) -> bool:
    # `name-version-build.json`: other tools keep JSON files of their own in this folder.
    return path.stem.count("-") >= 2


def _record(path: Path) -> Record:
    try:
        return _parse(path.name, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"conda-meta/{path.name} is not a package record: {error!r}") from error


def _parse(source: str, data: dict[str, Any]) -> Record:
    detailed = (data.get("paths_data") or {}).get("paths") or []
    listed = data.get("files") or ()
    # A file with a prefix in it changes length when it is installed: its recorded size is the package's.
    sources = _sources(listed)
    sizes = {
        sources.get(entry["_path"], entry["_path"]): entry.get("size_in_bytes") if _size_holds(entry) else None
        for entry in detailed
    }
    # Scripts that the client wrote itself may be in one list alone.
    files = tuple(RecordedFile(path=path, size=sizes.get(path)) for path in dict.fromkeys((*sizes, *listed)))
    return Record(source=source, name=data["name"], version=data["version"], build=data["build"], files=files)


def _sources(listed: Sequence[str]) -> dict[str, str]:
    """From the path in a package of Python modules, which conda records, to that in the environment."""
    found = {}
    for each in listed:
        _, inside, rest = each.partition("/site-packages/")
        if inside:
            found[f"site-packages/{rest}"] = each
        elif each.startswith(("bin/", "Scripts/")):
            found[f"python-scripts/{each.partition('/')[2]}"] = each
    return found


def _size_holds(entry: dict[str, object]) -> bool:
    # micromamba records no placeholder, but the new hash where it has replaced one.
    same = entry.get("sha256_in_prefix") in (None, entry.get("sha256"))
    return entry.get("path_type") == "hardlink" and not entry.get("prefix_placeholder") and same


def _walk(root: str, below: str) -> Iterator[str]:
    with os.scandir(os.path.join(root, below)) as entries:  # noqa: PTH118 - half the time of pathlib on 60,000 files
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, path)
            else:
                yield path


#: Files of the CUDA toolkit and of the driver, by name, on every platform.
_CUDA_FILE = re.compile(
    r"^(lib)?(cuda|cudart|cudadevrt|cublas|cublaslt|cudnn|cudss|cufft|cufftw|cufile|cupti|curand|cusolver|cusolvermg"
    r"|cusparse|cusparselt|magma|nccl|nvcuda|nvfatbin|nvjitlink|nvrtc|nvshmem|nvtoolsext|torch_cuda|c10_cuda"
    r"|caffe2_nvrtc)([-_.\d].*)?\.(so(\.[\d.]+)?|dylib|dll|lib|a)$",
    re.IGNORECASE,
)
_CUDA_PACKAGE = re.compile(
    r"^(cuda-.*|cudatoolkit.*|cudnn.*|libcudnn.*|libcublas.*|libcufft.*|libcufile.*|libcurand.*|libcusolver.*"
    r"|libcusparse.*|libcudss.*|libnvjitlink.*|libnvjpeg.*|libnvrtc.*|libnvptxcompiler.*|libnvfatbin.*|nccl.*"
    r"|libnvshmem.*|cusparselt.*|libcusparselt.*|libmagma.*|magma(-.*)?|pytorch-cuda|pytorch-gpu|nvidia-.*|triton)$"
)
#: Bindings that talk to a driver if there is one and bring no CUDA of their own.
_HARMLESS = ("nvidia-ml-py", "nvidia-nat")


def is_cuda_package(name: str) -> bool:
    """Whether a package of this name brings CUDA (the names of conda-forge, of `nvidia` and of PyPI).

    Triton counts: it ships NVIDIA's assembler, and torch on CPU has no use for it.
    """
    return name not in _HARMLESS and bool(_CUDA_PACKAGE.match(name))


def is_cuda_file(path: str) -> bool:
    """Whether a file of the prefix is a library of CUDA, or in the folder that NVIDIA's wheels fill."""
    return "/site-packages/nvidia/" in f"/{path}" or bool(_CUDA_FILE.match(path.rsplit("/", 1)[-1]))
