"""torchaudio, where the environment has it: it is torch's, its extension loads, and its functions are right."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from torchsuite import audio
from torchsuite.expect import Expectation
from torchsuite.extras import need
from torchsuite.tiers import Measure, check

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture
def torchaudio(expectation: Expectation) -> Any:
    return need("torchaudio", expectation)


@check("a torchaudio of another release, or for another CUDA, has an extension that does not load, or crashes")
def test_release(torchaudio: Any, measure: Measure) -> None:
    measure("version", torchaudio.__version__)
    ours, theirs = torch.__version__.split(".")[:2], torchaudio.__version__.split(".")[:2]
    # From 2.11 on, torchaudio is built on torch's stable interface, and one release runs with several of torch.
    stable = (int(theirs[0]), int(theirs[1])) >= (2, 10) and int(ours[1]) >= int(theirs[1])
    assert ours == theirs or stable, f"torchaudio {torchaudio.__version__} was not made for torch {torch.__version__}"
    extension = importlib.import_module("torchaudio._extension")
    measure("extension", bool(extension._IS_TORCHAUDIO_EXT_AVAILABLE))
    assert extension._IS_TORCHAUDIO_EXT_AVAILABLE, "torchaudio's extension does not load"
    check_version = getattr(extension, "_check_cuda_version", None)
    if check_version:
        check_version()


@check("torchaudio's compiled filters are what its effects are made of")
def test_compiled_filter(torchaudio: Any) -> None:
    torch.manual_seed(18)
    x = torch.randn(2, 200, dtype=torch.float64)
    a, b = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64), torch.tensor([0.2, 0.3, 0.1], dtype=torch.float64)
    result = torchaudio.functional.lfilter(x, a, b, clamp=False)
    expected = torch.zeros_like(x)
    for n in range(200):
        total = sum(b[k] * x[:, n - k] for k in range(3) if n >= k)
        expected[:, n] = total - sum(a[k] * expected[:, n - k] for k in range(1, 3) if n >= k)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


@check("a resampler that is wrong changes the pitch, or lets tones through that were not there")
def test_resample(torchaudio: Any) -> None:
    audio.resamples(torchaudio, CPU)


@check("spectrograms are what speech models read")
def test_spectrograms(torchaudio: Any) -> None:
    audio.spectrograms(torchaudio, CPU)


@check("audio files are read and written by what the release brings for it, or by TorchCodec from 2.9 on")
def test_wave_file(torchaudio: Any, tmp_path: Path, measure: Measure) -> None:
    path = tmp_path / "tone.wav"
    wave = torch.sin(2 * math.pi * 440 * torch.arange(8000) / 8000)[None] * 0.5
    try:
        torchaudio.save(str(path), wave, 8000)
        read, rate = torchaudio.load(str(path))
    except (ImportError, RuntimeError) as error:
        # From 2.9 on, TorchCodec, a separate package, reads files; before, a backend is required.
        words = str(error).splitlines()[0]
        measure("refused", words)
        if not any(name in words.lower() for name in ("torchcodec", "backend")):
            raise
        pytest.skip(f"this torchaudio reads no files here: {words}")
    assert rate == 8000
    # 16 bits: half a step of 2^-15, and another where the scale is 32767.
    assert bool((read - wave).abs().max() <= 2.0**-15 * 2)
