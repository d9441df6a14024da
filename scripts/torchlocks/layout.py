"""Where things are: the repository's own files and the folders that are made beside them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torchlocks.errors import MissingFileError


@dataclass(frozen=True)
class Layout:
    """The paths of one torchlocks checkout; `root` is the folder that holds `matrix.yml`."""

    root: Path

    @property
    def matrix(self) -> Path:
        return self.root / "matrix.yml"

    @property
    def locks(self) -> Path:
        """The committed lockfiles, one folder an environment."""
        return self.root / "locks"

    @property
    def recipes(self) -> Path:
        return self.root / "recipes"

    @property
    def suite(self) -> Path:
        """The verification suite that runs inside environments."""
        return self.root / "tests" / "torch"

    @property
    def envs(self) -> Path:
        """Installed environments, one prefix each (made, not committed)."""
        return self.root / "envs"

    @property
    def build(self) -> Path:
        """Everything that can be made again: the local channel, its wheels, local locks."""
        return self.root / "build"

    @property
    def channel(self) -> Path:
        """The local channel: `<channel>/<subdir>/repodata.json` beside its packages."""
        return self.build / "channel"

    @property
    def local_locks(self) -> Path:
        """Locks against the local channel, one folder an environment."""
        return self.build / "local"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def prefix(self, env: str) -> Path:
        """The prefix in which the environment `env` is installed."""
        return self.envs / env


def find_layout(start: Path | None = None) -> Layout:
    """The checkout that holds `start` (default: the current folder), or `$TORCHLOCKS_ROOT`.

    Raises MissingFileError when no folder from `start` upwards has a `matrix.yml`.
    """
    named = os.environ.get("TORCHLOCKS_ROOT")
    begin = Path(named) if named else (start or Path.cwd())
    begin = begin.resolve()
    for folder in (begin,) if named else (begin, *begin.parents):
        if (folder / "matrix.yml").is_file():
            return Layout(folder)
    raise MissingFileError(
        "This is not a torchlocks checkout: no matrix.yml here or in any folder above.",
        where=str(begin),
        fix="change into a clone of torchlocks, or set TORCHLOCKS_ROOT to one.",
    )
