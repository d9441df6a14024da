"""Locks are parsed once for all processes of a run: parsing takes a third of the unit tests' time otherwise."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from torchlocks.lockfile import formats
from torchlocks.lockfile.models import Lock

# What the imports of the tests leave is never garbage, and of what a test reads most is not: as in `torchlocks` itself,
# seldom looking for cycles saves a twentieth of the time.
gc.set_threshold(50_000)


@pytest.fixture(scope="session", autouse=True)
def parsed_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is parsed of files below `locks/`, in a checkout or a copy of it, by their contents."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "parsed-locks"
    folder.mkdir(exist_ok=True)
    known: dict[str, tuple[Lock, ...]] = {}
    parse = formats.parse_environments

    def parse_once(data: bytes, path: Path) -> tuple[Lock, ...]:
        if path.absolute().parent.parent.name != "locks":
            return parse(data, path)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in known:
            known[sha256] = _kept(folder / sha256) or _keep(parse(data, path), folder / sha256)
        return tuple(replace(lock, path=path) for lock in known[sha256])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "parse_environments", parse_once)
        yield


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
