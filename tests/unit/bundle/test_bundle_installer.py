"""The standalone installer's parts: what they do to bytes and paths, and that they really stand alone."""

from __future__ import annotations

import ast
import io
import json
import posixpath
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlocks.bundle import installer
from torchlocks.bundle.installer import zstd
from torchlocks.bundle.installer.files import leaves
from torchlocks.bundle.installer.model import BundleError
from torchlocks.bundle.installer.prefixes import replace_binary, replace_text
from torchlocks.bundle.installer.reading import read_bundle

if TYPE_CHECKING:
    from torchlocks.bundle.installer.zstd import Opener

PACKAGE = Path(installer.__file__).parent
LAUNCHER = PACKAGE.parent / "install.py"
SOURCES = [LAUNCHER, *sorted(PACKAGE.glob("*.py"))]
OLD = "/opt/placeholder_placehold_placehold"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_it_is_python_3_8(source: Path) -> None:
    ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_it_imports_the_standard_library_and_nothing_of_the_tool(source: Path) -> None:
    imported = set[str]()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add((node.module or "").split(".")[0])
    # The first three are tried, and done without where they are not there; the last is the package beside install.py.
    assert imported - sys.stdlib_module_names <= {"backports", "compression", "zstandard", "installer"}


def copied(folder: Path) -> Path:
    """The installer as it is in a bundle."""
    shutil.copytree(PACKAGE, folder / "installer", ignore=shutil.ignore_patterns("__pycache__"))
    return Path(shutil.copy(LAUNCHER, folder))


def test_without_a_bundle_it_names_what_it_needs(tmp_path: Path) -> None:
    launcher = copied(tmp_path)
    run = subprocess.run(
        [sys.executable, "-I", "-S", str(launcher), str(tmp_path / "env")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: There is no complete bundle in")
    assert not (tmp_path / "env").exists()


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"null",
        json.dumps({"schema": 1}).encode(),
        json.dumps({"schema": 1, "packages": [{}]}).encode(),
        json.dumps({"schema": 2}).encode(),
    ],
)
def test_a_manifest_that_is_none_is_an_error(tmp_path: Path, manifest: bytes) -> None:
    (tmp_path / "bundle.json").write_bytes(manifest)
    with pytest.raises(BundleError):
        read_bundle(tmp_path)


# --- prefixes -----------------------------------------------------------------------------------


@given(
    parts=st.lists(st.binary(max_size=20), min_size=1, max_size=5),
    prefix=st.text("/abc", min_size=1, max_size=len(OLD)),
)
def test_a_library_keeps_its_length_and_loses_the_placeholder(parts: list[bytes], prefix: str) -> None:
    content = OLD.encode().join(parts)
    patched = replace_binary(content, OLD, prefix)
    assert len(patched) == len(content)
    assert OLD.encode() not in patched
    # Outside of the strings that hold it, no byte moves.
    for before, after in zip(content.split(b"\0"), split_like(patched, content), strict=True):
        assert after.rstrip(b"\0") == before.replace(OLD.encode(), prefix.encode()).rstrip(b"\0")


def split_like(patched: bytes, content: bytes) -> list[bytes]:
    """`patched` cut where `content` has its NULs."""
    pieces, start = [], 0
    for part in content.split(b"\0"):
        pieces.append(patched[start : start + len(part)])
        start += len(part) + 1
    return pieces


def test_a_prefix_that_has_no_room_in_a_library_is_an_error() -> None:
    with pytest.raises(BundleError, match="room for"):
        replace_binary(OLD.encode(), OLD, OLD + "x")


@given(content=st.binary(), prefix=st.text("/abc", min_size=1))
def test_text_without_a_first_line_for_the_kernel_is_only_replaced(content: bytes, prefix: str) -> None:
    text = b" " + content + OLD.encode() + content
    assert replace_text(text, OLD, prefix, 127) == text.replace(OLD.encode(), prefix.encode())


@pytest.mark.parametrize(
    ("line", "prefix", "expected"),
    [
        (f"#!{OLD}/bin/python -E", "/p", "#!/p/bin/python -E"),
        (f"#!{OLD}/bin/python3.11 -E", "/a b", "#!/bin/sh\n'''exec' \"/a b/bin/python3.11\" -E \"$0\" \"$@\" #'''"),
        (f"#!{OLD}/bin/perl -w", "/a b", "#!/usr/bin/env perl -w"),
        (f"#! {OLD}/bin/perl", "/" + "x" * 130, "#!/usr/bin/env perl"),
        ("#!/bin/sh", "/a b", "#!/bin/sh"),
    ],
)
def test_first_lines_that_no_kernel_runs_are_written_in_another_way(line: str, prefix: str, expected: str) -> None:
    patched = replace_text(f"{line}\nroot = '{OLD}'\n".encode(), OLD, prefix, 127).decode()
    assert patched == f"{expected}\nroot = '{prefix}'\n"


# --- paths --------------------------------------------------------------------------------------


@given(st.text("ab/.\\:", max_size=12))
def test_a_path_that_does_not_leave_stays_inside(path: str) -> None:
    if not leaves(path):
        for plain in (path, path.replace("\\", "/")):
            joined = posixpath.normpath(posixpath.join("/inside/here", plain))
            assert joined == "/inside/here" or joined.startswith("/inside/here/")


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../../b", "..", "C:/a", "c:a", "\\a", "a\\..\\..\\b"])
def test_paths_that_leave_are_reported(path: str) -> None:
    assert leaves(path)


@pytest.mark.parametrize("path", ["a", "a/b", "a/../b", "./a", "..a/b", "a..b"])
def test_paths_that_stay_are_reported(path: str) -> None:
    assert not leaves(path)


# --- Zstandard ----------------------------------------------------------------------------------

WAYS = [
    zstd.zstd_of_python,
    zstd.zstd_of_module,
    zstd.zstd_of_system,
    zstd.zstd_of_command,
]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def opener(request: pytest.FixtureRequest) -> Opener:
    found: Opener | None = request.param()
    if found is None:
        pytest.skip(f"{request.param.__name__}: not on this machine")
    return found


# A raw block of five bytes, by RFC 8878: magic, descriptor (single segment), size, block header, content.
HELLO = bytes.fromhex("28b52ffd2005290000") + b"hello"


def test_frames_are_read_one_after_the_other(opener: Opener) -> None:
    with opener(io.BytesIO(HELLO * 3)) as stream:
        assert stream.read() == b"hello" * 3


@pytest.mark.parametrize("cut", [5, len(HELLO) - 1])
def test_a_frame_that_ends_too_early_is_an_error(opener: Opener, cut: int) -> None:
    with pytest.raises((OSError, EOFError)), opener(io.BytesIO(HELLO + HELLO[:cut])) as stream:
        stream.read()


def test_what_is_no_frame_is_an_error(opener: Opener) -> None:
    with pytest.raises(Exception, match=r"(?i)zstd|zstandard|frame"), opener(io.BytesIO(b"no frame at all")) as stream:
        stream.read()
