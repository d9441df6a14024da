"""An installed environment → every file that is not as its packages put it there.

Each package record in `conda-meta` lists its files with size and hash, for files with a patched prefix the hash after
patching (`sha256_in_prefix`). Works on any conda environment whose records have them. The records themselves and modes
are compared with the inventory that an installation of torchlocks writes.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torchlocks.core.disk import disk_full_as_error
from torchlocks.core.errors import MissingFileError
from torchlocks.core.files import hash_file
from torchlocks.core.progress import Progress
from torchlocks.core.reading import RECORD_BYTES, load_json, read_bytes, read_text
from torchlocks.install.contained import leaves
from torchlocks.install.exclusive import final_path, interruptible, prefix_lock
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.findings import Damage, Findings, PipPackage
from torchlocks.install.inventory import Inventory, changed_in_meta, other_mode, read_inventory
from torchlocks.install.repair import repair

# Made by Python itself, by conda clients, or by torchlocks; never by a package.
_OWN = re.compile(r"(^|/)__pycache__/|^conda-meta/|^CACHEDIR\.TAG$|^\.nonadmin$")
_SITE_PACKAGES = re.compile(r"^(?:lib/python\d+\.\d+|Lib)/site-packages/")
# Code that runs whenever Python starts. A `.pth` file only adds folders behind those that are there already.
_STARTUP = re.compile(r"^(?:sitecustomize|usercustomize)\.py$")
#: Files that a thread checks in one go: most are small, and handing one over takes longer than reading it.
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class _File:
    path: str
    package: str
    link: bool
    folder: bool
    size: int | None
    sha256: str | None
    mode: int | None = None


def fsck(
    prefix: Path,
    *,
    fix: bool = False,
    options: FetchOptions | None = None,
    progress: Progress,
    wait_s: float | None = None,
) -> Findings:
    """Compare every file of the environment at `prefix` with what its packages installed.

    With `fix`, damaged and missing files are restored, each in one step, out of the package cache (a package that is
    not there is fetched), and modes are set; what pip or the user added stays. The findings are then those after the
    repair.

    Raises MissingFileError when there is no environment, InstallError when it cannot be repaired, BusyError, and what
    `fetch.ensure_cached` raises.
    """
    prefix = final_path(prefix)
    if not (prefix / "conda-meta").is_dir():
        raise MissingFileError(
            "There is no conda environment here.", where=str(prefix), fix="install one, or name another prefix."
        )
    if not fix:
        return _look(prefix, progress)
    with interruptible(), disk_full_as_error(prefix.parent), prefix_lock(prefix, wait_s, progress):
        found, repaired = _look(prefix, progress), list[str]()
        # Records first, since they name the files; then files, and their modes where only those have changed.
        while found.damaged and (done := repair(prefix, found.damaged, options or FetchOptions(), progress)):
            before, found = found.damaged, _look(prefix, progress)
            repaired += [path for path in done if path not in repaired]
            if found.damaged == before:
                break
        return replace(found, repaired=tuple(repaired))


def _look(prefix: Path, progress: Progress) -> Findings:
    from concurrent.futures import ThreadPoolExecutor

    inventory = read_inventory(prefix)
    damaged = list(changed_in_meta(prefix, inventory))
    wrong = {each.path for each in damaged}
    files: list[_File] = []
    unread: list[_File] = []
    for record in sorted((prefix / "conda-meta").glob("*.json")):
        path = f"conda-meta/{record.name}"
        try:
            # A changed record's list of files is not used.
            (unread if path in wrong else files).extend(files_of(record, inventory))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if path not in wrong:
                details = f": {error}" if isinstance(error, ValueError) else ""
                why = f"the package's record cannot be read ({type(error).__name__}{details})"
                damaged.append(Damage(path=path, package=record.stem, kind="changed", why=why))
    with progress.task(f"Checking {len(files)} files", len(files)) as task, ThreadPoolExecutor() as pool:
        batches = [files[start : start + _BATCH] for start in range(0, len(files), _BATCH)]
        for batch, found in zip(batches, pool.map(lambda each: _check_all(prefix, each), batches), strict=True):
            task.advance(len(batch))
            damaged += found
    damaged += _changed_folders(prefix, files, inventory)
    known = {file.path for file in (*files, *unread)}
    extra = extra_files(prefix, known)
    pip, from_pip = pip_packages(prefix, extra)
    return Findings(
        prefix=prefix,
        checked=len(files),
        damaged=tuple(sorted(damaged, key=lambda each: each.path)),
        extra=tuple(path for path in extra if path not in from_pip),
        pip=tuple(pip),
        shadows=tuple(_shadows(prefix, extra)),
    )


def _changed_folders(prefix: Path, files: Iterable[_File], inventory: Inventory | None) -> Iterator[Damage]:
    """The folders of packages' files whose mode is not the one they were made with."""
    if inventory is None or inventory.folder_mode is None:
        return
    owner: dict[str, str] = {}
    for file in files:
        folder = file.path.rpartition("/")[0]
        while folder not in ("", ".") and folder not in owner:
            owner[folder] = file.package
            folder = folder.rpartition("/")[0]
    for path, package in owner.items():
        found = prefix / path
        if found.is_dir() and not found.is_symlink():
            mode = inventory.mode(path, folder=True)
            if why := other_mode(found, mode):
                yield Damage(path=path, package=package, kind="changed", why=why, mode_only=True)


def files_of(record: Path, inventory: Inventory | None = None) -> list[_File]:
    """The files that the package of a record put into the environment. Raises OSError or ValueError."""
    content: dict[str, Any] = load_json(read_bytes(record, RECORD_BYTES))
    paths = content.get("paths_data", {}).get("paths", [])
    named = [*(path["_path"] for path in paths), *content.get("files", [])]
    if outside := next(filter(leaves, named), None):
        raise ValueError(f"it names {outside!r}, which is outside of the environment")
    listed = content.get("files") or []
    sources = _sources(listed)
    files = []
    for each in paths:
        path = sources.get(each["_path"], each["_path"])
        patched = each.get("sha256_in_prefix") not in (None, each.get("sha256"))
        # conda records of a link the hash of the file that it leads to, and rattler that of its text.
        untold = each.get("prefix_placeholder") or each.get("path_type") == "softlink"
        files.append(
            _File(
                path=path,
                package=record.stem,
                link=each.get("path_type") == "softlink",
                folder=each.get("path_type") == "directory",
                # The recorded size is the package's.
                size=None if patched or each.get("prefix_placeholder") else each.get("size_in_bytes"),
                sha256=each.get("sha256_in_prefix") or (None if untold else each.get("sha256")),
                mode=inventory.mode(path, folder=False) if inventory else None,
            )
        )
    known = {file.path for file in files}
    return files + [
        _File(path=path, package=record.stem, link=False, folder=False, size=None, sha256=None)
        for path in listed
        # Bytecode that the client compiled and recorded is made anew by Python.
        if path not in known and not path.endswith(".pyc")
    ]


def _sources(listed: Sequence[str]) -> dict[str, str]:
    """From the path in a package of Python modules, which conda records, to that in the environment."""
    found = {}
    for each in listed:
        _, inside, rest = each.partition("/site-packages/")
        if inside:
            found[f"site-packages/{rest}"] = each
        elif each.startswith(("bin/", "Scripts/")):
            found[f"python-scripts/{each.partition('/')[2]}"] = each
    return found


def _check_all(prefix: Path, files: Iterable[_File]) -> list[Damage]:
    return [found for file in files if (found := _check(prefix, file)) is not None]


def _check(prefix: Path, file: _File) -> Damage | None:
    path = prefix / file.path

    def damage(kind: Literal["changed", "missing"], why: str) -> Damage:
        return Damage(path=file.path, package=file.package, kind=kind, why=why)

    try:
        if not os.path.lexists(path):
            return damage("missing", "it is not there")
        if file.folder:
            return None if path.is_dir() else damage("changed", "it should be a folder")
        if file.link:
            if not path.is_symlink():
                return damage("changed", "it should be a symbolic link")
            target = os.fsencode(path.readlink())
            if file.sha256 is None:
                return None if path.exists() else damage("changed", "it is a link to nothing")
            if file.sha256 == hashlib.sha256(target).hexdigest():
                return None
            return damage("changed", f"it is a link to {os.fsdecode(target)!r}")
        if path.is_symlink() or not path.is_file():
            return damage("changed", "it should be a plain file")
        if file.size is not None and (size := path.stat().st_size) != file.size:
            return damage("changed", f"it has {size} bytes instead of {file.size}")
        if file.sha256 is not None and hash_file(path) != file.sha256:
            return damage("changed", "it has another content")
        if why := other_mode(path, file.mode):
            return replace(damage("changed", why), mode_only=True)
    except OSError as error:
        return damage("changed", f"it cannot be read ({error.strerror})")
    return None


def extra_files(prefix: Path, known: Collection[str]) -> list[str]:
    """The files of an environment that are not `known` and were made by no client and no Python, relative, sorted."""
    return [path for path in _all_files(prefix) if path not in known and not _OWN.search(path)]


def _all_files(prefix: Path) -> list[str]:
    found = []
    for folder, folders, files in os.walk(prefix):
        below = Path(folder).relative_to(prefix).as_posix()
        start = "" if below == "." else f"{below}/"
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]  # noqa: PTH114, PTH118
        found += [start + name for name in (*files, *links)]
    return sorted(found)


def pip_packages(prefix: Path, extra: list[str]) -> tuple[list[PipPackage], set[str]]:
    """The wheels among the extra files, and all files that they brought."""
    packages, theirs = [], set[str]()
    for path in extra:
        folder, _, name = path.rpartition("/")
        if name != "RECORD" or not folder.endswith(".dist-info"):
            continue
        title, _, version = folder.rpartition("/")[2].removesuffix(".dist-info").partition("-")
        site = folder.rpartition("/")[0]
        try:
            rows = list(csv.reader(read_text(prefix / path, RECORD_BYTES).splitlines()))
        except (OSError, ValueError, csv.Error):
            # It stays among the extra files.
            continue
        files = {os.path.normpath(f"{site}/{row[0]}") for row in rows if row}
        theirs |= files & set(extra)
        packages.append(PipPackage(name=title.replace("_", "-"), version=version, files=len(files)))
    return packages, theirs


def _shadows(prefix: Path, extra: list[str]) -> Iterator[str]:
    for path in extra:
        inside = _SITE_PACKAGES.sub("", path)
        if inside == path:
            continue
        if inside.startswith(("torch/", "torch.")):
            yield f"{path} is not of the environment's packages, and belongs to a torch that was put over theirs"
        elif _STARTUP.match(inside):
            yield f"{path} runs whenever Python starts, and no package brought it"
    for where in _outside(prefix):
        if (where / "torch").is_dir() or (where / "torch.py").is_file():
            yield f"{where} contains another torch, which Python finds first"


def _outside(prefix: Path) -> Iterator[Path]:
    """The folders outside of `prefix` that its Python would look into before its own site-packages."""
    yield from (Path(each) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each)
    if not os.environ.get("PYTHONNOUSERSITE"):
        base = Path(os.environ.get("PYTHONUSERBASE") or Path.home() / ".local")
        for python in (prefix / "lib").glob("python3.*"):
            yield base / "lib" / python.name / "site-packages"
