"""Repacking: what differs from build to build goes, and everything else stays as it was."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from torchlocks.core.errors import RecipeError
from torchlocks.local_channel.package_file import PLACEHOLDER
from torchlocks.local_channel.repack import blank_record, repack

NEWEST = 1_700_000_000


def conda_file(
    path: Path, prefix: str, built: int, extra: dict[str, bytes] | None = None, script: bytes | None = None
) -> Path:
    """A package as the engine makes it in the folder `prefix` at the time `built`."""
    script = script or f"#!{prefix}/bin/python\n".encode()
    record = b"mod.py,sha256=AAAA,4\n../../../bin/tool,sha256=BBBB,9\n"
    files = {
        "bin/tool": (script, prefix),
        "lib/python3.11/site-packages/mod.py": (b"a=1\n", None),
        "lib/python3.11/site-packages/mod-1.dist-info/RECORD": (record, None),
        **{name: (data, None) for name, data in (extra or {}).items()},
    }
    entries: list[dict[str, Any]] = []
    for name, (data, placeholder) in files.items():
        entry: dict[str, Any] = {"_path": name, "sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data)}
        entry["path_type"] = "hardlink"
        if placeholder:
            entry |= {"prefix_placeholder": placeholder, "file_mode": "text"}
        entries.append(entry)
    info = {
        "info/index.json": json.dumps({"name": "mod", "version": "1", "build": "0", "timestamp": built}).encode(),
        "info/about.json": json.dumps({"channels": [f"file://{prefix}"], "license": "MIT"}).encode(),
        "info/paths.json": json.dumps({"paths": entries, "paths_version": 1}).encode(),
        "info/hash_input.json": json.dumps({"wheel_url": prefix}).encode(),
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        for part, contents in (("pkg", {n: d for n, (d, _) in files.items()}), ("info", info)):
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as tar:
                for name, data in contents.items():
                    member = tarfile.TarInfo(name)
                    member.size, member.mtime, member.uid = len(data), built, built % 1000
                    member.mode = 0o775 if name.startswith("bin/") else 0o664
                    tar.addfile(member, io.BytesIO(data))
            archive.writestr(f"{part}-mod-1-0.tar.zst", zstandard.compress(stream.getvalue()))
    return path


def contents(path: Path) -> dict[str, tuple[bytes, tarfile.TarInfo]]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".tar.zst"):
                data = zstandard.ZstdDecompressor().stream_reader(archive.read(name)).read()
                with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                    for member in tar:
                        stream = tar.extractfile(member)
                        assert stream is not None
                        found[member.name] = (stream.read(), member)
    return found


def test_two_builds_in_two_folders_become_the_same_bytes(tmp_path: Path) -> None:
    one = conda_file(tmp_path / "one.conda", "/builds/one/" + "p" * 100, built=1)
    two = conda_file(tmp_path / "two.conda", "/builds/two/" + "q" * 100, built=2)
    assert one.read_bytes() != two.read_bytes()
    for source, name in ((one, "a"), (two, "b")):
        (tmp_path / name).mkdir()
        repack(source, tmp_path / name / "mod-1-0.conda", newest=NEWEST, forbidden=[])
    assert (tmp_path / "a" / "mod-1-0.conda").read_bytes() == (tmp_path / "b" / "mod-1-0.conda").read_bytes()


def test_paths_json_is_right_about_every_file(tmp_path: Path) -> None:
    source = conda_file(tmp_path / "one.conda", "/builds/one/" + "p" * 100, built=1)
    index = repack(source, tmp_path / "mod-1-0.conda", newest=NEWEST, forbidden=["/builds"])
    assert index["timestamp"] == NEWEST * 1000
    found = contents(tmp_path / "mod-1-0.conda")
    assert "info/hash_input.json" not in found
    assert json.loads(found["info/about.json"][0]) == {"license": "MIT"}
    for entry in json.loads(found["info/paths.json"][0])["paths"]:
        data, member = found[entry["_path"]]
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["size_in_bytes"] == len(data)
        assert (member.mtime, member.uid) == (NEWEST, 0)
    tool, member = found["bin/tool"]
    length = len("/builds/one/" + "p" * 100)
    assert tool == f"#!{PLACEHOLDER[:length]}/bin/python\n".encode()
    assert member.mode == 0o755
    assert found["lib/python3.11/site-packages/mod.py"][1].mode == 0o644


@pytest.mark.parametrize("where", ["/builds", "/some/elsewhere"])
def test_a_path_of_this_machine_is_refused(tmp_path: Path, where: str) -> None:
    text = f"compiled in {where}/src".encode()
    source = conda_file(tmp_path / "one.conda", "/prefix", built=1, extra={"lib/note.bin": b"\0" + text})
    with pytest.raises(RecipeError, match=r"path of this machine: .* in lib/note\.bin"):
        repack(source, tmp_path / "mod-1-0.conda", newest=NEWEST, forbidden=["/builds", "/some/elsewhere"])


def test_record_keeps_hashes_of_files_that_an_installer_leaves_alone() -> None:
    record = b'pkg/a.py,sha256=x,1\n"pkg/b,c.py",sha256=y,2\n../../bin/tool,sha256=z,3\npkg-1.dist-info/RECORD,,\n'
    fixed = {"site-packages/pkg/a.py", "site-packages/pkg/b,c.py"}
    assert blank_record("site-packages/pkg-1.dist-info/RECORD", record, fixed) == (
        b'pkg/a.py,sha256=x,1\n"pkg/b,c.py",sha256=y,2\n../../bin/tool,,\npkg-1.dist-info/RECORD,,\n'
    )


@pytest.mark.parametrize("quote", ["", '"'])
def test_scripts_begin_with_a_plain_shebang_whatever_the_folder(tmp_path: Path, quote: str) -> None:
    # What pip writes where the prefix is long, and quoted where it has a space.
    prefix = "/builds/a b/" + "p" * 100
    start = f"#!/bin/sh\n'''exec' {quote}{prefix}/bin/python{quote} \"$0\" \"$@\"\n' '''\nimport sys\n".encode()
    source = conda_file(tmp_path / "one.conda", prefix, built=1, script=start)
    repack(source, tmp_path / "mod-1-0.conda", newest=NEWEST, forbidden=[])
    tool = contents(tmp_path / "mod-1-0.conda")["bin/tool"][0]
    assert tool == f"#!{PLACEHOLDER[: len(prefix)]}/bin/python\nimport sys\n".encode()


@pytest.mark.parametrize("at", [0, 16 * 1024 - 4, 16 * 1024, 50_000])
def test_a_large_file_is_passed_on_in_pieces_and_looked_at_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr("torchlocks.local_channel.repack.IN_MEMORY", 1000)
    data = bytearray(range(256)) * 400
    source = conda_file(tmp_path / "good.conda", "/builds/one", 1, {"lib/libbig.so": bytes(data)})
    repack(source, tmp_path / "mod-1-0.conda", newest=NEWEST, forbidden=["/some/elsewhere"])
    assert contents(tmp_path / "mod-1-0.conda")["lib/libbig.so"][0] == data
    data[at : at + 15] = b"/some/elsewhere"
    source = conda_file(tmp_path / "bad.conda", "/builds/one", 1, {"lib/libbig.so": bytes(data)})
    with pytest.raises(RecipeError, match=r"/some/elsewhere in lib/libbig\.so"):
        repack(source, tmp_path / "bad-1-0.conda", newest=NEWEST, forbidden=["/some/elsewhere"])
