"""What every process does that torchrun starts: join the others, and write down which results were right."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any


def run_rank(compute: Callable[[Any, str, Path], Mapping[str, bool]], timeout_s: float) -> None:
    """Join the process group, call `compute(device, backend, folder)`, and write its results to `FOLDER/rank-N.json`.

    Backend and folder are the arguments of the program, which ends here. `timeout_s` is in seconds.
    """
    import torch
    import torch.distributed as dist

    backend, folder = sys.argv[1], Path(sys.argv[2])
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Training steps are compared with those of one process, which needs products of the same digits.
    torch.set_float32_matmul_precision("highest")
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    rank, world = dist.get_rank(), dist.get_world_size()
    results = dict(compute(device, backend, folder))
    dist.barrier()
    dist.destroy_process_group()
    about = {"world": world, "backend": backend, "device": str(device), "results": results}
    (folder / f"rank-{rank}.json").write_text(json.dumps(about), encoding="utf-8")
    # Results are on disk. On a busy machine torch's own threads, which outlive the process group, can abort an
    # ordinary exit ("terminate called without an active exception", seen with torch 2.13 over gloo).
    sys.stderr.flush()
    os._exit(0)
