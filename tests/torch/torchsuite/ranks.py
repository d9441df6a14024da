"""One of several processes that compute together, started by torchrun; over gloo on CPUs, over NCCL on GPUs.

    torchrun … ranks.py BACKEND FOLDER PROGRAM …

joins the others and runs the programs, modules of this package (`collectives`, `sharded`) with a function `compute`,
one after the other: each writes `FOLDER/PROGRAM-N.json`, which results of this process were right.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

#: How long a process waits for the others at each step.
TIMEOUT_SECONDS = 150


def run_rank(backend: str, folder: Path, programs: Sequence[str]) -> None:
    """Join the process group, run the programs, and end this process."""
    import torch
    import torch.distributed as dist

    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Training steps are compared with those of one process, which needs products of the same digits.
    torch.set_float32_matmul_precision("highest")
    dist.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT_SECONDS))
    rank, world = dist.get_rank(), dist.get_world_size()
    for program in programs:
        compute: Any = importlib.import_module(f"torchsuite.{program}").compute
        about = {"world": world, "backend": backend, "device": str(device)}
        results = dict(compute(device, backend, folder))
        dist.barrier()
        result = folder / f"{program}-{rank}.json"
        result.write_text(json.dumps({**about, "results": results}), encoding="utf-8")
    dist.destroy_process_group()
    # Results are on disk. On a busy machine torch's own threads, which outlive the process group, can abort an
    # ordinary exit ("terminate called without an active exception", seen with torch 2.13 over gloo).
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    # Started by path, in an isolated Python.
    sys.path.insert(0, os.fspath(Path(__file__).parents[1]))
    run_rank(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
