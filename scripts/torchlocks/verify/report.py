"""Reports of a verdict: a table on the terminal, JSON, JUnit XML and an HTML page in `reports/`."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from torchlocks.core.errors import VerificationError
from torchlocks.core.files import write_whole

if TYPE_CHECKING:
    from rich.console import RenderableType

    from torchlocks.verify.verdict import Check, Verdict

#: Characters that XML 1.0 does not allow, not even escaped (its `Char` production), such as terminal colours.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

#: If more checks than this have the same reason to be skipped, they are counted and not named.
_NAMED = 3


def write_reports(verdict: Verdict, folder: Path) -> tuple[Path, ...]:
    """Write `<env>.json`, `<env>.xml` (JUnit) and `<env>.html` into `folder`, each in one step, and return the
    paths.

    Raises VerificationError if they cannot be written.
    """
    from torchlocks.verify.report_html import report_html

    texts = {"json": verdict_json(verdict) + "\n", "xml": junit(verdict), "html": report_html(verdict)}
    paths = {form: folder / f"{verdict.env}.{form}" for form in texts}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for form, text in texts.items():
            write_whole(paths[form], text)
    except OSError as error:
        raise VerificationError(
            f"The report cannot be written: {error.strerror}.",
            where=str(folder),
            fix="make room, or make the folder writable",
        ) from error
    return tuple(paths.values())


def verdict_json(verdict: Verdict) -> str:
    """Format the verdict as JSON: the fields of the models in `verdict.py`, and derived ones such as `headline`."""
    return verdict.model_dump_json(indent=2)


def junit(verdict: Verdict) -> str:
    """Format the verdict as JUnit XML: one suite, one case for each check, measured values as properties."""
    counts = Counter(check.outcome for check in verdict.checks)
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=f"torchlocks {verdict.env} {verdict.platform}",
        tests=str(len(verdict.checks)),
        failures=str(counts["failed"]),
        errors="0",
        skipped=str(counts["skipped"]),
        time=f"{verdict.duration_s:.3f}",
        timestamp=verdict.started_at.isoformat(),
    )
    about = {
        "lock": verdict.lock_path,
        "lock_sha256": verdict.lock_sha256,
        "channels": " ".join(verdict.channels),
        **{f"host.{name}": value for name, value in verdict.host.model_dump().items() if value not in (None, ())},
        "headline": verdict.headline,
        **({"differs": verdict.differs} if verdict.differs else {}),
        **verdict.facts,
    }
    _properties(suite, about)
    for check in verdict.checks:
        file, _, name = check.id.partition("::")
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"{check.tier}.{file.removesuffix('.py')}",
            name=_clean(name or file),
            time=f"{check.duration_s:.3f}",
        )
        _properties(case, {"reason": check.reason, **check.values})
        if check.outcome == "failed":
            failure = ElementTree.SubElement(case, "failure", message=_clean(check.why or "failed"))
            failure.text = _clean(check.error or "")
        elif check.outcome == "skipped":
            ElementTree.SubElement(case, "skipped", message=_clean(check.why or "skipped"))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def summary_table(verdict: Verdict) -> RenderableType:
    """Format a summary for the terminal: counts by tier, failures, skipped checks with reasons, and the headline."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("tier")
    for column in ("passed", "failed", "skipped", "time"):
        table.add_column(column, justify="right")
    table.add_column("")
    for state in verdict.tiers:
        checks = [check for check in verdict.checks if check.tier == state.tier]
        counts = Counter(check.outcome for check in checks)
        failed = Text(str(counts["failed"]), style="bold red" if counts["failed"] else "")
        seconds = f"{sum(check.duration_s for check in checks):.1f} s" if counts["passed"] or counts["failed"] else ""
        note = Text(state.obstacle or "", style="dim")
        table.add_row(state.tier, str(counts["passed"]), failed, str(counts["skipped"]), seconds, note)
    parts: list[RenderableType] = [table]
    for check in verdict.failures:
        parts.append(Text.assemble(("failed  ", "bold red"), (check.id, "bold"), overflow="fold"))
        parts.append(Padding(Text(check.why or "no message", overflow="fold"), (0, 0, 0, 8)))
    for why, names in _skipped(verdict).items():
        shown = ", ".join(names) if len(names) <= _NAMED else f"{len(names)} checks"
        parts.append(Text.assemble(("skipped ", "yellow"), f"{shown}: {why}", overflow="fold"))
    parts.append(Text(verdict.headline, style="bold" if verdict.ok else "bold red", overflow="fold"))
    if verdict.differs:
        parts.append(Text(f"({verdict.differs})", style="yellow", overflow="fold"))
    return Group(*parts)


def _skipped(verdict: Verdict) -> dict[str, list[str]]:
    """Return the skipped checks by reason, without those whose tier is listed as not run."""
    obstacles = {(state.tier, state.obstacle) for state in verdict.tiers}
    by_reason: dict[str, list[str]] = {}
    for check in verdict.checks:
        if check.outcome == "skipped" and (check.tier, check.why) not in obstacles:
            by_reason.setdefault(check.why or "no reason given", []).append(_short(check))
    return by_reason


def _short(check: Check) -> str:
    return check.id.partition("::")[2].removeprefix("test_") or check.id


def _properties(parent: ElementTree.Element, values: dict[str, object]) -> None:
    properties = ElementTree.SubElement(parent, "properties")
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        ElementTree.SubElement(properties, "property", name=_clean(name), value=_clean(text))


def _clean(text: str) -> str:
    return _NOT_XML.sub("", text)
