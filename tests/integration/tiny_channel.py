"""Tiny channels for tests: real packages, made in a moment, and locks of them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import yaml

from torchlocks.lockfile.models import Lock, LockedPackage

PLATFORM = "linux-64"
# What conda-build and rattler-build leave in files for the prefix to be patched in.
PLACEHOLDER = "/opt/placeholder" + "_placehold" * 20


@dataclass
class TinyChannel:
    """A channel folder; `package` adds a package, `lock` makes a lock of all or some."""

    root: Path
    packages: list[LockedPackage] = field(default_factory=list)

    def package(
        self,
        name: str,
        files: Mapping[str, str | bytes],
        *,
        version: str = "1.0",
        build: str = "0",
        noarch: Literal["python", "generic"] | None = None,
        depends: Sequence[str] = (),
    ) -> LockedPackage:
        from rattler_build import assemble_package

        subdir = "noarch" if noarch else PLATFORM
        source = self.root.parent / f"{self.root.name}-sources" / f"{name}-{version}-{build}"
        for path, content in files.items():
            target = source / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
            target.chmod(0o755 if path.startswith("bin/") else 0o644)
        (self.root / subdir).mkdir(parents=True, exist_ok=True)
        made = assemble_package(
            name,
            version,
            subdir,
            build,
            self.root / subdir,
            files_dir=source,
            noarch=noarch,
            depends=list(depends),
            timestamp=datetime(2024, 1, 1, tzinfo=timezone.utc),
            compression_level=1,
        )
        locked = locked_file(Path(made.path), self.root.as_uri(), subdir, name, version, build)
        self.packages = [each for each in self.packages if each.file_name != locked.file_name] + [locked]
        return locked

    def raw(
        self,
        name: str,
        files: Mapping[str, str | bytes],
        *,
        version: str = "1.0",
        build: str = "0",
        depends: Sequence[str] = (),
        links: Mapping[str, str] | None = None,
        prefixed: Sequence[str] = (),
        index: Mapping[str, object] | None = None,
        listed: Sequence[str] | None = None,
        info: Mapping[str, bytes | None] | None = None,
    ) -> LockedPackage:
        """A `.tar.bz2` package with every byte as wished, so that it can hold what no build tool would make.

        `prefixed` are the files in which PLACEHOLDER is replaced, `links` symbolic links and their targets, `index`
        what its `index.json` says beside the usual, `listed` the paths in its file list instead of the true ones,
        `info` whole files of its info folder (None: not there).
        """
        contents = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
        paths: list[dict[str, object]] = []
        for path, content in contents.items():
            entry: dict[str, object] = {
                "_path": path,
                "path_type": "hardlink",
                "sha256": hashlib.sha256(content).hexdigest(),
                "size_in_bytes": len(content),
            }
            if path in prefixed:
                mode = "binary" if b"\0" in content else "text"
                entry |= {"prefix_placeholder": PLACEHOLDER, "file_mode": mode}
            paths.append(entry)
        paths += [{"_path": path, "path_type": "softlink"} for path in links or {}]
        if listed is not None:
            paths = [{"_path": path, "path_type": "hardlink"} for path in listed]
        said = {
            "name": name,
            "version": version,
            "build": build,
            "build_number": 0,
            "subdir": PLATFORM,
            "depends": list(depends),
            **(index or {}),
        }
        folder = self.root / PLATFORM
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}-{version}-{build}.tar.bz2"
        with tarfile.open(file, "w:bz2") as archive:
            usual = {"index.json": said, "paths.json": {"paths": paths, "paths_version": 1}}
            described = {name: json.dumps(each).encode() for name, each in usual.items()} | dict(info or {})
            listed_info = {f"info/{name}": each for name, each in described.items() if each is not None}
            for path, content in {**listed_info, **contents}.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                member.mtime = 1704067200
                member.mode = 0o755 if path.startswith("bin/") else 0o644
                archive.addfile(member, io.BytesIO(content))
            for path, target in (links or {}).items():
                member = tarfile.TarInfo(path)
                member.type = tarfile.SYMTYPE
                member.linkname = target
                archive.addfile(member)
        locked = locked_file(file, self.root.as_uri(), PLATFORM, name, version, build)
        self.packages.append(locked)
        return locked

    def lock(self, *, base: str | None = None, packages: Sequence[LockedPackage] | None = None) -> Lock:
        """A lock of the channel as it is served at `base` (default: its folder)."""
        chosen = self.packages if packages is None else packages
        if base is not None:
            chosen = [replace(each, url=each.url.replace(self.root.as_uri(), base)) for each in chosen]
        text = "\n".join(f"{each.url}#sha256:{each.sha256}" for each in chosen)
        return Lock(
            path=self.root.parent / "conda-lock.yml",
            kind="explicit",
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            channels=(base or self.root.as_uri(),),
            packages={PLATFORM: tuple(chosen)},
            content_hash={},
            virtual_packages={},
            metadata={},
        )


def locked_file(file: Path, channel: str, subdir: str, name: str, version: str, build: str) -> LockedPackage:
    """The lock's entry of a package file that a channel holds."""
    content = file.read_bytes()
    return LockedPackage(
        name=name,
        version=version,
        build=build,
        subdir=subdir,
        url=f"{channel}/{subdir}/{file.name}",
        sha256=hashlib.sha256(content).hexdigest(),
        md5=hashlib.md5(content).hexdigest(),
        size=len(content),
    )


def make_channel(root: Path) -> TinyChannel:
    """A channel like a real one: a python, a package with a prefix in it, a noarch package, one with many files."""
    channel = TinyChannel(root)
    channel.raw(
        "python",
        {
            "bin/python3.11": f"#!/bin/sh\n# {PLACEHOLDER}/bin\necho tiny\n",
            "lib/libtiny.so": f"\0\0{PLACEHOLDER}/lib\0\0".encode(),
            "lib/python3.11/os.py": "sep = '/'\n",
        },
        version="3.11.7",
        prefixed=["bin/python3.11", "lib/libtiny.so"],
        links={"bin/python": "python3.11"},
    )
    channel.raw(
        "alpha",
        {"bin/alpha": f"#!{PLACEHOLDER}/bin/python3.11\nprint('alpha')\n", "share/alpha.txt": "alpha\n" * 100},
        prefixed=["bin/alpha"],
        depends=["python 3.11.*"],
    )
    channel.package(
        "beta",
        {"site-packages/beta/__init__.py": "value = 1\n"},
        noarch="python",
        depends=["python >=3.8", "alpha"],
    )
    channel.package("many", {f"share/many/{i}.txt": f"{i} " * 300 for i in range(200)}, depends=["alpha"])
    return channel


def conda_lock(channel: TinyChannel, path: Path) -> Path:
    """Write a conda-lock.yml of all packages of a channel."""
    packages = [
        {
            "name": each.name,
            "version": each.version,
            "manager": "conda",
            "platform": PLATFORM,
            "dependencies": {},
            "url": each.url,
            "hash": {"md5": each.md5, "sha256": each.sha256},
            "category": "main",
            "optional": False,
        }
        for each in channel.packages
    ]
    metadata = {
        "content_hash": {PLATFORM: "0" * 64},
        "channels": [{"url": channel.root.as_uri(), "used_env_vars": []}],
        "platforms": [PLATFORM],
        "sources": [],
    }
    path.write_text(yaml.safe_dump({"version": 1, "metadata": metadata, "package": packages}, sort_keys=False))
    return path
