"""Open and parse untrusted files: regular files only, with limits on size and nesting.

A path can name a FIFO (opening it blocks), a device such as `/dev/zero` (endless) or a file larger than memory, and a
document of a few bytes can expand to gigabytes (YAML aliases) or overflow the stack (nesting).
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import IO, Any

LOCK_BYTES = 32 << 20
"""Largest lockfile that is read; conda-lock.yml of 5 platforms with 500 packages each has about 2 MB."""
TEXT_BYTES = 1 << 20
"""Largest environment file, matrix, host record, signature or list of signers that is read."""
RECORD_BYTES = 256 << 20
"""Largest JSON in a package or bundle; the file list of the largest CUDA packages has some 10 MB."""
LISTING_BYTES = 64 << 20
"""Largest list of the files of a package that is read."""
DEEPEST = 64
"""Deepest nesting of a document; real ones have about 10."""
MOST_VALUES = 2_000_000
"""Most values of a JSON document; the file lists of the largest CUDA packages have some 200,000. Each takes up to 300
bytes of memory."""
MOST_NODES = 1_000_000
"""Most lines and items of a YAML document; the lock of 5 platforms with 500 packages each has some 70,000. Each takes
up to 1 KB of memory while it is parsed."""

_LONGEST_SPEC = 4000
"""Characters; the longest match specs of conda-forge have some 200."""


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    Raises OSError, with the reason as `strerror`, if the file is not regular, is too large, or cannot be read. Does not
    block on a FIFO.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # The size of a file in /proc is 0; one that is being written grows.
        data = file.read(limit + 1) if size <= limit else b""
    if size > limit or len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than the {limit >> 20} MiB that are read of such a file", str(path))
    return data


def require_readable(path: Path, limit: int) -> None:
    """Raise OSError, as `read_bytes` does, for a file that a library is not to open itself."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {limit >> 20} MiB", str(path))


def open_regular(path: Path, *, buffering: int = -1) -> IO[bytes]:
    """Open a regular file for reading. Raises OSError as `read_bytes` does, and does not block on a FIFO.

    `buffering` is that of `open`: 0 for reads of large blocks.
    """
    # Checked before it is opened, since opening a device can have an effect; and after, since it can have changed.
    _require_regular(os.stat(path), path)  # noqa: PTH116
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    file: IO[bytes] = os.fdopen(os.open(path, flags), "rb", buffering)
    try:
        _require_regular(os.fstat(file.fileno()), path)
    except BaseException:
        file.close()
        raise
    return file


def read_text(path: Path, limit: int = TEXT_BYTES, encoding: str = "utf-8") -> str:
    """Return the text of a file, with the rules of `read_bytes`; line ends become newlines.

    Raises OSError, and UnicodeDecodeError for a file in another encoding.
    """
    return read_bytes(path, limit).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def _require_regular(found: os.stat_result, path: Path) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kinds = ((stat.S_ISFIFO, "a FIFO (named pipe)"), (stat.S_ISSOCK, "a socket"))
    kind = next((name for test, name in kinds if test(found.st_mode)), "a device")
    raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))


def refuse_costly_json(data: bytes | str) -> bytes | str:
    """Return the JSON; raise ValueError if it may have more than `MOST_VALUES` values, which need gigabytes.

    Commas and brackets are counted, also those in texts: real documents do not come near.
    """
    signs: tuple[Any, ...] = (",", "[", "{") if isinstance(data, str) else (b",", b"[", b"{")
    if len(data) > MOST_VALUES and sum(map(data.count, signs)) > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES} values")
    return data


def load_json(data: bytes | str) -> Any:
    """Parse JSON. Raises ValueError if it is not valid, nested more than `DEEPEST` deep or has too many values."""
    try:
        document: Any = json.loads(refuse_costly_json(data))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [document] if isinstance(document, dict | list) else []
    for _ in range(DEEPEST):
        if not level:
            return document
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
    if not level:
        return document
    raise ValueError("it is nested too deeply")


def is_costly_spec(text: str) -> bool:
    """Return whether a text would crash a parser of match specs: py-rattler recurses on each parenthesis."""
    return len(text) > _LONGEST_SPEC or text.count("(") > DEEPEST


def refuse_many_lines(text: str) -> None:
    """Raise ValueError for a text with more than `MOST_NODES` lines and items of lists, which need gigabytes."""
    if len(text) > MOST_NODES and sum(map(text.count, ("\n", "\r", ",", "[", "{"))) > MOST_NODES:
        raise ValueError(f"it has more than {MOST_NODES} lines and values")


def refuse_costly_yaml(text: str) -> None:
    """Raise ValueError for YAML that is expensive to parse: deep nesting, aliases that multiply, too many values.

    With aliases of aliases 1 KB can expand to gigabytes; parsers recurse, and libyaml's time is quadratic in the depth.
    A text that can contain neither is not parsed here. Invalid YAML is left to the caller's parser.
    """
    refuse_many_lines(text)
    if not _may_be_costly(text):
        return
    import yaml

    loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    # For each open collection: its anchor, and the number of nodes before it, aliases expanded.
    open_nodes: list[tuple[str | None, int]] = []
    expanded: dict[str, int] = {}
    nodes = total = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            line: Any = event.start_mark
            name: Any = getattr(event, "anchor", None)
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((name, total))
                if len(open_nodes) > DEEPEST:
                    raise ValueError(f"line {line.line + 1} is nested too deeply")
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_nodes.pop()
                if anchor:
                    expanded[anchor] = total - before
            elif isinstance(event, yaml.AliasEvent):
                total += expanded.get(name, 1)
            elif not isinstance(event, yaml.NodeEvent):
                continue
            nodes, total = nodes + 1, total + 1
            if total > 2 * nodes + 100_000:
                raise ValueError(f"its aliases stand for too many copies (line {line.line + 1})")
    except yaml.YAMLError:
        return


def _may_be_costly(text: str) -> bool:
    brackets = text.count("[") + text.count("{") - text.count("[]") - text.count("{}")
    return (
        brackets > DEEPEST
        or " " * DEEPEST in text
        or re.search(r"(?:[-?:][ \t]+){8}", text) is not None
        or ("&" in text and re.search(r"(?:^|[\s\[{,])&\S", text) is not None)
    )
