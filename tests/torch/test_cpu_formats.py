"""Formats of few bits, layouts, and algorithms that repeat to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchsuite import formats, skips
from torchsuite.tiers import Measure, check

CPU = torch.device("cpu")


@check("weights in fp8 are read on CPUs; a table of 256 codes that is wrong in one is a model that is wrong somewhere")
def test_fp8_codes() -> None:
    wrong = [name for name, right in formats.decodes_fp8(CPU).items() if not right]
    assert not wrong, f"wrong: {', '.join(wrong)}"


@check("images are stored channels last for speed, by kernels of their own")
def test_channels_last() -> None:
    wrong = [name for name, right in formats.channels_last(CPU).items() if not right]
    assert not wrong, f"differs: {', '.join(wrong)}"


@check("layers in int8 are how models are served on CPUs")
def test_int8_layer(measure: Measure) -> None:
    if not torch._C._dispatch_has_kernel_for_dispatch_key("aten::_int_mm", "CPU"):
        skips.skip(skips.Reason.RELEASE, "this torch has no int8 products on CPUs")
    ratio = formats.int8_matmul(CPU)
    measure("error_over_bound", ratio)
    assert ratio <= 1


@pytest.fixture
def deterministic() -> Any:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@check("runs that have to repeat to the last bit switch deterministic algorithms on")
def test_deterministic_algorithms(deterministic: Any) -> None:
    assert torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(26)
    index, source = torch.randint(0, 16, (5000,)), torch.randn(5000)
    first = torch.zeros(16).index_add_(0, index, source)
    for _ in range(3):
        assert torch.equal(torch.zeros(16).index_add_(0, index, source), first)
    # Memory that is not filled would make results depend on chance: it is filled with NaN.
    assert bool(torch.empty(1000).isnan().all())
