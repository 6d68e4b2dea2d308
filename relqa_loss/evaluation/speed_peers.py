"""What the loss's cost is compared with: networks of the LPIPS architectures, and MS-SSIM of another package.

The networks are built from the published shapes with random weights: what a forward and a backward pass cost does not
depend on what the weights have learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..images import MissingExtra

UNIT_EPS = 1e-10
"""Under the root of the channel norm, so that an all-zero feature column keeps a finite slope."""

LEAST_SIDE = 32
"""In pixels, of pictures that every stage of both networks leaves something of."""

MS_SSIM_SIDE = 161
"""Least side in pixels of MS-SSIM: five scales, the coarsest one window of 11 pixels wide."""


class Convolution(NamedTuple):
    """Arguments of one ``nn.Conv2d``, in its order."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int


class PerceptualNetwork(nn.Module):
    """Perceptual distance over a network's features with random weights: architecture only, for timing.

    Stages of convolutions, each with a ReLU; a tap after the last ReLU of each stage, channel-unit normalisation,
    squared difference, a non-negative 1x1 weighting and a spatial mean (Zhang et al., "The Unreasonable Effectiveness
    of Deep Features as a Perceptual Metric", 2018, equation 1). ReLUs work in place, as the published networks' do:
    otherwise the peers would be made to look larger than they are.

    Args:
        stages: convolutions of each stage.
        pools: (kernel, stride) of the max-pooling before each stage; None for none.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, stages: Sequence[Sequence[Convolution]], pools: Sequence[tuple[int, int] | None]) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for stage, pool in zip(stages, pools, strict=True):
            layers: list[nn.Module] = [] if pool is None else [nn.MaxPool2d(*pool)]
            for one in stage:
                layers += [nn.Conv2d(*one), nn.ReLU(inplace=True)]
            self.stages.append(nn.Sequential(*layers))
        widths = [stage[-1].outputs for stage in stages]
        self.weights = nn.ParameterList(torch.rand(1, width, 1, 1) / width for width in widths)
        # Mean and deviation of ImageNet, brought to inputs in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [0, 1], sides at least ``LEAST_SIDE`` -> a unit-normalised feature map a stage."""
        x = (2 * images - 1 - self.shift) / self.scale
        taps = []
        for stage in self.stages:
            x = stage(x)
            taps.append(x / (x.square().sum(dim=1, keepdim=True) + UNIT_EPS).sqrt())
        return taps

    def forward(self, pred: Tensor, ref: Tensor) -> Tensor:
        """Mean distance of a batch, a scalar."""
        total = pred.new_zeros(())
        for a, b, weight in zip(self.features(pred), self.features(ref), self.weights, strict=True):
            total = total + functional.conv2d((a - b).square(), weight).mean()
        return total


def lpips_alexnet() -> PerceptualNetwork:
    """Five convolutions, five taps.

    Shapes: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, section 5: the
    one-column variant, with its first two max-poolings.
    """
    shapes = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
    return PerceptualNetwork([[Convolution(*shape)] for shape in shapes], (None, (3, 2), (3, 2), None, None))


def lpips_vgg16() -> PerceptualNetwork:
    """Thirteen convolutions, taps after relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.

    Shapes: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015, table
    1, column D, without its last max-pooling and what follows.
    """
    stages = []
    inputs = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        stages.append([Convolution(inputs if k == 0 else width, width, 3, 1, 1) for k in range(count)])
        inputs = width
    return PerceptualNetwork(stages, (None, (2, 2), (2, 2), (2, 2), (2, 2)))


def ms_ssim_loss() -> tuple[Callable[[Tensor, Tensor], Tensor], str]:
    """``1 - MS-SSIM`` of the package ``pytorch-msssim`` with its defaults, and its version.

    Takes (pred, ref), (B, 3, H, W) in [0, 1], sides at least ``MS_SSIM_SIDE``; gives the mean of the batch.

    Raises:
        MissingExtra: the package is not installed.
    """
    try:
        from pytorch_msssim import ms_ssim
    except ImportError as error:
        raise MissingExtra("pytorch-msssim", "benchmark") from error

    def loss(pred: Tensor, ref: Tensor) -> Tensor:
        value: Tensor = 1 - ms_ssim(pred, ref, data_range=1.0)
        return value

    return loss, metadata.version("pytorch-msssim")
