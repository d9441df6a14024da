"""Data loading in worker processes."""

from __future__ import annotations

import multiprocessing
import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from torchsuite import skips
from torchsuite.tiers import check


def _epoch(context: str, workers: int) -> torch.Tensor:
    # Threads are running by now, as in any training program: fork has to work beside them.
    torch.randn(1 << 20).sin_()
    data = TensorDataset(torch.arange(64), torch.arange(64).float().unsqueeze(1).expand(64, 1000).contiguous())
    loader = DataLoader(data, batch_size=16, num_workers=workers, multiprocessing_context=context, timeout=40)
    seen = []
    for index, rows in loader:
        assert torch.equal(rows[:, 0], index.float())
        seen.append(index)
    return torch.cat(seen)


@pytest.mark.parametrize("context", ["fork", "spawn"])
@check("data loaders start workers; OpenMP after a fork, spawn without a main module, and full /dev/shm break them")
def test_workers(context: str) -> None:
    if context not in multiprocessing.get_all_start_methods():
        skips.skip(skips.Reason.PLATFORM, f"{sys.platform} has no {context}")
    if context == "fork" and sys.platform == "darwin":
        skips.skip(skips.Reason.PLATFORM, "macOS libraries do not survive a fork")
    # A spawned worker imports torch: a second one would take two seconds, and meet nothing that the first does not.
    assert torch.equal(_epoch(context, workers=2 if context == "fork" else 1), torch.arange(64))


@check("an exception in a worker has to reach the training program, with its own message")
def test_worker_errors_arrive() -> None:
    if "fork" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin":
        skips.skip(skips.Reason.PLATFORM, f"{sys.platform} has no fork")

    def refuse(batch: object) -> object:
        raise ValueError("no such sample")

    loader = DataLoader(
        TensorDataset(torch.arange(4)),
        batch_size=4,
        num_workers=1,
        collate_fn=refuse,
        multiprocessing_context="fork",
        timeout=40,
    )
    batches = iter(loader)
    with pytest.raises(ValueError, match="no such sample"):
        next(batches)
    # The one batch is over. A loader that is dropped before its end waits five seconds for its worker.
    assert next(batches, None) is None
