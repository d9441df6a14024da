"""Cost of installing: against the floors of the file system and of decompression, and against other installers."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.model import Measure
from bench.run import BIN, Side, command, compare, texts
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
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
    copy = ground.place / "copied"

    def clean() -> None:
        for folder in (warm, copy, cold, cache, *ground.place.glob(".*.previous"), *ground.place.glob("peer-*")):
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
    archives = sorted(ground.channel.glob("*/*.conda"), key=lambda path: -path.stat().st_size)
    unpacking = Side(
        name="reading and decompressing the same archives on all cores, writing nothing",
        function=lambda: _decompress_all([path for path in archives if path.name in _names(ground.lock)]),
    )
    yield compare(GROUP, from_empty, unpacking, rounds, progress, clean)
    for peer in _conda_peers(ground):
        yield compare(GROUP, from_warm, peer, max(1, rounds // 2), progress, clean)
    for peer in _pip_peers(ground):
        slow = peer.name.startswith("pip")
        yield compare(GROUP, from_warm, peer, 1 if slow else max(1, rounds // 2), progress, clean, long=slow)


def _names(lock: Lock) -> set[str]:
    return {package.file_name for packages in lock.packages.values() for package in packages}


def _decompress_all(archives: list[Path]) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_decompress, archives))


def _decompress(archive: Path) -> int:
    import zstandard

    size = 0
    with zipfile.ZipFile(archive) as outer:
        for name in outer.namelist():
            if name.endswith(".tar.zst"):
                with outer.open(name) as packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
                    while chunk := stream.read(1 << 20):
                        size += len(chunk)
    return size


def _conda_peers(ground: Ground) -> Iterator[Side]:
    """Measure the same explicit file through conda and others, each with its own warm package cache."""
    explicit = ground.lock.path.parent / explicit_name(next(iter(ground.lock.packages)))
    for name in CONDAS:
        executable = shutil.which(name)
        if executable is not None:
            target = ground.place / f"peer-{name}"
            arguments = ("create", "--yes", "--quiet", "--prefix", target, "--file", explicit)
            env = {"CONDA_PKGS_DIRS": str(ground.place / f"pkgs-{name}"), "CONDA_SAFETY_CHECKS": "disabled"}
            yield Side(name=f"{name}, the same explicit file", commands=(command(executable, *arguments, env=env),))


def _pip_peers(ground: Ground) -> Iterator[Side]:
    """Measure the same wheels with pip and uv into a venv of the same Python, with a warm cache."""
    wheels = _wheels(ground)
    if not wheels:
        return
    venv = ground.place / "peer-venv"
    python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
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
    uv = shutil.which("uv", path=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is not None:
        env = {"UV_CACHE_DIR": str(ground.place / "uv-cache")}
        yield Side(
            name=f"uv, the same {len(wheels)} wheels into a venv",
            commands=(
                command(uv, "venv", "--quiet", "--offline", "--python", sys.executable, venv, env=env),
                command(
                    *(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--no-index", "--offline"),
                    *texts(wheels),
                    env=env,
                ),
            ),
        )


def _wheels(ground: Ground) -> list[Path]:
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
