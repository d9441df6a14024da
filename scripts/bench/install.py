"""Cost of installing: against the floors of linking and of extracting to disk, and against other installers."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import IO

from bench.model import Measure
from bench.run import BIN, Side, command, compare, texts
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.export.pypi import find_uv
from torchlocks.lockfile.formats import CONDA_LOCK, explicit_name, read_lock
from torchlocks.lockfile.models import Lock

CONDAS = ("conda", "mamba", "micromamba")
GROUP = "install"


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The inputs of install measurements: the local CPU lock, its environment, and a folder to work in.

    The folder is on the disk of the environments and of the package cache, so that hard links work for both sides.
    """

    lock: Lock
    prefix: Path
    place: Path
    channel: Path
    wheels: Path


def measure_installs(ground: Ground, rounds: int, progress: Progress) -> Iterator[Measure]:
    """Measure installs from a warm and an empty cache, against their floors and against installed peers."""
    warm = ground.place / "installed"
    cold, cache = ground.place / "cold", ground.place / "cache"
    copy, unpacked = ground.place / "copied", ground.place / "unpacked"

    def clean() -> None:
        for folder in (
            warm,
            copy,
            unpacked,
            cold,
            cache,
            *ground.place.glob(".*.previous"),
            *ground.place.glob("peer-*"),
        ):
            shutil.rmtree(folder, ignore_errors=True)

    from_warm = Side(name="warm cache", commands=(command(BIN / "torchlocks", "install", ground.lock.path, warm),))
    from_empty = Side(
        name="empty cache",
        commands=(
            command(BIN / "torchlocks", "install", ground.lock.path, cold, env={"TORCHLOCKS_CACHE": str(cache)}),
        ),
    )
    floor = Side(
        name="cp -al of the finished tree, and a start of Python with py-rattler",
        commands=(
            command("cp", "-al", ground.prefix, copy),
            # What any Python program pays before it begins: the interpreter, and the library that links.
            command(sys.executable, "-c", "import rattler"),
        ),
    )
    yield compare(GROUP, from_warm, floor, rounds, progress, clean)
    archives = tuple(path for path in sorted(ground.channel.glob("*/*.conda")) if path.name in _names(ground.lock))
    extracting = Side(
        name="extracting the same archives to the same disk, with tarfile and zstandard, a process a core",
        function=lambda: extract_all(archives, unpacked),
    )
    yield compare(GROUP, from_empty, extracting, rounds, progress, clean)
    fewer = max(1, rounds // 2)
    for ours, is_cold in ((from_warm, False), (from_empty, True)):
        for peer in _conda_peers(ground, is_cold):
            yield compare(GROUP, ours, peer, fewer, progress, clean)
        for peer in _pip_peers(ground, is_cold):
            slow = peer.name.startswith("pip")
            yield compare(GROUP, ours, peer, 1 if slow else fewer, progress, clean, long=slow)


def _names(lock: Lock) -> set[str]:
    return {package.file_name for packages in lock.packages.values() for package in packages}


def extract_all(archives: Sequence[Path], target: Path) -> None:
    """Extract conda packages below `target`, the largest first, with one process a core.

    The floor of an install from an empty cache: creating the files is most of the time, and how long that takes is
    the disk's matter, so decompression alone is no floor.
    """
    target.mkdir(parents=True)
    ordered = sorted(archives, key=lambda path: -path.stat().st_size)
    # Spawned: a fork of this process, which has threads, can deadlock.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        list(pool.map(_extract, ordered, [target / path.stem for path in ordered]))


def _extract(archive: Path, target: Path) -> None:
    import tarfile

    for _, stream in inner_archives(archive):
        with tarfile.open(fileobj=stream, mode="r|") as members:
            members.extractall(target, filter="tar")


def inner_archives(package: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the name and the decompressed stream of each tar archive inside of a `.conda` package."""
    import zstandard

    with zipfile.ZipFile(package) as outer:
        for name in outer.namelist():
            if name.endswith(".tar.zst"):
                with outer.open(name) as packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
                    yield name.removesuffix(".zst"), stream


def _cache(ground: Ground, name: str, is_cold: bool) -> Path:
    """Return the cache folder of a peer: what `peer-` begins is emptied before each run."""
    return ground.place / (f"peer-cache-{name}" if is_cold else f"cache-{name}")


def _conda_peers(ground: Ground, is_cold: bool) -> Iterator[Side]:
    """Yield the same explicit file through conda and others, each with its own package cache, warm or empty."""
    explicit = ground.lock.path.parent / explicit_name(next(iter(ground.lock.packages)))
    for name in CONDAS:
        executable = shutil.which(name)
        if executable is not None:
            target = ground.place / f"peer-{name}"
            arguments = ("create", "--yes", "--quiet", "--prefix", target, "--file", explicit)
            env = {"CONDA_PKGS_DIRS": str(_cache(ground, name, is_cold)), "CONDA_SAFETY_CHECKS": "disabled"}
            title = f"{name}, the same explicit file, {_state(is_cold)}"
            yield Side(name=title, commands=(command(executable, *arguments, env=env),))


def _state(is_cold: bool) -> str:
    return "empty cache" if is_cold else "warm cache"


def _pip_peers(ground: Ground, is_cold: bool) -> Iterator[Side]:
    """Yield the same wheels with pip and uv into a venv of the same Python; pip keeps no cache of local wheels."""
    wheels = wheels_of(ground)
    if not wheels:
        return
    venv = ground.place / "peer-venv"
    python = python_in(venv)
    if not is_cold:
        yield Side(
            name=f"pip, the same {len(wheels)} wheels into a venv",
            commands=(
                command(sys.executable, "-m", "venv", "--without-pip", venv),
                command(
                    *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"),
                    *texts(wheels),
                ),
            ),
        )
    uv = find_uv()
    if uv is not None:
        env = {"UV_CACHE_DIR": str(_cache(ground, "uv", is_cold))}
        yield Side(
            name=f"uv, the same {len(wheels)} wheels into a venv, {_state(is_cold)}",
            commands=(
                command(uv, "venv", "--quiet", "--offline", "--python", sys.executable, venv, env=env),
                command(
                    *(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--no-index", "--offline"),
                    *texts(wheels),
                    env=env,
                ),
            ),
        )


def python_in(venv: Path) -> Path:
    """Return the Python of a virtual environment."""
    return venv / ("Scripts" if os.name == "nt" else "bin") / "python"


def wheels_of(ground: Ground) -> list[Path]:
    """Return the wheels of the lock's packages that still exist: all but Python itself."""
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

    wanted = {
        (canonicalize_name({"pytorch": "torch"}.get(package.name, package.name)), package.version)
        for packages in ground.lock.packages.values()
        for package in packages
    }
    found: dict[str, Path] = {}
    for path in sorted(ground.wheels.rglob("*.whl")):
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        if (name, version.public) in wanted and (version.local in (None, "cpu")):
            found.setdefault(name, path)
    return [found[name] for name in sorted(found)]


def ground_of(layout: Layout, place: Path) -> Ground:
    """Return the local CPU environment of this checkout as the input of measurements."""
    return Ground(
        lock=read_lock(layout.local_locks / "cpu" / CONDA_LOCK),
        prefix=layout.prefix("cpu"),
        place=place,
        channel=layout.channel,
        wheels=layout.build / "wheels",
    )
