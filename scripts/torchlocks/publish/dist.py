"""Build the wheel and the source distribution of torchlocks itself, with the sums of their bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from torchlocks.core.errors import RecipeError
from torchlocks.core.files import hash_file, write_whole
from torchlocks.core.git import GitError, git
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.core.text import last_lines

SUMS = "SHA256SUMS"

_BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def build_dist(layout: Layout, progress: Progress) -> list[Path]:
    """Build `build/dist` anew and return its files, SHA256SUMS last.

    Only files that git tracks are built from, in a scratch folder, and they carry the time of the commit. The
    setuptools of this environment is used; nothing is downloaded. Raises RecipeError if the build fails.
    """
    folder = layout.build / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with progress.task("Building wheel and source distribution"), tempfile.TemporaryDirectory() as scratch:
        for hook in ("build_wheel", "build_sdist"):
            source = Path(scratch) / hook
            _copy_tracked(layout.root, source)
            _build(layout.root, source, hook, folder)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    sums = folder / SUMS
    write_whole(sums, "".join(f"{hash_file(path)}  {path.name}\n" for path in files))
    return [*files, sums]


def _copy_tracked(root: Path, target: Path) -> None:
    try:
        names = git("ls-files", "-z", cwd=root).decode().split("\0")
    except GitError as error:
        raise RecipeError("A release is built from a git checkout.", where=str(root), details=str(error)) from None
    for name in filter(None, names):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)


def _build(root: Path, source: Path, hook: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, hook, str(folder)],
        cwd=source,
        env={**os.environ, "SOURCE_DATE_EPOCH": _commit_time(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RecipeError(
            "torchlocks could not be built.",
            where=str(root),
            fix="see the output of setuptools below",
            details=last_lines(done.stdout + done.stderr),
        )


def _commit_time(root: Path) -> str:
    try:
        return git("log", "-1", "--format=%ct", cwd=root).decode().strip() or "0"
    except GitError:
        return "1700000000"
