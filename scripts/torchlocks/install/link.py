"""Cached packages → a tree of files, hard-linked where the file system allows it.

Post-link scripts of packages are not run, since they are unchecked code; a warning names the packages with one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import token_hex

from rattler import PackageRecord, RepoDataRecord, Subdir, install
from rattler.install import InstallerReporter
from rattler.package_cache import PackageCache, ValidationMode

from torchlocks.core.disk import is_disk_full
from torchlocks.core.errors import InstallError, TorchlocksError
from torchlocks.core.http import unreachable_client
from torchlocks.core.progress import Progress
from torchlocks.core.systems import here
from torchlocks.core.urls import mask, strip_credentials
from torchlocks.install.cache import Entry
from torchlocks.install.contained import refuse_outside
from torchlocks.install.package_files import read_paths
from torchlocks.install.provenance import record_names
from torchlocks.install.swap import hidden
from torchlocks.lockfile.models import LockedPackage


class _Reporter(InstallerReporter):
    """Hands rattler's calls, which come from its own threads, to the thread that owns the progress bar."""

    def __init__(self, loop: asyncio.AbstractEventLoop, advance: Callable[[float], None]) -> None:
        self._loop = loop
        self._advance = advance

    def on_link_complete(self, index: int) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._advance, 1)


def link(
    entries: Mapping[LockedPackage, Entry],
    platform: str,
    new: Path,
    prefix: Path,
    *,
    corrected: bool = False,
    scratch: Path | None = None,
    beside: Callable[[], None] = lambda: None,
    progress: Progress,
) -> None:
    """Link cached packages into the folder `new` as the environment that will be at `prefix`.

    `corrected` means that the packages' dependencies are those of the channel's records. `scratch` is a path
    for a temporary folder (default: a hidden one beside `prefix`). `beside` is called in another thread while rattler
    links; what it raises is raised, whatever becomes of the linking. Raises
    IntegrityError for packages that would write outside of the environment, InstallError when it fails, DiskFullError's
    causes (see `transfer.disk_full_as_error`) when the disk is full.
    """

    async def run() -> None:
        with progress.task(f"Linking {len(entries)} packages", len(entries)) as task:
            root: Path = next((entry.folder.parent for entry in entries.values()), new)
            if not _can_write(root):
                root = _stand_in(entries, stand_in)
            checking = asyncio.create_task(asyncio.to_thread(beside))
            linking = install(
                [_record(package, entry, corrected) for package, entry in entries.items()],
                new,
                # Every entry has just been verified; rattler need not check again.
                package_cache=PackageCache.new_layered([root], validation_mode=ValidationMode.skip()),
                installed_packages=[],
                platform=Subdir(platform),
                execute_link_scripts=False,
                show_progress=False,
                # Every package is in the cache.
                client=unreachable_client(),
                # The protocol's methods have bodies that mypy takes for abstract ones.
                reporter=_Reporter(asyncio.get_running_loop(), task.advance),  # type: ignore[abstract]
                alternative_target_prefix=prefix,
            )
            failed = (await asyncio.gather(linking, return_exceptions=True))[0]
            await checking
            if failed is not None:
                raise failed

    paths = {
        package.file_name: [each["_path"] for each in read_paths(entry.folder)] for package, entry in entries.items()
    }
    refuse_outside(
        {package.file_name: (entry.folder, package.name, package.version) for package, entry in entries.items()},
        paths,
        platform,
        {package.file_name for package, entry in entries.items() if not entry.has_links},
    )
    longest = max((len(path) for names in paths.values() for path in names), default=0)
    if (why := here.too_long(str(prefix), longest)) is not None:
        raise InstallError(
            f"The path of the environment is too long: {why}.", where=str(prefix), fix="name a shorter one."
        )
    for package, entry in entries.items():
        scripts = (f"bin/.{package.name}-post-link.sh", f"Scripts/.{package.name}-post-link.bat")
        if any((entry.folder / script).exists() for script in scripts):
            progress.warn(f"{package.file_name} has a post-link script, which is not run")
    # In the folder of leftovers, so that the next run removes it where this one is killed.
    stand_in = scratch or hidden(prefix, f"trash-{token_hex(4)}")
    try:
        if entries:
            asyncio.run(run())
        else:
            (new / "conda-meta").mkdir()
    except TorchlocksError:
        raise
    except Exception as error:
        # rattler has a class of its own for nearly every thing that can be wrong with a record, a path or a link.
        if is_disk_full(error):
            raise
        raise InstallError(
            "The packages could not be linked; what was there is untouched.",
            where=str(prefix),
            fix="see that the folder can be written to; where a package is at fault, lock another one.",
            details=mask(str(error)),
        ) from error
    finally:
        shutil.rmtree(stand_in, ignore_errors=True)
    if len(record_names(new)) != len(entries):
        raise InstallError("Not all packages were linked; what was there is untouched.", where=str(prefix))


def _stand_in(entries: Mapping[LockedPackage, Entry], folder: Path) -> Path:
    """A cache of links to the entries of one that cannot be written to: rattler locks whatever it takes files from."""
    folder.mkdir()
    for entry in entries.values():
        here.link_folder(folder / entry.folder.name, entry.folder)
        shutil.copyfile(entry.folder.with_name(f"{entry.folder.name}.lock"), folder / f"{entry.folder.name}.lock")
    return folder


def _can_write(cache: Path) -> bool:
    """Whether a package cache can be locked: its lock file, or the folder where there is none yet, can be written."""
    lock = cache / ".cache.lock"
    try:
        # Asking is not enough: a file system that is mounted read-only refuses root, too, and some only when written.
        with lock.open("ab"):
            return os.access(cache, os.W_OK)
    except OSError:
        return False


def _record(package: LockedPackage, entry: Entry, corrected: bool) -> RepoDataRecord:
    """The package's own record, with the hashes of its archive.

    A pixi lock contains the channel's record, with corrections that were made after the package was built; the other
    formats contain a part of it (conda-lock v1 has no constraints and merges dependencies) or nothing.
    """
    own = PackageRecord.from_index_json(
        entry.folder / "info" / "index.json", size=entry.size, sha256=entry.sha256, md5=entry.md5
    )
    if corrected and package.depends is not None:
        own.depends = list(package.depends)
        own.constrains = list(package.constrains or ())
    return RepoDataRecord(own, package.file_name, strip_credentials(package.url), strip_credentials(package.channel))
