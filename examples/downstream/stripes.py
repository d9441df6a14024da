"""A small model: does a picture have horizontal or vertical stripes? Patches, one attention layer, a vote."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

SIZE, PATCH = 16, 4
"""Pixels along the side of a picture, and of each of the patches that it is cut into."""


class Stripes(nn.Module):
    """Pictures (batch, SIZE, SIZE) to two scores each: horizontal, vertical."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, width)
        self.attend = nn.MultiheadAttention(width, num_heads=4, batch_first=True)
        self.decide = nn.Linear(width, 2)

    def forward(self, pictures: Tensor) -> Tensor:
        patches = rearrange(pictures, "b (h p) (w q) -> b (h w) (p q)", p=PATCH, q=PATCH)
        embedded = torch.relu(self.embed(patches))
        attended, _ = self.attend(embedded, embedded, embedded, need_weights=False)
        return self.decide(reduce(embedded + attended, "b n d -> b d", "mean"))


def pictures(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` noisy striped pictures, each shifted at random, and their labels (0 horizontal, 1 vertical)."""
    labels = torch.randint(2, (count,), generator=generator)
    shift = torch.randint(PATCH, (count, 1), generator=generator)
    stripes = ((torch.arange(SIZE) + shift) // 2 % 2).float()
    horizontal = rearrange(stripes, "b h -> b h 1").expand(count, SIZE, SIZE)
    vertical = rearrange(stripes, "b w -> b 1 w").expand(count, SIZE, SIZE)
    clean = torch.where(rearrange(labels, "b -> b 1 1") == 1, vertical, horizontal)
    return clean + 0.3 * torch.randn(clean.shape, generator=generator), labels


def train(model: nn.Module, steps: int, generator: torch.Generator) -> list[float]:
    """Train on new pictures at every step; the loss of each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        batch, labels = pictures(64, generator)
        loss = nn.functional.cross_entropy(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
