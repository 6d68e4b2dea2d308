"""Cost of the loss beside a network of the LPIPS-AlexNet architecture, measured in one run.

The peer is built from the published shapes with random weights: what a forward and a backward pass cost does not depend
on what the weights have learnt.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

UNIT_EPS = 1e-10
"""Under the root of the channel norm, so that an all-zero feature column keeps a finite slope."""


class PeerAlexNet(nn.Module):
    """Perceptual distance over AlexNet features with random weights: architecture only, for timing.

    Shapes: AlexNet's five convolutions with ReLU and its two first max-poolings (Krizhevsky, "One weird trick for
    parallelizing convolutional neural networks", 2014, section 5: the one-column variant); a tap after each ReLU,
    channel-unit normalisation, squared difference, a non-negative 1x1 weighting and a spatial mean (Zhang et al., "The
    Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018, equation 1).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        shapes = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, k, stride=s, padding=p) for i, o, k, s, p in shapes)
        self.weights = nn.ParameterList(torch.rand(1, o, 1, 1) / o for _, o, _, _, _ in shapes)
        # Mean and deviation of ImageNet, brought to inputs in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [0, 1] -> five unit-normalised feature maps."""
        x = (2 * images - 1 - self.shift) / self.scale
        taps = []
        for k, convolution in enumerate(self.convolutions):
            if k in (1, 2):
                x = functional.max_pool2d(x, kernel_size=3, stride=2)
            x = functional.relu(convolution(x))
            taps.append(x / (x.square().sum(dim=1, keepdim=True) + UNIT_EPS).sqrt())
        return taps

    def forward(self, pred: Tensor, ref: Tensor) -> Tensor:
        """Mean distance of a batch, a scalar."""
        total = pred.new_zeros(())
        for a, b, weight in zip(self.features(pred), self.features(ref), self.weights, strict=True):
            total = total + functional.conv2d((a - b).square(), weight).mean()
        return total


@dataclass(frozen=True)
class SpeedReport:
    """Median times of one forward and backward pass to ``pred``, and what they were taken on.

    Attributes:
        loss_ms: of the loss, in milliseconds.
        lpips_alexnet_ms: of the LPIPS-AlexNet architecture.
        loss_best_ms: smallest of the loss's times: nearer to the true cost on a busy machine.
        lpips_alexnet_best_ms: smallest of the architecture's times.
        ratio: ``loss_ms / lpips_alexnet_ms``; at most 1 means no slower than LPIPS-AlexNet.
        ratio_spread: smallest and largest ratio of one interleaved repeat.
        shape: of ``pred`` and ``ref``.
        repeats: timed passes of each.
        device: where it ran.
        threads: CPU threads of torch.
        torch_version: version of torch.
    """

    loss_ms: float
    lpips_alexnet_ms: float
    loss_best_ms: float
    lpips_alexnet_best_ms: float
    ratio: float
    ratio_spread: tuple[float, float]
    shape: tuple[int, int, int, int]
    repeats: int
    device: str
    threads: int
    torch_version: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def measure(
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    *,
    shape: tuple[int, int, int, int] = (8, 3, 256, 256),
    repeats: int = 7,
    warmup: int = 2,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> SpeedReport:
    """Time forward plus backward to ``pred`` of a loss and of the peer, in turns, so that both see the same load.

    Args:
        loss_fn: ``(pred, ref) -> scalar``, on ``device``.
        shape: (B, 3, H, W) of the random images, float32.
        repeats: timed passes of each.
        warmup: passes of each before the clock starts.
        device: where to measure.
        seed: of the images and the peer's weights.

    Raises:
        ValueError: ``repeats`` under 1 or ``warmup`` under 0.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats must be at least 1 and warmup at least 0, got {repeats} and {warmup}")
    device = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peer = PeerAlexNet().to(device)
        ref = torch.rand(shape).to(device)
        noise = torch.randn(shape).to(device)
    pred = (ref + 0.05 * noise).clamp(0, 1)

    def timed(loss: Callable[[Tensor, Tensor], Tensor]) -> float:
        image = pred.clone().requires_grad_(True)
        _wait(device)
        start = time.perf_counter()
        loss(image, ref).backward()
        _wait(device)
        return (time.perf_counter() - start) * 1e3

    ours, theirs = [], []
    for turn in range(warmup + repeats):
        pair = timed(loss_fn), timed(peer)
        if turn >= warmup:
            ours.append(pair[0])
            theirs.append(pair[1])
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    a, b = statistics.median(ours), statistics.median(theirs)
    return SpeedReport(
        loss_ms=a,
        lpips_alexnet_ms=b,
        loss_best_ms=min(ours),
        lpips_alexnet_best_ms=min(theirs),
        ratio=a / b,
        ratio_spread=(min(ratios), max(ratios)),
        shape=shape,
        repeats=repeats,
        device=str(device),
        threads=torch.get_num_threads(),
        torch_version=str(torch.__version__),
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
