"""Write an update of all locks as Markdown for a pull request: changes, requirements on machines, verification."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torchlocks.check.report import summary
from torchlocks.core.quantities import size
from torchlocks.diff.compare import Diff, Facts
from torchlocks.diff.report import as_markdown, markdown_text
from torchlocks.update.relock import EnvironmentUpdate, Update

MOST_OF_TITLE, MOST_OF_BODY = 256, 65_536
"""GitHub's limits, in characters, on title and text of a pull request."""


def headline(update: Update) -> str:
    """Return the title of the pull request, or one line that nothing changed."""
    if not update.changed:
        failed = len({failure.target.env for failure in update.failures})
        return f"Nothing moved; {_count(failed)} cannot be locked" if failed else "Nothing moved"
    moves = dict.fromkeys(
        f"torch {platform.before.torch} to {platform.after.torch}"
        for each in update.changed
        if each.diff
        for platform in each.diff.platforms
        if platform.before.torch != platform.after.torch
    )
    names = [each.env for each in update.changed]
    what = _count(len(names)) if len(names) > 3 else ", ".join(names)
    title = f"Update the locks of {what}"
    text = f"{title}: {'; '.join(moves)}" if moves else title
    return text if len(text) <= MOST_OF_TITLE else f"{title}: torch moved in {len(moves)} ways"


def _count(number: int) -> str:
    return f"{number} environment{'s' if number != 1 else ''}"


def body(update: Update, matrix: Sequence[str] = ()) -> str:
    """Return the text of the pull request, which depends on its arguments alone.

    `matrix` are the lines of what moved in the matrix (`plan_text.plan_lines`).
    """
    lines = [f"## {markdown_text(headline(update))}", ""]
    if update.changed:
        lines += [*_table(update), ""]
    if matrix:
        lines += ["### Matrix", "", *(_listed(line) for line in matrix), ""]
    if update.unchanged:
        lines += [f"Nothing moved in {', '.join(update.unchanged)}.", ""]
    if update.recipes:
        lines += ["Generated from the new locks: " + ", ".join(f"`{name}`" for name in update.recipes) + ".", ""]
    unsigned = [f"`locks/{each.env}/{name}`" for each in update.changed for name in each.unsigned]
    if unsigned:
        lines += [f"Signatures of the old bytes were removed; sign again: {', '.join(unsigned)}.", ""]
    if update.failures:
        lines += ["### Not locked", "", "These could not be locked, and their locks were left as they are.", ""]
        for failure in update.failures:
            what = markdown_text(failure.error.what)
            lines.append(f"- **{failure.target.env}** on {failure.target.platform}: {what}")
        lines.append("")
    lines += ["### Check", "", f"`torchlocks check`: {markdown_text(summary(update.check))}.", ""]
    shown = update.check.findings[:20]
    lines += [f"- {each.severity} `{each.rule}` in {each.path}: {markdown_text(each.message)}" for each in shown]
    if len(update.check.findings) > len(shown):
        lines.append(f"- and {len(update.check.findings) - len(shown)} more")
    if shown:
        lines.append("")
    text = "\n".join(lines).rstrip("\n") + "\n"
    sections = [_section(each.env, each.diff) for each in update.changed if each.diff is not None]
    if len(text) + sum(map(len, sections)) > MOST_OF_BODY:
        sections = [
            "\n### Packages\n\nToo many moved for one text. `torchlocks diff REV:locks/ENVIRONMENT locks/ENVIRONMENT` "
            "lists them, with the previous branch or commit as `REV`.\n"
        ]
    return text + "".join(sections)


def _listed(line: str) -> str:
    """Return a line of a plan as an item of a Markdown list, with its indentation."""
    return " " * (len(line) - len(line.lstrip())) + f"- {markdown_text(line.strip())}"


def _section(env: str, found: Diff) -> str:
    """Return the changes of one environment, without the heading of the comparison."""
    text = as_markdown(found).partition("\n\n")[2].rstrip("\n")
    return f"\n### {env}\n\n{text}\n"


def _table(update: Update) -> Iterator[str]:
    yield "| environment | platform | torch | moved | download | NVIDIA driver | glibc | verified |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for each in update.changed:
        if each.diff is None:
            yield f"| {each.env} | {', '.join(each.lock.platforms)} | | new | | | | {_verified(each, None)} |"
            continue
        for platform in each.diff.platforms:
            old, new = platform.before, platform.after
            if not platform.changes and old == new:
                continue
            cells = [
                each.env,
                platform.platform,
                _pair(old.torch, new.torch),
                str(len(platform.changes)),
                _sizes(old, new),
                _pair(_floor(old.driver), _floor(new.driver)),
                _pair(_floor(old.glibc_floor), _floor(new.glibc_floor)),
                _verified(each, platform.platform),
            ]
            yield "| " + " | ".join(cells) + " |"


def _pair(old: str | None, new: str | None) -> str:
    if old == new:
        return markdown_text(new or "")
    return f"{markdown_text(old or 'none')} → **{markdown_text(new or 'none')}**"


def _floor(version: str | None) -> str | None:
    return f"from {version}" if version else None


def _sizes(old: Facts, new: Facts) -> str:
    return size(new.download) if old.download == new.download else f"{size(old.download)} → {size(new.download)}"


def _verified(each: EnvironmentUpdate, platform: str | None) -> str:
    """Return the headline of the report on exactly this lock; reports on other locks do not count."""
    for found in each.verified:
        if platform in (None, found.platform):
            return markdown_text(found.headline if found.ok else f"FAILED: {found.headline.removeprefix('FAILED: ')}")
    return "not yet"
