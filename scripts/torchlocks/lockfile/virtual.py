"""Virtual packages, such as `__glibc=2.28`: properties of a machine that match specs can require."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class VirtualPackage:
    """Version and build string of a virtual package; the build is None where none is given, and conda takes 0."""

    version: str = "0"
    build: str | None = None

    @classmethod
    def from_value(cls, value: str) -> VirtualPackage:
        """Parse "version" or "version build", as `matrix.yml` and conda-lock have it."""
        version, _, build = value.partition(" ")
        return cls(version=version, build=build or None)

    @property
    def value(self) -> str:
        """The text "version" or "version build", of which `from_value` is the reverse."""
        return self.version if self.build is None else f"{self.version} {self.build}"

    @property
    def text(self) -> str:
        """The text "version" or "version=build", as conda shows it."""
        return self.version if self.build is None else f"{self.version}={self.build}"

    @property
    def full(self) -> tuple[str, str]:
        """Version and build string, with conda's default for the build."""
        return self.version, self.build or "0"


def parse_virtual(texts: Iterable[str]) -> dict[str, VirtualPackage]:
    """Parse the `__name[=version[=build]]` texts of a lockfile; return the packages by name."""
    found = {}
    for text in texts:
        name, *rest = text.split("=", 2)
        found[name] = VirtualPackage(version=rest[0] if rest else "0", build=rest[1] if len(rest) > 1 else None)
    return found
