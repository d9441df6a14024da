"""Rules on the folder of one environment: complete, current, sorted, and equal in three formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from torchlocks.check.model import Expectation, Problem, rule
from torchlocks.check.rules.packages import RELOCK
from torchlocks.core.errors import LockfileError, MissingFileError, SignatureError
from torchlocks.core.reading import LOCK_BYTES, TEXT_BYTES, read_bytes
from torchlocks.export.signatures import SUFFIX, matches
from torchlocks.lockfile.fields import channel_urls
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, explicit_name, parse_lock, read_lock
from torchlocks.lockfile.models import Lock, LockedPackage
from torchlocks.lockfile.virtual import VirtualPackage, parse_virtual


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The files of a folder on another machine: the names of all, and the bytes of those that rules read."""

    names: tuple[str, ...]
    data: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The lockfiles of one environment. `errors` are those of files that cannot be read, by name.

    With `contents`, its files are those and `path` is only their name in messages.
    """

    env: str
    path: Path
    rows: Mapping[str, Expectation]
    locks: Mapping[str, Lock]
    errors: Mapping[str, LockfileError]
    names: tuple[str, ...]
    contents: Contents | None = None

    @property
    def conda_lock(self) -> Lock | None:
        return self.locks.get(CONDA_LOCK)

    def read(self, name: str, limit: int) -> bytes:
        """Return the bytes of a file of at most `limit` bytes. Raises OSError."""
        return self.contents.data[name] if self.contents is not None else read_bytes(self.path / name, limit)


def read_folder(path: Path, env: str, rows: Mapping[str, Expectation], contents: Contents | None = None) -> Folder:
    """Read the lockfiles of an environment's folder, or parse its `contents`.

    `rows` are its expectations by platform.
    """
    names = contents.names if contents is not None else _names(path)
    locks: dict[str, Lock] = {}
    errors: dict[str, LockfileError] = {}
    for name in filter(_is_lock, names):
        try:
            file = path / name
            locks[name] = parse_lock(contents.data[name], file) if contents is not None else read_lock(file)
        except MissingFileError:
            continue
        except LockfileError as error:
            errors[name] = error
    return Folder(env=env, path=path, rows=rows, locks=locks, errors=errors, names=names, contents=contents)


def read_contents(path: Path) -> Contents:
    """Return the contents of an environment's folder. Raises OSError for a file that cannot be read."""
    names = _names(path)
    wanted = {name for name in names if _is_lock(name)}
    for name in names:
        if name.endswith(SUFFIX) and (signed := name.removesuffix(SUFFIX)) in names:
            wanted |= {name, signed}
    return Contents(
        names=names,
        data={name: read_bytes(path / name, TEXT_BYTES if name.endswith(SUFFIX) else LOCK_BYTES) for name in wanted},
    )


def _names(path: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in path.iterdir() if entry.is_file())) if path.is_dir() else ()


def _is_lock(name: str) -> bool:
    return name in (CONDA_LOCK, PIXI) or (name.startswith("conda-") and name.endswith(".lock"))


@rule("unreadable", "A file that cannot be read locks nothing.")
def unreadable(folder: Folder) -> Iterator[Problem]:
    for name, error in folder.errors.items():
        place = (error.where or "").partition(", ")[2]
        yield Problem(message=error.what + (f" ({place})" if place else ""), file=name, fix=error.fix or RELOCK)


@rule("file-missing", "Each client needs the lock in the format that it reads.")
def file_missing(folder: Folder) -> Iterator[Problem]:
    for name in (CONDA_LOCK, PIXI, *(explicit_name(platform) for platform in folder.rows)):
        if name not in folder.names:
            yield Problem(message=f"{folder.env} has no {name}", file=name, fix=RELOCK)


@rule("file-unknown", "A lock that nothing makes is never made again, and goes out of date.")
def file_unknown(folder: Folder) -> Iterator[Problem]:
    known = {CONDA_LOCK, PIXI, *(explicit_name(platform) for platform in folder.rows)}
    for name in folder.names:
        if name.removesuffix(SUFFIX) not in known:
            yield Problem(message=f"{name} belongs to no platform of {folder.env}", file=name, fix="remove it.")


@rule("signature-stale", "A signature of other bytes makes every verified installation fail.")
def signature_stale(folder: Folder) -> Iterator[Problem]:
    for name in folder.names:
        signed = name.removesuffix(SUFFIX)
        if signed == name or signed not in folder.names:
            continue
        try:
            if not matches(folder.read(signed, LOCK_BYTES), folder.read(name, TEXT_BYTES)):
                message = f"{name} is the signature of another {signed}"
                yield Problem(message=message, file=name, fix=f"sign it again: torchlocks sign {folder.path / signed}")
        except OSError as error:
            yield Problem(message=f"{name} cannot be read: {error.strerror}", file=name)
        except SignatureError as error:
            yield Problem(message=f"{name} cannot be verified: {error.what}", file=name, fix=error.fix)


@rule("platform-missing", "An environment is locked for all of its platforms, or it does not exist there.")
def platform_missing(folder: Folder) -> Iterator[Problem]:
    for name in (CONDA_LOCK, PIXI):
        lock = folder.locks.get(name)
        for platform in folder.rows if lock else ():
            if lock is not None and not lock.packages.get(platform):
                yield Problem(
                    message=f"{name} contains no packages for {platform}", platform=platform, file=name, fix=RELOCK
                )


@rule("platform-unknown", "A platform that the matrix does not name is never checked.")
def platform_unknown(folder: Folder) -> Iterator[Problem]:
    for name in (CONDA_LOCK, PIXI):
        for platform in folder.locks[name].platforms if name in folder.locks else ():
            if platform not in folder.rows:
                yield Problem(
                    message=f"{name} contains {platform}, which matrix.yml does not name for {folder.env}",
                    platform=platform,
                    file=name,
                    fix="add the platform to matrix.yml, or " + RELOCK,
                )
    for platform in folder.rows:
        explicit = folder.locks.get(explicit_name(platform))
        if explicit is not None and explicit.platforms != (platform,):
            yield Problem(
                message=f"{explicit.path.name} is for {', '.join(explicit.platforms)}",
                platform=platform,
                file=explicit.path.name,
                fix=RELOCK,
            )


@rule("stale", "The template or the matrix has changed since the lock was made.")
def stale(folder: Folder) -> Iterator[Problem]:
    lock = folder.conda_lock
    for platform, row in folder.rows.items() if lock else ():
        if lock is None or row.content_hash is None or not lock.packages.get(platform):
            continue
        recorded = lock.content_hash.get(platform)
        if recorded != row.content_hash:
            yield Problem(
                message=f"the lock was made from other inputs (content hash {(recorded or 'none')[:12]}, "
                f"now {row.content_hash[:12]})",
                platform=platform,
                file=CONDA_LOCK,
                fix=RELOCK,
            )


@rule("channels-differ", "The order of the channels decides which package wins.")
def channels_differ(folder: Folder) -> Iterator[Problem]:
    wanted = next(([url for each in row.channels for url in channel_urls(each)] for row in folder.rows.values()), None)
    for name in (CONDA_LOCK, PIXI):
        lock = folder.locks.get(name)
        if lock is None or wanted is None:
            continue
        recorded = [url for each in lock.channels for url in channel_urls(each)]
        if recorded != wanted:
            yield Problem(
                message=f"{name} names the channels {', '.join(lock.channels) or 'none'}; "
                f"the row has {', '.join(wanted)}",
                file=name,
                fix=RELOCK,
            )


@rule("virtual-packages-differ", "A lock that was solved for another machine may not run on that of its row.")
def virtual_packages_differ(folder: Folder) -> Iterator[Problem]:
    for name in (CONDA_LOCK, PIXI):
        lock = folder.locks.get(name)
        for platform, row in folder.rows.items() if lock else ():
            recorded = lock.virtual_packages.get(platform) if lock else None
            if recorded is None:
                continue
            wanted = {key: VirtualPackage.from_value(value) for key, value in row.virtual_packages.items()}
            found = parse_virtual(recorded)
            if {key: each.full for key, each in found.items()} != {key: each.full for key, each in wanted.items()}:
                texts = sorted(f"{key}={each.text}" for key, each in wanted.items())
                yield Problem(
                    message=f"{name} was solved with {' '.join(sorted(recorded))}; the row has {' '.join(texts)}",
                    platform=platform,
                    file=name,
                    fix=RELOCK,
                )


@rule("unsorted", "A lock in another order makes every difference unreadable.")
def unsorted(folder: Folder) -> Iterator[Problem]:
    lock = folder.conda_lock
    for platform, packages in lock.packages.items() if lock else ():
        names = [package.name for package in packages]
        for before, after in pairwise(names):
            if before > after:
                yield Problem(
                    message=f"{after} is after {before}",
                    package=after,
                    platform=platform,
                    file=CONDA_LOCK,
                    fix=RELOCK,
                )
                break


@rule("link-order", "Explicit files are linked in their order, so dependencies come first.")
def link_order(folder: Folder) -> Iterator[Problem]:
    from torchlocks.lockfile.explicit import link_order as ordered

    for platform in folder.rows:
        explicit = folder.locks.get(explicit_name(platform))
        if folder.conda_lock is None or explicit is None:
            continue
        written = [package.url for package in explicit.packages.get(platform, ())]
        right = [package.url for package in ordered(folder.conda_lock.packages.get(platform, ()))]
        if sorted(written) == sorted(right) and written != right:
            first = next(package for package, url in zip(explicit.packages[platform], right, strict=True)
                         if package.url != url)  # fmt: skip
            yield Problem(
                message=f"{explicit.path.name} is not in link order, from {first.name} on",
                package=first.name,
                platform=platform,
                file=explicit.path.name,
                fix=RELOCK,
            )


@rule("formats-differ", "Whoever installs gets the same packages, whichever file is read.")
def formats_differ(folder: Folder) -> Iterator[Problem]:
    reference = folder.conda_lock
    for platform in folder.rows if reference else ():
        ours = _by_url(reference, platform)
        for name in (PIXI, explicit_name(platform)):
            other = folder.locks.get(name)
            if other is None:
                continue
            theirs = _by_url(other, platform)
            for url in sorted(ours.keys() ^ theirs.keys()):
                where, without = (CONDA_LOCK, name) if url in ours else (name, CONDA_LOCK)
                package = ours.get(url) or theirs[url]
                yield Problem(
                    message=f"{package.file_name} is in {where} and not in {without}",
                    package=package.name,
                    platform=platform,
                    file=name,
                    fix=RELOCK,
                )
            for url in sorted(ours.keys() & theirs.keys()):
                for kind in ("sha256", "md5"):
                    here, there = getattr(ours[url], kind), getattr(theirs[url], kind)
                    if here and there and here != there:
                        yield Problem(
                            message=f"the {kind} of {ours[url].file_name} is {here[:12]}… in {CONDA_LOCK} "
                            f"and {there[:12]}… in {name}",
                            package=ours[url].name,
                            platform=platform,
                            file=name,
                            fix="install from neither; " + RELOCK,
                        )


def _by_url(lock: Lock | None, platform: str) -> dict[str, LockedPackage]:
    return {package.url: package for package in lock.packages.get(platform, ())} if lock else {}


RULES = (
    unreadable,
    file_missing,
    file_unknown,
    signature_stale,
    platform_missing,
    platform_unknown,
    stale,
    channels_differ,
    virtual_packages_differ,
    unsorted,
    link_order,
    formats_differ,
)
