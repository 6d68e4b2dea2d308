"""Lost or replaced content: missing blocks, dropped lines, copied patches."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from . import filters
from .record import Distortion

_MOST_CELLS = 16
_LEAST_CELL = 4


def _first_ranks(draw: Tensor, share: Tensor) -> Tensor:
    """Mark the ceil(share * n) smallest of n draws (B, n), at least one: a larger share only adds to the marks."""
    rank = draw.argsort(dim=1).argsort(dim=1)
    count = (share.to(draw) * draw.shape[1]).ceil().clamp(min=1)
    return rank < count[:, None]


def _random_cells(images: Tensor, share: Tensor, generator: Generator) -> Tensor:
    """Mask (B, 1, H, W) of random square cells covering about ``share`` of the picture, nested in ``share``."""
    batch, _, height, width = images.shape
    cell = max(_LEAST_CELL, min(height, width) // _MOST_CELLS)
    rows, columns = -(-height // cell), -(-width // cell)
    marks = _first_ranks(filters.uniform((batch, rows * columns), images, generator), share)
    cells = marks.view(batch, 1, rows, columns)
    return cells.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[..., :height, :width]


def _fill(images: Tensor, generator: Generator) -> Tensor:
    """One fill (B, 3, 1, 1) an image: black, mid grey, white or the picture's mean colour."""
    choice = (filters.uniform((images.shape[0],), images, generator) * 4).long().clamp(max=3)
    mean = images.mean((2, 3))
    options = torch.stack((torch.zeros_like(mean), torch.full_like(mean, 0.5), torch.ones_like(mean), mean))
    return options[choice, torch.arange(images.shape[0], device=images.device)][:, :, None, None]


def missing_blocks(images: Tensor, share: Tensor, generator: Generator) -> Tensor:
    """Square blocks replaced by one flat colour; share of the picture that is lost."""
    lost = _random_cells(images, share, generator)
    return torch.where(lost, _fill(images, generator), images)


def line_dropout(images: Tensor, share: Tensor, generator: Generator) -> Tensor:
    """Rows replaced by one flat colour; share of the rows that is lost."""
    lost = _first_ranks(filters.uniform((images.shape[0], images.shape[2]), images, generator), share)
    return torch.where(lost[:, None, :, None], _fill(images, generator), images)


def copied_patch(images: Tensor, share: Tensor, generator: Generator) -> Tensor:
    """Square blocks replaced by content from elsewhere in the picture; share of the picture that is replaced."""
    batch, _, height, width = images.shape
    replaced = _random_cells(images, share, generator)
    # a quarter to three quarters of the picture away, round the corner where need be
    away = 0.25 + 0.5 * filters.uniform((batch, 2), images, generator)
    rows = (torch.arange(height, device=images.device) + (away[:, :1] * height).long()) % height
    columns = (torch.arange(width, device=images.device) + (away[:, 1:] * width).long()) % width
    place = (rows[:, :, None] * width + columns[:, None, :]).view(batch, 1, -1).expand(-1, 3, -1)
    elsewhere = images.flatten(2).gather(2, place).view_as(images)
    return torch.where(replaced, elsewhere, images)


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        "missing_blocks", "loss", {"occlusion": 1.0}, (0.005, 0.35), missing_blocks, geometric=True, inclusion=False
    ),
    Distortion("line_dropout", "loss", {"occlusion": 1.0}, (0.004, 0.3), line_dropout, geometric=True, inclusion=False),
    Distortion(
        "copied_patch",
        "loss",
        {"occlusion": 1.0},
        (0.005, 0.5),
        copied_patch,
        geometric=True,
        dominance=False,
        inclusion=False,
        trace=False,
    ),
)
