"""Tasks in an executor: how many at once, in which order, and what a failure does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from torchlocks.core.workers import Here, in_order


def test_results_are_in_the_order_of_the_tasks_of_which_few_are_taken_at_once() -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        for number in range(20):
            taken += 1
            yield number

    with ThreadPoolExecutor(3) as pool:
        for done, (task, result) in enumerate(in_order(pool, lambda number: -number, tasks(), at_once=4), start=1):
            assert (task, result) == (done - 1, 1 - done)
            assert taken <= done + 4
    assert taken == 20


def test_the_first_task_that_fails_is_the_error() -> None:
    def fail(number: int) -> int:
        if number in (2, 5):
            raise ValueError(f"number {number}")
        return number

    found = []
    with pytest.raises(ValueError, match="number 2"):
        found += [result for _, result in in_order(Here(), fail, range(9))]
    found += [result for _, result in in_order(Here(), fail, range(2))]
    assert found == [0, 1]
