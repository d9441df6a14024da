"""Formats of few bits, and layouts: fp8 by its definition, int8 products, channels last; on any device."""

from __future__ import annotations

import math
from typing import Any

import torch

F = torch.nn.functional


def fp8_values(exponent_bits: int, mantissa_bits: int, finite: bool) -> list[float]:
    """What the 256 codes of a format mean (OCP, "8-bit floating point", 2023). `finite`: without infinities: e4m3fn."""
    bias = (1 << (exponent_bits - 1)) - 1
    top = (1 << exponent_bits) - 1
    values = []
    for code in range(256):
        sign = -1.0 if code >> 7 else 1.0
        exponent, mantissa = (code & 127) >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
        if exponent == top and not finite:
            value = math.inf if mantissa == 0 else math.nan
        elif finite and code & 127 == 127:
            value = math.nan
        elif exponent == 0:
            value = mantissa * 2.0 ** (1 - bias - mantissa_bits)
        else:
            value = (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)
        values.append(sign * value)
    return values


def decodes_fp8(device: Any) -> dict[str, bool]:
    """Whether all codes of both formats decode to their values, and encode back to themselves."""
    right = {}
    for name, dtype, values in (
        ("e4m3fn", torch.float8_e4m3fn, fp8_values(4, 3, True)),
        ("e5m2", torch.float8_e5m2, fp8_values(5, 2, False)),
    ):
        codes = torch.arange(256, dtype=torch.uint8).to(device)
        decoded = codes.view(dtype).float()
        expected = torch.tensor(values)
        right[name] = bool(torch.equal(decoded.cpu().nan_to_num(123.0), expected.nan_to_num(123.0)))
        numbers = ~decoded.isnan()
        right[f"{name}_back"] = bool(torch.equal(decoded[numbers].to(dtype).view(torch.uint8), codes[numbers]))
    return right


def channels_last(device: Any) -> dict[str, bool]:
    """Whether convolution, batch norm and pooling give the same in both layouts, and keep the one they were given."""
    torch.manual_seed(24)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
    ).double()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    model, x = model.to(device), x.to(device)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        there = x.to(memory_format=layout).detach().requires_grad_()
        laid_out = model.to(memory_format=layout)
        y = laid_out(there)
        (gradient,) = torch.autograd.grad(y.square().sum(), there)
        results.append((y.detach(), gradient))
    (y, gradient), (other, other_gradient) = results
    return {
        "values": bool(torch.allclose(y, other, rtol=1e-10, atol=1e-12)),
        "gradients": bool(torch.allclose(gradient, other_gradient, rtol=1e-8, atol=1e-10)),
        "layout": bool(other.is_contiguous(memory_format=torch.channels_last)),
    }


def int8_matmul(device: Any) -> float:
    """A layer whose inputs and weights are rounded to int8, against float64: error over bound.

    Each of k terms is off by half a step of either factor; the product of the integers is exact.
    """
    torch.manual_seed(25)
    x, weight = torch.randn(32, 64, dtype=torch.float64), torch.randn(40, 64, dtype=torch.float64)
    steps = [part.abs().max() / 127 for part in (x, weight)]
    integers = [(part / step).round().to(torch.int8).to(device) for part, step in zip((x, weight), steps, strict=True)]
    product = torch._int_mm(integers[0], integers[1].T.contiguous()).cpu().double() * steps[0] * steps[1]
    half = [step / 2 for step in steps]
    bound = half[0] * weight.abs().sum(1)[None] + half[1] * x.abs().sum(1)[:, None] + 64 * half[0] * half[1]
    return float(((product - x @ weight.T).abs() / bound).max())
