"""Rules on evidence: each record is valid, names a lock that exists or existed, and claims no more than its results."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from functools import partial

from torchlocks.check.model import Finding, Report, Skipped
from torchlocks.core.errors import SignatureError
from torchlocks.core.layout import Layout
from torchlocks.core.reading import TEXT_BYTES, read_bytes
from torchlocks.evidence.claims import wrong_claim
from torchlocks.evidence.model import Evidence
from torchlocks.evidence.record import CLOCK
from torchlocks.evidence.signing import NAMESPACE
from torchlocks.evidence.store import Past, Stored, stored, strangers
from torchlocks.export.signatures import SUFFIX, matches

REASONS = {
    "evidence-invalid": "A record has the fields of its schema and no others, so that nothing private is published.",
    "evidence-name": "A record that is not where its content belongs would not be replaced by a newer one.",
    "evidence-lock": "Evidence on a lock that never was committed here proves nothing of this repository.",
    "evidence-packages": "The packages of a record are those of the lock that it names, or it was edited.",
    "evidence-claim": "A record claims no more than its results of the suite's required checks prove.",
    "evidence-signature": "A signature beside a record that is not one of its bytes vouches for something else.",
}

_AGAIN = "remove it, and make it again from its report: torchlocks evidence add REPORT"


def check_evidence(layout: Layout) -> Report:
    """Check every record below `evidence/`. A repository without evidence has nothing to check."""
    found, others = list(stored(layout)), strangers(layout)
    if not found and not others:
        return Report()
    past = Past(layout)
    unknown = tuple(
        Finding(
            rule="evidence-name",
            severity="error",
            path=path.relative_to(layout.root).as_posix(),
            message="it is no evidence record, and would be published with them",
            fix="remove it",
        )
        for path in others
    )
    reports = [_check_one(layout, past, each) for each in found]
    return sum(reports, Report(findings=unknown, rules=tuple(REASONS)))


def _check_one(layout: Layout, past: Past, each: Stored) -> Report:
    path = each.path.relative_to(layout.root).as_posix()
    if each.record is None:
        assert each.error is not None
        finding = Finding(
            rule="evidence-invalid", severity="error", path=path, message=each.error.what, fix=each.error.fix or _AGAIN
        )
        return Report(findings=(finding,))
    record = each.record
    make = partial(Finding, severity="error", path=path, env=record.env, platform=record.platform)
    findings = [
        make(rule=rule, message=message, fix=fix or _AGAIN)
        for rule, message, fix in _problems(layout, past, each, record)
    ]
    skipped: tuple[Skipped, ...] = ()
    packages = past.packages(record)
    if packages is None and past.unknown:
        skipped = tuple(
            Skipped(
                rule=rule,
                path=path,
                platform=record.platform,
                reason=f"the lock is not the present one, and {past.unknown}",
            )
            for rule in ("evidence-lock", "evidence-packages")
        )
    elif packages is None:
        message = f"no lock of {record.env} has or had the SHA-256 {record.lock_sha256}"
        findings.append(make(rule="evidence-lock", message=message, fix="remove it; commit a lock before its evidence"))
    elif packages != record.packages:
        count = len(set(packages) ^ set(record.packages))
        message = f"its packages are not those of the lock that it names: {count} lines differ"
        findings.append(make(rule="evidence-packages", message=message, fix=_AGAIN))
    return Report(findings=tuple(findings), skipped=skipped)


def _problems(layout: Layout, past: Past, each: Stored, record: Evidence) -> Iterator[tuple[str, str, str | None]]:
    """Yield what is wrong with a record itself: rule, message and fix."""
    if each.path.relative_to(layout.evidence).as_posix() != record.name:
        yield "evidence-name", f"its content belongs to {layout.evidence.name}/{record.name}", None
    if record.date.tzinfo is None or record.date > datetime.now(timezone.utc) + CLOCK:
        yield "evidence-claim", "its date is in the future, or has no time zone", None
    table = past.table(record.required_set)
    if table is None and not past.unknown:
        yield "evidence-claim", "the suite of this repository never had the set of required checks that it names", None
    if wrong := wrong_claim(record, table):
        yield "evidence-claim", wrong, None
    signature = each.path.with_name(each.path.name + SUFFIX)
    if signature.is_file():
        try:
            data, sig = read_bytes(each.path, TEXT_BYTES), read_bytes(signature, TEXT_BYTES)
            if not matches(data, sig, namespace=NAMESPACE):
                yield "evidence-signature", "its signature is of other bytes", "sign it again: torchlocks sign RECORD"
        except SignatureError as error:
            if "not installed" not in error.what:
                yield "evidence-signature", error.what, error.fix
        except OSError as error:
            yield "evidence-signature", f"its signature cannot be read: {error.strerror}", None
