"""Sharded training: two processes with shards of one model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed

from torchsuite import nodes, sharded, skips
from torchsuite.tiers import Measure, check


@check("shards of a model are exchanged, saved and loaded by code that no training in one process runs", seconds=300)
def test_sharded_training(tmp_path: Path, measure: Measure) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this build has no gloo")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        skips.skip(skips.Reason.RELEASE, "FSDP2 runs on CPUs from torch 2.6 on")
    folder = tmp_path / "ranks"
    measure("verified", nodes.run_together("gloo", 2, folder, timeout=280, script=sharded.__file__))
    assert sharded.loads_alone(folder, 2), "a checkpoint of two processes does not load in one"
