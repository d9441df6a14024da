"""Damaged files of an environment → the same files as their packages have them, out of the package cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from torchlocks.core.disk import is_disk_full
from torchlocks.core.errors import InstallError
from torchlocks.core.progress import Progress
from torchlocks.core.reading import RECORD_BYTES, load_json, read_bytes
from torchlocks.install import swap
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.findings import Damage
from torchlocks.install.inventory import (
    INVENTORY,
    Inventory,
    read_inventory,
    repair_history,
    with_records,
    write_inventory,
)
from torchlocks.install.provenance import RECORD, read_provenance, write_provenance
from torchlocks.lockfile.models import LockedPackage


def repair(prefix: Path, damaged: tuple[Damage, ...], options: FetchOptions, progress: Progress) -> list[str]:
    """Restore damaged records, or if there are none, damaged files; return the restored paths.

    If records were damaged, the files they name have to be checked again. Raises InstallError when something cannot be
    repaired, and what `fetch.ensure_cached` raises.
    """
    inventory = read_inventory(prefix)
    paths = {each.path for each in damaged}
    in_meta = {path for path in paths if path.startswith("conda-meta/")}
    if in_meta & {INVENTORY.as_posix(), RECORD.as_posix()} or (in_meta and inventory is None):
        raise InstallError(
            "A record of the environment itself is damaged, so that it cannot be repaired.",
            where=str(prefix / min(in_meta)),
            fix="install the environment again (force).",
        )
    try:
        if inventory is not None and in_meta:
            return _repair_meta(prefix, in_meta, inventory, options, progress)
        repaired = _repair_modes(prefix, damaged, inventory) if inventory is not None else []
        if rest := [each for each in damaged if each.path not in repaired]:
            repaired += _repair_files(prefix, rest, options, progress)
        return repaired
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InstallError(
            f"A file could not be restored: {error.strerror}.", where=str(error.filename or prefix)
        ) from error


def _repair_modes(prefix: Path, damaged: tuple[Damage, ...], inventory: Inventory) -> list[str]:
    """Set the modes of files and folders whose contents are right."""
    repaired = []
    for each in damaged:
        path = prefix / each.path
        mode = inventory.mode(each.path, folder=path.is_dir()) if each.mode_only else None
        if mode is not None:
            _require_inside(prefix, path)
            path.chmod(mode)
            repaired.append(each.path)
    return repaired


def _repair_meta(
    prefix: Path, paths: set[str], inventory: Inventory, options: FetchOptions, progress: Progress
) -> list[str]:
    """Write damaged records, and the history, anew, and note the hashes that they have now."""
    if "conda-meta/history" in paths:
        repair_history(prefix, inventory)
    names = {path[len("conda-meta/") : -len(".json")] for path in paths if path.endswith(".json")}
    unknown = names - set(inventory.records)
    if unknown:
        raise InstallError(
            "The record of a package that was added since the installation is damaged.",
            where=str(prefix / "conda-meta" / f"{min(unknown)}.json"),
            fix="install that package again, with the tool that added it.",
        )
    if names:
        packages = {name: each.package for name, each in inventory.records.items()}
        _put_back(prefix, paths, names, packages, options, progress, corrected=inventory.corrected)
        found = read_provenance(prefix)
        if found is not None:
            fresh = write_inventory(prefix, with_records(inventory, prefix, names))
            write_provenance(prefix, replace(found, files_sha256=fresh))
    return sorted(paths)


def _repair_files(prefix: Path, damaged: list[Damage], options: FetchOptions, progress: Progress) -> list[str]:
    packages = {record.stem: _locked(record) for record in (prefix / "conda-meta").glob("*.json")}
    paths = [each.path for each in damaged]
    return _put_back(prefix, paths, {each.package for each in damaged}, packages, options, progress)


def _put_back(
    prefix: Path,
    paths: Iterable[str],
    names: set[str],
    packages: Mapping[str, LockedPackage],
    options: FetchOptions,
    progress: Progress,
    *,
    corrected: bool = False,
) -> list[str]:
    """Link the packages `names` anew and move `paths` out of that into the environment; return what was moved."""
    from torchlocks.install.fetch import ensure_cached
    from torchlocks.install.link import link

    # Packages of Python modules can only be linked beside the Python that they are for.
    needed = [each for name, each in packages.items() if name in names or each.name == "python"]
    entries = ensure_cached(tuple(needed), replace(options, allow_md5=True), progress)
    platform = next((each.subdir for each in packages.values() if each.subdir != "noarch"), "noarch")
    repaired = []
    new = None
    try:
        new, _ = swap.new_sibling(prefix)
        link(entries, platform, new, prefix, corrected=corrected, progress=progress)
        for path in paths:
            source, target = new / path, prefix / path
            if not os.path.lexists(source):
                continue
            _require_inside(prefix, target)
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            repaired.append(path)
    finally:
        if new is not None:
            swap.discard(new, prefix)
    return repaired


def _require_inside(prefix: Path, path: Path) -> None:
    """Raise InstallError when a file's folder, symbolic links followed, is outside of the environment."""
    if not path.parent.resolve().is_relative_to(prefix.resolve()):
        raise InstallError(
            "A file to restore is outside of the environment, through a symbolic link.",
            where=str(path),
            fix="remove the link, or install the environment again.",
        )


def _locked(path: Path) -> LockedPackage:
    """Return the package that a record of `conda-meta` is of. Raises InstallError for one that is none."""
    try:
        record = load_json(read_bytes(path, RECORD_BYTES))
        name, version, build, url = texts = [record[key] for key in ("name", "version", "build", "url")]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("it is no text")
        return LockedPackage(
            name=name,
            version=version,
            build=build,
            subdir=record.get("subdir") or "noarch",
            url=url,
            sha256=record.get("sha256"),
            md5=record.get("md5"),
            size=record.get("size"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InstallError(
            f"The record of an installed package cannot be read: {error!r}.",
            where=str(path),
            fix="install the environment again.",
        ) from None
