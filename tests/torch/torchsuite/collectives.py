"""Collectives and data-parallel training: a verdict each, in every one of the processes that `ranks.py` joins.

All numbers are small and whole, so that every order of summation gives the same result, down to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Few enough for a quick start, many enough that NCCL splits a message over its channels.
ELEMENTS = 1 << 20


def compute(device: Any, backend: str, folder: Path) -> dict[str, bool]:
    """Run every collective that the backend supports, and return which gave the right result."""
    import torch.distributed as dist

    rank, world = dist.get_rank(), dist.get_world_size()
    return {name: function(device, rank, world) for name, function in COLLECTIVES.items() if supported(name, backend)}


def supported(name: str, backend: str) -> bool:
    """gloo neither averages nor scatters a reduction (the table of `torch.distributed`'s documentation)."""
    return backend == "nccl" or name not in ("average", "reduce_scatter", "all_to_all")


def _ramp(device: Any, factor: int) -> Any:
    import torch

    return (torch.arange(ELEMENTS, device=device) % 1000).float() * factor


def _sum(device: Any, rank: int, world: int) -> bool:
    import torch
    import torch.distributed as dist

    total = _ramp(device, rank + 1)
    dist.all_reduce(total)
    return bool(torch.equal(total, _ramp(device, world * (world + 1) // 2)))


def _extremes(device: Any, rank: int, world: int) -> bool:
    import torch
    import torch.distributed as dist

    largest, smallest = torch.tensor([rank, -rank], device=device), torch.tensor([rank, -rank], device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
    return bool(largest.tolist() == [world - 1, 0] and smallest.tolist() == [0, 1 - world])


def _average(device: Any, rank: int, world: int) -> bool:
    import torch
    import torch.distributed as dist

    mean = torch.full((1000,), float(2 * rank), device=device)
    dist.all_reduce(mean, op=dist.ReduceOp.AVG)
    return bool(torch.allclose(mean, torch.full_like(mean, float(world - 1)), rtol=1e-6))


def _broadcast(device: Any, rank: int, world: int) -> bool:
    import torch
    import torch.distributed as dist

    right = True
    for source in range(world):
        message = torch.full((ELEMENTS,), float(rank), device=device)
        dist.broadcast(message, src=source)
        right &= bool((message == source).all())
    return right


def _all_gather(device: Any, rank: int, world: int) -> bool:
    import torch
    import torch.distributed as dist

    gathered = [torch.empty(ELEMENTS, device=device) for _ in range(world)]
    dist.all_gather(gathered, _ramp(device, rank))
    return all(torch.equal(part, _ramp(device, other)) for other, part in enumerate(gathered))


def _reduce_scatter(device: Any, rank: int, world: int) -> bool:
    import torch
    import torch.distributed as dist

    part = torch.empty(1000, device=device)
    dist.reduce_scatter(part, [torch.full((1000,), float(other + rank), device=device) for other in range(world)])
    return bool((part == world * rank + world * (world - 1) // 2).all())


def _all_to_all(device: Any, rank: int, world: int) -> bool:
    import torch
    import torch.distributed as dist

    received = [torch.empty(1000, device=device) for _ in range(world)]
    dist.all_to_all(received, [torch.full((1000,), float(100 * rank + other), device=device) for other in range(world)])
    return all(bool((part == 100 * other + rank).all()) for other, part in enumerate(received))


def _ring(device: Any, rank: int, world: int) -> bool:
    import torch
    import torch.distributed as dist

    if world == 1:
        return True
    incoming = torch.empty(1000, device=device)
    sending = dist.P2POp(dist.isend, torch.full((1000,), float(rank), device=device), (rank + 1) % world)
    receiving = dist.P2POp(dist.irecv, incoming, (rank - 1) % world)
    for work in dist.batch_isend_irecv([sending, receiving]):
        work.wait()
    return bool((incoming == (rank - 1) % world).all())


def _objects(device: Any, rank: int, world: int) -> bool:
    import torch.distributed as dist

    objects: list[object] = [None] * world
    dist.all_gather_object(objects, {"rank": rank})
    return objects == [{"rank": other} for other in range(world)]


def _training(device: Any, rank: int, world: int) -> bool:
    """A batch split over the processes trains as the whole batch in one: the gradient is the mean of the parts'."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(5)
    batch, target = torch.randn(4 * world, 6).double().to(device), torch.randn(4 * world, 1).double().to(device)
    layers = (torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    alone = torch.nn.Sequential(*layers).double().to(device)
    together = DistributedDataParallel(
        copy.deepcopy(alone), device_ids=[device.index] if device.type == "cuda" else None, broadcast_buffers=False
    )
    mine = slice(4 * rank, 4 * rank + 4)
    for model, rows in ((alone, slice(None)), (together, mine)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(10):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(batch[rows]), target[rows]).backward()
            optimizer.step()
    # Ten steps of a few hundred operations in float64 each: rounding stays far below.
    return all(
        torch.allclose(one, other, rtol=1e-9, atol=1e-11)
        for one, other in zip(alone.parameters(), together.module.parameters(), strict=True)
    )


COLLECTIVES: dict[str, Callable[[Any, int, int], bool]] = {
    "all_reduce": _sum,
    "max_and_min": _extremes,
    "average": _average,
    "broadcast": _broadcast,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": _all_to_all,
    "send_and_receive": _ring,
    "objects": _objects,
    "training": _training,
}
