"""Sizes of a CUDA row of the local channel, before the download.

`wheel-sizes.json`, beside the pins, has the size of every pinned CUDA wheel and of its contents; `pin.py`, beside it,
writes it. The sizes of packages and environment are estimated from these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from torchlocks.core.errors import WheelError
from torchlocks.local_channel.pins import Pin, read_pins, select_pins
from torchlocks.local_channel.recipes import pin_file

FILE_NAME = "wheel-sizes.json"

PACKAGED = 0.95
"""Bytes of a finished package for each byte of its wheel, rounded up: 0.92 for CUDA 13.0 (recipes/README.md)."""

COMMON = 400_000_000
"""An upper bound in bytes of CPython and the common wheels, installed."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int
    unpacked: int


_SIZES = TypeAdapter(dict[str, _Entry])


@dataclass(frozen=True, kw_only=True)
class WheelSize:
    """One wheel: the name of its file, its `size` in bytes, and that of all files in it (`unpacked`)."""

    file: str
    size: int
    unpacked: int


@dataclass(frozen=True, kw_only=True)
class RowSize:
    """A CUDA version of the local channel for this Python and platform.

    `torch` is its version, None if this Python has no wheel of it. `download` is the size of its wheels and `unpacked`
    their installed size, in bytes, both without the packages that all rows share (COMMON).
    """

    cuda: str
    torch: str | None
    download: int
    unpacked: int


def row_size(recipes: Path, cuda: str) -> RowSize:
    """Return the sizes of the row for CUDA `cuda`. Raises WheelError if its pins or the sizes cannot be read."""
    pins = select_pins(read_pins(pin_file(recipes, cuda)))
    found = sizes_here(recipes, pins.values())
    return RowSize(
        cuda=cuda,
        torch=str(pins["torch"].version) if "torch" in found and found.keys() == pins.keys() else None,
        download=sum(size.size for size in found.values()),
        unpacked=sum(size.unpacked for size in found.values()),
    )


def sizes_here(recipes: Path, pins: Iterable[Pin]) -> dict[str, WheelSize]:
    """Return the size of the wheel of each pin on this machine, by name, without unknown ones."""
    rank = {tag: place for place, tag in enumerate(sys_tags())}
    best: dict[str, tuple[int, WheelSize]] = {}
    wanted = {pin.name: pin for pin in pins}
    for file, size in _read(recipes / FILE_NAME).items():
        name, _, _, tags = parse_wheel_filename(file)
        pin = wanted.get(canonicalize_name(name))
        places = [rank[tag] for tag in tags if tag in rank]
        if pin is None or not places or size.sha256 not in pin.hashes:
            continue
        if pin.name not in best or min(places) < best[pin.name][0]:
            best[pin.name] = min(places), WheelSize(file=file, size=size.size, unpacked=size.unpacked)
    return {name: size for name, (_, size) in best.items()}


def _read(path: Path) -> Mapping[str, _Entry]:
    try:
        return _SIZES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        raise WheelError(
            "The sizes of the wheels cannot be read.",
            where=str(path),
            fix="make the file again with pin.py, which is beside it.",
            details=str(error),
        ) from error
