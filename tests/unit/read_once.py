"""Locks and matrices are parsed once for all processes of a run: it is a third of the unit tests' time otherwise."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest

from torchlocks.core.layout import Layout
from torchlocks.lockfile import formats
from torchlocks.lockfile.models import Lock
from torchlocks.matrix import load
from torchlocks.matrix.model import Matrix

LAYOUT = Layout(Path(__file__).parents[2])

# What the imports of the tests leave is never garbage, and of what a test reads most is not: as in `torchlocks` itself,
# seldom looking for cycles saves a twentieth of the time.
gc.set_threshold(100_000, 50, 1000)


Parsers = tuple[Callable[[bytes, Path], tuple[Lock, ...]], Callable[[str, Path], Matrix]]


@pytest.fixture(scope="session")
def folder_of_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all processes of a run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def parsers(folder_of_run: Path) -> Parsers:
    """Parsers that keep what they read of committed locks and of matrices, by its contents, wherever it is."""
    folder = folder_of_run / "parsed-locks"
    folder.mkdir(exist_ok=True)
    committed = {_hash(file.read_bytes()) for file in LAYOUT.locks.glob("*/*") if file.is_file()}
    known: dict[str, tuple[Lock, ...]] = {}
    parse_lock, parse_matrix = formats.parse_environments, load.parse_matrix

    def locks(data: bytes, path: Path) -> tuple[Lock, ...]:
        sha256 = _hash(data)
        if sha256 not in committed:
            return parse_lock(data, path)
        if sha256 not in known:
            known[sha256] = _kept(folder / sha256) or _keep(parse_lock(data, path), folder / sha256)
        return tuple(replace(lock, path=path) for lock in known[sha256])

    @lru_cache(maxsize=8)
    def matrix(text: str, path: Path) -> Matrix:
        return parse_matrix(text, path)

    return locks, matrix


@pytest.fixture(scope="module", autouse=True)
def read_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the tests of this folder read with `parsers`."""
    if Path(__file__).parent not in request.path.parents:
        yield
        return
    locks, matrix = request.getfixturevalue("parsers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "parse_environments", locks)
        patch.setattr(load, "parse_matrix", matrix)
        yield


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _kept(file: Path) -> tuple[Lock, ...] | None:
    try:
        return pickle.loads(file.read_bytes())  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None


def _keep(locks: tuple[Lock, ...], file: Path) -> tuple[Lock, ...]:
    whole = file.with_name(f"{file.name}-{os.getpid()}")
    whole.write_bytes(pickle.dumps(locks))
    whole.replace(file)
    return locks
