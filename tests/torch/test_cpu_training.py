"""Small models that have to learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchsuite import training
from torchsuite.tiers import Measure, check

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "LBFGS"])
@check("a network that learns needs forward, backward and optimiser to be right together")
def test_a_network_learns(optimizer: str, measure: Measure) -> None:
    torch.manual_seed(6)
    x, y = training.spirals(400)
    held_out = training.spirals(400)
    model = training.network()
    loss_of = torch.nn.CrossEntropyLoss()
    runs: dict[str, tuple[int, dict[str, Any]]] = {
        "AdamW": (250, {"lr": 0.01}),
        "SGD": (600, {"lr": 0.2, "momentum": 0.9, "nesterov": True}),
        "LBFGS": (30, {"lr": 1.0, "line_search_fn": "strong_wolfe"}),
    }
    steps, options = runs[optimizer]
    stepper = getattr(torch.optim, optimizer)(model.parameters(), **options)

    def closure() -> Any:
        stepper.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        return loss

    first = loss_of(model(x), y).item()
    for _ in range(steps):
        stepper.step(closure)
    last = loss_of(model(x), y).item()
    accuracy = (model(held_out[0]).argmax(1) == held_out[1]).double().mean().item()
    measure("loss", [first, last])
    measure("accuracy", accuracy)
    # Guessing costs ln 2; these runs end far below a tenth of it, whatever the rounding.
    assert last < first / 10
    assert accuracy > 0.95


@check("convolution, batch norm, pooling and dropout in training mode and in evaluation mode")
def test_a_convolutional_network_learns(measure: Measure) -> None:
    torch.manual_seed(7)
    nn = torch.nn
    images, label = training.bars()
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(72, 2),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == label).double().mean().item()
    measure("loss", [losses[0], losses[-1]])
    measure("accuracy", accuracy)
    assert losses[-1] < losses[0] / 4
    assert accuracy > 0.95


@check("recurrent layers and a transformer block have CPU kernels of their own")
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "Transformer"])
def test_a_sequence_model_learns(kind: str, measure: Measure) -> None:
    torch.manual_seed(8)
    # The task: tell the first of six symbols after having read them all.
    symbols = torch.randint(0, 4, (256, 6))
    embedded = torch.nn.functional.one_hot(symbols, 4).float()
    body: Any
    if kind == "Transformer":
        embedded = torch.cat([embedded, torch.eye(6).expand(256, 6, 6)], -1)
        body = torch.nn.TransformerEncoderLayer(10, 2, 32, dropout=0.0, batch_first=True)
        width = 10
    else:
        body = getattr(torch.nn, kind)(4, 24, batch_first=True)
        width = 24
    head = torch.nn.Linear(width, 4)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.01)

    def loss_of() -> Any:
        out = body(embedded)
        out = out[0] if isinstance(out, tuple) else out
        return torch.nn.functional.cross_entropy(head(out[:, -1]), symbols[:, 0])

    first = loss_of().item()
    for _ in range(120):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
    measure("loss", [first, loss.item()])
    assert loss.item() < first / 4


@check("mixed precision trains, and a gradient that overflows is skipped and not applied")
def test_mixed_precision(measure: Measure) -> None:
    run = training.mixed_precision(torch.device("cpu"), torch.bfloat16)
    measure("loss", [run["losses"][0], run["losses"][-1]])
    assert (run["product"], run["weights"]) == (torch.bfloat16, torch.float32)
    assert run["losses"][-1] < run["losses"][0] / 10
    assert run["untouched"]
    assert run["scale_ratio"] == 0.5
