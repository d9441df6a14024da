"""What `fsck` finds in an environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A file that is not as the package `package` (its record's name) installed it; `path` is relative.

    `mode_only` is True where its contents are right.
    """

    path: str
    package: str
    kind: Literal["changed", "missing"]
    why: str
    mode_only: bool = False


@dataclass(frozen=True, kw_only=True)
class PipPackage:
    """A package that pip (or another installer of wheels) put into the environment."""

    name: str
    version: str
    files: int


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is not right in an environment.

    `extra` are files that no package brought; files of `pip` packages and bytecode are not among them. `shadows` are
    sentences: what can make `import torch` load something else than the environment's package. `repaired` are the
    paths that were restored.
    """

    prefix: Path
    checked: int
    damaged: tuple[Damage, ...] = ()
    extra: tuple[str, ...] = ()
    pip: tuple[PipPackage, ...] = ()
    shadows: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True when every file is as installed and nothing hides torch; extra files do no harm by themselves."""
        return not self.damaged and not self.shadows
