"""The `environment.yml` of another repository: its requirements on top of a base, each with its line."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchlocks.core.errors import EnvironmentFileError
from torchlocks.core.reading import is_costly_spec, read_bytes, refuse_costly_yaml
from torchlocks.core.text import TO_UTF8, EncodingError, conflict_line, decode

_SELECTORS = ("linux", "linux64", "aarch64", "osx", "osx64", "arm64", "unix", "win", "win64")
_PLATFORMS = ("linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64")
_ENVIRONMENT_BYTES = 256 << 10
_KEYS = ("name", "channels", "platforms", "dependencies")
_LEFT_OUT = {
    "prefix": "`prefix` is where the environment was on another machine, and is ignored",
    "variables": "`variables` are no packages, and no lock contains them: set them in the installed environment, "
    "`conda env config vars set -p PREFIX NAME=VALUE`",
}
"""Keys of conda's that are ignored, with a note for the user."""


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """One required match spec, the package that it names, and its place: file and line."""

    spec: str
    name: str
    place: str


@dataclass(frozen=True, kw_only=True)
class EnvironmentFile:
    """The contents of an `environment.yml`.

    `platforms` are those it names, empty for any. `by_line` are its match specs with the text of their lines, including
    selectors (`# [linux]`), which limit a requirement to platforms. `notes` name what of the file is not locked.
    """

    path: Path
    name: str
    channels: tuple[str, ...]
    platforms: tuple[str, ...]
    by_line: tuple[tuple[Requirement, str], ...]
    notes: tuple[str, ...] = ()

    def on(self, platform: str) -> tuple[Requirement, ...]:
        """Return the requirements of a platform, in the order of the file."""
        return tuple(requirement for requirement, line in self.by_line if _counts(line, platform))

    def rendered(self, platform: str, channels: tuple[str, ...]) -> str:
        """Return the requirements of one platform as a conda environment file, for conda-lock's content hash."""
        import yaml

        return yaml.safe_dump(
            {
                "name": self.name,
                "channels": list(channels),
                "platforms": [platform],
                "dependencies": [requirement.spec for requirement in self.on(platform)],
            },
            sort_keys=False,
        )


def _counts(line: str, platform: str) -> bool:
    """Return whether a line applies to a platform, by the selector at its end."""
    if "#" not in line:
        return True
    from conda_lock.src_parser import selectors

    # It warns of every line for another platform, although selectors are for that.
    selectors.logger.setLevel(logging.ERROR)
    return bool(list(selectors.filter_platform_selectors(line, platform)))


def read_environment_file(path: Path) -> EnvironmentFile:
    """Read a conda environment file. Raises EnvironmentFileError naming the file, the line and the key."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        text = decode(read_bytes(path, _ENVIRONMENT_BYTES))
        if (line := conflict_line(text)) is not None:
            raise EnvironmentFileError(
                "The environment file has unresolved merge conflicts.",
                where=f"{path}, line {line}",
                fix="take one side of each",
            )
        refuse_costly_yaml(text)
        document = YAML(typ="rt").load(text)
    except EnvironmentFileError:
        raise
    except OSError as error:
        raise EnvironmentFileError(
            f"The environment file cannot be read: {error.strerror}.",
            where=str(path),
            fix="name the environment.yml of your repository",
        ) from None
    except EncodingError as error:
        raise EnvironmentFileError(
            f"The file is not UTF-8 text: {error}.", where=str(path), fix=f"write it as UTF-8: {TO_UTF8}"
        ) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise EnvironmentFileError(
            f"The environment file is not valid YAML: {error.problem or error.context}.", where=where
        ) from None
    except Exception as error:
        # ruamel.yaml has TypeError, AttributeError and others for what it cannot construct.
        reason = str(error).splitlines()[0] if str(error) else "it is nested too deeply"
        raise EnvironmentFileError(f"The environment file is not valid YAML: {reason}.", where=str(path)) from None
    return _Reader(path, text).read(document)


class _Reader:
    """Validates the document key by key; every error names its line."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.lines = text.splitlines()

    def read(self, document: Any) -> EnvironmentFile:
        if not isinstance(document, Mapping):
            raise EnvironmentFileError(
                "This is not a conda environment file: it has no `dependencies`.", where=str(self.path)
            )
        for key in document:
            if key not in _KEYS and key not in _LEFT_OUT:
                raise self._error(
                    self._line(document, key),
                    f"`{key}` cannot be part of a lock on a base.",
                    f"leave it out: {', '.join(_KEYS)} are read",
                )
        if "dependencies" not in document:
            raise EnvironmentFileError(
                "This is not a conda environment file: it has no `dependencies`.",
                where=str(self.path),
                fix="list what you need besides the base under `dependencies:`",
            )
        by_line = tuple(
            (self._requirement(item, line), self._selectable(line))
            for item, line in self._items(document, "dependencies")
        )
        return EnvironmentFile(
            path=self.path,
            name=self._name(document),
            channels=tuple(c for c, _ in self._texts(document, "channels") if c != "nodefaults"),
            platforms=tuple(platform for platform, _ in self._texts(document, "platforms")),
            by_line=by_line,
            notes=tuple(
                f"{note} ({self.path.name}, line {self._line(document, key)})"
                for key, note in _LEFT_OUT.items()
                if document.get(key) is not None
            ),
        )

    def _name(self, document: Mapping[str, Any]) -> str:
        """Return the environment's name, by default the folder's. It is part of the lock's first line, so it has no
        line break.
        """
        name = document.get("name")
        if name is None:
            return self.path.resolve().parent.name
        if not isinstance(name, str | int | float) or not str(name).strip() or not str(name).isprintable():
            raise self._error(self._line(document, "name"), "`name` must be text of one line.", None)
        return str(name)

    def _requirement(self, item: Any, line: int) -> Requirement:
        from rattler import MatchSpec
        from rattler.exceptions import InvalidMatchSpecError

        if isinstance(item, Mapping) and "pip" in item:
            raise self._error(
                line,
                "pip packages cannot be locked on a base: they are outside what the solver proves.",
                "ask for the conda packages instead; what only PyPI has can be made a conda package with a recipe",
            )
        if not isinstance(item, str):
            raise self._error(line, "Each of `dependencies` must be a match spec, such as `numpy >=2`.", None)
        if is_costly_spec(item):
            raise self._error(line, f"This is not a match spec: it has {len(item)} characters.", None)
        try:
            parsed = MatchSpec(item, strict=False)
        except InvalidMatchSpecError as error:
            raise self._error(line, f"{item!r} is not a match spec: {error}.", "write it as `name >=version`") from None
        assert parsed.name is not None, "py-rattler refuses specs without a name"
        return Requirement(spec=item, name=str(parsed.name.normalized), place=f"{self.path.name}, line {line}")

    def _selectable(self, line: int) -> str:
        """Return the text of a line. Raises EnvironmentFileError for a selector that is true on no platform."""
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        if not any(_counts(text, platform) for platform in _PLATFORMS):
            raise self._error(
                line,
                "The line ends in a selector that is true on no platform.",
                f"write one of {', '.join(f'[{name}]' for name in _SELECTORS)}; comments must have no brackets",
            )
        return text

    def _texts(self, document: Mapping[str, Any], key: str) -> list[tuple[str, int]]:
        found = self._items(document, key)
        for item, line in found:
            if not isinstance(item, str):
                raise self._error(line, f"Each of `{key}` must be text.", None)
        return found

    def _items(self, document: Mapping[str, Any], key: str) -> list[tuple[Any, int]]:
        """Return the items of a list with their lines, from 1; empty if the key is missing or has no value."""
        value = document.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._error(self._line(document, key), f"`{key}` must be a list.", None)
        positions: Any = value
        return [(item, positions.lc.item(index)[0] + 1) for index, item in enumerate(value)]

    def _line(self, document: Any, key: Any) -> int:
        try:
            return int(document.lc.key(key)[0]) + 1
        except (AttributeError, KeyError, TypeError):
            return 1

    def _error(self, line: int, what: str, fix: str | None) -> EnvironmentFileError:
        return EnvironmentFileError(what, where=f"{self.path}, line {line}", fix=fix)
