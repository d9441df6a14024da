"""Training in shards: a verdict a technique, in every one of the processes that `ranks.py` joins.

Leaves `FOLDER/checkpoint`, which one process alone can load.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def compute(device: Any, backend: str, folder: Path) -> dict[str, bool]:
    """Train in every way that this torch has, and return which gave the right result."""
    import torch.distributed as dist

    world = dist.get_world_size()
    return {name: function(device, world, folder) for name, function in TECHNIQUES.items()}


def network(device: Any) -> Any:
    """The same small network in every process, in float64."""
    import torch

    torch.manual_seed(21)
    layers = (torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
    return torch.nn.Sequential(*layers).double().to(device)


def batch(device: Any, world: int) -> tuple[Any, Any]:
    """The whole batch of all processes."""
    import torch

    torch.manual_seed(22)
    x, y = torch.randn(4 * world, 8, dtype=torch.float64), torch.randn(4 * world, 4, dtype=torch.float64)
    return x.to(device), y.to(device)


def _mine(tensor: Any) -> Any:
    import torch.distributed as dist

    return tensor.chunk(dist.get_world_size())[dist.get_rank()]


def _close(one: Any, other: Any) -> bool:
    import torch

    # A few hundred operations in float64: rounding stays far below.
    return bool(torch.allclose(one, other, rtol=1e-9, atol=1e-11))


def _alone(device: Any, world: int, steps: int) -> Any:
    import torch

    model, (x, y) = network(device), batch(device, world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return model


def _fsdp(device: Any, world: int, folder: Path) -> bool:
    """FSDP2: each layer's parameters in shards. Trains as one process does, and leaves a checkpoint."""
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh

    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:  # Before torch 2.6.
        from torch.distributed._composable.fsdp import fully_shard

    model, (x, y) = network(device), batch(device, world)
    mesh = init_device_mesh(device.type, (world,))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(_mine(x)), _mine(y)).backward()
        optimizer.step()
    dcp.save({"model": model.state_dict()}, checkpoint_id=os.fspath(folder / "checkpoint"))
    alone = _alone(device, world, 5)
    return all(
        _close(mine.full_tensor(), whole) for mine, whole in zip(model.parameters(), alone.parameters(), strict=True)
    )


def _dtensor(device: Any, world: int, folder: Path) -> bool:
    """Products of tensors that are split by rows and by columns."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    torch.manual_seed(23)
    mesh = init_device_mesh(device.type, (world,))
    a, b = (torch.randn(4 * world, 4 * world, dtype=torch.float64).to(device) for _ in range(2))
    right = True
    for placed_a, placed_b in ((Shard(0), Replicate()), (Replicate(), Shard(1)), (Shard(1), Shard(0))):
        product = distribute_tensor(a, mesh, [placed_a]) @ distribute_tensor(b, mesh, [placed_b])
        right &= _close(product.full_tensor(), a @ b)
    moved = distribute_tensor(a, mesh, [Shard(0)]).redistribute(mesh, [Shard(1)])
    return right and bool(torch.equal(moved.to_local(), a.chunk(world, 1)[mesh.get_local_rank()]))


def _tensor_collectives(device: Any, world: int, folder: Path) -> bool:
    """The collectives that shards are exchanged with: on one tensor, and as functions."""
    import torch
    import torch.distributed as dist
    import torch.distributed._functional_collectives as functional

    rank = dist.get_rank()
    whole = torch.empty(3 * world, device=device)
    dist.all_gather_into_tensor(whole, torch.full((3,), float(rank), device=device))
    gathered = whole.tolist() == [float(other) for other in range(world) for _ in range(3)]
    total = functional.all_reduce(torch.full((5,), float(rank + 1), device=device), "sum", dist.group.WORLD)
    part = torch.empty(3, device=device)
    dist.reduce_scatter_tensor(part, torch.arange(3.0 * world, device=device) * (rank + 1))
    scale = world * (world + 1) // 2
    expected = (torch.arange(3.0 * world, device=device) * scale).chunk(world)[rank]
    return gathered and total.tolist() == [float(scale)] * 5 and bool(torch.equal(part, expected))


def _accumulation(device: Any, world: int, folder: Path) -> bool:
    """Two half batches whose gradients are added before they are exchanged, under autocast to bf16."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    x, y = (part.float() for part in batch(device, world))
    plain = network(device).float()
    together = DistributedDataParallel(
        copy.deepcopy(plain), device_ids=[device.index] if device.type == "cuda" else None
    )
    halves = [tuple(part.chunk(2)[half] for part in (_mine(x), _mine(y))) for half in (0, 1)]

    def loss(model: Any, rows: tuple[Any, Any]) -> Any:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            result = model(rows[0])
        return torch.nn.functional.mse_loss(result.float(), rows[1])

    with together.no_sync():
        (loss(together, halves[0]) / 2).backward()
    (loss(together, halves[1]) / 2).backward()
    loss(plain, (x, y)).backward()
    # Each product is rounded to bf16 (2^-8) a few times; the sums over the batch are in fp32.
    return all(
        bool((mine.grad - whole.grad).norm() <= 16 * 2.0**-8 * whole.grad.norm())
        for mine, whole in zip(together.module.parameters(), plain.parameters(), strict=True)
    )


TECHNIQUES: dict[str, Callable[[Any, int, Path], bool]] = {
    "tensor_collectives": _tensor_collectives,
    "dtensor": _dtensor,
    "fsdp2": _fsdp,
    "accumulation_in_mixed_precision": _accumulation,
}


def loads_alone(folder: Path, processes: int) -> bool:
    """Whether this process, without the others, reads the checkpoint and finds the parameters of its own run."""
    import torch
    import torch.distributed.checkpoint as dcp

    device = torch.device("cpu")
    model, expected = network(device), _alone(device, processes, 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    state = {"model": model.state_dict()}
    dcp.load(state, checkpoint_id=os.fspath(folder / "checkpoint"))
    return all(_close(state["model"][name], value) for name, value in expected.state_dict().items())
