"""Cost of all that a first user waits for: from a fresh clone to a verified environment."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.install import Ground, python_in, wheels_of
from bench.model import Measure
from bench.run import Side, command, compare, texts
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.export.pypi import find_uv


def measure_from_nothing(layout: Layout, ground: Ground, place: Path, progress: Progress) -> Iterator[Measure]:
    """Measure `git clone` and `make env-cpu CHANNEL=local` once, with empty caches of packages and of the environment.

    The reference installs the same tools and the same wheels with uv, from an empty cache: it packages nothing and
    verifies nothing. Both download what pip and uv are set up to look for; pip keeps its own cache. Nothing is measured
    without uv. `place` is a new folder on the disk of the environments.
    """
    uv = find_uv()
    wheels = wheels_of(ground)
    if uv is None or not wheels:
        return
    clone, peer, cache = place / "clone", place / "peer", place / "uv-cache"
    place.mkdir(parents=True)

    def clean() -> None:
        for folder in (clone, peer, cache, place / "cache"):
            shutil.rmtree(folder, ignore_errors=True)

    env = {"TORCHLOCKS_CACHE": str(place / "cache"), "PYTHON": sys.executable}
    ours = Side(
        name="git clone and make env-cpu CHANNEL=local: tools, local channel, environment, suite",
        commands=(
            command("git", "clone", "--quiet", layout.root, clone),
            command("make", "env-cpu", "CHANNEL=local", cwd=clone, env=env),
        ),
    )
    own = {"UV_CACHE_DIR": str(cache)}
    installed = []
    for name, what in (("tools", ("-r", layout.root / "requirements.txt")), ("env", ("--no-deps", *texts(wheels)))):
        python = python_in(peer / name)
        installed.append(command(uv, "venv", "--quiet", "--python", sys.executable, peer / name, env=own))
        installed.append(command(uv, "pip", "install", "--quiet", "--python", python, *what, env=own))
    theirs = Side(name="uv, the same tools and the same wheels, empty cache", commands=tuple(installed))
    yield compare("from nothing", ours, theirs, 1, progress, clean, long=True)
