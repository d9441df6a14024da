"""Several processes that compute together: collectives, and training with shards of one model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch.distributed

from torchsuite import nodes, releases, sharded, skips
from torchsuite.tiers import Measure, check

PROCESSES = 2

#: The program of each check.
PROGRAMS = {"test_gloo": "collectives", "test_sharded_training": "sharded"}


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], nodes.Together]:
    """Start processes when they are first asked for: one pair for both checks, since three of them import torch."""
    chosen = {item.name for item in request.session.items}
    programs = [program for name, program in PROGRAMS.items() if name in chosen]
    if _no_shards() and "sharded" in programs:
        programs.remove("sharded")
    folder = tmp_path_factory.mktemp("ranks")
    return cache(lambda: nodes.run_together("gloo", PROCESSES, folder, timeout=280, programs=programs))


def _no_shards() -> bool:
    return releases.older(torch.__version__, (2, 6))


@check("gloo needs sockets, a loopback interface and libraries that nothing else loads", seconds=300)
def test_gloo(together: Callable[[], nodes.Together], measure: Measure) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this build has no gloo")
    measure("verified", together().verified("collectives"))


@check("shards of a model are exchanged, saved and loaded by code that no training in one process runs", seconds=300)
def test_sharded_training(together: Callable[[], nodes.Together], measure: Measure) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this build has no gloo")
    if _no_shards():
        skips.skip(skips.Reason.RELEASE, "FSDP2 runs on CPUs from torch 2.6 on")
    measure("verified", together().verified("sharded"))
    assert sharded.loads_alone(together().folder, PROCESSES), "a checkpoint of two processes does not load in one"
