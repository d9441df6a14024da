"""Which environments are installed, and which lock one was made from."""

from __future__ import annotations

from torchlocks.core.errors import MissingFileError
from torchlocks.core.layout import Layout
from torchlocks.install.provenance import read_provenance
from torchlocks.lockfile.formats import CONDA_LOCK
from torchlocks.lockfile.models import Lock
from torchlocks.lockfile.open import open_lock
from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.target import Target


def installed_lock(layout: Layout, env: str) -> tuple[Lock, Target]:
    """The lock that an installed environment was made from, and what it should be.

    Raises MissingFileError when that lock is not there any more.
    """

    found = read_provenance(layout.prefix(env))
    for folder in (layout.locks, layout.local_locks, layout.build / "relocked"):
        path = folder / env / CONDA_LOCK
        if found and path.is_file() and (lock := open_lock(str(path))).sha256 == found.lock_sha256:
            matrix = load_matrix(layout.matrix)
            find = matrix.local_target if found.channel == "local" else matrix.target
            return lock, find(env, found.platform)
    raise MissingFileError(
        f"The lock that {env} was installed from is gone or has changed, so there is nothing to verify it against.",
        where=str(layout.locks / env),
        fix="install it again: make env-cpu, or make env-gpu CUDA=…",
    )


def installed_environments(layout: Layout, platform: str) -> dict[str, bool | None]:
    """Return the environments of `platform` that are installed here, each with its verdict; None: not verified."""
    folders = sorted(layout.envs.glob("[!.]*")) if layout.envs.is_dir() else []
    found = {folder.name: read_provenance(folder) for folder in folders}
    return {name: each.verified for name, each in found.items() if each is not None and each.platform == platform}
