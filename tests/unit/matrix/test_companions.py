"""Which environments are named to whoever asks for torchvision or torchaudio where it is not."""

from __future__ import annotations

from pathlib import Path

from torchlocks.core.layout import Layout
from torchlocks.matrix.companions import MOST, advice, environments_with
from torchlocks.matrix.load import load_matrix

MATRIX = load_matrix(Layout(Path(__file__).parents[3]).matrix)


def test_the_nearest_come_first_and_have_all_that_was_asked_for() -> None:
    found = environments_with(MATRIX, ["torchvision", "torchaudio"], "linux-64", "gpu-cu129")
    assert found[0].startswith("gpu-cu129-")
    assert 1 < len(found) <= MOST
    for env in found:
        target = MATRIX.target(env, "linux-64")
        assert target.torchvision
        assert target.torchaudio


def test_environments_of_the_same_accelerator_come_before_others() -> None:
    found = environments_with(MATRIX, ["torchvision"], "linux-64", "gpu-cu130")
    assert all(env.startswith("gpu-cu129") for env in found)
    assert environments_with(MATRIX, ["torchvision"], "linux-64", "cpu-torch2.12-py313")[0] == "cpu"


def test_advice_is_about_what_is_missing_alone() -> None:
    assert advice(MATRIX, ["numpy"], [], "linux-64", "cpu") is None
    assert advice(MATRIX, ["torchvision"], ["torchvision"], "linux-64", "cpu") is None
    text = advice(MATRIX, ["torchvision", "torchaudio"], ["torchvision"], "linux-64", "cpu")
    assert text is not None
    assert "torchaudio" in text
    assert "torchvision" not in text
    nowhere = advice(MATRIX, ["torchaudio"], [], "osx-64", "cpu")
    assert nowhere is not None
    assert "no environment" in nowhere
