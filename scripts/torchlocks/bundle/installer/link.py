"""Extracted packages → the files and records of an environment."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import shlex
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from .files import LISTING_BYTES, hash_file, leaves, load_json, make_folder, read_file, write_new
from .model import Bundle, BundleError, Extracted, Package
from .prefixes import SHEBANG_LIMIT, replace_binary, replace_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


ENTRY_POINT = re.compile(r"\s*([\w.+-]+)\s*=\s*([\w.]+)\s*:\s*([\w.]+)\s*\Z")


class Linker:
    """Links extracted packages into the folder `new`, which becomes the environment at `prefix`."""

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
        """Determine the site-packages folder of the environment's Python, for `noarch: python` packages."""
        minor = ".".join(package.version.split(".")[:2])
        self._python = "python.exe" if self._bundle.windows else f"bin/python{minor}"
        plain = "Lib/site-packages" if self._bundle.windows else f"lib/python{minor}/site-packages"
        self._site_packages = _read_index(package, extracted).get("python_site_packages_path") or plain
        if leaves(self._site_packages):
            raise BundleError(f"{package.record_name} has its modules outside of the environment.")

    def link(self, package: Package, extracted: Extracted, correction: dict[str, Any]) -> None:
        """Link the package's files and store its record.

        `correction` are the channel's dependencies and constraints, which replace those of the package's index.
        """
        index = _read_index(package, extracted)
        modules = index.get("noarch") == "python"
        if modules and self._site_packages is None:
            raise BundleError(f"{package.record_name} needs a Python, and there is none in the lock.", "lock again.")
        entries = []
        for listed in _read_paths(extracted.folder):
            if leaves(listed["_path"]):
                raise BundleError(f"{package.record_name} names {listed['_path']!r}, outside of the environment.")
            entries.append(self._place(package, listed, extracted, modules))
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
        """Write the records and the history. Raises BundleError if a link leads out of the environment."""
        root = os.path.realpath(str(self._new))
        for folder, folders, files in os.walk(str(self._new)):
            for name in folders + files:
                path = os.path.join(folder, name)  # noqa: PTH118
                if os.path.islink(path) and not os.path.realpath(path).startswith(root + os.sep):  # noqa: PTH114
                    raise BundleError(f"{path[len(str(self._new)) + 1 :]} is a link out of the environment.")
        meta = self._new / "conda-meta"
        if os.path.lexists(str(meta)) and (meta.is_symlink() or not meta.is_dir()):
            raise BundleError("A package contains conda-meta as a link or a file.")
        meta.mkdir(exist_ok=True)
        for name, record in self._records.items():
            record["files"] = [each["_path"] for each in record["paths_data"]["paths"]]
            write_new(meta / f"{name}.json", json.dumps(record, indent=2) + "\n")
        write_new(meta / "history", "\n".join(self._history()) + "\n")
        write_new(meta / "torchlocks", json.dumps(self._provenance(), indent=2, sort_keys=True) + "\n")

    def _place(self, package: Package, listed: dict[str, Any], extracted: Extracted, modules: bool) -> dict[str, Any]:
        source, plain = extracted.folder / listed["_path"], posixpath.normpath(listed["_path"])
        path = self._in_prefix(plain) if modules else plain
        entry: dict[str, Any] = {"_path": path, "path_type": listed.get("path_type", "hardlink")}
        target = self._clear(path, package)
        if source.is_symlink():
            link = os.readlink(str(source))  # noqa: PTH115
            entry.update(path_type="softlink", sha256_in_prefix=hashlib.sha256(os.fsencode(link)).hexdigest())
            target.symlink_to(link)
            return entry
        if entry["path_type"] == "directory":
            make_folder(target, self._new)
            return entry
        found = extracted.hashes.get(plain)
        if found is None or listed.get("sha256", found) != found:
            raise BundleError(f"{listed['_path']} in {package.record_name} differs from the package's file list.")
        entry.update(path_type="hardlink", sha256=found, size_in_bytes=source.stat().st_size)
        placeholder = listed.get("prefix_placeholder")
        if placeholder:
            entry.update(prefix_placeholder=placeholder, file_mode=listed.get("file_mode", "text"))
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
        """Clear a file's path; a file of another package is moved away, as with other conda clients."""
        target = self._new / path
        make_folder(target.parent, self._new)
        owner = self._owners.get(path)
        if owner == package.record_name or (owner is None and os.path.lexists(str(target)) and not target.is_dir()):
            raise BundleError(f"{package.record_name} has {path} twice.")
        if owner is not None:
            record = self._records[owner]
            aside = f"__clobbers__/{record['name']}/{path}"
            make_folder((self._new / aside).parent, self._new)
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
            # As conda does: Windows libraries do not use their prefix.
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
            # macOS kills programs with an invalid signature.
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
        """Return the provenance record of the environment, with the schema of provenance.py."""
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


def _read_index(package: Package, extracted: Extracted) -> dict[str, Any]:
    """Return the package's own index.json. Raises BundleError if it is that of another package."""
    try:
        index: dict[str, Any] = load_json(read_file(extracted.folder / "info" / "index.json"))
        own = [index.get(key) for key in ("name", "version", "build")]
    except (OSError, ValueError, AttributeError) as error:
        raise BundleError(f"{package.file} has no readable info/index.json.") from error
    if own != [package.name, package.version, package.build]:
        raise BundleError(f"{package.file} contains the package {own}; the lock names {package.record_name}.")
    return index


def _read_paths(folder: Path) -> list[dict[str, Any]]:
    """Return the package's files: `info/paths.json`, or `info/files` and `info/has_prefix` from before 2017."""
    listing = folder / "info" / "paths.json"
    try:
        if listing.is_file():
            paths: list[dict[str, Any]] = load_json(read_file(listing, LISTING_BYTES))["paths"]
            if not all(isinstance(each["_path"], str) for each in paths):
                raise ValueError("a path is not text")
            return paths
        patched = {}
        has_prefix = folder / "info" / "has_prefix"
        for line in _lines(has_prefix) if has_prefix.is_file() else ():
            parts = shlex.split(line)
            if len(parts) == 1:
                # The placeholder of early conda-build, which did not record it.
                parts = ["/opt/anaconda1anaconda2anaconda3", "text", *parts]
            patched[parts[2]] = {"prefix_placeholder": parts[0], "file_mode": parts[1]}
        files = _lines(folder / "info" / "files")
        return [{"_path": name, **patched.get(name, {})} for name in files]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BundleError(f"{folder.name} has no readable file list: {error!r}.") from error


def _lines(path: Path) -> list[str]:
    return read_file(path, LISTING_BYTES).decode("utf-8").splitlines()
