"""Attach built files to the release of a tag on GitHub."""

from __future__ import annotations

import re
from pathlib import Path

from torchlocks.core.errors import ActionError, MissingFileError
from torchlocks.core.files import hash_file, write_whole
from torchlocks.core.github import run_gh
from torchlocks.core.layout import Layout
from torchlocks.publish.dist import SUMS


def publish_release(layout: Layout, tag: str, folder: Path) -> list[Path]:
    """Create the release of a tag with all files below `folder` and their SHA256SUMS; return the files.

    Raises MissingFileError if there are none, ActionError for a tag that is not one, or what `run_gh` raises.
    """
    if not re.fullmatch(r"v\d+(\.\d+){1,2}([a-z0-9.]{1,20})?", tag):
        raise ActionError(f"{tag[:60]!r} is not the tag of a release.", fix="name one like v1.2.0")
    found = {path.name: path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SUMS}
    if not found:
        raise MissingFileError("There is nothing to release.", where=str(folder), fix="build it: torchlocks dist")
    sums = folder / SUMS
    write_whole(sums, "".join(f"{hash_file(path)}  {name}\n" for name, path in sorted(found.items())))
    files = [*found.values(), sums]
    run_gh(
        layout.root,
        *("release", "create", tag, "--verify-tag", "--title", tag, "--notes", "See CHANGELOG.md."),
        *(str(path.resolve()) for path in files),
    )
    return files
