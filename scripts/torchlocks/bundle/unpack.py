"""A bundle → packages in the package cache."""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from torchlocks.bundle.installer.files import Member, leaves
from torchlocks.bundle.installer.model import Bundle, BundleError
from torchlocks.bundle.installer.reading import check_files, read_bundle
from torchlocks.core.disk import disk_full_as_error, require_space
from torchlocks.core.errors import InstallError, IntegrityError, MissingFileError
from torchlocks.core.files import write_whole
from torchlocks.core.package_cache import cache_folder
from torchlocks.core.progress import Progress, Task
from torchlocks.core.reading import LOCK_BYTES, read_bytes
from torchlocks.install.cache import PackageStore
from torchlocks.install.exclusive import interruptible
from torchlocks.install.fetch import ensure_cached
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI
from torchlocks.lockfile.models import LockedPackage


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """A bundle whose packages are in the package cache; `lock` is the written lockfile, if any."""

    name: str
    platform: str
    packages: int
    lock: Path | None = None


def unpack_bundle(
    bundle: Path, *, fetch: FetchOptions, progress: Progress, local_locks: Path | None = None
) -> Unpacked:
    """Copy the packages of the file `bundle` into the package cache, each compared with the lock inside.

    The lock of an environment of the local channel is written into its folder in `local_locks`, if given, since
    no other checkout has it.

    Raises MissingFileError if the file does not exist, IntegrityError if it is damaged, hostile or not a bundle,
    InstallError for a portable one, DiskFullError, and InterruptedByUserError.
    """
    if not bundle.is_file():
        raise MissingFileError("There is no such bundle.", where=str(bundle), fix="make one: make bundle ENV=cpu")
    store = PackageStore(cache_folder(fetch.cache))
    store.root.mkdir(parents=True, exist_ok=True)
    with interruptible(), disk_full_as_error(store.root), store.staging() as stage:
        require_space(stage.parent, bundle.stat().st_size, "The bundle needs", "make room, or choose another disk.")
        folder = stage / "bundle"
        with progress.task("Unpacking the bundle", bundle.stat().st_size, unit="bytes") as task:
            _extract(bundle, folder, task)
        try:
            found = read_bundle(folder)
            check_files(found, progress.say)
        except BundleError as error:
            raise IntegrityError(str(error), where=str(bundle), fix=error.fix) from error
        if found.portable:
            raise InstallError(
                "This is a portable bundle: its packages were repacked, so they do not have the lock's hashes.",
                where=str(bundle),
                fix="install it with the install.py inside, or make a bundle that is not portable.",
            )
        packages = [
            LockedPackage(
                name=each.name,
                version=each.version,
                build=each.build,
                subdir=each.subdir,
                url=(folder / each.file).as_uri(),
                sha256=each.sha256,
                md5=each.md5,
                size=each.size,
            )
            for each in found.packages
        ]
        ensure_cached(packages, replace(fetch, offline=False, mirrors={}), progress)
        lock = _keep_lock(found, folder, local_locks) if local_locks is not None else None
    return Unpacked(name=found.name, platform=found.platform, packages=len(packages), lock=lock)


def _keep_lock(found: Bundle, folder: Path, local_locks: Path) -> Path | None:
    """Write the lock of an environment of the local channel into `local_locks`; None for other bundles.

    Raises IntegrityError for a lockfile that is too large, or is not UTF-8 text.
    """
    inside = folder / CONDA_LOCK
    local = all(each.url.startswith("file://") for each in found.packages)
    if not local or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", found.name) or not inside.is_file():
        return None
    try:
        data = read_bytes(inside, LOCK_BYTES)
    except OSError as error:
        raise IntegrityError(f"The lock in the bundle cannot be read: {error.strerror}.", where=found.name) from None
    if hashlib.sha256(data).hexdigest() != found.lock_sha256:
        return None
    target, pixi = local_locks / found.name, folder / PIXI
    try:
        texts = {CONDA_LOCK: data.decode()}
        if pixi.is_file():
            texts = {PIXI: read_bytes(pixi, LOCK_BYTES).decode(), **texts}
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"A lockfile in the bundle cannot be read: {error}.", where=found.name) from None
    target.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_whole(target / name, text)
    return target / CONDA_LOCK


def _extract(bundle: Path, folder: Path, task: Task) -> None:
    """Extract an untrusted bundle into the new folder `folder`, without its top folder."""

    def refuse(why: str) -> IntegrityError:
        return IntegrityError(f"This is not a bundle of torchlocks: {why}.", where=str(bundle), fix="copy it again.")

    try:
        with tarfile.open(bundle, "r:", tarinfo=Member) as archive:
            for member in archive:
                parts = PurePosixPath(member.name).parts
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse() or not 2 <= len(parts) <= 4 or leaves("/".join(parts[1:])):
                    raise refuse(f"it contains {member.name!r}")
                target = folder.joinpath(*parts[1:])
                target.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                with target.open("xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)  # type: ignore[arg-type]
                task.advance(member.size, target.name)
    except (tarfile.TarError, EOFError) as error:
        raise refuse(str(error)) from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise refuse(f"it has {error.filename!r} twice") from error
