"""Several processes that compute together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed

from torchsuite import nodes
from torchsuite.tiers import Measure, check


@check("gloo needs sockets, a loopback interface and libraries that nothing else loads", seconds=200)
def test_gloo(tmp_path: Path, measure: Measure) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this build has no gloo")
    measure("verified", nodes.run_together("gloo", 2, tmp_path / "ranks", timeout=180))
