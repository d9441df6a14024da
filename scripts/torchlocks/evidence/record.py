"""Make a record out of a report, and refuse what is not proof of a committed lock."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

from pydantic import ValidationError

from torchlocks.core.errors import EvidenceError
from torchlocks.core.files import hash_file
from torchlocks.core.layout import Layout
from torchlocks.core.reading import RECORD_BYTES, load_json, read_bytes
from torchlocks.evidence.claims import required_table, results, state_of, table_hash
from torchlocks.evidence.clients import Client
from torchlocks.evidence.machine import machine_of
from torchlocks.evidence.model import Evidence, Workflow
from torchlocks.lockfile.formats import CONDA_LOCK
from torchlocks.lockfile.models import Lock, LockedPackage
from torchlocks.lockfile.open import open_lock
from torchlocks.verify.verdict import Verdict

#: How far a machine's clock may be ahead.
CLOCK = timedelta(days=1)

_RANK = {None: 0, "nothing": 0, "failed": 0, "partial": 1, "cpu": 2, "cuda-build": 2, "gpu": 3}


def record_of(
    layout: Layout,
    report: Path,
    *,
    client: Client | None = None,
    account: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Evidence:
    """Return the record of a report in JSON on one of the committed locks of `layout`.

    `client` is who installed the environment (default: as the report has it), `account` who ran it, if they want to
    be named; the workflow is taken from the variables that GitHub sets. Nothing else of the report or of this machine
    is taken over. Raises MissingFileError or EvidenceError, which names what is wrong with the report.
    """
    verdict = _read(report)
    lock = _committed(layout, verdict, report)
    table = required_table(layout.suite)
    required = results(verdict, table)
    state = state_of(verdict.accelerator, required, complete=verdict.complete and not verdict.quick)
    if verdict.state in ("failed", "nothing") or any(check.outcome == "failed" for check in verdict.checks):
        raise EvidenceError(
            f"The report is of a verification that did not pass: {verdict.failure_line()}.",
            where=str(report),
            fix="find out why it fails; a failure is not evidence",
        )
    if state is None or not verdict.ok:
        raise EvidenceError("The report proves nothing: no required check passed.", where=str(report))
    if verdict.quick or not verdict.complete:
        raise EvidenceError(
            "The report is of a part of the suite.", where=str(report), fix="verify again without --quick, -k or --tier"
        )
    if _RANK[verdict.state] > _RANK[state]:
        missing = [each.id for each in required if each.result == "not-proven"]
        raise EvidenceError(
            f"The report claims more than its checks prove: it states {verdict.state!r}, and they prove {state!r}.",
            where=str(report),
            fix="make it again with `torchlocks verify`; it is of another suite than tests/torch, or was edited",
            details="\n".join(f"  not proven: {id}" for id in missing) or None,
        )
    if client is None and verdict.client == "unknown":
        raise EvidenceError(
            "The report does not name the client that installed the environment.",
            where=str(report),
            fix="name it: --client conda",
        )
    if verdict.started_at > datetime.now(timezone.utc) + CLOCK:
        raise EvidenceError("The report is dated in the future.", where=str(report), fix="set the machine's clock")
    gpus = any(each.tier == "gpu" and each.result == "passed" for each in required)
    fields = {
        "env": verdict.env,
        "platform": verdict.platform,
        "accelerator": verdict.accelerator,
        "lock_sha256": lock.sha256,
        "packages": package_lines(lock.packages[verdict.platform]),
        "machine": machine_of(verdict.host, with_gpus=gpus),
        "client": client or verdict.client,
        "suite": verdict.torchlocks,
        "required_set": table_hash(table),
        "state": "partial" if verdict.state == "partial" else state,
        "required": required,
        "passed": sum(check.outcome == "passed" for check in verdict.checks),
        "skipped": sum(check.outcome == "skipped" for check in verdict.checks),
        "date": verdict.started_at.astimezone(timezone.utc).replace(microsecond=0),
        "workflow": workflow_of(environ),
        "account": account,
    }
    return parse_record(fields, str(report))


def package_lines(packages: tuple[LockedPackage, ...]) -> tuple[str, ...]:
    """Return packages as records have them: `name version build`, sorted."""
    return tuple(sorted(f"{each.name} {each.version} {each.build}" for each in packages))


def parse_record(fields: object, where: str) -> Evidence:
    """Return the record that `fields` describe. Raises EvidenceError, which names each field that is not allowed."""
    try:
        return Evidence.model_validate(fields)
    except ValidationError as error:
        problems = []
        for each in error.errors(include_url=False, include_input=False)[:8]:
            place = ".".join(map(str, each["loc"])) or "the record"
            extra = each["type"] == "extra_forbidden"
            problems.append(f"{place}: {'such a field is not allowed' if extra else each['msg']}")
        raise EvidenceError(
            f"It is not a valid evidence record: {problems[0]}.",
            where=where,
            fix="make it with `torchlocks evidence add REPORT`; records are not edited",
            details="\n".join(f"  also:  {each}" for each in problems[1:]) or None,
        ) from None


def workflow_of(environ: Mapping[str, str]) -> Workflow | None:
    """Return the workflow that this process runs in, from GitHub's variables; None outside of one."""
    if environ.get("GITHUB_ACTIONS") != "true":
        return None
    # OWNER/NAME/.github/workflows/verify.yml@refs/heads/main
    file = re.search(r"/([A-Za-z0-9._-]{1,100})@", environ.get("GITHUB_WORKFLOW_REF", ""))
    try:
        return Workflow.model_validate(
            {
                "repository": environ.get("GITHUB_REPOSITORY"),
                "workflow": file[1] if file else None,
                "run": environ.get("GITHUB_RUN_ID"),
            }
        )
    except ValidationError:
        raise EvidenceError(
            "The variables of the workflow run are not as GitHub sets them.",
            where="GITHUB_REPOSITORY, GITHUB_WORKFLOW_REF, GITHUB_RUN_ID",
            fix="leave them as the runner sets them",
        ) from None


def _read(report: Path) -> Verdict:
    try:
        return Verdict.model_validate(load_json(read_bytes(report, RECORD_BYTES)))
    except FileNotFoundError:
        from torchlocks.core.errors import MissingFileError

        raise MissingFileError(
            "There is no such report.", where=str(report), fix="verify an environment: make env-cpu CHANNEL=conda-forge"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error
        raise EvidenceError(
            f"It is not a report of the torch suite: {reason}.",
            where=str(report),
            fix="name reports/<env>.json, which `torchlocks verify` writes",
        ) from None


def _committed(layout: Layout, verdict: Verdict, report: Path) -> Lock:
    """Return the committed lock that a report is on. Raises EvidenceError if it is on another one."""
    name = verdict.env if re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,79}", verdict.env) else None
    path = layout.locks / (name or "-") / CONDA_LOCK
    if name is None or not path.is_file():
        raise EvidenceError(
            "The report is on an environment that has no committed lock.", where=str(report), fix=f"see {layout.locks}"
        )
    committed = hash_file(path)
    if committed != verdict.lock_sha256 and _is_local(verdict):
        raise EvidenceError(
            f"The report is on a build of the local channel, out of PyPI wheels, which is not the lock of {name}.",
            where=str(report),
            fix="install from the lock's own channel and verify again: CHANNEL=conda-forge",
        )
    if committed != verdict.lock_sha256:
        raise EvidenceError(
            f"The report is on another lock than the committed one of {verdict.env}.",
            where=f"{report}: {verdict.lock_sha256[:12]}; {path}: {committed[:12]}",
            fix="install the committed lock and verify again, or check out the commit that has the lock of the report",
        )
    lock = open_lock(str(path))
    if verdict.platform not in lock.packages:
        raise EvidenceError(f"The lock of {verdict.env} has no {verdict.platform}.", where=str(report))
    return lock


def _is_local(verdict: Verdict) -> bool:
    return bool(verdict.channels) and all(channel.startswith("file:") for channel in verdict.channels)
