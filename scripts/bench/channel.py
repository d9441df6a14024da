"""Cost of building the local channel, against compressing the contents of its packages once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.install import inner_archives
from bench.model import Measure
from bench.run import Side, compare
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress, Silent


def measure_channel(layout: Layout, place: Path, progress: Progress) -> Iterator[Measure]:
    """Build the local channel for the CPU once, from wheels that are on disk, and compress its contents once.

    The packages are those of the checkout's channel, which is brought up to date first, and so are missing wheels.
    `place` is a new folder on the disk of the environments.
    """
    from torchlocks.local_channel.build import build_local_channel

    channel, contents, packed = place / "channel" / "built", place / "contents", place / "packed"

    def build() -> None:
        shutil.rmtree(channel, ignore_errors=True)
        build_local_channel(layout, channel=channel, progress=Silent())

    current = build_local_channel(layout, progress=progress)
    archives = tuple(unpack_contents(sorted(current.path.glob("*/*.conda")), contents))
    yield compare(
        "channel",
        Side(name="building the local channel, wheels on disk", function=build),
        Side(
            name="compressing the contents of its packages once, at the same level, on all cores, to disk",
            function=lambda: compress_all(archives, packed),
        ),
        1,
        progress,
        lambda: shutil.rmtree(packed, ignore_errors=True),
        long=True,
    )


def unpack_contents(packages: Iterable[Path], folder: Path) -> Iterator[Path]:
    """Write the tar archives inside of `.conda` packages into `folder`, decompressed, and yield their paths."""
    folder.mkdir(parents=True)
    for package in packages:
        for name, stream in inner_archives(package):
            with (folder / name).open("wb") as target:
                shutil.copyfileobj(stream, target, 1 << 20)
            yield folder / name


def compress_all(archives: Iterable[Path], folder: Path) -> None:
    """Compress each file into `folder` as the packages of the local channel are, the largest first, on all cores."""
    import zstandard

    from torchlocks.local_channel.package_file import COMPRESSION_LEVEL, COMPRESSION_THREADS

    folder.mkdir(parents=True)

    def compress(path: Path) -> None:
        compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, threads=COMPRESSION_THREADS)
        with path.open("rb") as source, (folder / f"{path.name}.zst").open("wb") as target:
            compressor.copy_stream(source, target, size=path.stat().st_size, read_size=1 << 20, write_size=1 << 20)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compress, sorted(archives, key=lambda path: -path.stat().st_size)))
