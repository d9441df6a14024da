"""A lock → one file with all that an installation without a network needs: packages, lock, installer.

A bundle is a plain tar (its packages are compressed already) of one folder, which is also a channel for any conda
client. It holds the very archives that the lock names, so that everyone who has the lock can check them. These are
mostly `.conda` files, which Python's standard library reads from 3.14 on; before that `install.py` uses what reads
Zstandard on the machine (see `bundle_installer`). For machines that have nothing that does, a portable bundle has each
package as a `.tar.bz2`, made from the verified archive: any Python 3.8 and any conda client reads these, but the
archive's hash is then the bundle's own and not the lock's, and bzip2 is slow (the CPU environment of the local channel,
on two busy cores: 140 s to make instead of 6, 76 s to install instead of 24; both files have 210 MB).

The same lock gives the same bytes: files are sorted, times, owners and modes are fixed.
"""

from __future__ import annotations

import asyncio
import bz2
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from torchlocks import __version__
from torchlocks.bundle import installer
from torchlocks.core.disk import disk_full_as_error, is_disk_full, require_space
from torchlocks.core.errors import (
    InstallError,
    IntegrityError,
    InterruptedByUserError,
    LockfileError,
    MissingFileError,
)
from torchlocks.core.files import hash_file
from torchlocks.core.layout import Layout
from torchlocks.core.package_cache import cache_folder
from torchlocks.core.progress import Progress, Task
from torchlocks.core.urls import strip_credentials
from torchlocks.install.cache import PackageStore, refuse_other, refuse_unsafe
from torchlocks.install.fetch import FetchOptions, ensure_cached, fetch_archives, packages_for, require_hashes
from torchlocks.install.installer import interruptible
from torchlocks.install.unpack import Unpacker, UnpackError
from torchlocks.lockfile.explicit import link_order
from torchlocks.lockfile.formats import write_explicit
from torchlocks.lockfile.models import Lock, LockedPackage

_SUMS = "SHA256SUMS"
# 1980-01-01 UTC, the first day that every archive format can tell.
_TIME = 315532800
# Room for packages that grow when they are repacked: conda-forge compresses harder than bzip2 can.
_REPACKED = 2

_README = """\
{name} for {platform}: a PyTorch environment as its lock says, with all of its packages.
Nothing here needs a network. All commands are meant for this folder.

With Python 3.8 or newer, and nothing else:

    python3 install.py PREFIX          check everything, then install into the folder PREFIX
    python3 install.py --check         check everything: every package against {lock}
{zstd}
With conda, mamba or micromamba:

    python3 install.py --explicit here.txt
    conda create --offline -p PREFIX --file here.txt        (or: micromamba create --offline -p PREFIX --file here.txt)

With a conda client and no Python:

    sha256sum -c {sums}
    (echo @EXPLICIT; find "$PWD/channel" -name '*.{extension}' | sed 's|^|file://|') > here.txt
    micromamba create --offline -p PREFIX --file here.txt

The folder channel/ is a conda channel of its own: file://$PWD/channel.
{torchlocks}"""
_ZSTD = """
The packages are compressed with Zstandard. Python 3.14 reads it; older ones use the system's libzstd (nearly every
Linux has it), the zstd command, or the Python module zstandard or backports.zstd. Where there is none of these, make
the bundle with PORTABLE=1.
"""
_PORTABLE = """
This bundle is portable: its packages were repacked as .tar.bz2, which every Python reads, out of archives that had the
hashes in {lock}. Their own hashes are in {sums}.
"""
_TORCHLOCKS = """
With torchlocks, the packages can be put into the package cache, for `make env-cpu OFFLINE=1` and the like:

    torchlocks bundle --unpack FILE.tar
"""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was made: the file, its size in bytes, its hash, and the number of packages in it."""

    path: Path
    size: int
    sha256: str
    packages: int


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """A bundle whose packages are in the package cache now."""

    name: str
    platform: str
    packages: int


def bundle_environment(
    layout: Layout,
    env: str,
    platform: str,
    *,
    local: bool = False,
    output: Path | None = None,
    fetch: FetchOptions,
    progress: Progress,
    portable: bool = False,
) -> Bundle:
    """Bundle an environment of the matrix from its committed lock, or its `local` one.

    `output` is the file (default: `build/bundles/<env>-<platform>.tar`). Raises NoSuchRowError for what is not in the
    matrix, MissingFileError when there is no such lock, and what `make_bundle` raises.
    """
    from torchlocks.lockfile.open import open_lock
    from torchlocks.matrix.model import load_matrix

    matrix = load_matrix(layout.matrix)
    target = matrix.local_target(env, platform) if local else matrix.target(env, platform)
    path = (layout.local_locks if local else layout.locks) / env / "conda-lock.yml"
    if not path.is_file():
        raise MissingFileError(
            f"There is no {'local ' if local else ''}lock of {env}.",
            where=str(path),
            fix=f"make env-{f'gpu CUDA={target.cuda}' if target.cuda else env} CHANNEL=local makes one"
            if local
            else f"make it: make lock ENV={env}",
        )
    file = f"{env}-{platform}{'-portable' if portable else ''}.tar"
    return make_bundle(
        open_lock(str(path)),
        platform,
        output or layout.build / "bundles" / file,
        name=env,
        fetch=fetch,
        progress=progress,
        portable=portable,
    )


def make_bundle(
    lock: Lock,
    platform: str,
    output: Path,
    *,
    name: str,
    fetch: FetchOptions,
    progress: Progress,
    portable: bool = False,
) -> Bundle:
    """Write the bundle of `lock` for `platform` to the file `output`; `name` is what the environment is called.

    With `portable`, packages are repacked for machines that cannot read Zstandard. The file appears in one step; an
    older one makes way for it only then. Raises LockfileError when the lock has no such platform or cannot be bundled,
    what `fetch.fetch_archives` raises, DiskFullError, InstallError when the file cannot be written, and
    InterruptedByUserError.
    """
    packages = _bundled(lock, platform)
    output = output.absolute()
    with interruptible(), _written_to(output), _scratch(output) as scratch:
        _require_room(packages, scratch, portable)
        folder = scratch / "bundle"
        files = _channel(packages, folder / "channel", platform, scratch, fetch, progress, portable)
        # Who installs the bundle needs no credentials of its channel.
        packages = [replace(each, url=strip_credentials(each.url)) for each in packages]
        _write_lock(replace(lock, packages={platform: tuple(packages)}), platform, folder)
        _write_manifest(lock, platform, name, packages, files, folder)
        extensions = sorted({"tar.bz2" if each.file.endswith(".bz2") else "conda" for each in files})
        (folder / "README.txt").write_text(
            _README.format(
                name=name,
                platform=platform,
                lock=f"conda-{platform}.lock",
                sums=_SUMS,
                extension="' -o -name '*.".join(extensions),
                zstd=(_PORTABLE if portable else _ZSTD).format(lock=f"conda-{platform}.lock", sums=_SUMS),
                torchlocks="" if portable else _TORCHLOCKS,
            ),
            encoding="utf-8",
        )
        shutil.copyfile(installer.__file__, folder / "install.py")
        if platform.startswith("win-"):
            # What conda and pip put beside a script on Windows; setuptools is where it is kept as a file.
            launcher = "cli-arm64.exe" if platform == "win-arm64" else "cli-64.exe"
            (folder / "launcher.exe").write_bytes((resources.files("setuptools") / launcher).read_bytes())
        made = scratch / output.name
        known = {each.file: each.sha256 for each in files}
        sha256 = _write_tar(folder, f"{name}-{platform}", made, known, progress)
        size = made.stat().st_size
        made.replace(output)
    return Bundle(path=output, size=size, sha256=sha256, packages=len(packages))


def unpack_bundle(bundle: Path, *, fetch: FetchOptions, progress: Progress) -> Unpacked:
    """Put the packages of the file `bundle` into the package cache, each held against the lock inside.

    Raises MissingFileError when there is no such file, IntegrityError when it is damaged, hostile or no bundle,
    InstallError when it is a portable one, DiskFullError, and InterruptedByUserError.
    """
    if not bundle.is_file():
        raise MissingFileError("There is no such bundle.", where=str(bundle), fix="make one: make bundle ENV=cpu")
    store = PackageStore(cache_folder(fetch.cache))
    store.root.mkdir(parents=True, exist_ok=True)
    with interruptible(), disk_full_as_error(store.root), store.staging() as stage:
        _require_free(bundle.stat().st_size, stage)
        folder = stage / "bundle"
        with progress.task("Unpacking the bundle", bundle.stat().st_size, unit="bytes") as task:
            _extract(bundle, folder, task)
        try:
            found = installer.read_bundle(folder)
            installer.check_files(found, progress.say)
        except installer.BundleError as error:
            raise IntegrityError(str(error), where=str(bundle), fix=error.fix) from error
        if any(each.sha256 != each.file_sha256 for each in found.packages):
            raise InstallError(
                "This is a portable bundle: its packages were repacked, so the lock's hashes do not hold for them.",
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
    return Unpacked(name=found.name, platform=found.platform, packages=len(packages))


def _bundled(lock: Lock, platform: str) -> list[LockedPackage]:
    packages = link_order(packages_for(lock, platform))
    require_hashes(packages, allow_md5=False)
    if others := lock.pip.get(platform):
        raise LockfileError(
            f"The lock names packages for pip, which a bundle cannot hold: {', '.join(others)}.",
            where=str(lock.path),
            fix="take them out of the environment, and lock again.",
        )
    seen: dict[tuple[str, str], LockedPackage] = {}
    for each in packages:
        other = seen.setdefault((each.subdir, each.file_name), each)
        if other is not each:
            raise LockfileError(
                f"The lock has {each.file_name} twice.", where=f"{other.url} and {each.url}", fix="lock again."
            )
    return packages


@contextmanager
def _written_to(output: Path) -> Iterator[None]:
    with disk_full_as_error(output.parent):
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            if is_disk_full(error):
                raise
            raise InstallError(
                f"The bundle cannot be written: {error.strerror or error}.",
                where=str(error.filename or output),
                fix="choose another file.",
            ) from error


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A folder beside the file that is made, on the same disk."""
    if output.is_dir():
        raise InstallError("The bundle is a file, and this is a folder.", where=str(output), fix="name a file.")
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_room(packages: Sequence[LockedPackage], folder: Path, portable: bool) -> None:
    # Downloaded, and once more in the tar.
    _require_free(sum(each.size or 0 for each in packages) * 2 * (_REPACKED if portable else 1), folder)


def _require_free(needed: int, folder: Path) -> None:
    require_space(folder.parent, needed, "The bundle needs", "make room, or choose another disk.")


# --- the folder --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _File:
    """A package's file in the bundle, its path below the folder."""

    file: str
    sha256: str


def _channel(
    packages: Sequence[LockedPackage],
    channel: Path,
    platform: str,
    scratch: Path,
    fetch: FetchOptions,
    progress: Progress,
    portable: bool,
) -> list[_File]:
    """Make the bundle's channel and return each package's file in it."""
    downloads = scratch / "downloads"
    downloads.mkdir()
    subdirs = {platform, "noarch", *(each.subdir for each in packages)}
    for subdir in subdirs:
        (channel / subdir).mkdir(parents=True, exist_ok=True)
    archives = fetch_archives(packages, downloads, fetch, progress)
    files = []
    if portable:
        names = [f"{each.name}-{each.version}-{each.build}.tar.bz2" for each in packages]
        targets = [channel / each.subdir / name for each, name in zip(packages, names, strict=True)]
        hashes = _repack(packages, [archives[each] for each in packages], targets, scratch, progress)
    else:
        targets = [channel / each.subdir / each.file_name for each in packages]
        for each, target in zip(packages, targets, strict=True):
            _move_or_link(archives[each], target, move=archives[each].parent == downloads)
        hashes = [each.sha256 or "" for each in packages]
    for target, sha256 in zip(targets, hashes, strict=True):
        files.append(_File(file=target.relative_to(channel.parent).as_posix(), sha256=sha256))
    _index(packages, [target.name for target in targets], channel, subdirs)
    return files


def _move_or_link(source: Path, target: Path, *, move: bool) -> None:
    if move:
        source.replace(target)
        return
    try:
        # Its bytes are hashed once more when they are packed, so that it does not matter who else writes to them.
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _index(packages: Sequence[LockedPackage], names: Sequence[str], channel: Path, subdirs: Set[str]) -> None:
    """Write the channel's repodata: the packages' own records, with the dependencies that the lock has for them.

    rattler's index is of what is in the folder; its times and other files would differ from run to run.
    """
    from rattler.index import index_fs

    try:
        asyncio.run(index_fs(channel, write_zst=False, write_shards=False))
    except Exception as error:
        # Not one class of rattler's: an archive that is none makes its indexer panic.
        if is_disk_full(error):
            raise
        raise IntegrityError(
            "A package has the locked hash, but cannot be read.", fix="lock again.", details=str(error)
        ) from error
    known = {(each.subdir, name): each for each, name in zip(packages, names, strict=True)}
    for subdir in sorted(channel.iterdir()):
        if subdir.name not in subdirs:
            shutil.rmtree(subdir) if subdir.is_dir() else subdir.unlink()
            continue
        file = subdir / "repodata.json"
        index: dict[str, Any] = json.loads(file.read_bytes())
        records = {kind: index.get(kind, {}) for kind in ("packages", "packages.conda")}
        for name, record in {**records["packages"], **records["packages.conda"]}.items():
            package = known.pop((subdir.name, name))
            record.pop("indexed_timestamp", None)
            # Only a lock that knows both holds the channel's complete record (see `lockfile.merge`).
            if package.depends is not None and package.constrains is not None:
                record.update(depends=list(package.depends), constrains=list(package.constrains))
        content = {"info": {"subdir": subdir.name}, **records, "repodata_version": 1}
        file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if known:
        left = ", ".join(name for _, name in known)
        raise IntegrityError(f"These have the locked hash, but are no packages: {left}.", fix="lock again.")


def _repack(
    packages: Sequence[LockedPackage],
    archives: Sequence[Path],
    targets: Sequence[Path],
    scratch: Path,
    progress: Progress,
) -> list[str]:
    """Write each package as a `.tar.bz2` and return their hashes; the same contents give the same bytes."""

    async def unpack(archive: Path, folder: Path, package: LockedPackage, unpacker: Unpacker) -> None:
        try:
            sha256, _ = await unpacker.extract(archive, folder)
        except UnpackError as error:
            raise IntegrityError(
                f"{package.file_name} has the locked hash, but cannot be extracted.",
                where=package.url,
                details=str(error),
            ) from error
        if sha256 != package.sha256:
            raise IntegrityError(f"{package.file_name} was changed while it was read.", where=str(archive))
        refuse_unsafe(folder, package.file_name)
        refuse_other(folder, package)

    stop = threading.Event()

    def pack(number: int) -> str:
        folder = scratch / str(number)

        async def run() -> None:
            async with Unpacker(1) as unpacker:
                await unpack(archives[number], folder, packages[number], unpacker)

        asyncio.run(run())
        if archives[number].parent == scratch / "downloads":
            archives[number].unlink()
        _pack_bz2(folder, targets[number], stop)
        shutil.rmtree(folder)
        return hash_file(targets[number])

    with (
        progress.task(f"Repacking {len(packages)} packages", len(packages)) as task,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        hashes = []
        try:
            for package, sha256 in zip(packages, pool.map(pack, range(len(packages))), strict=True):
                task.advance(1, package.name)
                hashes.append(sha256)
        except BaseException:
            # One package may take minutes, and the pool waits for what has begun.
            stop.set()
            raise
    return hashes


class _Stoppable:
    """A file that takes nothing more once `stop` is set."""

    def __init__(self, file: IO[bytes], stop: threading.Event) -> None:
        self._file = file
        self._stop = stop

    def write(self, block: bytes) -> int:
        if self._stop.is_set():
            raise InterruptedByUserError("Interrupted.")
        return self._file.write(block)


def _pack_bz2(folder: Path, target: Path, stop: threading.Event) -> None:
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = int(member.mtime)
        return member

    # Clients read the info folder first, and most of them only that.
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    with (
        target.open("wb") as file,
        bz2.open(_Stoppable(file, stop), "wb") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in sorted(paths, key=lambda path: path.relative_to(folder).parts[0] != "info"):
            archive.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=plain)


def _write_lock(lock: Lock, platform: str, folder: Path) -> None:
    """The lock as it was committed where it is a file, and as an explicit file in any case."""
    (folder / f"conda-{platform}.lock").write_text(write_explicit(lock, platform), encoding="utf-8")
    if not lock.path.is_file():
        return
    if hash_file(lock.path) != lock.sha256:
        raise LockfileError("The lock has changed since it was read.", where=str(lock.path), fix="run it again.")
    if lock.kind != "explicit":
        shutil.copyfile(lock.path, folder / ("pixi.lock" if lock.kind == "pixi" else "conda-lock.yml"))
    beside = lock.path.with_name("pixi.lock")
    if lock.kind == "conda-lock" and beside.is_file():
        shutil.copyfile(beside, folder / "pixi.lock")


def _write_manifest(
    lock: Lock, platform: str, name: str, packages: Sequence[LockedPackage], files: Sequence[_File], folder: Path
) -> None:
    """The file that `installer.read_bundle` reads."""
    entries = [
        installer.Package(
            name=package.name,
            version=package.version,
            build=package.build,
            subdir=package.subdir,
            url=package.url,
            sha256=package.sha256 or "",
            md5=package.md5,
            size=package.size,
            file=file.file,
            file_sha256=file.sha256,
        )._asdict()
        for package, file in zip(packages, files, strict=True)
    ]
    content = {
        "schema": 1,
        "name": name,
        "platform": platform,
        "lock": {"name": lock.path.name, "kind": lock.kind, "sha256": lock.sha256},
        "torchlocks": __version__,
        "packages": entries,
    }
    (folder / "bundle.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# --- the tar -----------------------------------------------------------------------------------


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


class _Hashing:
    """A file whose bytes go through a hash on their way."""

    def __init__(self, file: IO[bytes], digest: _Digest, task: Task | None = None) -> None:
        self._file = file
        self._digest = digest
        self._task = task

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._digest.update(block)
        if self._task is not None:
            self._task.advance(len(block))
        return block

    def write(self, block: bytes) -> int:
        self._digest.update(block)
        return self._file.write(block)


def _write_tar(folder: Path, top: str, target: Path, known: dict[str, str], progress: Progress) -> str:
    """Write the bundle and return its hash; IntegrityError when a file is not the `known` one any more."""
    paths = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.as_posix())
    total = sum(path.stat().st_size for path in paths)
    whole = hashlib.sha256()
    sums = []
    with (
        progress.task("Writing the bundle", total, unit="bytes") as task,
        target.open("wb") as file,
        tarfile.open(fileobj=_Hashing(file, whole), mode="w|", format=tarfile.GNU_FORMAT) as archive,  # type: ignore[call-overload]
    ):
        for path in paths:
            name = path.relative_to(folder).as_posix()
            digest = hashlib.sha256()
            with path.open("rb") as source:
                member = _member(f"{top}/{name}", os.fstat(source.fileno()).st_size)
                archive.addfile(member, _Hashing(source, digest, task))
            if known.get(name, digest.hexdigest()) != digest.hexdigest():
                raise IntegrityError(
                    f"{path.name} was changed while it was read.", where=str(path), fix="run it again."
                )
            sums.append(f"{digest.hexdigest()}  {name}\n")
            if name in known:
                path.unlink()
        text = folder / _SUMS
        text.write_text("".join(sums), encoding="utf-8")
        with text.open("rb") as source:
            archive.addfile(_member(f"{top}/{_SUMS}", text.stat().st_size), source)
    return whole.hexdigest()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mtime = _TIME
    member.mode = 0o755 if name.endswith("/install.py") else 0o644
    return member


def _extract(bundle: Path, folder: Path, task: Task) -> None:
    """Extract a bundle into the new folder `folder`, without its top folder; nothing in it is trusted."""

    def refuse(why: str) -> IntegrityError:
        return IntegrityError(f"This is no bundle of torchlocks: {why}.", where=str(bundle), fix="copy it again.")

    try:
        with tarfile.open(bundle, "r:") as archive:
            for member in archive:
                parts = PurePosixPath(member.name).parts
                if member.isdir():
                    continue
                if not member.isreg() or not 2 <= len(parts) <= 4 or installer.leaves("/".join(parts[1:])):
                    raise refuse(f"it holds {member.name!r}")
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
