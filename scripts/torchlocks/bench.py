"""`make bench`: what installing and locking cost, as ratios against a floor or a peer measured in the same run.

Each measurement runs its subject and its reference in turn, several rounds, and compares medians: what else the machine
does then falls on both. Absolute times are shown, and are of this machine and this run only.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from torchlocks.errors import MissingFileError
from torchlocks.layout import Layout
from torchlocks.lockfile import CONDA_LOCK
from torchlocks.progress import Progress

_BIN = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A subject against its reference; times are seconds, one a round."""

    name: str
    reference: str
    seconds: tuple[float, ...]
    reference_seconds: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median over median."""
        return median(self.seconds) / median(self.reference_seconds)


def bench(layout: Layout, rounds: int, snapshot: Path | None, progress: Progress) -> list[Ratio]:
    """Measure installing the local CPU environment, doing nothing, and (with a snapshot) locking the matrix.

    Raises MissingFileError when the CPU environment was not made from the local channel.
    """
    lock = layout.local_locks / "cpu" / CONDA_LOCK
    prefix = layout.prefix("cpu")
    if not lock.is_file() or not prefix.is_dir():
        raise MissingFileError(
            "The measurements use the CPU environment of the local channel, which is not there.",
            where=str(prefix),
            fix="make env-cpu CHANNEL=local",
        )
    found = []
    # On the disk of the environments and of the package cache, so that hard links work for both sides.
    layout.build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=layout.build) as scratch:
        place = Path(scratch)
        found.append(_warm_install(lock, prefix, place, rounds, progress))
        found.append(_cold_install(layout, lock, place, rounds, progress))
        found.append(_nothing_to_do(layout, rounds, progress))
        if snapshot is not None:
            found.append(_lock_matrix(layout, snapshot, place, max(1, rounds // 2), progress))
    return found


def _alternate(
    name: str,
    subject: Callable[[], None],
    reference_name: str,
    reference: Callable[[], None],
    rounds: int,
    progress: Progress,
    between: Callable[[], None] = lambda: None,
) -> Ratio:
    times: dict[str, list[float]] = {"subject": [], "reference": []}
    with progress.task(name, total=2 * rounds) as task:
        for _ in range(rounds):
            for side, run in (("subject", subject), ("reference", reference)):
                between()
                started = time.perf_counter()
                run()
                times[side].append(time.perf_counter() - started)
                task.advance(1)
    return Ratio(
        name=name,
        reference=reference_name,
        seconds=tuple(times["subject"]),
        reference_seconds=tuple(times["reference"]),
    )


def _call(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, cwd=cwd, env={**os.environ, **(env or {})}
    )


def _warm_install(lock: Path, prefix: Path, place: Path, rounds: int, progress: Progress) -> Ratio:
    """A whole process that installs from a warm cache, against hard-linking the finished tree and starting Python."""
    target, copy = place / "installed", place / "copied"
    _call(_BIN / "torchlocks", "install", lock, target)

    def clean() -> None:
        for folder in (target, copy, place / ".installed.previous"):
            shutil.rmtree(folder, ignore_errors=True)

    def floor() -> None:
        _call("cp", "-al", prefix, copy)
        # What any Python program pays before it begins: the interpreter, and the library that links.
        _call(sys.executable, "-c", "import rattler")

    return _alternate(
        "install, warm cache",
        lambda: _call(_BIN / "torchlocks", "install", lock, target),
        "cp -al of the finished tree, and a start of Python with py-rattler",
        floor,
        rounds,
        progress,
        clean,
    )


def _cold_install(layout: Layout, lock: Path, place: Path, rounds: int, progress: Progress) -> Ratio:
    """The same from an empty cache, against reading and decompressing the same archives on all cores."""
    archives = sorted(layout.channel.glob("*/*.conda"), key=lambda path: -path.stat().st_size)
    target, cache = place / "cold", place / "cache"

    def clean() -> None:
        for folder in (target, cache):
            shutil.rmtree(folder, ignore_errors=True)

    def floor() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_decompress, archives))

    return _alternate(
        "install, empty cache",
        lambda: _call(_BIN / "torchlocks", "install", lock, target, env={"TORCHLOCKS_CACHE": str(cache)}),
        "reading and decompressing the same archives on all cores, writing nothing",
        floor,
        rounds,
        progress,
        clean,
    )


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


def _nothing_to_do(layout: Layout, rounds: int, progress: Progress) -> Ratio:
    """`make env-cpu` on an environment that is up to date, against make itself and one start of Python."""
    _call("make", "env-cpu", "CHANNEL=local", cwd=layout.root)

    def floor() -> None:
        _call("make", "--version")
        _call(sys.executable, "-c", "pass")

    return _alternate(
        "make env-cpu, nothing to do",
        lambda: _call("make", "env-cpu", "CHANNEL=local", cwd=layout.root),
        "make --version and one start of Python",
        floor,
        2 * rounds,
        progress,
    )


def _lock_matrix(layout: Layout, snapshot: Path, place: Path, rounds: int, progress: Progress) -> Ratio:
    """The whole matrix, against conda-lock's own command driving the same solver, one environment after another."""
    from torchlocks.matrix import load_matrix
    from torchlocks.render import render
    from torchlocks.repodata import RecordSource

    checkout = place / "checkout"
    checkout.mkdir()
    for name in ("matrix.yml", "environment-cpu.yml", "environment-gpu.yml"):
        shutil.copy(layout.root / name, checkout)
    jobs = []
    for target in load_matrix(layout.matrix).targets():
        folder = place / "peer" / f"{target.env}-{target.platform}"
        folder.mkdir(parents=True)
        (folder / "environment.yml").write_text(render(layout.root / target.template, target), encoding="utf-8")
        virtual = {"subdirs": {target.platform: {"packages": dict(target.virtual_packages)}}}
        # JSON is YAML.
        (folder / "virtual.yml").write_text(json.dumps(virtual), encoding="utf-8")
        jobs.append((folder, target.platform))
    environment = RecordSource(snapshot=snapshot.absolute()).environment()

    def peer() -> None:
        for folder, name in jobs:
            files = ("--file", "environment.yml", "--virtual-package-spec", "virtual.yml", "--lockfile", "lock.yml")
            solver = ("--conda", _BIN / "torchlocks-conda")
            _call(_BIN / "conda-lock", "lock", *solver, *files, "-p", name, cwd=folder, env=environment)

    return _alternate(
        f"lock the matrix, {len(jobs)} cells",
        lambda: _call(_BIN / "torchlocks", "lock", "--snapshot", snapshot.absolute(), cwd=checkout),
        "conda-lock driving the same solver, one cell after another",
        peer,
        rounds,
        progress,
    )


def as_markdown(found: Sequence[Ratio]) -> str:
    """A table of the ratios, with the machine that they are of."""
    rows = [
        "| what | median | against | median | ratio |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {each.name} | {median(each.seconds):.2f} s | {each.reference} "
            f"| {median(each.reference_seconds):.2f} s | {each.ratio:.2f} |"
            for each in found
        ),
    ]
    return f"# What things cost\n\n{machine()}\n\n" + "\n".join(rows) + "\n"


def as_json(found: Sequence[Ratio]) -> str:
    """All samples, for programs."""
    ratios = [{**asdict(each), "ratio": each.ratio} for each in found]
    return json.dumps({"schema": 1, "machine": machine(), "ratios": ratios}, indent=2) + "\n"


def machine() -> str:
    """What the figures are of, without the machine's name."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
