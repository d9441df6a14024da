"""One of several processes that compute together over gloo.

    python -I gloo_worker.py RANK WORLD STORE

STORE is a file that all of them use to find each other; nothing but the loopback interface is used.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

#: The loopback interface's name; gloo would look the host's own name up, which fails on many machines.
LOOPBACK = {"linux": "lo", "darwin": "lo0"}


def main(rank: int, world: int, store: str) -> None:
    if sys.platform in LOOPBACK:
        os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK[sys.platform]
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group(
        "gloo", init_method=Path(store).as_uri(), rank=rank, world_size=world, timeout=timedelta(seconds=40)
    )
    results: dict[str, object] = {}
    total = torch.arange(1000.0) * (rank + 1)
    dist.all_reduce(total)
    results["all_reduce"] = torch.equal(total, torch.arange(1000.0) * (world * (world + 1) // 2))

    message = torch.full((5,), float(rank))
    dist.broadcast(message, src=1)
    results["broadcast"] = message.tolist() == [1.0] * 5

    gathered = [torch.empty(3) for _ in range(world)]
    dist.all_gather(gathered, torch.full((3,), float(rank)))
    results["all_gather"] = [tensor[0].item() for tensor in gathered] == list(range(world))

    largest = torch.tensor([rank, -rank])
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    results["max"] = largest.tolist() == [world - 1, 0]

    objects: list[object] = [None] * world
    dist.all_gather_object(objects, {"rank": rank})
    results["objects"] = objects == [{"rank": other} for other in range(world)]

    # A batch split over the processes has the gradient of the whole batch: the mean of the parts' means.
    torch.manual_seed(5)
    model = torch.nn.Linear(6, 1).double()
    batch = torch.randn(4 * world, 6, dtype=torch.float64)
    model(batch).square().mean().backward()
    whole = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    # Kept in a variable: gradients are exchanged only as long as the wrapper lives.
    parallel = DistributedDataParallel(model)
    parallel(batch[4 * rank : 4 * rank + 4]).square().mean().backward()
    results["gradients"] = all(
        torch.allclose(parameter.grad, gradient, rtol=1e-12, atol=1e-14)
        for parameter, gradient in zip(model.parameters(), whole, strict=True)
    )
    dist.barrier()
    dist.destroy_process_group()
    print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
