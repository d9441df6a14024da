"""Replace the prefix in a package's files: binaries, text files, and the first lines of scripts."""

from __future__ import annotations

import re

from .model import BundleError

# The longest first line of a script that the kernel accepts, in bytes.
SHEBANG_LIMIT = {"linux": 127, "osx": 512}


def replace_binary(content: bytes, placeholder: str, prefix: str) -> bytes:
    """Replace the prefix in the C strings of `content`, each padded with NULs to its old length.

    Raises BundleError if the prefix is longer than the placeholder.
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
    """Replace the prefix in `content`.

    A first line `#!…` that a kernel would refuse (longer than `limit`, or with a space in the path) is rewritten.
    `limit` is None on Windows, where there are no such lines.
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
