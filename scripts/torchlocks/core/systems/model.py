"""The functions and constants that the module of each system has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Protocol


class System(Protocol):
    """A system: each is a module of this package."""

    @property
    def UNIX(self) -> bool:
        """Whether files have modes and owners, and programs take signals, as on Unix."""

    @property
    def BUILD_PYTHON(self) -> str:
        """The Python of the host environment, as a build script names it."""

    @property
    def SCRIPTS(self) -> str:
        """The folder of an environment with its programs."""

    @property
    def ACTIVATE(self) -> str:
        """The name of a script that activates an environment: the shell knows its language by it."""

    @property
    def SHELL(self) -> str:
        """The shell that activation scripts are for: `bash` or `cmd`."""

    def python(self, prefix: Path) -> Path:
        """Return the Python of an environment."""

    def site_packages(self, minor: str) -> str:
        """Return where modules are in an environment with a Python such as `3.12`."""

    def program(self, name: str) -> str:
        """Return the file name of a program."""

    def url_path(self, url: str) -> str:
        """Return the path that a `file:` URL names."""

    def command_line(self, arguments: Sequence[str]) -> str:
        """Return arguments as one line of an activation script."""

    def runner(self, environ: Mapping[str, str]) -> list[str]:
        """Return the program, and its options, that runs an activation script."""

    def bare(self, environ: Mapping[str, str], home: PurePath) -> dict[str, str]:
        """Return the variables of an environment with nothing but the system in it, and `home` as the home folder."""

    def exchange(self, one: Path, other: Path) -> bool:
        """Exchange two folders in one step; False where the system or the disk cannot. Raises OSError otherwise."""

    def link_folder(self, link: Path, target: Path) -> None:
        """Make `link` a link to the folder `target`, with the rights of any user. Raises OSError."""

    def too_long(self, prefix: str, longest: int) -> str | None:
        """Return why an environment at `prefix` cannot have a path of `longest` characters; None if it can."""

    def in_use(self, error: OSError) -> bool:
        """Return whether a file or folder could not be changed because a program has it open."""
