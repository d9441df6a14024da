"""The project's own tests, run in its environment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from stripes import Stripes, pictures, train


@pytest.fixture(scope="module")
def trained() -> tuple[Stripes, list[float]]:
    torch.set_num_threads(1)  # More threads only slow a model of this size down.
    torch.manual_seed(0)
    model = Stripes()
    return model, train(model, 80, torch.Generator().manual_seed(1))


def test_training_lowers_the_loss(trained: tuple[Stripes, list[float]]) -> None:
    _, losses = trained
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_new_pictures_are_told_apart(trained: tuple[Stripes, list[float]]) -> None:
    model, _ = trained
    batch, labels = pictures(200, torch.Generator().manual_seed(2))
    with torch.no_grad():
        right = (model(batch).argmax(dim=1) == labels).float().mean()
    assert right > 0.9


def test_a_saved_model_gives_the_same_answers(trained: tuple[Stripes, list[float]], tmp_path: Path) -> None:
    model, _ = trained
    torch.save(model.state_dict(), tmp_path / "model.pt")
    loaded = Stripes()
    loaded.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    batch, _ = pictures(8, torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(loaded(batch), model(batch), rtol=0, atol=0)
