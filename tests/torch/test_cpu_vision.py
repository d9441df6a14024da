"""torchvision, where the environment has it: it is torch's, its kernels load, and it reads images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchsuite import vision
from torchsuite.expect import Expectation
from torchsuite.extras import need
from torchsuite.tiers import Measure, check

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def torchvision(expectation: Expectation) -> Any:
    return need("torchvision", expectation)


@check("a torchvision of another release, or for another CUDA, has operators that are missing or crash")
def test_release(torchvision: Any, expectation: Expectation, measure: Measure) -> None:
    measure("version", torchvision.__version__)
    measure("cuda", torchvision.version.cuda)
    assert vision.pairs(torch.__version__, torchvision.__version__), (
        f"torchvision {torchvision.__version__} was not made for torch {torch.__version__}"
    )
    assert torchvision.extension._has_ops(), "torchvision's compiled operators do not load"
    torchvision.extension._check_cuda_version()
    built = torchvision.version.cuda
    assert (built is None) == (torch.version.cuda is None), f"torchvision is for CUDA {built}, torch is not"


@check("nms and roi_align are compiled kernels, with a gradient by hand: every detector runs them")
def test_operators(torchvision: Any) -> None:
    wrong = [name for name, right in vision.operators(torch.device("cpu")).items() if not right]
    assert not wrong, f"wrong: {', '.join(wrong)}"


@check("images are decoded by libpng and libjpeg, which must be the environment's own")
def test_images(torchvision: Any) -> None:
    from torchvision import io

    torch.manual_seed(16)
    noise = torch.randint(0, 256, (3, 20, 31), dtype=torch.uint8)
    assert torch.equal(io.decode_png(io.encode_png(noise)), noise), "PNG is lossless"
    ramp = (torch.arange(64).expand(3, 64, 64) * 3).to(torch.uint8)
    read = io.decode_jpeg(io.encode_jpeg(ramp, quality=95))
    assert read.shape == ramp.shape
    # A smooth image at this quality: quantisation steps of the low frequencies are 2 to 3 grey values.
    assert (read.int() - ramp.int()).abs().max().item() <= 8


@check("transforms v2 are what data pipelines are written in")
def test_transforms(torchvision: Any) -> None:
    from torchvision.transforms import v2

    image = torch.arange(2 * 4 * 6, dtype=torch.uint8).reshape(2, 4, 6)
    scaled = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5, 0.25], [0.5, 0.5])])(image)
    by_hand = (image.double() / 255 - torch.tensor([0.5, 0.25]).double()[:, None, None]) / 0.5
    assert bool((scaled.double() - by_hand).abs().max() <= 8 * 2.0**-24)
    assert torch.equal(v2.functional.horizontal_flip(image), image.flip(-1))
    assert torch.equal(v2.functional.crop(image, 1, 2, 2, 3), image[:, 1:3, 2:5])
    resized = v2.functional.resize(image.float(), [8, 12], antialias=False)
    plain = torch.nn.functional.interpolate(image.float()[None], size=(8, 12), mode="bilinear")[0]
    assert torch.equal(resized, plain)


@check("a residual network is what torchvision is used for most; its gradient is compared with differences")
def test_residual_network(torchvision: Any) -> None:
    model = vision.residual_network()
    found = vision.gradients(model, torch.device("cpu"))
    # Along a random direction, with a step this small, the difference quotient in float64 changes sides of few
    # kinks, and loses 1e-16 / h of its digits.
    torch.manual_seed(17)
    directions = {name: torch.randn_like(each) for name, each in model.named_parameters()}
    losses, h = [], 1e-8
    for sign in (1, -1):
        with torch.no_grad():
            for name, each in model.named_parameters():
                each.add_(directions[name], alpha=h if sign == 1 else -2 * h)
        losses.append(vision.gradients(model, torch.device("cpu"))["loss"].item())
    slope = sum(float((found[name] * each).sum()) for name, each in directions.items())
    assert (losses[0] - losses[1]) / (2 * h) == pytest.approx(slope, rel=1e-3)
