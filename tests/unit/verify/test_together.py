"""What processes that computed together have verified, program by program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from torchsuite.nodes import Together


def left(folder: Path, *, error: str | None, **programs: list[bool]) -> Together:
    """What two programs leave: for each rank that came to the program's end, whether its result was right."""
    for program, ranks in programs.items():
        for rank, right in enumerate(ranks):
            about = {"world": 2, "backend": "gloo", "results": {"sum": right}}
            (folder / f"{program}-{rank}.json").write_text(json.dumps(about), encoding="utf-8")
    return Together(folder=folder, processes=2, programs=("collectives", "sharded"), error=error)


def test_programs_are_verified_apart(tmp_path: Path) -> None:
    together = left(tmp_path, error=None, collectives=[True, True], sharded=[True, False])
    assert together.verified("collectives") == ["rank-0: sum", "rank-1: sum"]
    with pytest.raises(AssertionError, match=r"rank-1 of 2 over gloo .* sum"):
        together.verified("sharded")


@pytest.mark.parametrize("ranks", [[], [True]])
def test_a_program_that_crashes_is_no_matter_of_the_one_before_it(tmp_path: Path, ranks: list[bool]) -> None:
    together = left(tmp_path, error="SIGSEGV", collectives=[True, True], sharded=ranks)
    assert together.verified("collectives") == ["rank-0: sum", "rank-1: sum"]
    with pytest.raises(AssertionError, match="SIGSEGV"):
        together.verified("sharded")


def test_a_program_that_crashes_takes_the_next_one_along(tmp_path: Path) -> None:
    together = left(tmp_path, error="SIGSEGV", collectives=[True])
    for program in together.programs:
        with pytest.raises(AssertionError, match="SIGSEGV"):
            together.verified(program)


def test_results_do_not_make_up_for_a_failure_at_the_end(tmp_path: Path) -> None:
    together = left(tmp_path, error="terminate called", collectives=[True, True], sharded=[True, True])
    with pytest.raises(AssertionError, match="terminate"):
        together.verified("sharded")


def test_a_process_that_leaves_nothing_is_missed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="1 of 2"):
        left(tmp_path, error=None, collectives=[True]).verified("collectives")
