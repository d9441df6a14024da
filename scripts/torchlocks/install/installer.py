"""A lock → an environment: fetch, check, link beside, swap.

The previous environment is complete until the last rename and after it. Bytecode is not compiled: rattler does not
either, it would take longer than the rest of the installation, and Python compiles what it imports by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from torchlocks import __version__
from torchlocks.core.disk import disk_full_as_error, is_disk_full, require_space
from torchlocks.core.errors import BusyError, InstallError, MissingFileError
from torchlocks.core.files import write_new
from torchlocks.core.progress import Progress
from torchlocks.core.quantities import shortened
from torchlocks.core.systems import here
from torchlocks.install import swap
from torchlocks.install.additions import refuse_to_drop_additions
from torchlocks.install.exclusive import final_path, interruptible, prefix_lock
from torchlocks.install.provenance import (
    RECORD,
    Origin,
    Provenance,
    is_current,
    now,
    read_provenance,
    record_names,
    write_provenance,
)
from torchlocks.lockfile.models import Lock, LockedPackage

if TYPE_CHECKING:
    from torchlocks.install.cache import Entry
    from torchlocks.install.fetch_options import FetchOptions


@dataclass(frozen=True, kw_only=True)
class InstallOptions:
    """How an environment is installed.

    `fetch` are the options of fetching (None: the defaults). `wait_s` is how long to wait for another process that
    works on the same environment, in seconds (None: without a limit). `force` installs an environment again that is up
    to date, without what the user added to it.
    """

    fetch: FetchOptions | None = None
    wait_s: float | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class InstallResult:
    """The result of an installation; `changed` is False if the environment was already that of the lock."""

    prefix: Path
    changed: bool
    packages: int
    provenance: Provenance


def install_environment(
    lock: Lock,
    platform: str,
    prefix: Path,
    *,
    provenance: Origin,
    options: InstallOptions | None = None,
    progress: Progress,
) -> InstallResult:
    """Make `prefix` the environment of `lock` for `platform`.

    The environment that was there is kept as the previous one (see `rollback`). If it is already that of this lock,
    nothing is done. Packages for pip are not installed; a warning names them.

    Raises BusyError if another process still works there after `wait_s`, InstallError if `prefix` contains something
    else than an environment of torchlocks, or additions of the user, or cannot be written, DiskFullError,
    InterruptedByUserError, and what `fetch.ensure_cached` raises. After an error, `prefix` is unchanged.
    """
    options = options or InstallOptions()
    prefix = final_path(prefix)
    clean_leftovers(prefix, progress)
    if not options.force and is_current(prefix, lock.sha256, platform, provenance.inputs, selection=lock.selection):
        return _unchanged(prefix, provenance)
    from torchlocks.install.fetch_options import FetchOptions, packages_for, with_variables
    from torchlocks.install.inventory import take_inventory, write_inventory

    packages = packages_for(lock, platform)
    if others := lock.pip.get(platform):
        progress.warn(
            f"The lock names packages for pip, which are not installed: {shortened([p.requirement for p in others])}"
        )
    if built := lock.sources.get(platform):
        progress.warn(f"The lock names packages to be built from source, which are not installed: {shortened(built)}")
    fetch_options = options.fetch or FetchOptions()
    with interruptible(), disk_full_as_error(prefix.parent), prefix_lock(prefix, options.wait_s, progress):
        try:
            swap.repair(prefix)
            # Whoever held the lock before may have done the work.
            if not options.force and is_current(prefix, lock.sha256, platform, selection=lock.selection):
                return _unchanged(prefix, provenance)
            _refuse_foreign(prefix)
            if not options.force:
                refuse_to_drop_additions(prefix)
            fetch_options = with_variables(fetch_options, lock, packages, progress)
            corrected = lock.kind == "pixi"
            linked = _link_cached(packages, fetch_options, platform, prefix, corrected, progress)
            new, install_id = linked.folder, linked.install_id
            try:
                made = describe(lock, platform, prefix, provenance, packages, install_id, new)
                write_history(new, packages, made)
                inventory = take_inventory(new, packages, corrected=corrected, modes=linked.modes)
                made = replace(made, files_sha256=write_inventory(new, inventory, new=True))
                write_provenance(new, made)
                swap.put_in_place(new, prefix)
            except BaseException:
                # Interrupted after the exchange, the folder contains the old environment: `repair` will keep it.
                there = read_provenance(prefix)
                if there is None or there.install_id != install_id:
                    swap.discard(new, prefix)
                raise
        except OSError as error:
            if is_disk_full(error):
                raise
            raise not_in_place(error, prefix) from error
    return InstallResult(prefix=prefix, changed=True, packages=len(packages), provenance=made)


@dataclass(frozen=True, kw_only=True)
class _Linked:
    """A new environment beside its place; `modes` are those of files by inode, as far as they are known."""

    folder: Path
    install_id: str
    modes: Mapping[int, int]


def _link_cached(
    packages: Sequence[LockedPackage],
    options: FetchOptions,
    platform: str,
    prefix: Path,
    corrected: bool,
    progress: Progress,
) -> _Linked:
    """Link the packages beside `prefix`, after they were brought into the cache.

    Where all are in it by their records, their files are compared with these while they are linked, which takes as
    long. Nothing uses the new folder before both are done; with a changed file, it is removed and linked anew.
    """
    from torchlocks.install.fetch import ChangedInCacheError, ensure_cached, recorded_packages
    from torchlocks.install.link import link

    def link_new(entries: Mapping[LockedPackage, Entry], beside: Callable[[], None]) -> tuple[Path, str]:
        _require_room(entries, prefix)
        new, install_id = swap.new_sibling(prefix)
        try:
            link(entries, platform, new, prefix, corrected=corrected, beside=beside, progress=progress)
        except BaseException:
            swap.discard(new, prefix)
            raise
        return new, install_id

    if (recorded := recorded_packages(packages, options)) is not None:
        try:
            new, install_id = link_new(recorded.entries, recorded.confirm)
            one_disk = new.stat().st_dev == recorded.root.stat().st_dev
            return _Linked(folder=new, install_id=install_id, modes=recorded.modes if one_disk else {})
        except ChangedInCacheError:
            pass
        except Exception:
            # A damaged package can also be why it was not linked.
            with suppress(ChangedInCacheError):
                recorded.confirm()
                raise
    new, install_id = link_new(ensure_cached(packages, options, progress), lambda: None)
    return _Linked(folder=new, install_id=install_id, modes={})


def not_in_place(error: OSError, prefix: Path) -> InstallError | BusyError:
    """Return the error for an environment that could not be installed because of `error`."""
    where = str(error.filename or prefix)
    if here.in_use(error):
        return BusyError(
            "The environment is in use, and cannot be replaced.",
            where=where,
            fix="close the programs that run in it, also shells and notebooks; what was there is untouched.",
        )
    return InstallError(
        f"The environment cannot be installed: {error.strerror or error}.",
        where=where,
        fix="check that the folder can be written to; what was there is untouched.",
    )


def clean_leftovers(prefix: Path, progress: Progress) -> None:
    """Complete or undo what a killed run left beside `prefix`, unless another process is at work there."""
    if not swap.has_leftovers(prefix):
        return
    with suppress(BusyError, InstallError, OSError), interruptible(), prefix_lock(prefix, 0, progress):
        swap.repair(prefix)


def rollback(prefix: Path, *, progress: Progress, wait_s: float | None = None) -> Provenance | None:
    """Put the previous environment back in the place of the one at `prefix`, and keep that one as the previous.

    Returns the provenance of the current environment. Raises MissingFileError when there is no previous environment,
    BusyError, and InstallError when the file system refuses.
    """
    prefix = final_path(prefix)
    if not prefix.parent.is_dir():
        raise MissingFileError("There is no previous environment to go back to.", where=str(prefix))
    with interruptible(), prefix_lock(prefix, wait_s, progress):
        _repaired(prefix)
        swap.rollback(prefix)
        return read_provenance(prefix)


def _repaired(prefix: Path) -> None:
    try:
        swap.repair(prefix)
    except OSError as error:
        raise InstallError(
            f"What an interrupted run left cannot be cleaned up: {error.strerror}.", where=str(error.filename or prefix)
        ) from error


def _unchanged(prefix: Path, origin: Origin) -> InstallResult:
    """Return the result for an environment that is up to date.

    Its inputs may have changed since: they are recorded, and an earlier verdict does not count.
    """
    found = read_provenance(prefix)
    if found is None:
        raise InstallError("The environment has vanished while it was looked at.", where=str(prefix), fix="try again.")
    asked = Origin(name=found.name, channel=found.channel, inputs=found.inputs)
    if asked != origin:
        fresh = asked.inputs == origin.inputs
        found = replace(
            found,
            name=origin.name,
            channel=origin.channel,
            inputs=origin.inputs,
            verified=found.verified if fresh else None,
            verified_at=found.verified_at if fresh else None,
            report=found.report if fresh else None,
        )
        write_provenance(prefix, found)
    return InstallResult(prefix=prefix, changed=False, packages=len(found.records), provenance=found)


def _refuse_foreign(prefix: Path) -> None:
    """Raise InstallError when there is something at `prefix` that torchlocks did not put there."""
    if not os.path.lexists(prefix) or (prefix / RECORD).is_file():
        return
    if prefix.is_dir() and not any(prefix.iterdir()):
        prefix.rmdir()
        return
    raise InstallError(
        "There is something at this path that torchlocks did not install, and it is not overwritten.",
        where=str(prefix),
        fix="move it away or delete it, or choose another prefix.",
    )


def _require_room(entries: Mapping[LockedPackage, Entry], prefix: Path) -> None:
    """Raise DiskFullError when files have to be copied (another file system than the cache's) and there is no space."""

    from torchlocks.install.package_files import read_paths

    folders = [entry.folder for entry in entries.values()]
    if not folders or folders[0].stat().st_dev == prefix.parent.stat().st_dev:
        return
    needed = sum(path.get("size_in_bytes") or 0 for folder in folders for path in read_paths(folder))
    require_space(
        prefix.parent,
        needed,
        "The environment needs",
        "make room, or choose a prefix elsewhere; on the package cache's own disk it would take hardly any.",
    )


def describe(
    lock: Lock,
    platform: str,
    prefix: PurePath,
    origin: Origin,
    packages: Sequence[LockedPackage],
    install_id: str,
    new: Path,
) -> Provenance:
    """Return the provenance of the environment in the folder `new`, which will be at `prefix`."""
    import rattler

    from torchlocks.core.urls import strip_credentials

    return Provenance(
        install_id=install_id,
        prefix=str(prefix),
        name=origin.name,
        lock_sha256=lock.sha256,
        lock_kind=lock.kind,
        lock_name=lock.path.name,
        platform=platform,
        channel=origin.channel,
        channels_used=tuple(sorted({strip_credentials(each.channel) for each in packages})),
        records=record_names(new),
        tools={"torchlocks": __version__, "py-rattler": rattler.__version__},
        inputs=origin.inputs,
        selection=lock.selection,
        installed_at=now(),
    )


def write_history(new: Path, packages: Sequence[LockedPackage], made: Provenance) -> None:
    """Write the file by which conda knows an environment, in conda's own form: a time, a command, what was added."""
    lines = [f"==> {made.installed_at[:19].replace('T', ' ')} <==", f"# cmd: torchlocks env {made.name}"]
    lines += [
        f"+{each.channel.rsplit('/', 1)[-1]}/{each.subdir}::{each.name}-{each.version}-{each.build}"
        for each in packages
    ]
    write_new(new / "conda-meta" / "history", "\n".join(lines) + "\n")


def warn_of_space(prefix: Path, progress: Progress) -> None:
    """Warn if nothing can be compiled against torch in an environment at `prefix`, because its path has a space."""
    if os.name == "posix" and " " in str(prefix):
        progress.warn(
            f"The path of the environment has a space: {prefix}. torch passes it to the linker without quotes, so "
            "torch.compile and C++ extensions fail in this environment, and the suite skips their checks. Move the "
            "checkout to a path without a space, or install the lock into one: torchlocks install LOCK PREFIX"
        )
