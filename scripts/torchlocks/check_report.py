"""A check's report for people, for programs, and for annotations on a pull request."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING

from torchlocks.check_rules import Finding, Report

if TYPE_CHECKING:
    from rich.console import RenderableType


def summary(report: Report) -> str:
    """One line: how much was looked at, and what came of it."""
    errors = sum(finding.severity == "error" for finding in report.findings)
    warnings = len(report.findings) - errors
    found = "nothing found" if not report.findings else f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    looked = (
        f"{_count(report.locks, 'lock')}, {_count(report.packages, 'package')}, {_count(len(report.rules), 'rule')}"
    )
    return f"{looked}: {found}"


def as_text(report: Report) -> RenderableType:
    """The findings as a table, what could not be checked, and the summary."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    if report.findings:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("", "rule", "where", "what is wrong"):
            table.add_column(column, overflow="fold")
        for finding in report.findings:
            style = "red" if finding.severity == "error" else "yellow"
            what = Text(finding.message)
            if finding.fix:
                what.append(f"\nfix: {finding.fix}", style="dim")
            table.add_row(Text(finding.severity, style=style), finding.rule, Text(_where(finding)), what)
        parts += [table, Text()]
    reasons: dict[str, list[str]] = defaultdict(list)
    for skip in report.skipped:
        if skip.rule not in reasons[skip.reason]:
            reasons[skip.reason].append(skip.rule)
    for reason, rules in reasons.items():
        parts.append(Text(f"not checked: {', '.join(rules)} ({reason})", style="dim"))
    parts.append(Text(summary(report), style="red" if report.failed else "green"))
    return Group(*parts)


def as_json(report: Report) -> str:
    """The whole report, for programs. `schema` changes when a key changes its meaning."""
    document = {"schema": 1, "failed": report.failed, **asdict(report)}
    return json.dumps(document, indent=2) + "\n"


def as_annotations(report: Report) -> str:
    """One workflow command of GitHub Actions a finding.

    Escapes: https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
    """
    lines = []
    for finding in report.findings:
        message = finding.message + (f"\nfix: {finding.fix}" if finding.fix else "")
        title = " ".join(part for part in (finding.rule, finding.env, finding.platform) if part)
        lines.append(
            f"::{finding.severity} file={_escape(finding.path, ':,')},title={_escape(title, ':,')}::{_escape(message)}"
        )
    return "".join(line + "\n" for line in lines)


def _escape(text: str, also: str = "") -> str:
    for character in "%\r\n" + also:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _where(finding: Finding) -> str:
    return f"{finding.path}\n{finding.platform}" if finding.platform else finding.path


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
