"""Random numbers on a device, against the distributions that they should follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

#: Draws of n values on a device, and the distribution function that they should follow.
DISTRIBUTIONS: dict[str, tuple[Callable[[int, Any], Any], Callable[[Any], Any]]] = {
    "uniform": (lambda n, where: torch.rand(n, dtype=torch.float64, device=where), lambda x: x),
    "normal": (
        lambda n, where: torch.randn(n, dtype=torch.float64, device=where),
        lambda x: 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    ),
    "normal_f32": (
        lambda n, where: torch.randn(n, device=where).double(),
        lambda x: 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    ),
    "exponential": (
        lambda n, where: torch.empty(n, dtype=torch.float64, device=where).exponential_(2.0),
        lambda x: 1 - torch.exp(-2 * x),
    ),
    "cauchy": (
        lambda n, where: torch.empty(n, dtype=torch.float64, device=where).cauchy_(),
        lambda x: 0.5 + torch.atan(x) / math.pi,
    ),
    "gamma": (
        lambda n, where: torch.distributions.Gamma(
            torch.tensor(2.0, device=where), torch.tensor(1.0, device=where)
        ).sample(torch.Size((n,))).double(),
        lambda x: 1 - (1 + x) * torch.exp(-x),
    ),
}  # fmt: skip


def kolmogorov(name: str, device: Any, seed: int, count: int = 200_000) -> float:
    """Kolmogorov's statistic of a sample over its bound.

    A right sampler exceeds the bound once in 10^9 draws (the statistic's tail is 2·exp(-2·n·d^2)).
    """
    draw, cumulative = DISTRIBUTIONS[name]
    torch.manual_seed(seed)
    values = cumulative(draw(count, device).cpu()).sort().values
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    distance = max((steps[1:] - values).max().item(), (values - steps[:-1]).max().item())
    return float(distance) / math.sqrt(math.log(2e9) / (2 * count))


def discrete(device: Any, seed: int) -> dict[str, bool]:
    """Permutations, weighted choices, whole numbers and dropout: what of them is right."""
    torch.manual_seed(seed)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    chosen = torch.multinomial(weights.to(device), 100_000, replacement=True)
    # Six standard deviations of a binomial count: once in 10^9.
    deviation = (torch.bincount(chosen.cpu(), minlength=4) - weights * 100_000).abs()
    deviation = deviation / (100_000 * weights * (1 - weights)).sqrt()
    dropped = torch.nn.functional.dropout(torch.ones(100_000, device=device), 0.25).cpu()
    zeros = (dropped == 0).double().mean().item()
    return {
        "permutation": torch.equal(torch.randperm(1000, device=device).sort().values.cpu(), torch.arange(1000)),
        "choices": deviation.max().item() <= 6,
        "whole_numbers": torch.randint(-3, 4, (10_000,), device=device).unique().tolist() == list(range(-3, 4)),
        "dropout_values": torch.allclose(dropped.unique(), torch.tensor([0.0, 4 / 3])),
        "dropout_rate": abs(zeros - 0.25) <= 6 * math.sqrt(0.25 * 0.75 / 100_000),
    }
