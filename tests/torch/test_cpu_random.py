"""Random numbers: the generator itself, reproducibility, distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torchsuite import draws
from torchsuite.imports import Imports
from torchsuite.probe import SAMPLE, SEED
from torchsuite.tiers import Measure, check

CPU = torch.device("cpu")


@check("seeds of publications mean something while the generator is MT19937: recorded, since no release promises it")
def test_generator(measure: Measure) -> None:
    # NumPy's legacy seeding is the same initialisation; torch makes a float of the low 24 bits of each word.
    words = np.random.RandomState(SEED).randint(0, 1 << 32, size=8, dtype=np.uint64)
    torch.manual_seed(SEED)
    expected = torch.from_numpy((words & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24))
    drawn = torch.rand(8)
    measure("is_mt19937", torch.equal(drawn, expected))
    # Whatever the generator is: numbers in [0, 1), of which no two of eight are equal.
    assert bool(((drawn >= 0) & (drawn < 1)).all())
    assert len(set(drawn.tolist())) == 8


@check("a run that cannot be repeated cannot be debugged")
def test_seed_reproduces(imports: Imports) -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(SEED)
        drawn.append(
            [torch.rand(SAMPLE), torch.randn(1000), torch.randperm(50), torch.bernoulli(torch.full((9,), 0.5))]
        )
    for first, second in zip(*drawn, strict=True):
        assert torch.equal(first, second)
    assert drawn[0][0].tolist() == imports.get("torch").seen["sample"], "another process draws other numbers"
    state = torch.get_rng_state()
    before = torch.rand(5)
    torch.set_rng_state(state)
    assert torch.equal(before, torch.rand(5))
    own = torch.Generator().manual_seed(SEED)
    assert torch.equal(torch.rand(SAMPLE, generator=own), drawn[0][0])


@pytest.mark.parametrize("name", draws.DISTRIBUTIONS)
@check("a vectorised sampler that is slightly wrong trains slightly worse models, and nothing else shows it")
def test_distribution(name: str, measure: Measure) -> None:
    ratio = draws.kolmogorov(name, CPU, SEED)
    measure("kolmogorov_over_bound", ratio)
    assert ratio <= 1


@check("shuffles and class samplers decide what a model sees")
def test_discrete_draws() -> None:
    wrong = [name for name, right in draws.discrete(CPU, SEED).items() if not right]
    assert not wrong, f"wrong: {', '.join(wrong)}"
