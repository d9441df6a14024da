"""Derivatives against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils.checkpoint

from torchsuite.tiers import check

pytestmark = pytest.mark.usefixtures("one_thread")

F = torch.nn.functional

#: Functions of float64 inputs, smooth where they are tried, and the shapes of their inputs.
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "linear": (lambda x, w, b: F.linear(x, w, b).tanh(), [(3, 4), (2, 4), (2,)]),
    "conv2d": (lambda x, w: F.conv2d(x, w, padding=1), [(1, 2, 4, 4), (3, 2, 3, 3)]),
    "softmax": (lambda x: F.log_softmax(x, -1), [(3, 5)]),
    "layer_norm": (lambda x: F.layer_norm(x, (6,)), [(2, 6)]),
    "fft": (lambda x: torch.fft.rfft(x).abs().square(), [(8,)]),
    "solve": (lambda a, b: torch.linalg.solve(a + 4 * torch.eye(3, dtype=a.dtype), b), [(3, 3), (3, 2)]),
    "cholesky": (lambda a: torch.linalg.cholesky(a @ a.mT + 2 * torch.eye(3, dtype=a.dtype)), [(3, 3)]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@check("a kernel's backward is other code than its forward, and is wrong in silence")
def test_gradients(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    torch.manual_seed(2)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@check("fused attention has a backward written by hand, and no second derivative")
def test_attention_gradient() -> None:
    torch.manual_seed(2)
    inputs = [torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(F.scaled_dot_product_attention, inputs)


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
