"""What is proven of a lock, for people: where, how long ago, and what is not covered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from torchlocks.core.errors import LockfileError
from torchlocks.core.files import hash_file
from torchlocks.core.layout import Layout
from torchlocks.lockfile.formats import CONDA_LOCK, explicit_name, parse_lock
from torchlocks.lockfile.models import LockedPackage

if TYPE_CHECKING:
    from torchlocks.evidence.model import Evidence, ProvenState

_STRONGEST: tuple[ProvenState, ...] = ("gpu", "cpu", "cuda-build", "partial")


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A record, compared with the present lock. `differing` is how many packages differ, None on the very same lock."""

    record: Evidence
    differing: int | None

    @property
    def current(self) -> bool:
        """Whether the record is on this very lock."""
        return self.differing is None


@dataclass(frozen=True, kw_only=True)
class Proofs:
    """All records of one environment and platform, the newest first."""

    proofs: tuple[Proof, ...]

    @property
    def current(self) -> tuple[Proof, ...]:
        """The records on the present lock."""
        return tuple(proof for proof in self.proofs if proof.current)

    @property
    def state(self) -> ProvenState | None:
        """The most that is proven of the present lock."""
        found = {proof.record.state for proof in self.current}
        return next((state for state in _STRONGEST if state in found), None)

    @property
    def newest(self) -> Evidence | None:
        """The newest record of the present lock, else the newest of all."""
        first = next(iter(self.current or self.proofs), None)
        return first.record if first else None

    def text(self) -> str:
        """Return one line: where the lock was proven, or how much it differs from the one that was."""
        if self.current:
            return proven_text([proof.record for proof in self.current])
        if not self.proofs:
            return "no evidence"
        # The most similar lock counts; of equals, the newest.
        nearest = min(self.proofs, key=lambda proof: proof.differing or 0)
        on = [each.record for each in self.proofs if each.record.lock_sha256 == nearest.record.lock_sha256]
        count = nearest.differing or 0
        packages = f"{count} package{'s' if count != 1 else ''} differ{'s' if count == 1 else ''}"
        what = packages if count else "with the same packages"
        return f"proven for a previous lock, {what} ({proven_text(on)})"

    def not_covered(self, *, cuda: bool) -> tuple[str, ...]:
        """Return what the evidence on the present lock does not cover; empty where there is none."""
        if not self.current:
            return ()
        mine = [proof.record for proof in self.current]
        gaps = sorted({id for each in mine for id in each.gaps} - {id for each in mine for id in _passed(each)})
        missing = [f"{id.partition('::')[2].removeprefix('test_')}: required, not proven" for id in gaps]
        if cuda and not any(each.machine.gpus for each in mine):
            missing.insert(0, "computing on a GPU")
        if cuda and not any(len(each.machine.gpus) > 1 for each in mine):
            missing.append("several GPUs")
        return tuple(missing)


def _passed(record: Evidence) -> set[str]:
    return {each.id for each in record.required if each.result == "passed"}


def differing(before: Iterable[str], after: Iterable[str]) -> int:
    """Return how many package names differ between two lists of `name version build`."""
    return len({line.partition(" ")[0] for line in set(before) ^ set(after)})


def proofs_of(found: Iterable[Evidence], lock_sha256: str, packages: tuple[LockedPackage, ...]) -> Proofs:
    """Return the records of one environment and platform, compared with its present lock."""
    from torchlocks.evidence.record import package_lines

    now = package_lines(packages)
    seen = (
        Proof(record=each, differing=None if each.lock_sha256 == lock_sha256 else differing(each.packages, now))
        for each in found
    )
    return Proofs(proofs=tuple(sorted(seen, key=lambda proof: (proof.record.date, proof.record.name), reverse=True)))


def all_proofs(layout: Layout) -> Mapping[str, Proofs]:
    """Return what is proven by `env/platform`, for those with records and a lock.

    The short explicit files are read, since `doctor` has to be quick; `check` is what reports unreadable locks.
    """
    # Most checkouts have no records, and importing their models takes half of the start of `doctor`.
    if not any(layout.evidence.rglob("*.json")):
        return {}
    from torchlocks.evidence.store import records

    by_cell: dict[str, list[Evidence]] = {}
    for record in records(layout):
        by_cell.setdefault(record.cell, []).append(record)
    found: dict[str, Proofs] = {}
    for cell, mine in sorted(by_cell.items()):
        env, _, platform = cell.partition("/")
        whole, explicit = layout.locks / env / CONDA_LOCK, layout.locks / env / explicit_name(platform)
        if not whole.is_file() or not explicit.is_file():
            continue
        try:
            lock = parse_lock(explicit.read_bytes(), explicit)
        except (LockfileError, OSError):
            continue
        found[cell] = proofs_of(mine, hash_file(whole), lock.packages.get(platform, ()))
    return found


def by_environment(proofs: Mapping[str, Proofs]) -> Mapping[str, str]:
    """Return one line for each environment, over all of its platforms.

    Records on the present locks count; where there are none, the line has the number of packages that differ.
    """
    by_env: dict[str, list[Proofs]] = {}
    for cell, each in proofs.items():
        by_env.setdefault(cell.partition("/")[0], []).append(each)
    found: dict[str, str] = {}
    for env, mine in by_env.items():
        current = [proof.record for each in mine for proof in each.current]
        found[env] = proven_text(current) if current else "; ".join(dict.fromkeys(each.text() for each in mine))
    return found


def proven_text(found: Iterable[Evidence]) -> str:
    """Return where records prove something: `verified on A100 (driver 550); CI: Ubuntu 24.04, macOS 15`."""
    by_hand: dict[str, list[str]] = {}
    in_ci: dict[str, list[str]] = {}
    for record in found:
        kinds = in_ci if record.workflow and not record.machine.gpus else by_hand
        kinds.setdefault(_WORDS[record.state], []).extend(places_of(record))
    parts = [f"{word} on {_listed(places)}" for word, places in sorted(by_hand.items(), key=_order)]
    for word, places in sorted(in_ci.items(), key=_order):
        how = "" if word == _WORDS["cpu"] else f" ({word})"
        parts.append(f"CI{how}: {_listed(places)}")
    return "; ".join(parts)


_WORDS: Mapping[ProvenState, str] = {
    "gpu": "verified",
    "cpu": "verified",
    "cuda-build": "build verified",
    "partial": "partly verified",
}


def _order(item: tuple[str, list[str]]) -> int:
    return list(dict.fromkeys(_WORDS.values())).index(item[0])


def _listed(places: list[str]) -> str:
    """Return the places once each, in natural order."""

    def order(text: str) -> list[tuple[bool, int, str]]:
        return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", text)]

    return ", ".join(sorted(set(places), key=order))


def places_of(record: Evidence) -> list[str]:
    """Return the kind of machine for people: its GPUs with the driver, else its operating system."""
    return _gpus(record) if record.machine.gpus else [record.machine.system]


def _gpus(record: Evidence) -> list[str]:
    """Return `A100 (driver 550)` for each kind of GPU, `2 x A100` for two."""
    driver = record.machine.driver
    branch = f" (driver {driver.partition('.')[0]})" if driver else ""
    names = [short_gpu(gpu) for gpu in record.machine.gpus]
    return [
        f"{f'{names.count(name)} x ' if names.count(name) > 1 else ''}{name}{branch}" for name in dict.fromkeys(names)
    ]


def short_gpu(name: str) -> str:
    """Return a GPU's name without vendor, memory and form: `A100` for `NVIDIA A100-SXM4-80GB`."""
    plain = re.sub(r"^(NVIDIA|Tesla)\s+", "", re.sub(r"^NVIDIA\s+", "", name))
    return re.sub(r"[\s-]+(PCIe?|SXM\d*|HGX|NVL|HBM\d\w*|\d+\s?GB)\b.*$", "", plain, flags=re.I)


def age(date: datetime, now: datetime | None = None) -> str:
    """Return how long ago a date was, in days: `today`, `1 day ago`, `40 days ago`."""
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    days = max(0, ((now or datetime.now(timezone.utc)) - date).days)
    return "today" if days == 0 else f"{days} day{'s' if days != 1 else ''} ago"
