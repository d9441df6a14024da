"""The text of a pull request that brings evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchlocks.diff.report import markdown_text
from torchlocks.evidence.model import Evidence
from torchlocks.evidence.summary import proven_text

_MOST = 60_000
"""Characters; GitHub takes 65,536."""


def pull_request_body(found: Sequence[Evidence], refused: Mapping[str, str]) -> str:
    """Return the text: a heading that serves as title, a line for each lock, and the reports that were left out."""
    by_cell: dict[str, list[Evidence]] = {}
    for record in found:
        by_cell.setdefault(f"{record.env} on {record.platform}", []).append(record)
    count = f"{len(by_cell)} lock{'s' if len(by_cell) != 1 else ''}"
    lines = [f"## Add evidence on {count}", ""]
    for cell, mine in sorted(by_cell.items()):
        clients = ", ".join(sorted({record.client for record in mine}))
        lines.append(f"- **{cell}**: {markdown_text(proven_text(mine))} ({clients})")
    if refused:
        lines += ["", "### Left out", "", "These reports prove nothing.", ""]
        lines += [f"- {markdown_text(name)}: {markdown_text(why)}" for name, why in sorted(refused.items())]
    text = "\n".join(lines) + "\n"
    return text if len(text) <= _MOST else "\n".join(lines[:2]) + "\nToo many for one text; see the files.\n"
