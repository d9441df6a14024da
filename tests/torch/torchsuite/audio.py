"""torchaudio's functions against their definitions, on any device."""

from __future__ import annotations

import math
from typing import Any

import torch


def resamples(torchaudio: Any, device: Any) -> None:
    """A tone below both Nyquist frequencies keeps its pitch and size; one above the new limit is gone."""
    seconds = torch.arange(16000, dtype=torch.float64) / 16000
    low, high = (torch.sin(2 * math.pi * hertz * seconds).to(device) for hertz in (440, 7000))
    result = torchaudio.functional.resample(low, 16000, 8000).cpu()
    assert len(result) == 8000
    expected = torch.sin(2 * math.pi * 440 * torch.arange(8000, dtype=torch.float64) / 8000)
    # Away from the ends, the window of the default filter (6 zeros) lets a hundredth through at most.
    assert bool((result - expected)[100:-100].abs().max() < 0.02), "a tone has another pitch or size"
    assert bool(torchaudio.functional.resample(high, 16000, 8000).cpu()[100:-100].abs().max() < 0.1), (
        "a tone above the limit of the new rate is still there"
    )


def spectrograms(torchaudio: Any, device: Any) -> None:
    """The power spectrogram by the transform's definition, and mel bands by their triangles."""
    torch.manual_seed(19)
    size, hop, bands, rate = 64, 16, 8, 8000
    x = torch.randn(400, dtype=torch.float64)
    window = torch.hann_window(size, dtype=torch.float64)
    frames = x.unfold(0, size, hop) * window
    n = torch.arange(size, dtype=torch.float64)
    matrix = torch.exp(-2j * math.pi * torch.outer(n[: size // 2 + 1], n).remainder(size) / size)
    power = (matrix @ frames.to(torch.complex128).T).abs() ** 2
    transform = torchaudio.transforms.Spectrogram(
        n_fft=size, hop_length=hop, center=False, power=2, wkwargs={"dtype": torch.float64}
    )
    torch.testing.assert_close(transform.to(device)(x.to(device)).cpu(), power, rtol=1e-9, atol=1e-9)

    banks = torchaudio.functional.melscale_fbanks(size // 2 + 1, 0.0, rate / 2, bands, rate, mel_scale="htk")
    mel = torch.linspace(0, 2595 * math.log10(1 + rate / 2 / 700), bands + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mel / 2595) - 1)
    hertz = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)[:, None]
    rising = (hertz - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - hertz) / (corners[2:] - corners[1:-1])
    triangles = torch.minimum(rising, falling).clamp_min(0)
    # In fp32: frequencies of up to 4000 over differences of some 100.
    torch.testing.assert_close(banks.double(), triangles, rtol=1e-3, atol=1e-4)
