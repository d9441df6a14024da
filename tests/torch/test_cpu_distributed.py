"""Several processes that compute together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed

from torchsuite import gloo_worker
from torchsuite.imports import ending
from torchsuite.tiers import check

WORLD = 2


@check("gloo needs sockets, a loopback interface and libraries that nothing else loads", seconds=90)
def test_gloo(tmp_path: Path) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this build has no gloo")
    store = os.fspath(tmp_path / "store")
    workers = [
        subprocess.Popen(
            [sys.executable, "-I", os.fspath(gloo_worker.__file__), str(rank), str(WORLD), store],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        for rank, worker in enumerate(workers):
            out, errors = worker.communicate(timeout=80)
            assert worker.returncode == 0, f"rank {rank} {ending(worker.returncode)}:\n{errors}"
            results = json.loads(out.splitlines()[-1])
            wrong = [name for name, right in results.items() if not right]
            assert results
            assert not wrong, f"rank {rank} got wrong results from {', '.join(wrong)}"
    finally:
        for worker in workers:
            worker.kill()
