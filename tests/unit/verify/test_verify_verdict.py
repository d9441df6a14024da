"""What a report comes to: a stand-in report for every gap that it may have."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchsuite import skips
from torchsuite.required import REQUIRED, Required, quick
from torchsuite.tier_names import TIERS
from torchsuite.verdict import conclude

SUITE = Path(__file__).parents[2] / "torch"
H100 = "NVIDIA H100 80GB HBM3"

#: What each kind of report has to prove: the tiers that run there.
PROVES = {
    "cpu": ("static", "import", "cpu"),
    "mac": ("static", "import", "cpu", "mps"),
    "cuda-build": ("static", "import", "cpu", "cuda-build"),
    "gpu": ("static", "import", "cpu", "cuda-build", "gpu"),
    "two-gpus": ("static", "import", "cpu", "cuda-build", "gpu", "multi-gpu"),
}
FULL = {
    "cpu": "CPU environment verified",
    "mac": "CPU environment verified with MPS",
    "cuda-build": "CUDA build verified, GPU not verified (no NVIDIA driver)",
    "gpu": f"CUDA environment verified on 1 x {H100}",
    "two-gpus": f"CUDA environment verified on 2 x {H100}",
}
PARTLY = {name: headline.replace("verified", "partly verified", 1) for name, headline in FULL.items()}


def needed(kind: str) -> list[tuple[str, Required]]:
    accelerator = "cpu" if kind in ("cpu", "mac") else "cuda"
    return [
        (tier, each)
        for tier in PROVES[kind]
        for each in REQUIRED[tier]
        if each.only is None or each.only == accelerator
    ]


def report(kind: str) -> dict[str, Any]:
    """A report of that kind in which every required check passed."""
    obstacles = {tier: None if tier in PROVES[kind] else "not run: no NVIDIA driver" for tier in TIERS}
    return {
        "accelerator": "cpu" if kind in ("cpu", "mac") else "cuda",
        "complete": True,
        "quick": False,
        "host": {"gpus": [H100] * {"gpu": 1, "two-gpus": 2}.get(kind, 0)},
        "tiers": [{"tier": tier, "obstacle": why} for tier, why in obstacles.items()],
        "checks": [
            {"id": each.id, "tier": tier, "outcome": "passed", "why": None, "skip": None} for tier, each in needed(kind)
        ],
    }


ALL = [pytest.param(kind, tier, each, id=f"{kind}-{each.name}") for kind in PROVES for tier, each in needed(kind)]


def change(told: dict[str, Any], check: str, **values: object) -> None:
    next(each for each in told["checks"] if each["id"] == check).update(values)


@pytest.mark.parametrize("kind", PROVES)
def test_a_report_without_a_gap_is_verified(kind: str) -> None:
    found = conclude(report(kind))
    assert (found["ok"], found["gaps"], found["headline"]) == (True, [], FULL[kind])
    assert found["state"] == {"mac": "cpu", "two-gpus": "gpu"}.get(kind, kind)


@pytest.mark.parametrize(("kind", "tier", "each"), ALL)
def test_a_required_check_that_did_not_run_is_named(kind: str, tier: str, each: Required) -> None:
    told = report(kind)
    told["checks"] = [check for check in told["checks"] if check["id"] != each.id]
    found = conclude(told)
    assert [(gap["tier"], gap["id"], gap["why"]) for gap in found["gaps"]] == [(tier, each.id, "not run")]
    assert (found["state"], found["headline"]) == ("partial", f"{PARTLY[kind]}: no {each.name}")


@pytest.mark.parametrize(("kind", "tier", "each"), ALL)
def test_a_skip_without_a_listed_reason_is_a_gap(kind: str, tier: str, each: Required) -> None:
    told = report(kind)
    change(told, each.id, outcome="skipped", why="this build has no such thing")
    found = conclude(told)
    assert [gap["why"] for gap in found["gaps"]] == ["this build has no such thing"]
    assert (found["ok"], found["headline"]) == (True, f"{PARTLY[kind]}: no {each.name}")


@pytest.mark.parametrize("reason", skips.Reason)
@pytest.mark.parametrize("kind", PROVES)
def test_a_skip_with_a_listed_reason_is_none(kind: str, reason: skips.Reason) -> None:
    for _, each in needed(kind)[3:]:
        told = report(kind)
        code, why = skips.split(skips.coded(reason, "does not apply here"))
        change(told, each.id, outcome="skipped", why=why, skip=code)
        assert conclude(told)["headline"] == FULL[kind]


@pytest.mark.parametrize(("kind", "tier", "each"), ALL)
def test_a_failure_is_never_partly_verified(kind: str, tier: str, each: Required) -> None:
    told = report(kind)
    change(told, each.id, outcome="failed", why="it broke")
    found = conclude(told)
    assert not found["ok"]
    assert (found["state"], found["headline"]) == ("failed", f"FAILED: {each.id}: it broke")


def test_several_gaps_are_all_named() -> None:
    told = report("two-gpus")
    change(told, "test_gpu_numerics.py::test_matmul_half[bf16]", outcome="skipped", why="because")
    change(told, "test_multi_gpu_together.py::test_nccl", outcome="skipped", why="this build has no NCCL")
    assert conclude(told)["headline"] == f"{PARTLY['two-gpus']}: no bf16, no NCCL between GPUs"


def test_one_case_of_a_check_is_not_all_of_it() -> None:
    told = report("cpu")
    change(told, "test_cpu_numerics.py::test_matmul", id="test_cpu_numerics.py::test_matmul[float32]")
    assert conclude(told)["headline"] == FULL["cpu"]
    told["checks"].append(
        {"id": "test_cpu_numerics.py::test_matmul[float64]", "tier": "cpu", "outcome": "skipped", "why": "why not"}
    )
    assert conclude(told)["headline"] == f"{PARTLY['cpu']}: no matrix products on CPU"


def test_one_passing_gpu_check_verifies_no_gpu() -> None:
    told = report("gpu")
    gpu = [each.id for each in REQUIRED["gpu"]]
    told["checks"] = [check for check in told["checks"] if check["id"] not in gpu[1:]]
    found = conclude(told)
    assert found["state"] == "partial"
    assert len(found["gaps"]) == len(gpu) - 1


def test_several_kinds_of_gpu_are_counted() -> None:
    told = report("gpu")
    told["host"]["gpus"] = ["NVIDIA A100", "NVIDIA T4", "NVIDIA A100"]
    assert conclude(told)["headline"] == "CUDA environment verified on 2 x NVIDIA A100, 1 x NVIDIA T4"


def _without_checks(told: dict[str, Any]) -> None:
    told["checks"] = []


def _selected(told: dict[str, Any]) -> None:
    told["complete"] = False


def _quick(told: dict[str, Any]) -> None:
    told.update(complete=False, quick=True)


def _cpu_tier_alone(told: dict[str, Any]) -> None:
    told["checks"] = [check for check in told["checks"] if check["tier"] == "cpu"]


@pytest.mark.parametrize(
    ("kind", "less", "state"),
    [
        ("cpu", _without_checks, "nothing"),
        ("cpu", _selected, "partial"),
        ("gpu", _selected, "partial"),
        ("cpu", _quick, "partial"),
        ("gpu", _cpu_tier_alone, "partial"),
    ],
)
def test_a_part_of_the_suite_is_no_full_verdict(kind: str, less: Callable[[dict[str, Any]], None], state: str) -> None:
    told = report(kind)
    less(told)
    found = conclude(told)
    assert found["state"] == state
    assert "verified" not in found["headline"]


# The table and the suite.


def declared() -> set[str]:
    return {
        f"{file.name}::{function.name}"
        for file in SUITE.glob("test_*.py")
        for function in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_")
    }


def test_every_required_check_exists_in_its_tier() -> None:
    required = [(tier, each.id) for tier, checks in REQUIRED.items() for each in checks]
    assert {check.partition("[")[0] for _, check in required} <= declared()
    assert len({check for _, check in required}) == len(required)
    for tier, check in required:
        assert check.startswith(f"test_{tier.replace('-', '_')}_")
    names = [each.name for checks in REQUIRED.values() for each in checks]
    assert len(set(names)) == len(names), "the headline could mean either"


def test_the_short_set_reaches_every_tier_that_every_environment_has() -> None:
    reached = {check.split("_")[1] for check in quick()}
    assert {"static", "import", "cpu", "cuda", "gpu"} <= reached


def test_only_listed_reasons_have_a_code() -> None:
    assert skips.split("[gpu-too-old] bf16 needs more") == ("gpu-too-old", "bf16 needs more")
    assert skips.split("[because] of nothing") == (None, "[because] of nothing")
    assert skips.split("no code at all") == (None, "no code at all")
