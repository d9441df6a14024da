"""Functions whose derivatives are compared with finite differences, on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

F = torch.nn.functional


def _identity(like: Any, n: int) -> Any:
    return torch.eye(n, dtype=like.dtype, device=like.device)


#: Functions of float64 inputs, smooth where they are tried, and the shapes of their inputs.
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "linear": (lambda x, w, b: F.linear(x, w, b).tanh(), [(3, 4), (2, 4), (2,)]),
    "conv2d": (lambda x, w: F.conv2d(x, w, padding=1), [(1, 2, 4, 4), (3, 2, 3, 3)]),
    "softmax": (lambda x: F.log_softmax(x, -1), [(3, 5)]),
    "layer_norm": (lambda x: F.layer_norm(x, (6,)), [(2, 6)]),
    "fft": (lambda x: torch.fft.rfft(x).abs().square(), [(8,)]),
    "solve": (lambda a, b: torch.linalg.solve(a + 4 * _identity(a, 3), b), [(3, 3), (3, 2)]),
    "cholesky": (lambda a: torch.linalg.cholesky(a @ a.mT + 2 * _identity(a, 3)), [(3, 3)]),
}


def inputs(shapes: list[tuple[int, ...]], device: Any) -> list[Any]:
    """Random inputs in float64, the same ones on every device."""
    torch.manual_seed(2)
    return [torch.randn(shape, dtype=torch.float64).to(device).requires_grad_() for shape in shapes]


def agree(name: str, device: Any) -> bool:
    """Whether first and second derivatives are those of finite differences. Raises GradcheckError, with the place."""
    function, shapes = FUNCTIONS[name]
    there = inputs(shapes, device)
    # Convolutions on GPUs sum in an order that changes between runs: as much as rounding may.
    return bool(
        torch.autograd.gradcheck(function, there, nondet_tol=1e-10)
        and torch.autograd.gradgradcheck(function, there, nondet_tol=1e-10)
    )


def attention_agrees(device: Any) -> bool:
    """The first derivative of fused attention, which has no second one."""
    there = inputs([(1, 2, 3, 4)] * 3, device)
    return bool(torch.autograd.gradcheck(F.scaled_dot_product_attention, there, nondet_tol=1e-10))
