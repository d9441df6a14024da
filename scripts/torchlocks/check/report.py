"""A check's report for people, for programs, and for annotations on a pull request."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING

from torchlocks.check.model import Finding, Report
from torchlocks.core.quantities import shortened

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN = 5


def shown_environments(finding: Finding) -> str:
    """Return the environments of a pixi.lock in which something was found, as text; empty if it has only one."""
    return shortened(finding.environments, 4)


def summary(report: Report) -> str:
    """Return one line: how much was checked, and the result."""
    errors = sum(finding.severity == "error" for finding in report.findings)
    warnings = len(report.findings) - errors
    found = "nothing found" if not report.findings else f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    looked = (
        f"{_count(report.locks, 'lock')}, {_count(report.packages, 'package')}, {_count(len(report.rules), 'rule')}"
    )
    unseen = len(report.bases_not_checked)
    return looked + (f", {_count(unseen, 'base')} not checked" if unseen else "") + f": {found}"


def as_text(report: Report) -> RenderableType:
    """Format the findings by rule and file, what could not be checked, and the summary.

    Of many findings of one rule in one file, the first few are shown; JSON has them all.
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = []
    for group in _groups(report):
        first = group[0]
        title = Text(first.severity, style="bold red" if first.severity == "error" else "bold yellow")
        title.append(f" {first.rule}", style="bold default")
        where = ", ".join(part for part in (shown_environments(first), first.platform) if part)
        title.append(f"  {first.path}" + (f" ({where})" if where else ""), style="not bold default")
        body = Text("\n".join(finding.message for finding in group[:_SHOWN]))
        if len(group) > _SHOWN:
            body.append(f"\n… and {len(group) - _SHOWN} more", style="dim")
        for fix in dict.fromkeys(finding.fix for finding in group[:_SHOWN] if finding.fix):
            body.append(f"\nfix: {fix}", style="dim")
        parts += [title, Padding(body, (0, 0, 1, 2), expand=False)]
    reasons: dict[str, list[str]] = defaultdict(list)
    for skip in report.skipped:
        if skip.rule not in reasons[skip.reason]:
            reasons[skip.reason].append(skip.rule)
    for reason, rules in reasons.items():
        parts.append(Text(f"not checked: {', '.join(rules)} ({reason})", style="dim"))
    for path, names in report.environments.items():
        parts.append(Text(f"{path}: {len(names)} environments checked: {shortened(names)}"))
    parts.append(Text(summary(report), style="red" if report.failed else "green"))
    return Group(*parts)


def as_json(report: Report) -> str:
    """Format the whole report for programs. `schema` changes when a key changes its meaning."""
    document = {"schema": 1, "failed": report.failed, **asdict(report)}
    return json.dumps(document, indent=2) + "\n"


def as_annotations(report: Report) -> str:
    """Format each finding as a workflow command of GitHub Actions.

    Escapes: https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
    """
    lines = []
    for finding in report.findings:
        message = finding.message + (f"\nfix: {finding.fix}" if finding.fix else "")
        title = " ".join(
            part for part in (finding.rule, finding.env, shown_environments(finding), finding.platform) if part
        )
        lines.append(
            f"::{finding.severity} file={_escape(finding.path, ':,')},title={_escape(title, ':,')}::{_escape(message)}"
        )
    return "".join(line + "\n" for line in lines)


def _escape(text: str, also: str = "") -> str:
    for character in "%\r\n" + also:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _groups(report: Report) -> list[list[Finding]]:
    """Group the findings by severity, file, platform and rule, in the order in which they were found."""
    groups: dict[tuple[str, ...], list[Finding]] = defaultdict(list)
    for finding in report.findings:
        key = (finding.severity, finding.path, finding.platform or "", finding.rule, *finding.environments)
        groups[key].append(finding)
    return list(groups.values())


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
