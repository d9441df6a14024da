"""The installer inside a bundle: a folder of packages and a lock → an environment, without any network.

It stands alone: Python 3.8 or newer and its standard library are all that it imports, so it repeats some of what
py-rattler does for the rest of torchlocks. Every archive is held against the lock before anything is written, the
packages are linked into a hidden folder beside the prefix, and one rename puts them in place.

A `.conda` file is a zip of `.tar.zst` files, and the standard library reads Zstandard only from Python 3.14 on.
Before that one of these does it, the first that is there: the module `backports.zstd` or `zstandard`, the system's
libzstd (nearly every Linux has it, as its package manager needs it) or the `zstd` command. Where there is none of
them, a portable bundle is needed, in which every package is a `.tar.bz2`.

Link scripts of packages are not run, and bytecode is not compiled. Package layout: CEP 34; prefix records: the
documentation of conda-meta in conda; both as observed in what conda and py-rattler write.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import posixpath
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any, BinaryIO

    Opener = Callable[[BinaryIO], BinaryIO]

BLOCK = 1 << 20
# The longest first line that the kernel runs a script by.
SHEBANG_LIMIT = {"linux": 127, "osx": 512}
ENTRY_POINT = re.compile(r"\s*([\w.+-]+)\s*=\s*([\w.]+)\s*:\s*([\w.]+)\s*\Z")


class BundleError(Exception):
    """What is wrong, and what to do about it. Nothing has been put in place."""

    def __init__(self, what: str, fix: str = "copy the bundle again; if it stays, make it again.") -> None:
        super().__init__(what)
        self.fix = fix


class Package(NamedTuple):
    """One package of the bundle: its archive, and what the lock says of it.

    `sha256`, `md5` and `size` (bytes) are those of the locked archive; `file_sha256` is that of the file in the
    bundle, which is another one where the bundle is portable.
    """

    name: str
    version: str
    build: str
    subdir: str
    url: str
    sha256: str
    md5: str | None
    size: int | None
    file: str
    file_sha256: str

    @property
    def record_name(self) -> str:
        return "{}-{}-{}".format(self.name, self.version, self.build)  # noqa: UP032


class Bundle(NamedTuple):
    """An unpacked bundle; `packages` are in the order in which they can be linked.

    `portable` says that its archives were repacked, so that the lock's hashes do not hold for them; `manifest` is
    bundle.json, which has their own.
    """

    folder: Path
    name: str
    platform: str
    lock_name: str
    lock_kind: str
    lock_sha256: str
    torchlocks: str
    packages: tuple[Package, ...]
    portable: bool
    manifest: bytes

    @property
    def windows(self) -> bool:
        return self.platform.startswith("win-")


class Extracted(NamedTuple):
    """A package's files in a folder of its own, and the sha256 of each by its path."""

    folder: Path
    hashes: dict[str, str]


# --- reading and checking the bundle -----------------------------------------------------------


def read_bundle(folder: Path) -> Bundle:
    """The bundle in `folder`. Raises BundleError when its manifest or lock is not what it should be."""
    try:
        manifest = read_file(folder / "bundle.json")
        said = load_json(manifest)
        if said["schema"] != 1:
            raise BundleError("The bundle is of a newer kind.", "use the install.py that is inside it.")
        packages = tuple(Package(**{key: each[key] for key in Package._fields}) for each in said["packages"])
        bundle = Bundle(
            folder=folder,
            name=said["name"],
            platform=said["platform"],
            lock_name=said["lock"]["name"],
            lock_kind=said["lock"]["kind"],
            lock_sha256=said["lock"]["sha256"],
            torchlocks=said["torchlocks"],
            packages=packages,
            portable=said.get("portable", False) is True,
            manifest=manifest,
        )
        locked = _read_explicit(folder / f"conda-{bundle.platform}.lock")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BundleError(f"There is no whole bundle in {folder}: {error!r}.") from error
    for each in packages:
        if locked.pop(each.url, None) != each.sha256:
            raise BundleError(f"The bundle and the lock inside it disagree on {each.url}.")
        if not bundle.portable and each.file_sha256 != each.sha256:
            raise BundleError(f"The bundle has another archive of {each.url} than the lock inside it names.")
        if leaves(each.file) or leaves(each.subdir) or set("/\\") & set(each.record_name):
            raise BundleError(f"The bundle names a file outside of it: {each.file!r}.")
    if locked:
        raise BundleError(f"{len(locked)} packages of the lock are not in the bundle, such as {min(locked)}.")
    return bundle


def _read_explicit(path: Path) -> dict[str, str]:
    lines = read_file(path).decode("utf-8").split("@EXPLICIT\n", 1)[1].splitlines()
    return dict(line.split("#", 1) for line in lines if line)


def check_files(bundle: Bundle, say: Callable[[str], None]) -> None:
    """Hold every file against SHA256SUMS, and every archive against the lock; BundleError at the first that differs."""
    expected = {}
    try:
        sums = read_file(bundle.folder / "SHA256SUMS")
    except OSError as error:
        raise BundleError(f"The bundle's SHA256SUMS cannot be read: {error}.") from error
    for line in sums.decode("utf-8", "replace").splitlines():
        digest, _, name = line.partition("  ")
        expected[name] = digest
    for each in bundle.packages:
        if expected.setdefault(each.file, each.file_sha256) != each.file_sha256:
            raise BundleError(f"SHA256SUMS and the bundle disagree on {each.file}.")
    say(f"Checking {len(expected)} files")

    def wrong(item: tuple[str, str]) -> str | None:
        name, digest = item
        if leaves(name):
            return f"SHA256SUMS names a file outside of the bundle: {name!r}."
        try:
            found = hash_file(bundle.folder / name)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}."
        return None if found == digest else f"{name} is damaged: its SHA-256 sum is {found}; it should be {digest}."

    with ThreadPoolExecutor(max_workers=_workers()) as pool:
        for what in pool.map(wrong, sorted(expected.items())):
            if what is not None:
                raise BundleError(what)


def prove(bundle: Bundle, sha256: str | None, signers: Path | None, signer: str | None, unproven: bool) -> str:
    """What ties the archives to the lock, in words. Raises BundleError when nothing does.

    In a portable bundle the archives are repacked: nobody can tell from the bundle alone that they hold what the
    locked ones held. Then the manifest must have a hash that the user has from elsewhere, or be signed.
    """
    if signers is not None:
        return _signed(bundle, signers, signer)
    if sha256 is not None:
        found = hashlib.sha256(bundle.manifest).hexdigest()
        if found != sha256.strip().lower():
            raise BundleError(f"bundle.json has the SHA-256 sum {found}, and not the one that was given.")
        return "all as in the manifest with the given hash"
    if not bundle.portable:
        return "all as locked"
    if unproven:
        return "all as this bundle's own manifest says; NOT proven to be what the lock names"
    raise BundleError(
        "The bundle is portable: its packages were repacked, and nothing proves that they are what the lock names.",
        "give the SHA-256 sum of bundle.json that its maker tells you (--manifest-sha256), or a file of allowed "
        "signers (--allowed-signers) where bundle.json.sig is there, or --unproven if you trust where it came from.",
    )


def _signed(bundle: Bundle, signers: Path, signer: str | None) -> str:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise BundleError("Signatures need ssh-keygen, and it is not there.", "install OpenSSH 8.2 or newer.")
    if signer is None:
        raise BundleError("An identity must be named with --allowed-signers.", "add --signer IDENTITY.")
    with tempfile.TemporaryDirectory() as scratch:
        signature = Path(scratch) / "sig"
        signature.write_bytes(read_file(bundle.folder / "bundle.json.sig"))
        done = subprocess.run(
            [program, "-Y", "verify", "-f", str(signers), "-I", signer, "-n", "torchlocks-lock", "-s", str(signature)],
            input=bundle.manifest,
            capture_output=True,
            check=False,
        )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
        raise BundleError(f"bundle.json is not signed by {signer}: {said[:500]!r}.", "do not use this bundle.")
    return f"all as in the manifest that {signer} signed"


def read_file(path: Path, limit: int = 256 << 20) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; OSError for anything else, such as a FIFO or a device."""
    if not stat.S_ISREG(os.stat(str(path)).st_mode):  # noqa: PTH116
        raise OSError(f"{path.name} is not a file")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"{path.name} is too large")
    return data


def load_json(data: bytes) -> Any:
    """Parse JSON; ValueError also for what is nested too deeply."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def hash_file(path: Path) -> str:
    """The file's SHA-256 sum, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def leaves(path: str) -> bool:
    """True when `path` is absolute, has a drive, or leads out of the folder that it is relative to."""
    plain = path.replace("\\", "/")
    return not plain or plain.startswith("/") or plain[1:2] == ":" or posixpath.normpath(plain).split("/", 1)[0] == ".."


def _workers() -> int:
    return min(os.cpu_count() or 1, 4)


# --- Zstandard: whatever can read it ------------------------------------------------------------


def zstd_of_python() -> Opener | None:
    """Python 3.14's own."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    return lambda raw: zstd.ZstdFile(raw)  # type: ignore[no-any-return, unused-ignore]


def zstd_of_module() -> Opener | None:
    """`backports.zstd` or `zstandard`, where one of them is installed."""
    try:
        from backports import zstd  # type: ignore[import-not-found, unused-ignore]

        return lambda raw: zstd.ZstdFile(raw)  # type: ignore[return-value, no-any-return, unused-ignore]
    except ImportError:
        pass
    try:
        import zstandard  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    return lambda raw: zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)  # type: ignore[no-any-return, unused-ignore]


def zstd_of_system() -> Opener | None:
    """The system's libzstd, through its stable streaming interface (zstd.h)."""
    try:
        import ctypes
        from ctypes.util import find_library
    except ImportError:
        return None
    found = []
    for name in ("libzstd.so.1", "libzstd.1.dylib", "libzstd.dll", find_library("zstd")):
        try:
            found += [ctypes.CDLL(name)] if name else []
        except OSError:
            continue
    if not found:
        return None
    library = found[0]

    class Buffer(ctypes.Structure):
        _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t))

    for function, result, arguments in (
        ("ZSTD_createDStream", ctypes.c_void_p, []),
        ("ZSTD_freeDStream", ctypes.c_size_t, [ctypes.c_void_p]),
        (
            "ZSTD_decompressStream",
            ctypes.c_size_t,
            [ctypes.c_void_p, ctypes.POINTER(Buffer), ctypes.POINTER(Buffer)],
        ),
        ("ZSTD_isError", ctypes.c_uint, [ctypes.c_size_t]),
    ):
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments

    class Reader(io.RawIOBase):
        """The decompressed bytes of `raw`."""

        def __init__(self, raw: BinaryIO) -> None:
            super().__init__()
            self._raw = raw
            self._stream = library.ZSTD_createDStream()
            self._source = ctypes.create_string_buffer(0)
            self._input = Buffer(None, 0, 0)
            self._more = 0

        def readable(self) -> bool:
            return True

        def readinto(self, target: Any) -> int:
            view = memoryview(target).cast("B")
            # ctypes has no other way to the address of a buffer that is not its own.
            space = (ctypes.c_char * len(view)).from_buffer(view)
            output = Buffer(ctypes.addressof(space), len(view), 0)
            while output.pos == 0:
                if self._input.pos == self._input.size:
                    block = self._raw.read(BLOCK)
                    if not block:
                        if self._more:
                            raise OSError("the Zstandard data ends too early")
                        return 0
                    self._source = ctypes.create_string_buffer(block, len(block))
                    self._input = Buffer(ctypes.addressof(self._source), len(block), 0)
                self._more = library.ZSTD_decompressStream(
                    self._stream, ctypes.byref(output), ctypes.byref(self._input)
                )
                if library.ZSTD_isError(self._more):
                    raise OSError("the Zstandard data is damaged")
            return int(output.pos)

        def close(self) -> None:
            if not self.closed:
                library.ZSTD_freeDStream(self._stream)
            super().close()

    return lambda raw: io.BufferedReader(Reader(raw), BLOCK)


def zstd_of_command() -> Opener | None:
    """The `zstd` command."""
    command = shutil.which("zstd")
    if command is None:
        return None

    class Reader(io.RawIOBase):
        """The decompressed bytes of `raw`, which a thread hands to the command."""

        def __init__(self, raw: BinaryIO) -> None:
            super().__init__()
            self._process = subprocess.Popen(
                [str(command), "-d", "-c", "-q"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._broken: Exception | None = None
            self._feeder = threading.Thread(target=self._feed, args=(raw,), daemon=True)
            self._feeder.start()

        def _feed(self, raw: BinaryIO) -> None:
            try:
                with self._process.stdin as pipe:  # type: ignore[union-attr]
                    shutil.copyfileobj(raw, pipe, BLOCK)
            except Exception as error:  # Raised where the bytes are read. Where the command has ended, it says why.
                self._broken = error

        def readable(self) -> bool:
            return True

        def readinto(self, target: Any) -> int:
            got = self._process.stdout.readinto(target)  # type: ignore[union-attr]
            if got == 0:
                self._feeder.join()
                if self._process.wait() != 0:
                    raise OSError(f"zstd failed (exit code {self._process.returncode})")
                if self._broken is not None:
                    raise self._broken
            return int(got)

        def close(self) -> None:
            if not self.closed:
                self._process.kill()
                self._process.wait()
                self._process.stdout.close()  # type: ignore[union-attr]
                self._feeder.join()
            super().close()

    return lambda raw: io.BufferedReader(Reader(raw), BLOCK)


ZSTD = (zstd_of_python, zstd_of_module, zstd_of_system, zstd_of_command)


def require_zstd(bundle: Bundle) -> Opener | None:
    """What reads Zstandard here; None where no package needs it. Raises BundleError where there is nothing."""
    if not any(each.file.endswith(".conda") for each in bundle.packages):
        return None
    for way in ZSTD:
        opener = way()
        if opener is not None:
            return opener
    raise BundleError(
        "The packages are compressed with Zstandard, and nothing here can read it.",
        "run install.py with Python 3.14 or newer, install zstd (its library, command or Python module), use a conda "
        "client as README.txt says, or make a portable bundle (PORTABLE=1).",
    )


# --- extracting: nothing may leave the package's own folder ------------------------------------


def extract(archive: Path, folder: Path, zstd: Opener | None, sha256: str | None = None) -> Extracted:
    """Extract a package archive into the new folder `folder`.

    With `sha256`, the bytes that are extracted are copied first, and the copy is hashed: the file may have changed
    since it was checked. Raises BundleError when it is damaged, is another file, or holds anything but files, folders
    and links that stay inside.
    """
    folder.mkdir()
    if sha256 is None:
        return _extract(archive, folder, zstd)
    private = folder.parent / f"{folder.name}.archive"
    private.mkdir(mode=0o700)
    try:
        copy = private / archive.name
        with archive.open("rb", buffering=0) as source:
            found = _write(source, copy)
        if found != sha256:
            raise BundleError(f"{archive.name} changed while it was installed: its SHA-256 sum is {found} now.")
        return _extract(copy, folder, zstd)
    finally:
        shutil.rmtree(str(private), ignore_errors=True)


def _extract(archive: Path, folder: Path, zstd: Opener | None) -> Extracted:
    hashes: dict[str, str] = {}
    try:
        for stream in _tars(archive, zstd):
            with tarfile.open(fileobj=stream, mode="r|") as members:
                for member in members:
                    _extract_member(members, member, folder, hashes)
    except BundleError as error:
        raise BundleError(
            f"{archive.name} is not a package that can be trusted: {error}.",
            "do not use this bundle; report the package to whoever runs its channel.",
        ) from error
    except Exception as error:
        # Every decompressor has an error of its own; one with a number is the system's: a full disk, no permission.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BundleError(f"{archive.name} is not a package that can be extracted: {error}.") from error
    return Extracted(folder, hashes)


def _tars(archive: Path, zstd: Opener | None) -> Iterator[BinaryIO]:
    if archive.name.endswith(".tar.bz2"):
        import bz2

        with bz2.open(archive) as stream:
            yield stream  # type: ignore[misc, unused-ignore]
        return
    if zstd is None:
        raise BundleError("there is nothing to read Zstandard with")
    stem = archive.name[: -len(".conda")]
    with zipfile.ZipFile(archive) as parts:
        for part in ("info", "pkg"):
            with parts.open(f"{part}-{stem}.tar.zst") as raw, zstd(raw) as stream:  # type: ignore[arg-type]
                yield stream


def _extract_member(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, hashes: dict[str, str]) -> None:
    if leaves(member.name):
        raise BundleError(f"it names {member.name!r}, which is outside of the environment")
    name = posixpath.normpath(member.name)
    target = folder / name
    if member.isdir():
        _make_folder(target, folder)
        return
    _make_folder(target.parent, folder)
    try:
        if member.issym():
            if leaves(posixpath.join(posixpath.dirname(name), member.linkname)) or member.linkname.startswith("/"):
                raise BundleError(f"{name} is a link to {member.linkname!r}, which is outside of the environment")
            target.symlink_to(member.linkname)
        elif member.islnk():
            source = posixpath.normpath(member.linkname)
            if source not in hashes:
                raise BundleError(f"{name} is a hard link to {member.linkname!r}, which is not a file before it")
            os.link(str(folder / source), str(target))
            hashes[name] = hashes[source]
        elif member.isreg():
            hashes[name] = _write(members.extractfile(member), target)  # type: ignore[arg-type]
            target.chmod(member.mode & 0o777 | 0o400)
            os.utime(str(target), (member.mtime, member.mtime))
        else:
            raise BundleError(f"{name} is neither a file, a folder nor a link")
    except FileExistsError:
        raise BundleError(f"it has {name} twice") from None


def _write(source: BinaryIO, target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("xb") as file:
        for block in iter(lambda: source.read(BLOCK), b""):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _make_folder(folder: Path, root: Path) -> None:
    """Make `folder` below `root`; a link on the way may not lead out of `root`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise BundleError(f"{folder.relative_to(root)} is a folder and a file") from None
    real, inside = os.path.realpath(str(folder)), os.path.realpath(str(root))
    if real != inside and not real.startswith(inside + os.sep):
        raise BundleError(f"{folder.relative_to(root)} leads outside of the environment")


# --- linking -----------------------------------------------------------------------------------


class Linker:
    """Puts extracted packages into the folder `new`, which will be the environment at `prefix`."""

    def __init__(self, bundle: Bundle, new: Path, prefix: Path, warn: Callable[[str], None]) -> None:
        self._bundle = bundle
        self._new = new
        self._prefix = prefix
        self._warn = warn
        self._site_packages: str | None = None
        self._python = ""
        self._records: dict[str, dict[str, Any]] = {}
        self._owners: dict[str, str] = {}

    def find_python(self, package: Package, extracted: Extracted) -> None:
        """Note where the environment's Python has its modules, for packages of any Python."""
        minor = ".".join(package.version.split(".")[:2])
        self._python = "python.exe" if self._bundle.windows else f"bin/python{minor}"
        plain = "Lib/site-packages" if self._bundle.windows else f"lib/python{minor}/site-packages"
        self._site_packages = _read_index(package, extracted).get("python_site_packages_path") or plain
        if leaves(self._site_packages):
            raise BundleError(f"{package.record_name} has its modules outside of the environment.")

    def link(self, package: Package, extracted: Extracted, correction: dict[str, Any]) -> None:
        """Move the package's files to where they belong and keep its record.

        `correction` is what the channel says of it instead of its own index: dependencies and constraints.
        """
        index = _read_index(package, extracted)
        modules = index.get("noarch") == "python"
        if modules and self._site_packages is None:
            raise BundleError(f"{package.record_name} needs a Python, and there is none in the lock.", "lock again.")
        entries = []
        for said in _read_paths(extracted.folder):
            if leaves(said["_path"]):
                raise BundleError(f"{package.record_name} names {said['_path']!r}, outside of the environment.")
            entries.append(self._place(package, said, extracted, modules))
        if modules:
            entries += self._entry_points(package, extracted.folder)
        record = dict(index)
        record.update(correction)
        record.update(
            fn=package.url.rsplit("/", 1)[-1],
            url=package.url,
            channel=package.url.rsplit("/", 2)[0],
            subdir=package.subdir,
            sha256=package.sha256,
            requested_spec="",
            extracted_package_dir="",
            link={"source": "", "type": 3},
            paths_data={"paths_version": 1, "paths": entries},
        )
        record.update({key: value for key, value in (("md5", package.md5), ("size", package.size)) if value})
        self._records[package.record_name] = record
        for script in (f"bin/.{package.name}-post-link.sh", f"Scripts/.{package.name}-post-link.bat"):
            if (self._new / script).exists():
                self._warn(f"{package.record_name} has a post-link script, which is not run: {script}")

    def finish(self) -> None:
        """Write the records and the history; BundleError when a link leads out of the environment."""
        root = os.path.realpath(str(self._new))
        for folder, folders, files in os.walk(str(self._new)):
            for name in folders + files:
                path = os.path.join(folder, name)  # noqa: PTH118
                if os.path.islink(path) and not os.path.realpath(path).startswith(root + os.sep):  # noqa: PTH114
                    raise BundleError(f"{path[len(str(self._new)) + 1 :]} is a link out of the environment.")
        meta = self._new / "conda-meta"
        if os.path.lexists(str(meta)) and (meta.is_symlink() or not meta.is_dir()):
            raise BundleError("A package brings conda-meta as a link or a file.")
        meta.mkdir(exist_ok=True)
        for name, record in self._records.items():
            record["files"] = [each["_path"] for each in record["paths_data"]["paths"]]
            _write_new(meta / f"{name}.json", json.dumps(record, indent=2) + "\n")
        _write_new(meta / "history", "\n".join(self._history()) + "\n")
        _write_new(meta / "torchlocks", json.dumps(self._provenance(), indent=2, sort_keys=True) + "\n")

    def _place(self, package: Package, said: dict[str, Any], extracted: Extracted, modules: bool) -> dict[str, Any]:
        source = extracted.folder / said["_path"]
        path = self._in_prefix(posixpath.normpath(said["_path"])) if modules else posixpath.normpath(said["_path"])
        entry: dict[str, Any] = {"_path": path, "path_type": said.get("path_type", "hardlink")}
        target = self._clear(path, package)
        if source.is_symlink():
            link = os.readlink(str(source))  # noqa: PTH115
            entry.update(path_type="softlink", sha256_in_prefix=hashlib.sha256(os.fsencode(link)).hexdigest())
            target.symlink_to(link)
            return entry
        if entry["path_type"] == "directory":
            _make_folder(target, self._new)
            return entry
        found = extracted.hashes.get(posixpath.normpath(said["_path"]))
        if found is None or said.get("sha256", found) != found:
            raise BundleError(f"{said['_path']} in {package.record_name} is not what the package's file list says.")
        entry.update(path_type="hardlink", sha256=found, size_in_bytes=source.stat().st_size)
        placeholder = said.get("prefix_placeholder")
        if placeholder:
            entry.update(prefix_placeholder=placeholder, file_mode=said.get("file_mode", "text"))
            entry["sha256_in_prefix"] = self._patch(source, target, placeholder, entry["file_mode"])
        else:
            source.rename(target)
        return entry

    def _in_prefix(self, path: str) -> str:
        top, _, rest = path.partition("/")
        if top == "site-packages":
            return f"{self._site_packages}/{rest}"
        if top == "python-scripts":
            return f"{'Scripts' if self._bundle.windows else 'bin'}/{rest}"
        return path

    def _clear(self, path: str, package: Package) -> Path:
        """Make room for a file; one of another package at the same path makes way, as with other conda clients."""
        target = self._new / path
        _make_folder(target.parent, self._new)
        owner = self._owners.get(path)
        if owner == package.record_name or (owner is None and os.path.lexists(str(target)) and not target.is_dir()):
            raise BundleError(f"{package.record_name} has {path} twice.")
        if owner is not None:
            record = self._records[owner]
            aside = f"__clobbers__/{record['name']}/{path}"
            _make_folder((self._new / aside).parent, self._new)
            target.rename(self._new / aside)
            for each in record["paths_data"]["paths"]:
                if each["_path"] == path:
                    each.update(_path=aside, original_path=path)
            self._warn(f"{package.record_name} and {owner} both have {path}; the first one's is used")
        self._owners[path] = package.record_name
        return target

    def _patch(self, source: Path, target: Path, placeholder: str, mode: str) -> str:
        content = source.read_bytes()
        prefix = str(self._prefix)
        if mode == "binary":
            # Nothing in a Windows library is found by its prefix, and conda leaves them alone.
            patched = content if self._bundle.windows else replace_binary(content, placeholder, prefix)
        else:
            limit = SHEBANG_LIMIT.get(self._bundle.platform.split("-")[0])
            patched = replace_text(
                content, placeholder, prefix.replace("\\", "/") if self._bundle.windows else prefix, limit
            )
        status = source.stat()
        with target.open("xb") as file:
            file.write(patched)
        target.chmod(status.st_mode & 0o777)
        if mode == "binary" and patched != content and self._bundle.platform == "osx-arm64":
            # The system kills a program whose signature does not fit its bytes.
            subprocess.run(["/usr/bin/codesign", "-s", "-", "-f", str(target)], check=True, capture_output=True)
            return hash_file(target)
        return hashlib.sha256(patched).hexdigest()

    def _entry_points(self, package: Package, folder: Path) -> list[dict[str, Any]]:
        link = folder / "info" / "link.json"
        if not link.is_file():
            return []
        entries = []
        for line in load_json(read_file(link)).get("noarch", {}).get("entry_points") or ():
            found = ENTRY_POINT.match(line)
            if found is None:
                raise BundleError(f"{package.record_name} has an entry point that is not one: {line!r}.")
            name, module, function = found.groups()
            if self._bundle.windows:
                script = self._script(f"Scripts/{name}-script.py", package, module, function)
                launcher = (self._bundle.folder / "launcher.exe").read_bytes()
                entries.append(self._made(script, "windows_python_entry_point_script"))
                target = self._clear(f"Scripts/{name}.exe", package)
                target.write_bytes(launcher)
                entries.append(self._made(f"Scripts/{name}.exe", "windows_python_entry_point_exe"))
            else:
                script = self._script(f"bin/{name}", package, module, function)
                entries.append(self._made(script, "unix_python_entry_point"))
        return entries

    def _script(self, path: str, package: Package, module: str, function: str) -> str:
        python = str(self._prefix / self._python)
        shebang = f"#!{python}"
        limit = SHEBANG_LIMIT.get(self._bundle.platform.split("-")[0])
        if limit and (" " in python or len(os.fsencode(shebang)) > limit):
            shebang = f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\" #'''"
        target = self._clear(path, package)
        target.write_bytes(
            (
                f"{shebang}\n# -*- coding: utf-8 -*-\nimport re\nimport sys\n\n"
                f"from {module} import {function.split('.')[0]}\n\n"
                "if __name__ == '__main__':\n"
                "\tsys.argv[0] = re.sub(r'(-script\\.pyw?|\\.exe)?$', '', sys.argv[0])\n"
                f"\tsys.exit({function}())\n"
            ).encode()
        )
        target.chmod(0o775)
        return path

    def _made(self, path: str, kind: str) -> dict[str, Any]:
        file = self._new / path
        return {"_path": path, "path_type": kind, "sha256": hash_file(file), "size_in_bytes": file.stat().st_size}

    def _history(self) -> Iterator[str]:
        yield time.strftime("==> %Y-%m-%d %H:%M:%S <==", time.gmtime())
        yield f"# cmd: install.py {self._prefix}"
        for each in self._bundle.packages:
            yield f"+{each.url.rsplit('/', 3)[1]}/{each.subdir}::{each.record_name}"

    def _provenance(self) -> dict[str, Any]:
        """What `torchlocks` knows an environment by; see provenance.py, whose schema this is."""
        return {
            "schema": 1,
            "install_id": uuid.uuid4().hex,
            "prefix": str(self._prefix),
            "name": self._bundle.name,
            "lock_sha256": self._bundle.lock_sha256,
            "lock_kind": self._bundle.lock_kind,
            "lock_name": self._bundle.lock_name,
            "platform": self._bundle.platform,
            "channel": "bundle",
            "channels_used": sorted({each.url.rsplit("/", 2)[0] for each in self._bundle.packages}),
            "records": sorted(self._records),
            "tools": {"torchlocks": self._bundle.torchlocks, "python": "{}.{}.{}".format(*sys.version_info[:3])},
            "installed_at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        }


def _write_new(path: Path, text: str) -> None:
    """Write one of our own files; BundleError where a package has brought it, since it could be a link."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise BundleError(f"A package brings conda-meta/{path.name}, which the installer writes itself.") from None


def _read_index(package: Package, extracted: Extracted) -> dict[str, Any]:
    """The package's own index.json; BundleError when it is that of another package."""
    try:
        index: dict[str, Any] = load_json(read_file(extracted.folder / "info" / "index.json"))
        said = [index.get(key) for key in ("name", "version", "build")]
    except (OSError, ValueError, AttributeError) as error:
        raise BundleError(f"{package.file} has no readable info/index.json.") from error
    if said != [package.name, package.version, package.build]:
        raise BundleError(f"{package.file} says of itself that it is {said}; the lock says {package.record_name}.")
    return index


def _read_paths(folder: Path) -> list[dict[str, Any]]:
    """The package's files: `info/paths.json`, or `info/files` and `info/has_prefix` of packages from before 2017."""
    listing = folder / "info" / "paths.json"
    try:
        if listing.is_file():
            paths: list[dict[str, Any]] = load_json(read_file(listing))["paths"]
            if not all(isinstance(each["_path"], str) for each in paths):
                raise ValueError("a path is not text")
            return paths
        patched = {}
        has_prefix = folder / "info" / "has_prefix"
        for line in has_prefix.read_text(encoding="utf-8").splitlines() if has_prefix.is_file() else ():
            parts = shlex.split(line)
            if len(parts) == 1:
                # conda-build's first placeholder, which it did not write down.
                parts = ["/opt/anaconda1anaconda2anaconda3", "text", *parts]
            patched[parts[2]] = {"prefix_placeholder": parts[0], "file_mode": parts[1]}
        files = (folder / "info" / "files").read_text(encoding="utf-8").splitlines()
        return [{"_path": name, **patched.get(name, {})} for name in files]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BundleError(f"{folder.name} has no readable file list: {error!r}.") from error


def replace_binary(content: bytes, placeholder: str, prefix: str) -> bytes:
    """`content` with the prefix in its C strings, each padded with NULs to its old length.

    Raises BundleError when the prefix is longer than the placeholder.
    """
    old, new = placeholder.encode(), prefix.encode()
    if len(new) > len(old):
        raise BundleError(
            f"The prefix has {len(new)} bytes; a library has room for {len(old)}.", "choose a shorter prefix."
        )

    def replaced(found: re.Match[bytes]) -> bytes:
        return found[0].replace(old, new).ljust(len(found[0]), b"\0")

    return re.sub(re.escape(old) + rb"[^\0]*", replaced, content)


def replace_text(content: bytes, placeholder: str, prefix: str, limit: int | None) -> bytes:
    """`content` with the prefix; a first line `#!…` that no kernel could run (longer than `limit`, or with a space in
    the path) is written in a way that it can. `limit` is None on Windows, where there are no such lines.
    """
    old, new = placeholder.encode(), prefix.encode()
    if limit is None or not content.startswith(b"#!") or old not in content:
        return content.replace(old, new)
    first, newline, rest = content.partition(b"\n")
    line = first.replace(old, new)
    if old in first and (b" " in new or len(line) > limit):
        found = re.match(rb"#! *((?:\\ |[^ \r\t])*)(.*)", first, re.DOTALL)
        path, arguments = found.groups() if found else (first[2:], b"")
        program = path.rsplit(b"/", 1)[-1]
        if re.match(rb"python(\d+(\.\d+)?)?\Z", program):
            path = path.replace(old, new)
            line = b"#!/bin/sh\n'''exec' \"" + path + b'"' + arguments + b' "$0" "$@" #\'\'\''
        else:
            line = b"#!/usr/bin/env " + program + arguments
    return line + newline + rest.replace(old, new)


# --- the command -------------------------------------------------------------------------------


def install(bundle: Bundle, prefix: Path, say: Callable[[str], None]) -> None:
    """Install the bundle, which has been checked, into `prefix`, which must not exist or be an empty folder.

    Raises BundleError or OSError; then nothing is there that was not there before.
    """
    here = host_platform()
    if bundle.platform not in (here, "noarch"):
        raise BundleError(f"The bundle is for {bundle.platform}; this is {here}.", "make a bundle for this platform.")
    prefix = Path(os.path.abspath(str(prefix)))  # noqa: PTH100 - resolve() would follow links
    if os.path.lexists(str(prefix)) and not (prefix.is_dir() and not any(prefix.iterdir())):
        raise BundleError(f"There is something at {prefix}, and it is not overwritten.", "choose another prefix.")
    zstd = require_zstd(bundle)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    for left in prefix.parent.glob(f".{prefix.name}.bundle-*"):
        say(f"note: {left} is of a run that is still at work, or was killed; then delete it")
    needed = sum((bundle.folder / each.file).stat().st_size for each in bundle.packages)
    free = shutil.disk_usage(str(prefix.parent)).free
    if needed > free:
        raise BundleError(
            f"The environment needs more than {needed / 1e6:.0f} MB; {free / 1e6:.0f} MB are free.", "make room."
        )
    new = Path(tempfile.mkdtemp(prefix=f".{prefix.name}.bundle-", dir=str(prefix.parent)))
    try:
        new.chmod(0o755)
        _link_all(bundle, new, prefix, zstd, say)
        if prefix.is_dir():
            prefix.rmdir()
        new.rename(prefix)
    except BaseException:
        shutil.rmtree(str(new), ignore_errors=True)
        raise


def _link_all(bundle: Bundle, new: Path, prefix: Path, zstd: Opener | None, say: Callable[[str], None]) -> None:
    linker = Linker(bundle, new, prefix, lambda text: say("note: " + text))
    scratch = new / ".extracted"
    scratch.mkdir()
    say(f"Installing {len(bundle.packages)} packages into {prefix}")
    with ThreadPoolExecutor(max_workers=_workers()) as pool:
        results = [
            pool.submit(extract, bundle.folder / each.file, scratch / each.record_name, zstd, each.file_sha256)
            for each in bundle.packages
        ]
        try:
            # Python first: packages of its modules may stand before it in a cycle of dependencies.
            for package, result in sorted(_pairs(bundle, results), key=lambda pair: pair[0].name != "python"):
                if package.name == "python":
                    linker.find_python(package, result.result())
                try:
                    linker.link(package, result.result(), _correction(bundle, package))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise BundleError(f"{package.file} is not a package that can be linked: {error!r}.") from error
                shutil.rmtree(str(scratch / package.record_name))
        finally:
            for result in results:
                result.cancel()
    scratch.rmdir()
    linker.finish()


def _pairs(bundle: Bundle, results: list[Any]) -> list[tuple[Package, Any]]:
    return [(bundle.packages[number], result) for number, result in enumerate(results)]


def _correction(bundle: Bundle, package: Package) -> dict[str, Any]:
    """The dependencies that the bundle's channel gives for the package."""
    index = load_json(read_file(bundle.folder / "channel" / package.subdir / "repodata.json"))
    file = posixpath.basename(package.file)
    record = index["packages.conda"].get(file) or index["packages"].get(file) or {}
    return {key: record[key] for key in ("depends", "constrains") if key in record}


def host_platform() -> str:
    """The conda platform of this machine, such as `linux-64`."""
    import platform

    system = {"linux": "linux", "darwin": "osx", "win32": "win"}.get(sys.platform, sys.platform)
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return f"{system}-64"
    if machine in ("arm64", "aarch64"):
        return f"{system}-aarch64" if system == "linux" else f"{system}-arm64"
    return f"{system}-{machine}"


def explicit_text(bundle: Bundle) -> str:
    """An explicit file for conda clients, with the bundle's packages where they are now."""
    lines = [f"# The packages of {bundle.folder}", f"# platform: {bundle.platform}", "@EXPLICIT"]
    for each in bundle.packages:
        lines.append(f"{(bundle.folder / each.file).absolute().as_uri()}#{each.file_sha256}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None, folder: Path | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 2 for wrong use, 130 when interrupted.

    `folder` is that of the unpacked bundle (default: the one that this file is in).
    """
    parser = argparse.ArgumentParser(description="Install this bundle's environment. Nothing is fetched.")
    parser.add_argument("prefix", nargs="?", type=Path, help="folder to install into")
    parser.add_argument("--check", action="store_true", help="check every file, and install nothing")
    parser.add_argument("--explicit", metavar="FILE", type=Path, help="check, and write an explicit file for conda")
    parser.add_argument("--manifest-sha256", metavar="HEX", help="the SHA-256 sum that bundle.json must have")
    parser.add_argument("--allowed-signers", metavar="FILE", type=Path, help="bundle.json must be signed by one of it")
    parser.add_argument("--signer", metavar="IDENTITY", help="with --allowed-signers: who must have signed")
    parser.add_argument("--unproven", action="store_true", help="take a portable bundle without any proof")
    asked = parser.parse_args(arguments)
    if (asked.prefix is not None) + asked.check + (asked.explicit is not None) != 1:
        parser.print_usage(sys.stderr)
        print("error: name a PREFIX, or --check, or --explicit FILE", file=sys.stderr)
        return 2

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    try:
        bundle = read_bundle(folder or Path(os.path.abspath(__file__)).parent)  # noqa: PTH100
        proof = prove(bundle, asked.manifest_sha256, asked.allowed_signers, asked.signer, asked.unproven)
        check_files(bundle, print)
        if asked.check:
            print(f"{len(bundle.packages)} packages of {bundle.name} for {bundle.platform}: {proof}")
        elif asked.explicit is not None:
            asked.explicit.write_text(explicit_text(bundle), encoding="utf-8")
            print(f"{asked.explicit}: conda create --offline -p PREFIX --file {asked.explicit}")
        else:
            install(bundle, asked.prefix, print)
            print(f"{asked.prefix}: installed {len(bundle.packages)} packages, {proof}")
    except BundleError as error:
        print(f"error: {error}\n  fix:   {error.fix}", file=sys.stderr)
        return 1
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}\n  fix:   nothing was put in place; see to it, and run it again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. Nothing was put in place.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
