"""Find the pins of a lock that conflict with PyPI's torch, by uv's resolver: conda's builds have other requirements.

Needs the package index that uv is set up to use.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torchlocks.core.errors import ChannelUnreachableError, ExportError

WITH_TORCH = ("torchvision", "torchaudio")
"""The projects that must be installable with torch under the constraints, those of them that are pinned."""

PLATFORMS = {
    "linux-64": "x86_64-manylinux_2_28",
    "linux-aarch64": "aarch64-manylinux_2_28",
    "osx-64": "x86_64-apple-darwin",
    "osx-arm64": "aarch64-apple-darwin",
    "win-64": "x86_64-pc-windows-msvc",
}
"""uv's names of the platforms."""

_UNREACHABLE = re.compile(
    r"error sending request|Failed to fetch|dns error|Connection refused|network was disabled|client error", re.I
)

Resolver = Callable[[Sequence[str], Sequence[str]], "dict[str, str] | None"]
"""From requirements and constraints to the versions that are installed, None if there is no solution."""


def contradicted(pins: Mapping[str, str], resolve: Resolver) -> tuple[str, ...] | None:
    """Return the names of the pins under which PyPI's torch cannot be installed; None if it cannot be without any.

    A pin is left out if torch cannot be installed with it, and of those that exclude one another the later.
    """
    if "torch" not in pins:
        return ()
    torch = f"torch=={pins['torch']}"
    found = resolve([torch, *(name for name in WITH_TORCH if name in pins)], [])
    if found is None:
        return None
    # Each torchvision is for one torch: with its version given, no others are tried.
    wanted = [torch, *(f"{name}=={found[name]}" for name in WITH_TORCH if name in pins)]
    # A pin of a package that torch does not need cannot conflict, nor can one of the resolved version.
    needed = {name: f"{name}=={version}" for name, version in pins.items() if name in found and name != "torch"}
    kept = [line for name, line in needed.items() if pins[name] == found[name]]
    open_ = [line for name, line in needed.items() if pins[name] != found[name] and name not in WITH_TORCH]
    while open_ and resolve(wanted, [*kept, *open_]) is None:
        possible = _possible(resolve, wanted, kept, open_)
        kept += open_[:possible]
        open_ = open_[possible + 1 :]
    kept += open_
    return tuple(name for name, line in needed.items() if line not in kept)


def _possible(resolve: Resolver, wanted: Sequence[str], kept: Sequence[str], lines: Sequence[str]) -> int:
    """Return how many of the first lines have a solution beside `kept`, found by halving; all of them have none."""
    possible, impossible = 0, len(lines)
    while impossible - possible > 1:
        middle = (possible + impossible) // 2
        if resolve(wanted, [*kept, *lines[:middle]]) is not None:
            possible = middle
        else:
            impossible = middle
    return possible


def find_uv() -> str | None:
    """Return the path of uv, beside this Python or on PATH; None if it is not installed."""
    return shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")


def uv_resolver(python: str, platform: str) -> Resolver:
    """Return a function that resolves with uv for a Python (`3.12`) and a conda platform.

    Raises ExportError if uv is not here or the platform is not one of PyPI's; the function raises
    ChannelUnreachableError if no index can be reached.
    """
    uv = find_uv()
    if uv is None:
        raise ExportError("uv is not installed, which resolves the constraints.", fix="install it: pip install uv")
    if platform not in PLATFORMS:
        raise ExportError(f"PyPI has no wheels for {platform}.", fix="name another platform with --platform")
    where = ["--python-version", python, "--python-platform", PLATFORMS[platform]]
    # Nothing is built, so that any Python will do; uv would fetch one of that version.
    any_python = ["--python", sys.executable, "--no-python-downloads", "--only-binary", ":all:"]
    command = [uv, "pip", "compile", "-q", "--no-header", "--no-annotate", *any_python, *where]

    def resolve(wanted: Sequence[str], constraints: Sequence[str]) -> dict[str, str] | None:
        with tempfile.TemporaryDirectory(prefix="torchlocks-") as folder:
            (Path(folder) / "in.txt").write_text("\n".join(wanted), encoding="utf-8")
            (Path(folder) / "c.txt").write_text("\n".join(constraints), encoding="utf-8")
            run = subprocess.run(
                [*command, "-c", "c.txt", "in.txt"],
                cwd=folder,
                # As pip does: a proxy's own certificate is among the system's.
                env={"UV_SYSTEM_CERTS": "true", **os.environ},
                capture_output=True,
                text=True,
                check=False,
            )
        if run.returncode == 0:
            lines = (line.split(";")[0].strip() for line in run.stdout.splitlines())
            return dict(line.split("==") for line in lines if line.count("==") == 1)
        if _UNREACHABLE.search(run.stderr):
            raise ChannelUnreachableError(
                "The constraints cannot be resolved: no index of Python packages is reached.",
                where=run.stderr.strip().splitlines()[-1].strip(),
                fix="check the network (or proxy), or name an index: UV_DEFAULT_INDEX=URL",
            )
        return None

    return resolve
