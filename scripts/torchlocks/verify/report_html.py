"""A verdict as a self-contained page: `reports/<env>.html`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchlocks.core.quantities import seconds
from torchlocks.pages.draw import Part, meter, shares
from torchlocks.pages.html import asset, templates

if TYPE_CHECKING:
    from markupsafe import Markup
    from pydantic import JsonValue

    from torchlocks.verify.verdict import Check, Verdict

#: Facts with more characters than this are collapsed.
_LONG = 160


@dataclass(frozen=True)
class CheckRow:
    """One check on the page."""

    name: str
    check: Check
    values: tuple[tuple[str, str], ...]
    bar: Markup


@dataclass(frozen=True)
class TierRow:
    """One tier: counts, the obstacle if it did not run, and its checks. Times are in seconds."""

    name: str
    obstacle: str | None
    counts: Mapping[str, int]
    total_s: float
    checks: tuple[CheckRow, ...]


@dataclass(frozen=True)
class Fact:
    """One fact about the environment; `long` values are collapsed."""

    name: str
    value: str
    long: bool


def report_html(verdict: Verdict, catalogue: str | None = None) -> str:
    """Return the page: the result, failures with their full text, every check by tier with its time, skipped checks
    with reasons, the environment's facts and the machine. It loads no other files.

    `catalogue` is the link to the page of environments, if the report is part of the site.
    """
    return (
        templates()
        .get_template("report.html")
        .render(
            verdict=verdict,
            catalogue=catalogue,
            style=asset("style.css"),
            tiers=tier_rows(verdict),
            timeline=timeline(verdict),
            facts=facts(verdict),
            host=_host(verdict),
            skipped=skipped(verdict),
            counts=counts_line(verdict),
        )
    )


def counts_line(verdict: Verdict) -> str:
    """Return the number of checks by outcome, as text."""
    counts = Counter(check.outcome for check in verdict.checks)
    return f"{counts['passed']} checks passed, {counts['failed']} failed, {counts['skipped']} skipped."


def tier_rows(verdict: Verdict) -> tuple[TierRow, ...]:
    """Return the tiers and their checks, in the order in which they ran."""
    rows = []
    for state in verdict.tiers:
        checks = [check for check in verdict.checks if check.tier == state.tier]
        slowest = max((check.duration_s for check in checks), default=0.0)
        rows.append(
            TierRow(
                name=state.tier,
                obstacle=state.obstacle,
                counts=Counter(check.outcome for check in checks),
                total_s=sum(check.duration_s for check in checks),
                checks=tuple(
                    CheckRow(_name(check), check, _values(check.values), meter(check.duration_s, slowest))
                    for check in checks
                ),
            )
        )
    return tuple(rows)


def timeline(verdict: Verdict) -> Markup | None:
    """Return a drawing of the run's time by tier and between checks; None if no time was measured."""
    spent = [(row.name, row.total_s) for row in tier_rows(verdict) if row.total_s > 0]
    rest = verdict.duration_s - sum(amount for _, amount in spent)
    if rest > 0:
        spent.append(("starting up, and between checks", rest))
    parts = [Part(name, amount, seconds(amount)) for name, amount in spent]
    return shares(parts, "Where the time went", "t") if parts else None


def facts(verdict: Verdict) -> tuple[Fact, ...]:
    """Return the facts about the environment, as text."""
    found = []
    for name, value in verdict.facts.items():
        text = _text(value, indent=2)
        found.append(Fact(name.replace("_", " "), text, len(text) > _LONG or "\n" in text))
    return tuple(sorted(found, key=lambda fact: fact.long))


def skipped(verdict: Verdict) -> dict[str, tuple[str, ...]]:
    """Return the skipped checks, by reason."""
    by_reason: dict[str, list[str]] = {}
    for check in verdict.checks:
        if check.outcome == "skipped":
            by_reason.setdefault(check.why or "no reason given", []).append(_name(check))
    return {reason: tuple(names) for reason, names in by_reason.items()}


def _host(verdict: Verdict) -> tuple[tuple[str, str], ...]:
    host = verdict.host
    memory = f"{host.memory_bytes / 2**30:.0f} GiB" if host.memory_bytes else "unknown"
    known = [
        ("System", f"{host.release} ({host.system} {host.machine})"),
        ("C library", host.libc or "not glibc"),
        ("Processor", f"{host.cpu or 'unknown'}, {host.cores} cores"),
        ("Memory", memory),
    ]
    if host.driver:
        known.append(("NVIDIA driver", host.driver + (f", for CUDA {host.driver_cuda}" if host.driver_cuda else "")))
    if host.gpus:
        known.append(("GPUs", ", ".join(host.gpus)))
    return tuple(known)


def _name(check: Check) -> str:
    """Return the readable name of a check: its function without `test_` and underscores, and its case."""
    name, _, case = check.id.partition("::")[2].partition("[")
    plain = (name or check.id).removeprefix("test_").replace("_", " ")
    return f"{plain} ({case[:-1]})" if case else plain


def _values(values: Mapping[str, JsonValue]) -> tuple[tuple[str, str], ...]:
    return tuple((name.replace("_", " "), _text(value)) for name, value in values.items())


def _text(value: JsonValue, indent: int | None = None) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and all(isinstance(each, (str, int, float)) for each in value):
        return ", ".join(_text(each) for each in value) or "none"
    return json.dumps(value, indent=indent, ensure_ascii=False)
