"""Paths of the repository's committed files and of the generated folders.

In a checkout both are in one folder. An installed torchlocks (a wheel) contains the repository's files in its package,
where nothing is written; generated folders are then in the current folder.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from torchlocks.core.errors import MissingFileError, NotACheckoutError

PACKAGED = Path(__file__).parents[1] / "_data"
"""The repository's files in an installed wheel, laid out as in a checkout (setup.py puts them there)."""


@dataclass(frozen=True)
class Layout:
    """The paths of a checkout or an installation.

    `root` is the folder with `matrix.yml` and all other committed files. `made_in` is the folder for environments,
    builds and reports; None for `root` itself.
    """

    root: Path
    made_in: Path | None = None

    @property
    def packaged(self) -> bool:
        """Whether the committed files are those of an installed wheel, which must not be changed."""
        return self.root == PACKAGED

    @property
    def made(self) -> Path:
        """The folder for environments, builds and reports."""
        return self.made_in or self.root

    @property
    def matrix(self) -> Path:
        return self.root / "matrix.yml"

    @property
    def locks(self) -> Path:
        """The committed lockfiles, one folder an environment."""
        return self.root / "locks"

    @property
    def evidence(self) -> Path:
        """Committed records of which lock was proven where."""
        return self.root / "evidence"

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
        return self.made / "envs"

    @property
    def build(self) -> Path:
        """Generated files: the local channel, its wheels, local locks."""
        return self.made / "build"

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
        return self.made / "reports"

    def prefix(self, env: str) -> Path:
        """The prefix in which the environment `env` is installed."""
        return self.envs / env

    def require_checkout(self, verb: str) -> None:
        """Raise NotACheckoutError outside a checkout; `verb` is the command for the message."""
        if self.packaged:
            raise NotACheckoutError(
                f"`{verb}` works on the files of a checkout, and this is not a checkout of torchlocks.",
                where=f"{Path.cwd()}: no matrix.yml here or in any folder above; "
                "the locks in use are those of the installed package",
                fix="run it in a clone of torchlocks, or set TORCHLOCKS_ROOT to one.",
            )


def find_layout(start: Path | None = None) -> Layout:
    """Return the layout of `$TORCHLOCKS_ROOT`, else of the checkout that contains `start`, else of the wheel.

    `start` defaults to the current folder. Generated folders are in `$TORCHLOCKS_HOME` if that is set, else in the
    checkout, and with a wheel's files in `start`. A checkout has a `matrix.yml` and a template beside it, since other
    projects have a `matrix.yml`, too. Raises MissingFileError when no folder from `start` upwards is a checkout and
    this torchlocks was not installed from a wheel.
    """
    named = os.environ.get("TORCHLOCKS_ROOT")
    home = os.environ.get("TORCHLOCKS_HOME")
    made_in = Path(home).resolve() if home else None
    begin = Path(named) if named else (start or Path.cwd())
    begin = begin.resolve()
    for folder in (begin,) if named else (begin, *begin.parents):
        if (folder / "matrix.yml").is_file() and (named or any(folder.glob("environment-*.yml"))):
            return Layout(folder, made_in)
    if not named and (PACKAGED / "matrix.yml").is_file():
        return Layout(PACKAGED, made_in or begin)
    raise MissingFileError(
        "This is not a torchlocks checkout: no matrix.yml here or in any folder above.",
        where=str(begin),
        fix="change into a clone of torchlocks, or set TORCHLOCKS_ROOT to one.",
    )


def builtin_layout() -> Layout:
    """Return the layout of the files that this torchlocks brings: its wheel's, or the checkout's that it runs from."""
    for folder in (PACKAGED, Path(__file__).parents[3]):
        if (folder / "matrix.yml").is_file():
            return Layout(folder, Path.cwd())
    return find_layout()


_VERBS = (
    "bench|bundle|channel|check|diff|doctor|env-cpu|env-gpu|export|fsck|image|licences|lock|matrix|pair|recipes|render|"
    "rollback|run|sbom|shell|sign|site|update-all|update|verify|why"
)
_MAKE = re.compile(rf"\bmake ({_VERBS})\b(?!-)((?: [A-Z_]+=[^\s,;:)]*)*)")
_OPTIONS = {
    "ENV": "{}",
    "PKG": "{}",
    "CUDA": "--cuda {}",
    "PY": "--python {}",
    "TORCH": "--torch {}",
    "CHANNEL": "--channel {}",
    "PLATFORM": "--platform {}",
    "MIRROR": "--mirror {}",
    "SNAPSHOT": "--snapshot {}",
    "AS_OF": "--as-of {}",
    "OFFLINE": "--offline",
    "FORCE": "--force",
    "QUICK": "--quick",
    "FIX": "--fix",
    "REQUIRE_GPU": "--require-gpu",
    "PORTABLE": "--portable",
    "BASE": "--base {}",
    "FILE": "--unpack {}",
}
# Variables that a message names alone; ENV and CUDA are part of sentences about environments.
_ALONE = re.compile(r"(?<![\w=/?&-])(BASE|MIRROR|SNAPSHOT|CHANNEL|OFFLINE|FORCE|REQUIRE_GPU|CUDA)=([^\s,;:)]*)")
_BY_MAKE = "TORCHLOCKS_MAKE"


def note_the_caller() -> None:
    """Record whether make called this program, and remove the variable, so that child processes do not see it."""
    global _called_by_make
    _called_by_make = bool(os.environ.pop(_BY_MAKE, None))


_called_by_make = False


def as_typed_here(text: str) -> str:
    """Return `text` with make commands and variables replaced by those of `torchlocks`, unless make is in use.

    Messages name make's commands; an installed torchlocks has no Makefile.
    """
    if _called_by_make:
        return text
    return _ALONE.sub(_option, _MAKE.sub(_without_make, text)).replace(" CMD=", " ")


def _without_make(found: re.Match[str]) -> str:
    options = [setting.partition("=") for setting in found[2].split()]
    # Verbs about all environments take one as an option, the others as their argument.
    forms = _OPTIONS | ({"ENV": "--env {}"} if found[1] in ("check", "lock", "render", "update", "why") else {})
    known = [forms[name].format(value) for name, _, value in options if name in forms]
    verb = {"pair": "env gpu --pair", "env-cpu": "env cpu", "env-gpu": "env gpu"}.get(found[1], found[1])
    return " ".join(["torchlocks", verb, *known])


def _option(found: re.Match[str]) -> str:
    return _OPTIONS[found[1]].format(found[2])
