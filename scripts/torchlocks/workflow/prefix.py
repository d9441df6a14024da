"""An environment in any folder, installed by any client → its lock, and the verdict of the suite.

The lock is the named one; else the one whose hash the environment records; else one of this checkout with the same
packages; else a lock made from the records in `conda-meta`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.errors import LockfileError, MissingFileError, TorchlocksError
from torchlocks.core.files import hash_file
from torchlocks.core.layout import Layout, builtin_layout, find_layout
from torchlocks.cuda.packages import built_for, cuda_version, torch_package
from torchlocks.diff.read import read_prefix
from torchlocks.install.made_by import client_of
from torchlocks.install.provenance import mark_verified, read_provenance
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, explicit_name
from torchlocks.lockfile.models import Lock, LockedPackage
from torchlocks.lockfile.open import open_lock
from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.target import Target
from torchlocks.verify.suite import Required, SuiteOptions, verify_environment

if TYPE_CHECKING:
    from torchlocks.core.progress import Progress
    from torchlocks.verify.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class MadeFrom:
    """The lock of an environment. `target` is its row of the matrix, None for other locks.

    `origin` describes how the lock was found, for messages.
    """

    lock: Lock
    platform: str
    target: Target | None
    origin: str


def made_from(prefix: Path, named: str | None = None) -> MadeFrom:
    """Return the lock of the environment in `prefix`; `named` is its path or URL, if known.

    Raises LockfileError if the lock is not for the environment's platform, and what reading locks and records raises.
    """
    side = read_prefix(prefix)
    platform, packages = next(iter(side.packages.items()))
    layouts = _layouts()
    if named is not None:
        lock = open_lock(named)
        if platform not in lock.packages:
            raise LockfileError(
                f"The lock has no packages for {platform}, the environment's platform.",
                where=named,
                fix=f"it has {', '.join(lock.platforms)}: name another lock.",
            )
        return MadeFrom(lock=lock, platform=platform, target=None, origin=f"compared with {named}")
    provenance = read_provenance(prefix)
    for layout in layouts:
        for folder, env in _folders(layout):
            files = [folder / each for each in (CONDA_LOCK, PIXI, explicit_name(platform)) if (folder / each).is_file()]
            by_hash = provenance is not None and any(hash_file(each) == provenance.lock_sha256 for each in files)
            if by_hash or _names_all(folder / explicit_name(platform), packages):
                lock = open_lock(str(folder / CONDA_LOCK if (folder / CONDA_LOCK).is_file() else files[0]))
                how = "by its hash" if by_hash else "by its packages"
                return MadeFrom(
                    lock=lock,
                    platform=platform,
                    target=_target(layout, env, platform, local=folder.parent == layout.local_locks),
                    origin=f"made from {folder}, which was found {how}",
                )
    lock = Lock(
        path=prefix / "conda-meta",
        kind="explicit",
        sha256=hashlib.sha256("\n".join(sorted(map(_identity, packages))).encode()).hexdigest(),
        channels=tuple(dict.fromkeys(package.channel for package in packages)),
        packages={platform: packages},
        content_hash={},
        virtual_packages={},
        metadata={},
    )
    return MadeFrom(
        lock=lock, platform=platform, target=None, origin="its lock is not known: compared with its own records"
    )


def verify_prefix(
    prefix: Path, named: str | None, progress: Progress, *, select: str | None = None, quick: bool = False
) -> tuple[Verdict, Path]:
    """Run the suite in the environment in `prefix`; return the verdict and the folder of its reports.

    A run of all checks marks environments that torchlocks or a bundle installed. Raises what `made_from` and
    `verify_environment` raise.
    """
    found = made_from(prefix, named)
    progress.say(f"{prefix}: {found.origin}")
    layout = _layouts()[0]
    # These must not replace the reports of named environments.
    reports = layout.reports / "elsewhere"
    if select is not None or quick:
        reports = reports / "selections"
    required = _required_of(prefix, found)
    options = SuiteOptions(suite=layout.suite, reports=reports, select=select, quick=quick, client=client_of(prefix))
    verdict = verify_environment(prefix, found.lock, found.platform, required, options, progress)
    if verdict.complete and read_provenance(prefix) is not None:
        mark_verified(prefix, verdict.ok, str(reports / f"{required.env}.json"))
    return verdict, reports


def _required_of(prefix: Path, found: MadeFrom) -> Required:
    """Return what the suite requires: of the matrix's row, or of the packages where there is none."""
    if found.target is not None:
        return Required.of(found.target)
    packages = found.lock.packages[found.platform]
    torch = torch_package(packages)
    variant = built_for(torch) if torch is not None else None
    cuda = variant is not None and variant.accelerator == "cuda"
    return Required(
        env=re.sub(r"[^A-Za-z0-9._-]+", "-", prefix.name).strip("-.") or "environment",
        accelerator="cuda" if cuda else "cpu",
        cuda=(cuda_version(packages) or (variant.cuda if variant else None)) if cuda else None,
    )


def _layouts() -> list[Layout]:
    """Return the checkout of the current folder, if any, and torchlocks' own files."""
    found = []
    with suppress(MissingFileError):
        found.append(find_layout())
    builtin = builtin_layout()
    return found if any(each.root == builtin.root for each in found) else [*found, builtin]


def _folders(layout: Layout) -> Iterator[tuple[Path, str]]:
    for parent in (layout.locks, layout.local_locks, layout.build / "relocked"):
        if parent.is_dir():
            yield from ((folder, folder.name) for folder in sorted(parent.iterdir()) if folder.is_dir())


def _target(layout: Layout, env: str, platform: str, *, local: bool) -> Target | None:
    try:
        matrix = load_matrix(layout.matrix)
        return (matrix.local_target if local else matrix.target)(env, platform)
    except TorchlocksError:
        return None


def _names_all(explicit: Path, packages: tuple[LockedPackage, ...]) -> bool:
    """Whether an explicit file names exactly these packages."""
    try:
        lines = explicit.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return False
    urls = [line.partition("#")[0] for line in lines if "://" in line and not line.startswith("#")]
    named = {re.sub(r"\.(conda|tar\.bz2)$", "", url.rpartition("/")[2]) for url in urls}
    return named == set(map(_identity, packages))


def _identity(package: LockedPackage) -> str:
    return f"{package.name}-{package.version}-{package.build}"
