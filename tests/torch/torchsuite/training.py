"""A small training run that is the same on every device, and one in mixed precision."""

from __future__ import annotations

import math
from typing import Any

import torch

from torchsuite import releases


def spirals(count: int) -> tuple[Any, Any]:
    """Two interleaved spirals: points in the plane and which arm each is on. No straight line separates them."""
    label = torch.arange(count) % 2
    radius = torch.rand(count).sqrt() * 2 + 0.3
    angle = radius * 2.2 + label * math.pi
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1) + 0.03 * torch.randn(count, 2), label


def network() -> Any:
    """Two hidden layers, enough for the spirals."""
    nn = torch.nn
    return nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))


def losses(device: Any, dtype: Any, steps: int, *, fused: bool = False) -> list[float]:
    """The losses of a run that begins with the same numbers everywhere."""
    torch.manual_seed(6)
    x, y = spirals(400)
    model = network().to(device, dtype)
    x, y = x.to(device, dtype), y.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


def bars() -> tuple[Any, Any]:
    """Images with one bright bar, and whether it is upright or flat; noise as strong as a third of the bar."""
    label = torch.arange(128) % 2
    images = torch.randn(128, 1, 12, 12) * 0.3
    for index in range(128):
        place = index % 12
        images[index, 0, :, place] += label[index]
        images[index, 0, place, :] += 1 - label[index]
    return images, label


def convolutional_losses(device: Any, steps: int) -> list[float]:
    """The losses of a network of convolutions, batch norm and pooling in fp32: is the bright bar upright or flat?"""
    torch.manual_seed(7)
    nn = torch.nn
    images, label = bars()
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 2),
    ).to(device)  # fmt: skip
    images, label = images.to(device), label.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), label)
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


def mixed_precision(device: Any, dtype: Any, steps: int = 150) -> dict[str, Any]:
    """A run under autocast with a gradient scaler, one of whose gradients overflows on the way.

    What it gives back: the losses, the dtype of the network's products and of its weights, and what the scaler did
    about the overflow: whether it left the weights alone, and by how much it lowered its scale.
    """
    torch.manual_seed(6)
    x, y = spirals(400)
    model = network().to(device)
    x, y = x.to(device), y.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scaler = releases.attribute(torch.amp, "GradScaler", "2.3")(device.type, init_scale=1024.0)
    seen = []
    output: Any = None
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype):
            output = model(x)
        loss = torch.nn.functional.cross_entropy(output.float(), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        seen.append(loss.item())

    before, weights = scaler.get_scale(), [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.zero_grad()
    with torch.autocast(device.type, dtype=dtype):
        output = model(x)
    scaler.scale(torch.nn.functional.cross_entropy(output.float(), y)).backward()
    next(model.parameters()).grad[0, 0] = math.inf
    scaler.step(optimizer)
    scaler.update()
    return {
        "losses": seen,
        "product": output.dtype,
        "weights": next(model.parameters()).dtype,
        "untouched": all(
            torch.equal(parameter, weight) for parameter, weight in zip(model.parameters(), weights, strict=True)
        ),
        "scale_ratio": scaler.get_scale() / before,
    }
