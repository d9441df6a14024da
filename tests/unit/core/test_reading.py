"""Files of others: what is no file is refused at once, sizes and depths are limited, text is made printable."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from torchlocks.check.model import Finding, Skipped
from torchlocks.core import reading
from torchlocks.core.errors import LockfileError, TorchlocksError
from torchlocks.core.files import hash_file, remove_tree
from torchlocks.core.printing import printable
from torchlocks.core.reading import DEEPEST, load_json, read_bytes, refuse_costly_yaml
from torchlocks.core.urls import mask, mask_malformed, strip_credentials
from torchlocks.diff.read import read_side
from torchlocks.diff.report import markdown_text
from torchlocks.export.signatures import open_signed_lock
from torchlocks.extend.environment_file import read_environment_file
from torchlocks.host.record import read_host
from torchlocks.lockfile.fields import secret_line
from torchlocks.lockfile.formats import parse_lock, read_lock
from torchlocks.lockfile.open import open_lock
from torchlocks.matrix.load import load_matrix

Reader = Callable[[Path], object]
READERS: dict[str, Reader] = {
    "lock": read_lock,
    "lock by name": lambda path: open_lock(str(path)),
    "lock by URL": lambda path: open_lock(path.as_uri()),
    "environment": read_environment_file,
    "matrix": load_matrix,
    "host": read_host,
    "diff": lambda path: read_side(str(path)),
    "signature": lambda path: open_signed_lock(str(path), path),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["FIFO", "device", "loop", "large", "folder", "long name", "not UTF-8"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, reader: str, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "folder":
        path.mkdir()
    elif kind == "long name":
        path = tmp_path / ("x" * 300)
    else:
        path.write_bytes(b"\xff\xfe\xff")
    started = time.monotonic()
    with pytest.raises(TorchlocksError):
        READERS[reader](path)
    assert time.monotonic() - started < 5


def test_a_file_without_a_size_is_read_up_to_the_limit() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    assert b"Name:" in read_bytes(Path("/proc/self/status"), 1 << 20)
    with pytest.raises(OSError, match="larger than"):
        read_bytes(Path("/proc/self/status"), 10)


@pytest.mark.parametrize("text", ["[" * 2000, '{"a":' * 70 + "1" + "}" * 70, "[" * 100_000, "[1", ""])
def test_json_that_is_deep_or_none_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        load_json(text)
    assert load_json("[" * DEEPEST + "]" * DEEPEST)


@pytest.mark.parametrize("part", ["[],", "{}, ", "0,", '{"a":{"b":[[]]}},'])
def test_json_of_so_many_values_that_they_fill_the_memory_is_refused(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[" + part * 1000 + "0]"
    assert len(load_json(text)) == 1001
    monkeypatch.setattr(reading, "MOST_VALUES", 1000)
    for data in (text, text.encode()):
        with pytest.raises(ValueError, match="values"):
            load_json(data)
    assert len(load_json("[" + "1000000000," * 900 + "0]")) == 901


@pytest.mark.parametrize("part", ["- a\n", "- {}\n", "- [a,a,a,a,a,a,a]\n", "- a\r"])
@pytest.mark.parametrize(
    "start",
    ["version: 1\nmetadata: {}\npackage:\n", "version: 6\nenvironments: {}\npackages:\n", "@EXPLICIT\n"],
)
def test_a_lock_of_so_many_values_that_they_fill_the_memory_is_refused(
    start: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_NODES", 1000)
    with pytest.raises(LockfileError, match="lines and values"):
        parse_lock(f"{start}{part * 1000}".encode(), Path("x"))


@pytest.mark.parametrize("kind", ["FIFO", "device", "folder"])
def test_what_is_no_file_has_no_hash(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(OSError):  # noqa: PT011
        hash_file(path)


def test_a_folder_that_is_too_deep_for_recursion_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    folder = str(top)
    for _ in range(1500):
        folder += "/a"
        os.mkdir(folder)  # noqa: PTH102
    (top / "a" / "file").write_text("x")
    (tmp_path / "kept").mkdir()
    (top / "link").symlink_to(tmp_path / "kept")
    remove_tree(top)
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
COSTLY = {
    "bomb": BOMB,
    "many copies": "x: &x [1,2,3,4,5,6,7,8,9,10]\ny:\n" + "- *x\n" * 50_000,
    "lists": "x: " + "[" * 900 + "]" * 900,
    "more lists": "x: " + "[" * 2000 + "]" * 2000,
    "dashes": "x:\n  " + "- " * 2000 + "1",
    "indented": "".join(" " * depth + "k:\n" for depth in range(2000)),
    "mappings": "x: " + "{a: " * 2000 + "}" * 2000,
}


@pytest.mark.parametrize("name", COSTLY)
def test_yaml_that_costs_more_than_its_length_is_refused_soon(tmp_path: Path, name: str) -> None:
    text = COSTLY[name]
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"deep|copies"):
        refuse_costly_yaml(text)
    whole = f"version: 1\nmetadata:\n  platforms: []\npackage: []\n{text}\n"
    with pytest.raises(LockfileError):
        parse_lock(whole.encode(), Path("x"))
    with pytest.raises(LockfileError):
        parse_lock(f"environments: {{}}\n{text}\n".encode(), Path("x"))
    path = tmp_path / "file.yml"
    path.write_text(f"dependencies: []\n{text}\n")
    for read in (read_environment_file, load_matrix):
        with pytest.raises(TorchlocksError):
            read(path)
    assert time.monotonic() - started < 5


def test_a_large_lock_ends_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "conda-lock.yml"
    with path.open("wb") as file:
        file.write(b"version: 1\nmetadata: {}\npackage:\n")
        for _ in range(200):
            file.write(b"- {name: x, version: '1'}\n" * 40_000)
    started = time.monotonic()
    with pytest.raises(LockfileError, match="larger than"):
        read_lock(path)
    assert time.monotonic() - started < 5


def test_a_match_spec_of_parentheses_does_not_end_the_process(tmp_path: Path) -> None:
    spec = "numpy " + "(" * 10_000 + ">=1" + ")" * 10_000
    path = tmp_path / "environment.yml"
    path.write_text(f"dependencies: ['{spec}']\n")
    with pytest.raises(TorchlocksError):
        read_environment_file(path)
    with pytest.raises(LockfileError, match="match spec"):
        parse_lock(lock_text(depends=spec[6:]).encode(), Path("x"))


@pytest.mark.parametrize("text", ["../../../x", "/tmp/x", "a/b", "a\\\\b", "..", ""])
@pytest.mark.parametrize("field", ["name", "version", "build", "subdir", "file", "platform"])
def test_a_name_that_is_a_path_is_refused(field: str, text: str) -> None:
    # The package cache, bundles and images have files that are named by them.
    document = yaml.safe_load(lock_text())
    (package,) = document["package"]
    if field in ("subdir", "file"):
        subdir, file = (quote(text, safe=""), "x-1-0") if field == "subdir" else ("linux-64", quote(text, safe=""))
        package["url"] = f"https://h.example/c/{subdir}/{file}{'' if field == 'subdir' else '-1-0'}.conda"
    else:
        package[field] = text
    if field == "platform":
        document["metadata"]["platforms"] = [text]
    if field == "build" and not text:
        # An old conda-lock wrote none; that of the file's name is taken.
        return
    if field == "file" and text == "..":
        return
    with pytest.raises(LockfileError):
        parse_lock(yaml.safe_dump(document).encode(), Path("x"))
    if field in ("subdir", "file"):
        with pytest.raises(LockfileError):
            parse_lock(f"@EXPLICIT\n{package['url']}\n".encode(), Path("x"))


@pytest.mark.parametrize("field", ["name", "version"])
def test_a_name_or_version_longer_than_any_is_refused(field: str) -> None:
    # Python converts no number of more than 4300 digits.
    text = lock_text(**{field: "1" + "9" * 6000})
    with pytest.raises(LockfileError, match="6001 characters"):
        parse_lock(text.encode(), Path("x"))


def lock_text(
    name: str = "x",
    platform: str = "linux-64",
    depends: str = ">=1",
    url: str = "https://h.example",
    version: str = "1",
) -> str:
    return yaml.safe_dump(
        {
            "version": "1",
            "metadata": {"content_hash": {}, "channels": [], "platforms": ["linux-64"], "sources": []},
            "package": [
                {
                    "name": name,
                    "version": version,
                    "manager": "conda",
                    "platform": platform,
                    "dependencies": {"numpy": depends},
                    "url": f"{url}/c/linux-64/{name}-{version}-0.conda",
                    "hash": {"sha256": "0" * 64},
                    "category": "main",
                }
            ],
        }
    )


@pytest.mark.parametrize("platform", ["linux-6", "LINUX-64", "linux-64 ", "osx-64"])
def test_a_package_of_a_platform_that_the_lock_does_not_name_is_an_error(platform: str) -> None:
    assert len(parse_lock(lock_text().encode(), Path("x")).packages["linux-64"]) == 1
    with pytest.raises(LockfileError, match="not among the lock's platforms"):
        parse_lock(lock_text(platform=platform).encode(), Path("x"))


# --- secrets and escapes ------------------------------------------------------------------------

SECRET = "s3cr3t"
URLS = [
    f"https://user:{SECRET}@h.example/c/linux-64/x-1-0.conda",
    f"https://user:x@{SECRET}@h.example/c/linux-64/x-1-0.conda",
    f"https://{SECRET}@h.example/c/linux-64/x-1-0.conda",
    f"https://h.example/t/{SECRET}/c/linux-64/x-1-0.conda",
    f"https://h.example/prefix/t/{SECRET}/c/linux-64/x-1-0.conda",
    f"s3://key:{SECRET}@h.example/c/linux-64/x-1-0.conda",
    f"https://h.example/c/x.yml?token={SECRET}",
    f"https://h.example/c/x.yml?a=1&X-Amz-Signature={SECRET}&b=2",
    f"git+https://user:{SECRET}@h.example/c.git@v1",
]


@pytest.mark.parametrize("url", URLS)
def test_no_secret_of_a_url_is_shown_or_stored(url: str) -> None:
    sentence = f"see {url}, or '{url}' ({url})"
    for shown in (mask(sentence), mask_malformed(url), strip_credentials(url), printable(sentence)):
        assert SECRET not in shown
    assert "h.example" in mask(sentence)
    error = TorchlocksError(sentence, where=url, fix=sentence, details=sentence)
    assert SECRET not in f"{error} {error.args} {error.what} {error.where} {error.fix} {error.details}"
    finding = Finding(rule="x", severity="error", path=url, message=sentence, fix=sentence)
    assert SECRET not in f"{finding} {Skipped(rule='x', path='x', reason=sentence)}"


@pytest.mark.parametrize("tail", ["", " ://@", "?x://", "@h/t/x", "&token=", " https://h/?key=1"])
@pytest.mark.parametrize("part", ["(", "a", "a://", "://", "a@", "?", "?token", "&key-", "/t/", "?a=b://u:p@h/"])
def test_secrets_are_hidden_soon_in_long_texts(part: str, tail: str) -> None:
    text = part * (200_000 // len(part)) + tail
    started = time.process_time()
    for hide in (mask, mask_malformed, strip_credentials, printable, secret_line):
        hide(text)
    assert time.process_time() - started < 10


def test_secrets_of_urls_that_are_glued_together_are_hidden() -> None:
    glued = f"https://ahttps://u:{SECRET}@h.example/xhttps://u:{SECRET}@h.example?url=s3://u:{SECRET}@h/t/{SECRET}/x"
    assert SECRET not in mask(glued)
    assert mask(glued).count("h.example") == 2


@pytest.mark.parametrize(
    "url", [*URLS, f"https//user:{SECRET}@h.example/x", f"user:{SECRET}@h.example x", f"h/t/{SECRET}/x"]
)
@pytest.mark.parametrize("text", ["@EXPLICIT\n{url}\n", "{url}\n@EXPLICIT\n", "@EXPLICIT\n{url}#sha256:xyz\n"])
def test_a_malformed_line_is_not_quoted_with_its_secret(url: str, text: str) -> None:
    said = ""
    try:
        parse_lock(text.format(url=url).encode(), Path("x"))
    except LockfileError as error:
        said = str(error)
    assert SECRET not in said


def test_urls_that_are_glued_together_show_no_secret() -> None:
    for text in (
        f" ://user:{SECRET}@h/x",
        f"file:///x/yhttps://user:{SECRET}@h.example/c",
        f"0a0https://user:{SECRET}@h.example/t/{SECRET}/c",
    ):
        assert SECRET not in mask(text)


ESCAPES = ["\x1b[31mred", "a\nb", "a\rb", "\x9b2J", "\x07", "\u202egnp.exe", "a\u2028b", "\x00"]


@pytest.mark.parametrize("text", ESCAPES)
def test_escapes_and_line_breaks_of_others_are_printed_as_escapes(text: str) -> None:
    for shown in (printable(text), markdown_text(text)):
        assert shown.isprintable()
    error = TorchlocksError(text, where=text, fix=text, details=text)
    assert error.what.isprintable()
    assert str(error).replace("\n", "").isprintable()
    for lock in (lock_text(name=f"x{text}"), lock_text(depends=text), lock_text(url=f"https://h.example/{text}")):
        with pytest.raises(LockfileError) as caught:
            parse_lock(lock.encode(), Path("x"))
        assert str(caught.value).replace("\n", "").isprintable()


@given(st.text())
def test_any_text_is_printable_afterwards(text: str) -> None:
    shown = printable(text)
    assert not any(character in shown for character in "\x1b\n\r\x00\x9b\u202e")
    shown.encode()
