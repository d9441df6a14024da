"""The most expensive rule: lock everything again from the same records, and compare the bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from torchlocks.check.model import Finding, Report
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.locking.environments import lock_environments
from torchlocks.locking.options import LockOptions, find_solver
from torchlocks.matrix.target import Target
from torchlocks.solve.repodata import RecordSource, require_snapshot

RULE = "relock-differs"
REASON = "A lock that cannot be made again from the same records was edited, or its maker changed."


def check_relocked(layout: Layout, targets: Sequence[Target], snapshot: Path, progress: Progress) -> Report:
    """Lock `targets` again from `snapshot` into a scratch folder; every file that differs is a finding.

    Raises MissingFileError if `snapshot` is not a snapshot.
    """
    require_snapshot(snapshot)
    options = LockOptions(source=RecordSource(snapshot=snapshot), solver=find_solver())
    findings = []
    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        results, failures = lock_environments(layout, targets, Path(scratch), options, progress)
        for failure in failures:
            findings.append(
                Finding(
                    rule=RULE,
                    severity="error",
                    path=f"locks/{failure.target.env}",
                    env=failure.target.env,
                    platform=failure.target.platform,
                    message=f"it cannot be locked any more: {failure.error.what}",
                    fix="see `make lock` for the solver's reason",
                )
            )
        for result in results:
            committed = layout.locks / result.env
            names = {p.name for p in result.folder.iterdir()} | {p.name for p in committed.glob("*") if p.is_file()}
            for name in sorted(names):
                one, other = result.folder / name, committed / name
                if not (one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()):
                    findings.append(
                        Finding(
                            rule=RULE,
                            severity="error",
                            path=f"locks/{result.env}/{name}",
                            env=result.env,
                            message="locking again from the same records gives other bytes",
                            fix="run `make lock` with the same SNAPSHOT and commit what it writes",
                        )
                    )
    return Report(findings=tuple(findings), rules=(RULE,))
