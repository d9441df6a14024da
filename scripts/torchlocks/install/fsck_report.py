"""What fsck found, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict

from torchlocks.install.findings import Findings


def as_text(findings: Findings) -> str:
    """A line a finding, worst first, and a summary."""
    lines = [f"{damage.kind}: {damage.path} ({damage.package}): {damage.why}" for damage in findings.damaged]
    lines += [f"shadows torch: {sentence}" for sentence in findings.shadows]
    lines += [f"restored: {path}" for path in findings.repaired]
    lines += [f"extra: {path}" for path in findings.extra]
    lines += [f"installed by pip: {package.name} {package.version}, {package.files} files" for package in findings.pip]
    found = (
        f"{len(findings.damaged)} damaged or missing, {len(findings.extra)} extra, {len(findings.shadows)} shadowing"
    )
    return "\n".join([*lines, f"{findings.checked} files of packages checked: {found}"])


def as_json(findings: Findings) -> str:
    """The whole of it; `schema` changes when a key changes its meaning."""
    return json.dumps({"schema": 1, "ok": findings.ok, **asdict(findings)}, indent=2, default=str)
