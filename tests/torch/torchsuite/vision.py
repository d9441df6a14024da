"""torchvision's own kernels against their definitions, written out for small inputs."""

from __future__ import annotations

from typing import Any

import torch


def pairs(torch_version: str, vision_version: str) -> bool:
    """Whether these releases were made for each other: torchvision 0.(n+15) is that of torch 2.n."""
    ours, theirs = (tuple(int(part) for part in version.split(".")[:2]) for version in (torch_version, vision_version))
    return ours[0] == 2 and theirs == (0, ours[1] + 15)


def boxes(count: int) -> tuple[Any, Any]:
    """Boxes (x1, y1, x2, y2) that overlap a lot, and scores of which no two are equal."""
    torch.manual_seed(13)
    corner = torch.rand(count, 2) * 10
    return torch.cat([corner, corner + 1 + torch.rand(count, 2) * 6], 1), torch.randperm(count).float() / count


def nms_written_out(rectangles: Any, scores: Any, threshold: float) -> list[int]:
    """Take the best box, drop all that overlap it by more than the threshold, and go on."""
    left = scores.argsort(descending=True).tolist()
    wide = rectangles.double().tolist()
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        left = [each for each in left if _overlap(wide[best], wide[each]) <= threshold]
    return kept


def _overlap(one: list[float], other: list[float]) -> float:
    across = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    down = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return across * down / (sum(areas) - across * down)


def roi_align_written_out(image: Any, rectangles: Any, size: int, samples: int) -> Any:
    """The mean of `samples`² bilinear samples a bin, with the half-pixel shift of `aligned=True`; in float64."""
    wide = image.double()
    channels = wide.shape[0]
    result = torch.zeros(len(rectangles), channels, size, size, dtype=torch.float64)
    for number, box in enumerate(rectangles.double()):
        x1, y1, x2, y2 = (box - 0.5).tolist()
        step_x, step_y = (x2 - x1) / size / samples, (y2 - y1) / size / samples
        for row in range(size):
            for column in range(size):
                points = [
                    _bilinear(wide, y1 + (row * samples + i + 0.5) * step_y, x1 + (column * samples + j + 0.5) * step_x)
                    for i in range(samples)
                    for j in range(samples)
                ]
                result[number, :, row, column] = torch.stack(points).mean(0)
    return result


def _bilinear(image: Any, y: float, x: float) -> Any:
    height, width = image.shape[-2:]
    if y < -1 or y > height or x < -1 or x > width:
        return torch.zeros(image.shape[0], dtype=image.dtype)
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = (y - top if top < height - 1 else 0.0), (x - left if left < width - 1 else 0.0)
    upper = image[:, top, left] * (1 - across) + image[:, top, right] * across
    lower = image[:, bottom, left] * (1 - across) + image[:, bottom, right] * across
    return upper * (1 - down) + lower * down


def operators(device: Any) -> dict[str, bool]:
    """Which of nms, roi_align and its gradient are right on a device."""
    from torchvision import ops

    rectangles, scores = boxes(40)
    kept = ops.nms(rectangles.to(device), scores.to(device), 0.3).cpu().tolist()
    image = torch.rand(3, 16, 16)
    regions = rectangles[:4]
    exact = roi_align_written_out(image, regions, 3, 2)
    there = image[None].to(device).requires_grad_()
    batch = torch.cat([torch.zeros(4, 1), regions], 1).to(device)
    pooled = ops.roi_align(there, batch, 3, sampling_ratio=2, aligned=True)
    pooled.sum().backward()
    # The pooling is linear: its gradient, times the image, is its value.
    through = (there.grad.double().cpu() * image.double()).sum().item()
    whole = exact.sum().item()
    return {
        "nms": kept == nms_written_out(rectangles, scores, 0.3),
        # Values below 1, some thirty operations in fp32; positions of up to 16 are rounded as well.
        "roi_align": bool((pooled.detach().cpu().double() - exact).abs().max() <= 64 * 16 * 2.0**-24),
        "roi_align_gradient": abs(through - whole) <= 1e-4 * whole,
    }


def residual_network() -> Any:
    """A ResNet of four blocks, in float64, so that devices can be compared to the last digits."""
    from torchvision.models.resnet import BasicBlock, ResNet

    torch.manual_seed(14)
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5).double()


def gradients(model: Any, device: Any) -> dict[str, Any]:
    """Loss and gradients of one training step on a device, as tensors on the CPU."""
    torch.manual_seed(15)
    x, y = torch.randn(4, 3, 32, 32, dtype=torch.float64).to(device), torch.arange(4).to(device)
    model = model.to(device)
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    found = {name: each.grad.detach().cpu() for name, each in model.named_parameters()}
    return {"loss": loss.detach().cpu(), **found}
