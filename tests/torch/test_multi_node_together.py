"""Several machines, if others are named: see `torchsuite/nodes.py`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed

from torchsuite import nodes, usable
from torchsuite.expect import Expectation
from torchsuite.tiers import Measure, check


@check("between machines there are interfaces, firewalls and RDMA cards that no test on one machine meets", seconds=420)
def test_nodes_compute_together(expectation: Expectation, tmp_path: Path, measure: Measure) -> None:
    try:
        others = nodes.named(os.environ)
    except ValueError as error:
        pytest.fail(str(error))
    if expectation.accelerator == "cuda":
        if why := usable.obstacle(torch):
            pytest.skip(why)
        backend, processes = "nccl", torch.cuda.device_count()
    else:
        backend, processes = "gloo", 1
    measure("backend", backend)
    measure("nodes", others.count)
    together = nodes.run_together(backend, processes, tmp_path / "ranks", others, timeout=400)
    measure("verified", together.verified("collectives"))
