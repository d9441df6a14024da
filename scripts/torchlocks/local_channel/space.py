"""The disk space that a local channel and the environment made from it take, before the first download."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from torchlocks.core.disk import disk_of, require_space_on_disks
from torchlocks.core.layout import Layout
from torchlocks.core.package_cache import cache_folder
from torchlocks.core.progress import Progress
from torchlocks.local_channel.jobs import LARGE_WHEEL, WORKERS
from torchlocks.local_channel.pins import Pin
from torchlocks.local_channel.recipes import CPU, pin_file
from torchlocks.local_channel.wheel_sizes import COMMON, PACKAGED, WheelSize, row_size, sizes_here
from torchlocks.local_channel.wheels import no_cuda_torch

CPU_TORCH = WheelSize(file="", size=192_000_000, unpacked=700_000_000)
"""torch 2.13 for the CPU on linux-64, for CPython 3.11; it is in no list of sizes, since PyPI does not have it."""


def announce(
    layout: Layout, recipes: Path, accelerator: str, pins: Iterable[Pin], installs_into: Path | None, progress: Progress
) -> Collection[str]:
    """Print what a CUDA row downloads, and check the free disk space for it or for the CPU's torch.

    `pins` are the wheels that are to be built, `installs_into` is the folder of the environment that follows. Returns
    the names of the wheels that are too large to be kept, none for the CPU. Raises DiskFullError, and WheelError if
    there is no wheel for this Python.
    """
    pins = tuple(pins)
    wheels = layout.build / "wheels"
    if accelerator == CPU:
        if any(pin.name == "torch" for pin in pins):
            _require_space(layout, {}, {"torch": CPU_TORCH}, CPU_TORCH.unpacked, installs_into)
        return ()
    row = row_size(recipes, accelerator)
    if row.torch is None:
        raise no_cuda_torch(accelerator, pin_file(recipes, accelerator))
    sizes = sizes_here(recipes, pins)
    there = {path.name for path in wheels.glob("*.whl")}
    download = sum(wheel.size for wheel in sizes.values() if wheel.file not in there)
    progress.say(
        f"torch {row.torch} for CUDA {accelerator}, from PyPI: {download / 1e9:.1f} GB to download "
        f"({(row.download - download) / 1e9:.1f} GB are here), about {row.download * PACKAGED / 1e9:.1f} GB as "
        f"packages, {row.unpacked / 1e9:.1f} GB installed"
    )
    large = {name: wheel for name, wheel in sizes.items() if wheel.size > LARGE_WHEEL}
    small = {name: wheel for name, wheel in sizes.items() if name not in large}
    _require_space(layout, small, large, row.unpacked, installs_into)
    return tuple(large)


def _require_space(
    layout: Layout,
    small: dict[str, WheelSize],
    large: dict[str, WheelSize],
    unpacked: int,
    installs_into: Path | None,
) -> None:
    """Raise DiskFullError unless there is room for building the packages, and then for installing them.

    `small` wheels are kept and built in parallel, `large` ones are there one at a time.
    """
    wheels = sum(wheel.size for wheel in small.values())
    packages = int((wheels + sum(wheel.size for wheel in large.values())) * PACKAGED) + COMMON
    # pip's second copy of a wheel, and the package beside the one that it replaces. The files of a wheel are not
    # unpacked (wheel_package.py).
    scratch = {name: 2 * wheel.size for name, wheel in {**small, **large}.items()}
    at_once = sum(sorted((scratch[name] for name in small), reverse=True)[:WORKERS])
    building = max([at_once, *(scratch[name] for name in large)])
    kept = {layout.build / "wheels": ("wheels", wheels), layout.build: ("packages", packages)}
    require_space_on_disks({**kept, layout.build / "work": ("building", building)})
    if installs_into is not None:
        cache = cache_folder()
        needed = {**kept, cache: ("the package cache", unpacked + COMMON)}
        if disk_of(cache) != disk_of(installs_into):
            needed[installs_into] = ("the environment", unpacked + COMMON)
        require_space_on_disks(needed)
