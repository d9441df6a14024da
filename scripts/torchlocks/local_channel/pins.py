"""Read the hash-pinned wheels of a local channel, and select those for this Python and platform."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from torchlocks.core.errors import WheelError

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_COMMENT = re.compile(r"(^|\s)#.*")


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One line of a pin file: `name` is normalised, `hashes` are lower-case hexadecimal SHA-256."""

    name: str
    version: Version
    hashes: frozenset[str]
    marker: Marker | None
    where: str

    @property
    def applies(self) -> bool:
        """Whether the line is for the Python and the platform that run this code."""
        return self.marker is None or self.marker.evaluate()

    @property
    def requirement(self) -> str:
        """The pin in the format of pip's hash-checking mode, without its marker."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{h}" for h in sorted(self.hashes))])


def read_pins(path: Path) -> tuple[Pin, ...]:
    """Return all pins of a requirements file, including those whose marker does not apply here.

    Raises WheelError, with file and line, unless each line is an exact version with SHA-256 hashes.
    """
    return tuple(_parse_pin(text, f"{path}:{number}") for number, text in _logical_lines(path))


def _logical_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number of its first line, text) of each requirement, with continuations joined and comments removed."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WheelError(f"The pin file cannot be read: {error}.", where=str(path)) from error
    text, begin = "", 1
    for number, line in enumerate(lines, start=1):
        if not text:
            begin = number
        clean = _COMMENT.sub("", line).rstrip()
        text += " " + clean.removesuffix("\\")
        if not clean.endswith("\\"):
            if text.strip():
                yield begin, text.strip()
            text = ""
    if text.strip():
        yield begin, text.strip()


def _parse_pin(text: str, where: str) -> Pin:
    how = "write NAME==VERSION and one --hash=sha256:… for each wheel, as `uv pip compile --generate-hashes` does."
    requirement_text, *hashes = re.split(r"\s+--hash[=\s]\s*", text)
    try:
        requirement = Requirement(requirement_text)
    except InvalidRequirement as error:
        raise WheelError(f"{requirement_text!r} is not a requirement.", where=where, fix=how) from error
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator != "==":
        raise WheelError(f"{requirement_text!r} does not pin one exact version.", where=where, fix=how)
    try:
        version = Version(specifiers[0].version)
    except InvalidVersion as error:
        raise WheelError(f"{requirement_text!r} does not pin one exact version.", where=where, fix=how) from error
    if not hashes or not all(_SHA256.fullmatch(h) for h in hashes):
        raise WheelError(f"{requirement.name} is pinned without a valid sha256 hash.", where=where, fix=how)
    return Pin(
        name=canonicalize_name(requirement.name),
        version=version,
        hashes=frozenset(h.removeprefix("sha256:") for h in hashes),
        marker=requirement.marker,
        where=where,
    )


def select_pins(pins: Iterable[Pin]) -> dict[str, Pin]:
    """Return the pins that apply to this Python, by name. Raises WheelError for two pins of one name."""
    chosen: dict[str, Pin] = {}
    for pin in pins:
        if not pin.applies:
            continue
        if pin.name in chosen:
            raise WheelError(
                f"{pin.name} is pinned twice for this Python: {chosen[pin.name].version} and {pin.version}.",
                where=f"{chosen[pin.name].where} and {pin.where}",
                fix="keep one line, or give the lines markers that exclude each other.",
            )
        chosen[pin.name] = pin
    return chosen
