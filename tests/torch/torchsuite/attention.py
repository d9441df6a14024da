"""Scaled-dot-product attention as it is trained: forward and backward in a format, against float64 written out.

The bounds follow one element through the formula. S = QK'/sqrt(d), P = softmax(S), O = PV; backward of G = dL/dO:
dV = P'G, dP = GV', dS = P(dP - D) with D = rowsum(G O), dQ = dS K / sqrt(d), dK = dS' Q / sqrt(d). Kernels sum in fp32
(gamma of the terms), and round P, dS and their results to the format (u each).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from torchsuite import releases
from torchsuite.errors import gamma, unit, worst
from torchsuite.numerics import UTENSOR, Ratios

F = torch.nn.functional

#: As many queries as keys, for the causal triangle: whole tiles and a part of one.
LENGTH = 72
BATCH, HEADS = 2, 4


@dataclass(frozen=True)
class Case:
    """What is special about a call: a causal triangle, a boolean mask, `groups` query heads that share a key head."""

    causal: bool = False
    masked: bool = False
    groups: int = 1

    def describe(self) -> str:
        named = {"causal": self.causal, "mask": self.masked, "grouped": self.groups > 1}
        return "+".join(name for name, there in named.items() if there) or "plain"


CASES = (Case(), Case(causal=True), Case(masked=True), Case(groups=2), Case(causal=True, groups=2))


def supports_groups() -> bool:
    """Whether this torch shares keys among query heads by itself (`enable_gqa`, from 2.5 on)."""
    return not releases.older(torch.__version__, (2, 5))


def train(device: Any, dtype: Any, width: int, case: Case) -> Ratios:
    """One forward and backward by whatever backend is chosen, as ratios of error to bound.

    `width` is the size of a head. Raises RuntimeError where the chosen backend does not take the call.
    """
    torch.manual_seed(11)
    key_heads = HEADS // case.groups
    query = torch.randn(BATCH, HEADS, LENGTH, width).to(dtype)
    key, value = (torch.randn(BATCH, key_heads, LENGTH, width).to(dtype) for _ in range(2))
    gradient = torch.randn(BATCH, HEADS, LENGTH, width).to(dtype)
    # Every query sees at least itself.
    mask = (torch.rand(LENGTH, LENGTH) < 0.7) | torch.eye(LENGTH, dtype=torch.bool) if case.masked else None

    there = [part.to(device).requires_grad_() for part in (query, key, value)]
    options: dict[str, Any] = {"enable_gqa": True} if case.groups > 1 else {}
    result = F.scaled_dot_product_attention(
        *there, attn_mask=None if mask is None else mask.to(device), is_causal=case.causal, **options
    )
    result.backward(gradient.to(device))
    got = {"out": result.detach(), "dq": there[0].grad, "dk": there[1].grad, "dv": there[2].grad}
    exact, bounds = _reference(query, key, value, gradient, mask, case, dtype)
    return {name: worst(got[name].cpu().double() - exact[name], bounds[name]) for name in exact}


def forward(query: Any, key: Any, value: Any, *, causal: bool) -> tuple[Any, Any]:
    """Attention in float64, and the bound on a kernel's error, for inputs of one format."""
    nothing = torch.zeros(*query.shape[:-1], value.shape[-1])
    exact, bounds = _reference(query, key, value, nothing, None, Case(causal=causal), query.dtype)
    return exact["out"], bounds["out"]


def _reference(
    query: Any, key: Any, value: Any, gradient: Any, mask: Any, case: Case, dtype: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results in float64, and how far a kernel may be from them."""
    u, tiny = unit(dtype), float(torch.finfo(dtype).tiny)
    q, g = query.double(), gradient.double()
    k, v = (part.double().repeat_interleave(case.groups, 1) for part in (key, value))
    length, width = q.shape[-2:]
    scale = 1 / math.sqrt(width)
    scores = q @ k.mT * scale
    visible = torch.ones(length, length, dtype=torch.bool) if mask is None else mask
    if case.causal:
        visible = visible & torch.ones(length, length, dtype=torch.bool).tril()
    p = scores.masked_fill(~visible, -math.inf).softmax(-1)
    out = p @ v
    dp = g @ v.mT
    d = (g * out).sum(-1, keepdim=True)
    ds = p * (dp - d)

    sums = gamma(2 * max(length, width), UTENSOR)
    # Scores may be rounded to the format; softmax doubles an error of its exponents. P is rounded once more.
    of_scores = ((sums + u) * (q.abs() @ k.abs().mT * scale)).masked_fill(~visible, 0.0).amax(-1, keepdim=True)
    of_p = 2 * of_scores + sums + 2 * u
    absolute_out = p @ v.abs()
    absolute_dp = g.abs() @ v.abs().mT
    of_out = (of_p + sums) * absolute_out + u * (absolute_out + out.abs())
    of_d = (g.abs() * of_out).sum(-1, keepdim=True) + sums * (g.abs() * absolute_out).sum(-1, keepdim=True)
    of_ds = p * ((of_p + u) * (dp.abs() + d.abs()) + (sums + u) * absolute_dp + of_d) + u * ds.abs()

    def shared(tensor: Any) -> Any:
        """What a group of query heads adds to the one key head that they share."""
        return tensor.unflatten(1, (-1, case.groups)).sum(2)

    # fp16 loses digits below its smallest normal number: P and dS by this much.
    lost = tiny * torch.ones_like(p).masked_fill(~visible, 0.0)
    of_p, of_ds = of_p * p + lost, of_ds + lost

    exact = {
        "out": out,
        "dq": ds @ k * scale,
        "dk": shared(ds.mT @ q * scale),
        "dv": shared(p.mT @ g),
    }
    # Results of a group may be rounded before they are added, and the sum is.
    rounded = (1 + case.groups) * u + sums
    bounds = {
        "out": of_out + lost @ v.abs(),
        "dq": (of_ds @ k.abs() + rounded * (ds.abs() @ k.abs())) * scale,
        "dk": shared(of_ds.mT @ q.abs() + rounded * (ds.abs().mT @ q.abs())) * scale,
        "dv": shared(of_p.mT @ g.abs() + rounded * (p.mT @ g.abs())),
    }
    return exact, bounds
