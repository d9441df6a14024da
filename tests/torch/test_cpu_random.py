"""Random numbers: the generator itself, reproducibility, distributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from torchsuite.imports import Imports
from torchsuite.probe import SAMPLE, SEED
from torchsuite.tiers import Measure, check


@check("published seeds are worth something only while the generator is the Mersenne Twister that it always was")
def test_generator_is_mt19937() -> None:
    # NumPy's legacy seeding is the same initialisation; torch makes a float of the low 24 bits of each word.
    words = np.random.RandomState(SEED).randint(0, 1 << 32, size=8, dtype=np.uint64)
    torch.manual_seed(SEED)
    expected = torch.from_numpy((words & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24))
    assert torch.equal(torch.rand(8), expected)


@check("a run that cannot be repeated cannot be debugged")
def test_seed_reproduces(imports: Imports) -> None:
    draws = []
    for _ in range(2):
        torch.manual_seed(SEED)
        draws.append(
            [torch.rand(SAMPLE), torch.randn(1000), torch.randperm(50), torch.bernoulli(torch.full((9,), 0.5))]
        )
    for first, second in zip(*draws, strict=True):
        assert torch.equal(first, second)
    assert draws[0][0].tolist() == imports.get("torch").seen["sample"], "another process draws other numbers"
    state = torch.get_rng_state()
    before = torch.rand(5)
    torch.set_rng_state(state)
    assert torch.equal(before, torch.rand(5))
    own = torch.Generator().manual_seed(SEED)
    assert torch.equal(torch.rand(SAMPLE, generator=own), draws[0][0])


#: Draws of n values, and the distribution function that they should follow.
DISTRIBUTIONS: dict[str, tuple[Callable[[int], Any], Callable[[Any], Any]]] = {
    "uniform": (lambda n: torch.rand(n, dtype=torch.float64), lambda x: x),
    "normal": (lambda n: torch.randn(n, dtype=torch.float64), lambda x: 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
    "normal_f32": (lambda n: torch.randn(n).double(), lambda x: 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
    "exponential": (lambda n: torch.empty(n, dtype=torch.float64).exponential_(2.0), lambda x: 1 - torch.exp(-2 * x)),
    "cauchy": (lambda n: torch.empty(n, dtype=torch.float64).cauchy_(), lambda x: 0.5 + torch.atan(x) / math.pi),
    "gamma": (
        lambda n: torch.distributions.Gamma(2.0, 1.0).sample((n,)).double(),
        lambda x: 1 - (1 + x) * torch.exp(-x),
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@check("a vectorised sampler that is slightly wrong trains slightly worse models, and nothing else tells")
def test_distribution(name: str, measure: Measure) -> None:
    draw, cumulative = DISTRIBUTIONS[name]
    count = 200_000
    torch.manual_seed(SEED)
    values = cumulative(draw(count)).sort().values
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    distance = max((steps[1:] - values).max().item(), (values - steps[:-1]).max().item())
    # Kolmogorov's statistic; a right sampler exceeds this once in 10^9 draws (its tail is 2·exp(-2·n·d^2)).
    bound = math.sqrt(math.log(2e9) / (2 * count))
    measure("kolmogorov_over_bound", distance / bound)
    assert distance <= bound


@check("shuffles and class samplers decide what a model sees")
def test_discrete_draws() -> None:
    torch.manual_seed(SEED)
    assert torch.equal(torch.randperm(1000).sort().values, torch.arange(1000))
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    counts = torch.bincount(torch.multinomial(weights, 100_000, replacement=True), minlength=4)
    # Six standard deviations of a binomial count: once in 10^9.
    deviation = (counts - weights * 100_000).abs() / (100_000 * weights * (1 - weights)).sqrt()
    assert deviation.max().item() <= 6
    integers = torch.randint(-3, 4, (10_000,))
    assert sorted(set(integers.tolist())) == [-3, -2, -1, 0, 1, 2, 3]
    dropped = torch.nn.functional.dropout(torch.ones(100_000), 0.25)
    assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert abs((dropped == 0).double().mean().item() - 0.25) <= 6 * math.sqrt(0.25 * 0.75 / 100_000)
