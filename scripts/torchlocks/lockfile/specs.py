"""Match specs, and the records that they match."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from torchlocks.core.errors import LockfileError
from torchlocks.core.reading import is_costly_spec
from torchlocks.lockfile.formats import to_record
from torchlocks.lockfile.models import LockedPackage

if TYPE_CHECKING:
    from rattler import MatchSpec, PackageRecord


@lru_cache(maxsize=8192)
def parse_spec(text: str) -> MatchSpec | None:
    """Parse a match spec; None if conda cannot."""
    from rattler import MatchSpec
    from rattler.exceptions import InvalidMatchSpecError

    if is_costly_spec(text):
        return None
    try:
        return MatchSpec(text)
    except InvalidMatchSpecError:
        return None


@lru_cache(maxsize=8192)
def record_of(package: LockedPackage) -> PackageRecord | None:
    """Return a record to match specs with; None if conda cannot parse the package's name or version."""
    try:
        return to_record(package)
    except LockfileError:
        return None


@lru_cache(maxsize=256)
def virtual_record(name: str, version: str, build: str) -> PackageRecord | None:
    """Return the record of a virtual package; None if conda cannot parse its name, version or build."""
    from rattler import BuildString, PackageRecord
    from rattler.exceptions import InvalidPackageNameError, InvalidVersionError

    try:
        return PackageRecord(name=name, version=version, build=BuildString(build), build_number=0, subdir="noarch")
    except (InvalidPackageNameError, InvalidVersionError, ValueError):
        return None


@lru_cache(maxsize=8192)
def spec_name(spec: str) -> str:
    """Return the package name of a spec: numpy of `conda-forge::numpy >=2`."""
    parsed = parse_spec(spec)
    if parsed is None or parsed.name is None:
        return spec.split()[0] if spec.strip() else spec
    return str(parsed.name.normalized)


def satisfies(package: LockedPackage, spec: str) -> bool:
    """Return whether a package satisfies a spec, including its channel (which py-rattler does not compare)."""
    parsed, record = parse_spec(spec), record_of(package)
    if parsed is None or record is None:
        return False
    channel = parsed.channel
    if channel is not None and (channel.base_url or "").rstrip("/") != package.channel:
        return False
    return record.matches(parsed)
