"""Rounding errors, and how large they may be.

u is the unit roundoff of a format: half the distance from 1 to the next number. The bounds are from
N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, SIAM 2002.
"""

from __future__ import annotations

from typing import Any

import torch

#: Half of the machine epsilon: 2^-24, 2^-53, 2^-8.
U32 = torch.finfo(torch.float32).eps / 2
U64 = torch.finfo(torch.float64).eps / 2
UBF16 = torch.finfo(torch.bfloat16).eps / 2

#: LAPACK's own test programs pass a factorisation whose residual is below this many n·eps (its `dtest.in`).
LAPACK_THRESHOLD = 30.0


def unit(dtype: Any) -> float:
    """The unit roundoff of a real or complex dtype."""
    return float(torch.finfo(dtype).eps) / 2


def gamma(terms: int, u: float) -> float:
    """gamma_n = n·u / (1 - n·u), the bound on the relative error of n roundings in any order (Higham §3.1)."""
    return terms * u / (1 - terms * u)


def worst(error: Any, bound: Any) -> float:
    """The largest ratio of error to bound, element by element; above 1 the bound is broken. NaN counts as infinite."""
    ratio = error.abs().double() / bound.abs().double().clamp_min(1e-300)
    return float("inf") if bool(ratio.isnan().any()) else float(ratio.max())
