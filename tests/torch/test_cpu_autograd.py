"""Derivatives against finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.utils.checkpoint

from torchsuite import derivatives
from torchsuite.tiers import check

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", derivatives.FUNCTIONS)
@check("a kernel's backward is other code than its forward, and can be wrong without an error")
def test_gradients(name: str) -> None:
    assert derivatives.agree(name, CPU)


@check("fused attention has a backward written by hand, and no second derivative")
def test_attention_gradient() -> None:
    assert derivatives.attention_agrees(CPU)


@check("torch.func transforms (grad, vmap, jacobians) run on machinery of their own")
def test_function_transforms() -> None:
    matrix = torch.randn(4, 4, dtype=torch.float64)

    def quadratic(x: Any) -> Any:
        return x @ matrix @ x

    points = torch.randn(5, 4, dtype=torch.float64)
    gradients = torch.func.vmap(torch.func.grad(quadratic))(points)
    torch.testing.assert_close(gradients, points @ (matrix + matrix.T))
    torch.testing.assert_close(torch.func.hessian(quadratic)(points[0]), matrix + matrix.T)


@check("writing into a tensor that backward still needs is an error, not a wrong gradient")
def test_version_counter() -> None:
    x = torch.ones(3, requires_grad=True)
    y = x.exp()
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@check("checkpointing and threads of the backward pass run the same graph twice")
def test_checkpointing() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    x = torch.randn(4, 8, dtype=torch.float64)
    layer(x).sum().backward()
    plain = [parameter.grad.clone() for parameter in layer.parameters()]
    layer.zero_grad()
    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).sum().backward()
    for parameter, gradient in zip(layer.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
