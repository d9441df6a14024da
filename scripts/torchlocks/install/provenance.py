"""The provenance of an environment: `conda-meta/torchlocks`, a JSON file.

It has no extension because every conda client takes each `conda-meta/*.json` for a package record: py-rattler
and conda both refuse an environment in which one is not.

Whether there is anything to do is decided in `up_to_date`, which imports next to nothing, so that `make env-cpu` on
an environment that is up to date ends in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path

from torchlocks.core.disk import is_disk_full
from torchlocks.core.errors import DiskFullError, InstallError, MissingFileError
from torchlocks.core.files import write_whole
from torchlocks.install import up_to_date as current

RECORD = Path(current.RECORD)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The request of an installation: which environment, and the options of the user.

    `channel` is the requested channel (`auto`, `conda-forge`, `local`). `inputs` are what it was made and verified
    from, by name, with a hash each; empty where nothing but the lock counts.
    """

    name: str
    channel: str
    inputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where an installed environment came from.

    `install_id` names the installation; `prefix` is the path that was patched into its files. `records`
    are the names of its `conda-meta` records (without `.json`). `verified` is None until the torch suite
    has run. `selection` is which environment and platform of the lockfile it is, empty where there is but one.
    `files_sha256` is the hash of the inventory beside it. Times are UTC, ISO 8601.
    """

    install_id: str
    prefix: str
    name: str
    lock_sha256: str
    lock_kind: str
    lock_name: str
    platform: str
    channel: str
    channels_used: tuple[str, ...]
    records: tuple[str, ...]
    tools: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    selection: str = ""
    files_sha256: str = ""
    installed_at: str
    verified: bool | None = None
    verified_at: str | None = None
    report: str | None = None


def now() -> str:
    """The time, UTC, to the second, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_provenance(prefix: Path) -> Provenance | None:
    """Return the provenance of the environment in `prefix`; None if there is none that can be read.

    A damaged or foreign file counts as none: an environment of unknown provenance is
    never taken for current.
    """
    raw = current.read_record(str(prefix))
    if raw is None:
        return None
    known = {each.name for each in fields(Provenance)}
    try:
        found = Provenance(**{key: value for key, value in raw.items() if key in known})
        return replace(found, channels_used=tuple(found.channels_used), records=tuple(found.records))
    except TypeError:
        return None


def write_provenance(prefix: Path, provenance: Provenance) -> None:
    """Write the record into `prefix`, in one step, so that a reader sees the old one or the new one.

    Raises OSError when the file cannot be written.
    """
    # As JSON has them: a tuple is a list.
    content = json.loads(json.dumps(asdict(provenance)))
    content |= {"checksum": current.checksum(content), "schema": current.SCHEMA}
    write_whole(prefix / RECORD, json.dumps(content, indent=2, sort_keys=True) + "\n")


def mark_verified(prefix: Path, ok: bool, report: str) -> Provenance:
    """Record the suite's verdict on the environment in `prefix`; `report` is the path of the report.

    Returns the new provenance. Raises MissingFileError when `prefix` is not an environment that
    torchlocks installed, InstallError or DiskFullError when the verdict cannot be written.
    """
    found = read_provenance(prefix)
    if found is None:
        raise MissingFileError(
            "There is no environment of torchlocks here, so no verdict can be recorded.",
            where=str(prefix),
            fix="install the environment first.",
        )
    marked = replace(found, verified=ok, verified_at=now(), report=report)
    try:
        write_provenance(prefix, marked)
    except OSError as error:
        kind = DiskFullError if is_disk_full(error) else InstallError
        raise kind(
            f"The verdict could not be recorded: {error.strerror}.",
            where=str(prefix / RECORD),
            fix="see that this folder can be written to, and verify again.",
        ) from error
    return marked


def record_names(prefix: Path) -> tuple[str, ...]:
    """The names of the package records in `conda-meta`, sorted, without `.json`."""
    return tuple(current.record_names(str(prefix)))


def is_current(
    prefix: Path, lock_sha256: str, platform: str, inputs: Mapping[str, str] | None = None, *, selection: str = ""
) -> bool:
    """True if `prefix` is the environment of just this lock and nothing has been added or removed since.

    `selection` distinguishes the environments of one file.

    The set of package records is compared, not every file: that is what `fsck` is for. The inputs count
    where they are given.
    """
    found = current.read_record(str(prefix))
    return (
        found is not None
        and found.get("lock_sha256") == lock_sha256
        and found.get("platform") == platform
        and found.get("selection", "") == selection
        and inputs in (None, found.get("inputs", {}))
        and current.is_as_recorded(found, str(prefix))
    )
