"""Apply every rule to a lock. No network and no solver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torchlocks.check.model import Expectation, Finding, Problem, Report, Rule, Skipped, Subject
from torchlocks.check.rules import (
    evidence,
    extended,
    files,
    graph,
    hardware,
    known_pairs,
    packages,
    parity,
    recipes,
    torch,
)
from torchlocks.check.rules.packages import RELOCK
from torchlocks.lockfile.models import Lock

LOCK_RULES: tuple[Rule[Subject], ...] = (
    *packages.RULES,
    *graph.RULES,
    *torch.RULES,
    *hardware.RULES,
    *known_pairs.RULES,
)

RELOCK_ELSEWHERE = "make the lock again, with the tool that made it."


def rule_reasons() -> dict[str, str]:
    """Return the id of every rule with its reason, in the order in which they are applied."""
    everything: tuple[Any, ...] = (*files.RULES, *LOCK_RULES, *parity.RULES)
    by_rule = {each.id: each.reason for each in everything}
    return by_rule | {recipes.RULE: recipes.REASON} | evidence.REASONS | extended.REASONS


def check_lock(lock: Lock, row: Expectation | None = None, *, shown: str | None = None) -> Report:
    """Apply every applicable rule to a lock.

    With a `row`, only its platform is checked, and compared with it; without one, all platforms are, and rules that
    require a row are reported as skipped. `shown` is the path in findings.
    """
    path = shown or str(lock.path)
    findings: list[Finding] = []
    skipped: list[Skipped] = []
    rules: list[str] = []
    platforms = [row.platform] if row else list(lock.platforms)
    for platform in platforms:
        subject = Subject(lock=lock, platform=platform, packages=lock.packages.get(platform, ()), row=row)
        for rule in LOCK_RULES:
            why_not = next((why for need in rule.needs if (why := subject.lacks(need))), None)
            if why_not:
                skipped.append(Skipped(rule=rule.id, path=path, reason=why_not, platform=platform))
                continue
            rules.append(rule.id)
            for problem in rule.look(subject):
                findings.append(finding_of(rule.id, problem, path, row.env if row else None, platform))
    return Report(
        findings=tuple(findings),
        skipped=tuple(skipped),
        locks=1,
        packages=sum(len(lock.packages.get(platform, ())) for platform in platforms),
        rules=tuple(dict.fromkeys(rules)),
    )


def check_environments(locks: Sequence[Lock], *, shown: str | None = None) -> Report:
    """Check every environment of a pixi.lock, or the only one of another lock.

    A problem of several environments is one finding that names them; a rule is skipped only if it could be applied to
    none. A package is counted once, in however many environments it is.
    """
    if len(locks) == 1:
        return check_lock(locks[0], shown=shown)
    path = shown or str(locks[0].path)
    reports = {lock.environment: check_lock(lock, shown=shown) for lock in locks}
    found: dict[Finding, list[str]] = {}
    skipped: dict[Skipped, None] = {}
    applied = {rule for report in reports.values() for rule in report.rules}
    for name, report in reports.items():
        for finding in report.findings:
            names = found.setdefault(finding, [])
            if name not in names:
                names.append(name)
        skipped.update({skip: None for skip in report.skipped if skip.rule not in applied})
    order = list(dict.fromkeys(rule for report in reports.values() for rule in report.rules))
    packages = {(platform, each.url) for lock in locks for platform, held in lock.packages.items() for each in held}
    return Report(
        findings=tuple(replace(finding, environments=tuple(names)) for finding, names in found.items()),
        skipped=tuple(skipped),
        locks=1,
        packages=len(packages),
        rules=tuple(order),
        environments={path: tuple(reports)},
    )


def finding_of(rule: str, problem: Problem, path: str, env: str | None, platform: str | None) -> Finding:
    return Finding(
        rule=rule,
        severity=problem.severity,
        path=f"{path}/{problem.file}" if problem.file else path,
        message=problem.message,
        env=env,
        platform=problem.platform or platform,
        package=problem.package,
        # A lock from elsewhere was not made by `make lock`.
        fix=problem.fix.replace(RELOCK, RELOCK_ELSEWHERE) if problem.fix and env is None else problem.fix,
    )
