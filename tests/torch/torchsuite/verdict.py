"""What a run comes to: the state, the gaps and the headline of a report. Standard library only.

A report is the JSON object that `torch-verify --report` writes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from torchsuite.required import REQUIRED

Report = dict[str, Any]


def conclude(report: Report) -> dict[str, Any]:
    """`ok`, `state`, `gaps` and `headline` of a report that has everything else.

    `state` is failed, nothing, partial, or what was proven: cpu, cuda-build, gpu. `gaps` are the required checks that
    did not pass and whose skip has no reason of the closed list: tier, id, name and why.
    """
    checks: list[Report] = report["checks"]
    failures = [check for check in checks if check["outcome"] == "failed"]
    passed = [check for check in checks if check["outcome"] == "passed"]
    found = gaps(report)
    concluded = {"ok": not failures and bool(passed), "gaps": found}
    if failures:
        others = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
        first = f"{failures[0]['id']}: {failures[0]['why'] or 'failed'}{others}"
        return {**concluded, "state": "failed", "headline": f"FAILED: {first}"}
    if not passed:
        return {**concluded, "state": "nothing", "headline": "nothing ran, so nothing is proven"}
    reached = {check["tier"] for check in passed}
    proven = _proven(report, reached)
    if report.get("quick"):
        headline = f"quick check passed ({len(passed)} checks): no full verification"
        return {**concluded, "state": "partial", "headline": headline}
    if not report["complete"] or proven is None:
        return {**concluded, "state": "partial", "headline": f"{len(passed)} checks passed, of a part of the suite"}
    state, what, remark = proven
    if not found:
        return {**concluded, "state": state, "headline": what.replace("{}", "verified") + remark}
    missing = ", ".join(f"no {gap['name']}" for gap in found)
    return {**concluded, "state": "partial", "headline": f"{what.replace('{}', 'partly verified')}{remark}: {missing}"}


def gaps(report: Report) -> list[dict[str, str]]:
    """The required checks of this report's tiers that prove nothing, in the table's order."""
    tiers = _needed_tiers(report)
    results: dict[str, list[Report]] = {}
    for check in report["checks"]:
        # A check with parameters has one result for each set of them, and one set may be required: `id[parameters]`.
        for name in {check["id"], check["id"].partition("[")[0]}:
            results.setdefault(name, []).append(check)
    return [
        {"tier": tier, "id": each.id, "name": each.name, "why": why}
        for tier in REQUIRED
        if tier in tiers
        for each in REQUIRED[tier]
        if each.only in (None, report["accelerator"])
        if (why := _gap(results.get(each.id, []))) is not None
    ]


def _needed_tiers(report: Report) -> set[str]:
    """The tiers whose required checks count: those of the accelerator, less those that have no device here."""
    needed = {"static", "import", "cpu"}
    obstacles = {state["tier"]: state["obstacle"] for state in report["tiers"]}
    if report["accelerator"] == "cpu":
        optional: tuple[str, ...] = ("mps",)
    else:
        needed.add("cuda-build")
        optional = ("gpu", "multi-gpu")
    return needed | {tier for tier in optional if tier in obstacles and obstacles[tier] is None}


def _gap(results: list[Report]) -> str | None:
    """Why a required check with these results leaves a gap; None where it passed or does not apply."""
    if not results:
        return "not run"
    open_ = [check for check in results if check["outcome"] != "passed" and not check.get("skip")]
    return (open_[0]["why"] or open_[0]["outcome"]) if open_ else None


def _proven(report: Report, reached: set[str]) -> tuple[str, str, str] | None:
    """State, headline with a place for "verified", and a remark behind it; None where the main tier did not run."""
    if report["accelerator"] == "cpu":
        if "cpu" not in reached:
            return None
        return "cpu", "CPU environment {}" + (" with MPS" if "mps" in reached else ""), ""
    if "gpu" in reached:
        return "gpu", f"CUDA environment {{}} on {describe(report['host']['gpus'])}", ""
    if "cuda-build" not in reached:
        return None
    obstacle = next((tier["obstacle"] for tier in report["tiers"] if tier["tier"] == "gpu"), None)
    why = (obstacle or "no check ran on it").removeprefix("not run: ")
    return "cuda-build", "CUDA build {}", f", GPU not verified ({why})"


def describe(gpus: list[str]) -> str:
    """`2 x NVIDIA H100`; "a GPU" where the driver names none."""
    return ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)) or "a GPU"


def summary(report: Report) -> str:
    """A report for a terminal: counts by tier, every failure, why checks were skipped, gaps, and the headline."""
    lines = [f"{'tier':<12}{'passed':>7}{'failed':>8}{'skipped':>9}"]
    for state in report["tiers"]:
        counts = Counter(check["outcome"] for check in report["checks"] if check["tier"] == state["tier"])
        row = f"{state['tier']:<12}{counts['passed']:>7}{counts['failed']:>8}{counts['skipped']:>9}"
        lines.append(f"{row}  {state['obstacle'] or ''}".rstrip())
    lines += [f"failed  {check['id']}: {check['why']}" for check in report["checks"] if check["outcome"] == "failed"]
    # The table has the reasons of whole tiers already.
    shown = {(state["tier"], state["obstacle"]) for state in report["tiers"]}
    skipped = (check for check in report["checks"] if check["outcome"] == "skipped")
    reasons = Counter(check["why"] for check in skipped if (check["tier"], check["why"]) not in shown)
    lines += [f"skipped {count}: {why}" for why, count in reasons.items()]
    lines += [f"not proven: {gap['name']} ({gap['why']})" for gap in report["gaps"] if report["complete"]]
    state = "is what it is expected to be" if report["ok"] else "is NOT what it is expected to be"
    return "\n".join([*lines, f"{report['prefix']} {state}", report["headline"]])
