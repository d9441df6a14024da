"""Puts the repository's own files into the wheel: matrix, templates, locks, recipes, the torch suite and docs.

They are committed once, where a checkout has them; the wheel holds them as `torchlocks/_data`, laid out the same,
and `torchlocks.layout` finds them there. An editable install has no copies. All else is in pyproject.toml.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
FILES = ("LICENSE", "matrix.yml", "environment-cpu.yml", "environment-gpu.yml")
FOLDERS = ("docs", "evidence", "locks", "recipes", "tests/torch")


def repository_files() -> Iterator[Path]:
    """What of the repository goes into the wheel, relative to its root, in order."""
    yield from map(Path, FILES)
    for folder in FOLDERS:
        for parent, folders, files in os.walk(ROOT / folder):
            here = Path(parent).relative_to(ROOT)
            folders[:] = sorted(name for name in folders if not _is_made(here / name))
            for name in sorted(files):
                if not name.startswith(".") and not name.endswith(".pyc"):
                    yield here / name


def _is_made(folder: Path) -> bool:
    """Whether a folder holds what tools leave there: caches, and what `pip install ./tests/torch` builds in."""
    return folder.name.startswith((".", "__")) or folder.suffix == ".egg-info" or folder == Path("tests/torch/build")


class BuildWithRepository(build_py):
    """setuptools' build_py, which copies the repository's files beside the modules."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        package = Path(self.build_lib) / "torchlocks"
        # An earlier build in the same folder may have left modules and files that are gone since.
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        data = package / "_data"
        for path in repository_files():
            (data / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, data / path)

    def get_source_files(self) -> list[str]:
        """So that a source distribution has them as well."""
        return [*super().get_source_files(), *(path.as_posix() for path in repository_files())]


setup(cmdclass={"build_py": BuildWithRepository})
