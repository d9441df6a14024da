"""What results of checks prove, by the required set of the suite; pure functions of a report or a record."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from torchlocks.core.errors import EvidenceError
from torchlocks.core.reading import read_text
from torchlocks.evidence.model import Evidence, ProvenState, Required, Result
from torchlocks.verify.verdict import Check, Verdict

#: Ids of required checks by tier, with the kind of environment that each is required in (None: both).
Table = Mapping[str, Mapping[str, str | None]]

ALWAYS = ("static", "import", "cpu")
"""The tiers whose required checks count in every environment."""


def required_table(suite: Path) -> Table:
    """Return the required set of the suite in the folder `suite`.

    The table is parsed and not run, since a checkout may be anybody's. Raises EvidenceError if it cannot be read.
    """
    path = suite / "torchsuite" / "required.py"
    try:
        return parse_table(read_text(path))
    except (OSError, ValueError) as error:
        raise EvidenceError(
            f"The suite's table of required checks cannot be read: {error}.",
            where=str(path),
            fix="use the tests/torch of this torchlocks.",
        ) from None


def parse_table(source: str) -> Table:
    """Return the required set that the text of `required.py` has. Raises ValueError if it has none."""
    try:
        tree = ast.parse(source)
        value = next(
            node.value
            for node in tree.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "REQUIRED"
        )
        assert isinstance(value, ast.Dict)
        table = {
            str(ast.literal_eval(tier)): dict(map(_entry, checks.elts))
            for tier, checks in zip(value.keys, value.values, strict=True)
            if tier is not None and isinstance(checks, ast.Tuple)
        }
    except (SyntaxError, StopIteration, AssertionError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if not all(table.get(tier) for tier in (*ALWAYS, "cuda-build", "gpu")):
        raise ValueError("a tier is missing")
    return table


def table_hash(table: Table) -> str:
    """Return the hash that identifies a required set in records."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def _entry(call: ast.expr) -> tuple[str, str | None]:
    assert isinstance(call, ast.Call)
    assert call.args
    only = next((ast.literal_eval(each.value) for each in call.keywords if each.arg == "only"), None)
    assert only is None or isinstance(only, str)
    return str(ast.literal_eval(call.args[0])), only


def results(verdict: Verdict, table: Table) -> tuple[Required, ...]:
    """Return the result of each required check of a report, in the order of the table.

    Tiers count as the suite's own conclusion counts them: those of every environment, `cuda-build` in a CUDA
    environment, and those of GPUs where the suite found one.
    """
    open_tiers = {state.tier for state in verdict.tiers if state.obstacle is None}
    tiers = {*ALWAYS, *(("mps",) if verdict.accelerator == "cpu" else ("gpu", "multi-gpu"))} & {*ALWAYS, *open_tiers}
    if verdict.accelerator == "cuda":
        tiers.add("cuda-build")
    by_id: dict[str, list[Check]] = {}
    for check in verdict.checks:
        by_id.setdefault(check.id, []).append(check)
        if "[" in check.id:
            by_id.setdefault(check.id.partition("[")[0], []).append(check)
    return tuple(
        Required(tier=tier, id=id, result=_result(by_id.get(id, ())))
        for tier, ids in table.items()
        if tier in tiers
        for id, only in ids.items()
        if only in (None, verdict.accelerator)
    )


def _result(checks: Iterable[Check]) -> Result:
    mine = list(checks)
    if not mine or any(check.outcome != "passed" and not check.skip for check in mine):
        return "not-proven"
    if any(check.outcome == "failed" for check in mine):
        return "not-proven"
    return "passed" if any(check.outcome == "passed" for check in mine) else "not-applicable"


def state_of(accelerator: str, required: Iterable[Required], *, complete: bool = True) -> ProvenState | None:
    """Return the most that these results prove; None if not even a part of it.

    A state needs every required check of its tiers to have passed or to be not applicable, and a check of its main
    tier to have passed.
    """
    found = list(required)
    reached = {each.tier for each in found if each.result == "passed"}
    if not reached & {"cpu", "cuda-build", "gpu"}:
        return None
    if not complete or any(each.result == "not-proven" for each in found) or not set(ALWAYS) <= reached:
        return "partial"
    if accelerator == "cpu":
        return "cpu"
    if "cuda-build" not in reached:
        return "partial"
    return "gpu" if "gpu" in reached else "cuda-build"


def wrong_claim(record: Evidence, table: Table | None) -> str | None:
    """Return what a record claims beyond its results or the required set; None if nothing.

    `table` is the required set that the record names, None where it is not known: then only the results are read.
    """
    proven = state_of(record.accelerator, record.required)
    if record.state != proven and not (record.state == "partial" and proven is not None):
        return f"it claims {record.state!r}, and its results prove {proven or 'nothing'!r}"
    if record.state == "gpu" and not record.machine.gpus:
        return "it claims 'gpu' and names no GPU"
    listed = {(each.tier, each.id) for each in record.required}
    if len(listed) != len(record.required):
        return "it has two results of one check"
    if table is None:
        return None
    tiers = {tier for tier, _ in listed} | {*ALWAYS} | ({"cuda-build"} if record.accelerator == "cuda" else set())
    if record.machine.gpus and record.accelerator == "cuda":
        tiers.add("gpu")
    wanted = {
        (tier, id) for tier in tiers for id, only in table.get(tier, {}).items() if only in (None, record.accelerator)
    }
    if missing := sorted(id for _, id in wanted - listed):
        return f"required checks are missing: {', '.join(missing[:3])}"
    if unknown := sorted(id for _, id in listed - wanted):
        return f"these are no required checks: {', '.join(unknown[:3])}"
    return None
