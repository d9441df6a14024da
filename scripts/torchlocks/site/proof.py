"""Evidence as the catalogue shows it: the state of a lock, a timeline of changes and proofs, badges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from torchlocks.evidence.model import ProvenState
from torchlocks.evidence.summary import Proof, Proofs, age, places_of, proven_text
from torchlocks.pages.badge import Tone, badge
from torchlocks.site.history import Step
from torchlocks.site.index import IndexEvidence, IndexVerification, VerificationState

#: States of verification, the one that counts first. A failure of this very lock is never hidden by evidence.
_RANKS: tuple[VerificationState, ...] = (
    *("failed", "verified", "build-verified", "partial", "outdated", "local", "local-failed", "none"),
)

_STATES: Mapping[ProvenState | None, VerificationState] = {
    "gpu": "verified",
    "cpu": "verified",
    "cuda-build": "build-verified",
    "partial": "partial",
    None: "outdated",
}


def strongest(*found: IndexVerification | None) -> IndexVerification:
    """Return the state that counts most; of equals, the first."""
    return min((each for each in found if each is not None), key=lambda each: _RANKS.index(each.state))


def proven(proofs: Proofs) -> IndexVerification | None:
    """Return what committed evidence proves of a lock; None without evidence."""
    if proofs.newest is None:
        return None
    date = proofs.newest.date.isoformat(timespec="seconds")
    return IndexVerification(state=_STATES[proofs.state], text=proofs.text(), report=None, date=date)


def index_evidence(proof: Proof) -> IndexEvidence:
    """Return a record as `index.json` has it."""
    record = proof.record
    return IndexEvidence(
        path=f"evidence/{record.name}",
        state=record.state,
        machine=", ".join(places_of(record)),
        client=record.client,
        date=record.date.isoformat(timespec="seconds"),
        lock_sha256=record.lock_sha256,
        differing=proof.differing,
        run=record.workflow.url if record.workflow else None,
    )


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One line of a timeline: a change of the lock (`proof` is None), or a proof. `date` is a day, empty for now."""

    date: str
    text: str
    proof: Proof | None


def timeline(steps: Sequence[Step], proofs: Proofs, most: int = 20) -> tuple[Moment, ...]:
    """Return changes of a lock and its proofs, the newest first, `most` at most."""
    moments = [
        Moment(date=step.commit.date, text="first lock" if step.first else _changed(len(step.changes)), proof=None)
        for step in steps
    ]
    moments += [
        Moment(date=f"{proof.record.date:%Y-%m-%d}", text=proven_text([proof.record]), proof=proof)
        for proof in proofs.proofs
    ]
    # What is not committed is newest; of one day, a proof comes after the change that it proves.
    moments.sort(key=lambda each: (each.date or "9999", each.proof is not None), reverse=True)
    return tuple(moments[:most])


def _changed(count: int) -> str:
    return f"{count} package{'s' if count != 1 else ''} changed"


def aged(iso: str) -> str:
    """Return how long ago an ISO date was, when this is called."""
    return age(datetime.fromisoformat(iso))


def environment_badge(env: str, entries: Iterable[IndexVerification], proofs: Iterable[Proofs]) -> str:
    """Return the badge of an environment over all its platforms, for the README of a project that builds on it."""
    current = [proof.record for each in proofs for proof in each.current]
    states = {each.state for each in entries}
    tone: Tone = "muted"
    if "failed" in states:
        message, tone = "failed", "bad"
    elif current:
        complete = any(record.state in ("cpu", "gpu") for record in current)
        message, tone = proven_text(current), "good" if complete else "warn"
    elif "outdated" in states:
        message = "proven for a previous lock"
    else:
        message = "no evidence"
    return badge(f"torchlocks {env}", message, tone)
