"""An installed environment → the layers of an image: which files are in which, and the tar of each.

Layers are ordered by how often their packages change: CUDA's libraries, torch, all else. A layer depends on its own
packages alone, so that an update of one package leaves the other layers as they are.
"""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchlocks.core.errors import IntegrityError
from torchlocks.core.files import EARLIEST_TIME_S, write_new
from torchlocks.core.progress import Task
from torchlocks.core.reading import RECORD_BYTES, load_json, read_bytes
from torchlocks.cuda.packages import TORCH_FAMILY, TORCH_NAMES, is_cuda_package
from torchlocks.image.blobs import copy_padded, header
from torchlocks.image.compression import Sink
from torchlocks.image.scan import WHITEOUT
from torchlocks.lockfile.models import LockedPackage

GROUPS = ("cuda", "torch", "rest")
_TORCH = (*TORCH_NAMES, *TORCH_FAMILY, "torchtriton", "pytorch-cuda", "pytorch-gpu")
_COPIED = 3
"""The value of conda records for packages whose files were copied."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer to write: the group, the number of its packages, and its paths below the environment, sorted."""

    group: str
    packages: int
    paths: tuple[str, ...]


def group_of(package: LockedPackage) -> str:
    """Return the layer that a package is in: one of GROUPS."""
    if package.name in _TORCH:
        return "torch"
    return "cuda" if is_cuda_package(package) else "rest"


def settle_records(staged: Path) -> None:
    """Remove paths of this machine's package cache from the package records of an environment."""
    for path in sorted((staged / "conda-meta").glob("*.json")):
        record = _record(path)
        record.pop("extracted_package_dir", None)
        record.pop("package_tarball_full_path", None)
        record["link"] = {"source": "", "type": _COPIED}
        write_new(path, json.dumps(record, indent=2) + "\n")


def plan_layers(staged: Path, packages: Sequence[LockedPackage]) -> tuple[Layer, ...]:
    """Return the layers of the environment in the folder `staged`, the one that changes least first.

    Files that no package has a record of are in the last one. Raises IntegrityError for names with a special meaning
    in layers.
    """
    group_by_record = {f"{each.name}-{each.version}-{each.build}.json": group_of(each) for each in packages}
    of_path: dict[str, str] = {}
    counts = dict.fromkeys(GROUPS, 0)
    for path in sorted((staged / "conda-meta").glob("*.json")):
        group = group_by_record.get(path.name, GROUPS[-1])
        counts[group] += 1
        of_path[f"conda-meta/{path.name}"] = group
        for name in _record(path).get("files", ()):
            # A file of several packages is in the topmost of their layers.
            of_path[name] = max(group, of_path.get(name, group), key=GROUPS.index)
    paths: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in _walk(staged):
        if any(part.startswith(WHITEOUT) for part in name.split("/")):
            raise IntegrityError(
                f"A package has a file that would remove another one in an image: {name!r}.",
                where=name,
                fix="do not use this channel; report the package to whoever runs it.",
            )
        paths[of_path.get(name, GROUPS[-1])].append(name)
    return tuple(
        Layer(group=group, packages=counts[group], paths=tuple(sorted(paths[group])))
        for group in GROUPS
        if paths[group]
    )


def write_layer(layer: Layer, staged: Path, prefix: str, above: Iterable[str], sink: Sink, task: Task) -> None:
    """Write the tar of a layer: sorted, of root, with fixed times and modes.

    `prefix` is where the environment is in the image, without a leading slash; `above` are the folders above it that
    the base does not have. Raises OSError.
    """
    times = _module_times(staged, layer.paths)
    folders = {f"{prefix}/{parent}" for name in layer.paths for parent in _parents(name)}
    members = {f"{prefix}/{name}": staged / name for name in layer.paths}
    for name in sorted({*above, prefix, *folders, *members}, key=lambda each: each.split("/")):
        source = members.get(name)
        if source is None or (not source.is_symlink() and source.is_dir()):
            sink.write(header(f"{name}/", kind=tarfile.DIRTYPE, mode=0o755))
            continue
        if source.is_symlink():
            sink.write(header(name, kind=tarfile.SYMTYPE, mode=0o777, target=os.readlink(source)))  # noqa: PTH115
            continue
        with source.open("rb") as file:
            found = os.fstat(file.fileno())
            mode = 0o755 if found.st_mode & stat.S_IXUSR else 0o644
            time = times.get(name.removeprefix(f"{prefix}/"), EARLIEST_TIME_S)
            sink.write(header(name, size=found.st_size, mode=mode, time=time))
            if copy_padded(file, sink.write, task) != found.st_size:
                raise IntegrityError(f"{source.name} was changed while it was read.", where=str(source))
    sink.write(bytes(1024))


def size_of(layer: Layer, staged: Path) -> int:
    """Return the bytes of a layer's files."""
    return sum((staged / name).lstat().st_size for name in layer.paths)


def _record(path: Path) -> dict[str, Any]:
    record = load_json(read_bytes(path, RECORD_BYTES))
    if not isinstance(record, dict):
        raise IntegrityError("A package record is damaged.", where=str(path))
    return record


def _walk(folder: Path) -> Iterable[str]:
    """All files and links, and the folders that are empty, as paths below `folder`."""
    for place, folders, files in os.walk(folder):
        here = Path(place).relative_to(folder)
        for name in files + [name for name in folders if (Path(place) / name).is_symlink()]:
            yield (here / name).as_posix()
        if not folders and not files and place != os.fspath(folder):
            yield here.as_posix()


def _parents(name: str) -> Iterable[str]:
    parts = name.split("/")[:-1]
    return ("/".join(parts[: count + 1]) for count in range(len(parts)))


def _module_times(staged: Path, paths: Sequence[str]) -> dict[str, int]:
    """Return the times, in seconds, of modules with bytecode: those that the bytecode records.

    Otherwise Python would compile the module again at each start.
    """
    known = set(paths)
    times = {}
    for name in paths:
        folder, _, file = name.rpartition("/")
        if not file.endswith(".pyc") or not folder.endswith("__pycache__"):
            continue
        module = f"{folder.removesuffix('__pycache__')}{file.split('.')[0]}.py"
        if module not in known or (staged / name).is_symlink():
            continue
        with (staged / name).open("rb") as bytecode:
            start = bytecode.read(16)
        flags, time, size = (int.from_bytes(start[at : at + 4], "little") for at in (4, 8, 12))
        if len(start) == 16 and flags == 0 and size == (staged / module).stat().st_size & 0xFFFFFFFF:
            times[module] = time
    return times
