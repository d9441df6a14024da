"""Several GPUs of one machine: what one writes, the others read, directly and through NCCL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed

from torchsuite import nodes, releases, sharded, skips
from torchsuite.tiers import Measure, check

#: More processes than this prove nothing more, and take their time to start.
MOST_PROCESSES = 8


@check("copies between GPUs that go wrong (an IOMMU that redirects them) leave zeros, and no error")
def test_copies_between_gpus(gpu: Any, measure: Measure) -> None:
    count = torch.cuda.device_count()
    peers = [(a, b) for a in range(count) for b in range(count) if a != b]
    measure("peer_access", [f"{a}->{b}" for a, b in peers if torch.cuda.can_device_access_peer(a, b)])
    wanted = torch.arange(1 << 22, dtype=torch.int32)
    for a, b in peers:
        there = wanted.to(f"cuda:{a}").to(f"cuda:{b}")
        assert there.device.index == b
        assert torch.equal(there.cpu(), wanted), f"a copy from GPU {a} to GPU {b} arrives changed"


@check("a sum over tensors of two GPUs needs each kernel on its own device, and a copy that waits for the other")
def test_streams_of_two_gpus(gpu: Any) -> None:
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    x = torch.ones(1 << 22, device=first)
    for _ in range(50):
        x = x + 1
    # The copy has to wait for the additions, which still run.
    y = x.to(second) * 2
    assert torch.equal(y.cpu(), torch.full((1 << 22,), 102.0))


@check("NCCL moves every gradient of a training run on several GPUs; torchrun starts it", seconds=240)
def test_nccl(gpu: Any, tmp_path: Path, measure: Measure) -> None:
    if not torch.distributed.is_nccl_available():
        pytest.skip("this build has no NCCL")
    processes = min(torch.cuda.device_count(), MOST_PROCESSES)
    measure("verified", nodes.run_together("nccl", processes, tmp_path / "ranks", timeout=220).verified("collectives"))


@check("shards of a model are exchanged, saved and loaded by code that no training on one GPU runs", seconds=240)
def test_sharded_training(gpu: Any, tmp_path: Path, measure: Measure) -> None:
    if not torch.distributed.is_nccl_available():
        pytest.skip("this build has no NCCL")
    if releases.older(torch.__version__, (2, 5)):
        skips.skip(skips.Reason.RELEASE, "this torch has no FSDP2")
    together = nodes.run_together("nccl", 2, tmp_path / "ranks", timeout=220, programs=["sharded"])
    measure("verified", together.verified("sharded"))
    assert sharded.loads_alone(together.folder, 2), "a checkpoint of two processes does not load in one"
