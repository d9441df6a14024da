"""Format a comparison for a terminal, as Markdown, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from torchlocks.core.printing import printable
from torchlocks.core.quantities import size
from torchlocks.diff.compare import Change, Diff, Facts, PlatformDiff
from torchlocks.lockfile.models import LockedPackage

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {
    "added": "green",
    "removed": "red",
    "upgraded": "cyan",
    "downgraded": "yellow",
    "rebuilt": "blue",
    "replaced": "magenta",
}


def fact_lines(before: Facts, after: Facts) -> Iterator[tuple[str, str, str]]:
    """Yield the changed facts of the lock as a whole: (label, before, after)."""
    pairs: list[tuple[str, str, str]] = [
        ("torch", before.torch or "none", after.torch or "none"),
        ("python", before.python or "none", after.python or "none"),
        ("CUDA libraries", before.cuda or "none", after.cuda or "none"),
        ("needs __cuda", _floor(before.cuda_floor), _floor(after.cuda_floor)),
        ("needs driver", _floor(before.driver), _floor(after.driver)),
        ("needs glibc", _floor(before.glibc_floor), _floor(after.glibc_floor)),
        ("GPU architectures", " ".join(before.architectures) or "none", " ".join(after.architectures) or "none"),
        ("packages", str(before.packages), str(after.packages)),
    ]
    for label, old, new in (
        ("download", before.download, after.download),
        ("installed", before.installed, after.installed),
    ):
        if old is not None or new is not None:
            change = f" ({_signed(new - old)})" if old is not None and new is not None else ""
            pairs.append((label, size(old), f"{size(new)}{change}" if old != new else size(new)))
    for label, was, now in pairs:
        if was != now:
            yield label, was, now


def _floor(version: str | None) -> str:
    return f">= {version}" if version else "none"


def _signed(amount: int) -> str:
    return f"{'+' if amount > 0 else '-'}{size(abs(amount))}"


def _identity(package: LockedPackage | None, change: Change) -> str:
    """Return the part of a package's identity that is relevant for this change."""
    if package is None:
        return ""
    if change.move in ("added", "removed", "upgraded", "downgraded"):
        return f"{package.version} {package.build}" if change.move in ("added", "removed") else package.version
    if change.move == "rebuilt":
        return f"{package.version} {package.build}"
    digest = (package.sha256 or package.md5 or "no hash")[:12]
    return f"{package.version} {package.build} {digest} ({package.channel.rsplit('/', 1)[-1]})"


def _counted(platform: PlatformDiff) -> str:
    counts = Counter(change.move for change in platform.changes)
    return ", ".join(f"{count} {move}" for move, count in sorted(counts.items())) or "the same packages"


def as_text(diff: Diff) -> RenderableType:
    """Return the comparison for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"{diff.before} → {diff.after}", style="bold")]
    for word, platforms in (("added", diff.platforms_added), ("removed", diff.platforms_removed)):
        for platform in platforms:
            parts.append(Text(f"platform {platform}: {word}", style=_STYLES[word]))
    for platform_diff in diff.platforms:
        parts += [Text(), Text(f"{platform_diff.platform}: {_counted(platform_diff)}", style="bold")]
        table = Table(box=None, pad_edge=False, show_header=False)
        for column in ("what", "before", "arrow", "after"):
            table.add_column(column, overflow="fold")
        for label, was, now in fact_lines(platform_diff.before, platform_diff.after):
            table.add_row(Text(label, style="bold"), was, "→", now)
        for change in platform_diff.changes:
            style = _STYLES[change.move]
            was, now = _identity(change.before, change), _identity(change.after, change)
            table.add_row(Text(f"{change.name}", style=style), was, Text(change.move, style=style), now)
        parts.append(table)
    return Group(*parts)


def as_markdown(diff: Diff) -> str:
    """Return the comparison as Markdown for a pull request."""
    lines = [f"### {markdown_text(diff.before)} → {markdown_text(diff.after)}", ""]
    for word, platforms in (("added", diff.platforms_added), ("removed", diff.platforms_removed)):
        lines += [f"Platform **{platform}** {word}.\n" for platform in platforms]
    if diff.same:
        lines += ["The same packages.", ""]
    for platform in diff.platforms:
        changed = list(fact_lines(platform.before, platform.after))
        if not platform.changes and not changed:
            continue
        lines += [f"#### {platform.platform}: {_counted(platform)}", ""]
        if changed:
            lines += ["| | before | after |", "| --- | --- | --- |"]
            lines += [
                f"| {markdown_text(label)} | {markdown_text(was)} | {markdown_text(now)} |"
                for label, was, now in changed
            ]
            lines.append("")
        if platform.changes:
            lines += ["<details><summary>Packages</summary>", "", "| package | | before | after |"]
            lines.append("| --- | --- | --- | --- |")
            lines += [
                f"| {markdown_text(change.name)} | {change.move} | {markdown_text(_identity(change.before, change))} "
                f"| {markdown_text(_identity(change.after, change))} |"
                for change in platform.changes
            ]
            lines += ["", "</details>", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def markdown_text(text: str) -> str:
    """Escape text for Markdown, also in tables, without line breaks and control characters."""
    text = printable(text)
    for character in "\\|*_<>`[]":
        text = text.replace(character, f"\\{character}")
    return text


def as_json(diff: Diff) -> str:
    """Return the comparison as JSON. `schema` changes when a key changes its meaning."""
    return json.dumps({"schema": 1, "same": diff.same, **asdict(diff)}, indent=2) + "\n"
