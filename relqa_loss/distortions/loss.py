"""Lost, replaced or covered content: missing blocks, dropped lines, copied and swapped patches, blocks of colour.

Damage comes in cells, whose order the draw decides: a larger share keeps the cells that are hit already, and grows the
next one from a pixel to its full size. So the weakest damage is a speck, whatever the size of the picture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import filters
from .draws import Randomness
from .record import Distortion

_LEAST_CELL = 4


def _cell_size(images: Tensor, most: int) -> int:
    """Side of square cells in pixels, so that about ``most`` of them stand along the shorter side."""
    return max(_LEAST_CELL, min(images.shape[-2:]) // most)


def _grid(images: Tensor, cell: int) -> tuple[int, int]:
    """Rows and columns of the cells that cover the picture, those at the border cut."""
    return -(-images.shape[-2] // cell), -(-images.shape[-1] // cell)


def _filled(draw: Tensor, share: Tensor) -> Tensor:
    """How much of each of n items is hit, (B, n) in [0, 1], for draws (B, n): in sum ``share * n``, nested in it."""
    rank = draw.argsort(dim=1).argsort(dim=1)
    hit = share.to(draw, non_blocking=True)[:, None] * draw.shape[1]
    return (hit - rank).clamp(0, 1)


def _spread(cells: Tensor, images: Tensor, cell: int) -> Tensor:
    """What belongs to cells (B, ..., rows, columns), at each pixel: (B, ..., H, W)."""
    rows, columns = cells.shape[-2:]
    height, width = images.shape[-2:]
    tiles = cells[..., :, None, :, None].expand(*cells.shape[:-1], cell, columns, cell)
    return tiles.reshape(*cells.shape[:-2], rows * cell, columns * cell)[..., :height, :width]


def _squares(images: Tensor, side: Tensor, cell: int, top: Tensor | float = 0.0, left: Tensor | float = 0.0) -> Tensor:
    """Mask (B, 1, H, W) of one square a cell: side (B, 1, rows, columns) in pixels, from ``top``, ``left`` in it."""
    ys = (torch.arange(images.shape[-2], device=images.device) % cell).view(-1, 1)
    xs = torch.arange(images.shape[-1], device=images.device) % cell
    if isinstance(top, Tensor) and isinstance(left, Tensor):
        ys = ys - _spread(top, images, cell)
        xs = xs - _spread(left, images, cell)
        return (torch.maximum(ys, xs) < _spread(side, images, cell)) & (torch.minimum(ys, xs) >= 0)
    return torch.maximum(ys, xs) < _spread(side, images, cell)


def _random_cells(images: Tensor, share: Tensor, generator: Randomness, cell: int) -> Tensor:
    """Mask (B, 1, H, W) of random square cells covering ``share`` of the picture, nested in ``share``."""
    rows, columns = _grid(images, cell)
    filled = _filled(filters.uniform((images.shape[0], rows * columns), images, generator), share)
    return _squares(images, (filled.sqrt() * cell).ceil().view(-1, 1, rows, columns), cell)


def _gathered(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels (B, 3, H, W) from rows and columns (B, H, W), both whole numbers inside the picture."""
    place = (rows * images.shape[-1] + columns).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, place).view_as(images)


def _folded(place: Tensor, size: int) -> Tensor:
    """Whole places less than ``size`` outside 0 .. size - 1, mirrored into it."""
    place = place.abs()
    return torch.where(place >= size, 2 * (size - 1) - place, place)


def _fill(images: Tensor, generator: Randomness) -> Tensor:
    """One fill (B, 3, 1, 1) an image: black, mid grey, white or the picture's mean colour."""
    choice = (filters.uniform((images.shape[0],), images, generator) * 4).long().clamp(max=3)
    mean = images.mean((2, 3))
    options = torch.stack((torch.zeros_like(mean), torch.full_like(mean, 0.5), torch.ones_like(mean), mean))
    return options[choice, torch.arange(images.shape[0], device=images.device)][:, :, None, None]


_BLOCKS_A_SIDE = 16


def missing_blocks(images: Tensor, share: Tensor, generator: Randomness) -> Tensor:
    """Square blocks replaced by one flat colour; share of the picture that is lost."""
    lost = _random_cells(images, share, generator, _cell_size(images, _BLOCKS_A_SIDE))
    return torch.where(lost, _fill(images, generator), images)


def line_dropout(images: Tensor, share: Tensor, generator: Randomness) -> Tensor:
    """Rows replaced by one flat colour, the last of them in part; share of the picture that is lost."""
    batch, _, height, width = images.shape
    run = (_filled(filters.uniform((batch, height), images, generator), share) * width).ceil()
    start = (filters.uniform((batch, height), images, generator) * width).floor()
    along = (torch.arange(width, device=images.device) - start[:, :, None]) % width
    return torch.where((along < run[:, :, None])[:, None], _fill(images, generator), images)


def copied_patch(images: Tensor, share: Tensor, generator: Randomness) -> Tensor:
    """Square blocks replaced by content from elsewhere in the picture; share of the picture that is replaced."""
    batch, _, height, width = images.shape
    replaced = _random_cells(images, share, generator, _cell_size(images, _BLOCKS_A_SIDE))
    # a quarter to three quarters of the picture away, round the corner where need be
    away = 0.25 + 0.5 * filters.uniform((batch, 2), images, generator)
    rows = (torch.arange(height, device=images.device) + (away[:, :1] * height).long()) % height
    columns = (torch.arange(width, device=images.device) + (away[:, 1:] * width).long()) % width
    return torch.where(replaced, _gathered(images, rows[:, :, None], columns[:, None, :]), images)


_COLOUR_BLOCKS_A_SIDE = 8


def colour_blocks(images: Tensor, share: Tensor, generator: Randomness) -> Tensor:
    """Square blocks of random colours laid over the picture, some thinner than others; share of the blocks.

    Each cell of an 8 x 8 grid has room for one block of 0.6 to 1 of its side, at a place and of a colour of its own:
    half of the colours are saturated. Opacity is 0.5 to 1.
    """
    batch = images.shape[0]
    cell = _cell_size(images, _COLOUR_BLOCKS_A_SIDE)
    rows, columns = _grid(images, cell)
    draw = filters.uniform((batch, 8, rows, columns), images, generator)
    filled = _filled(draw[:, 0].flatten(1), share).view(batch, 1, rows, columns)
    largest = (0.6 + 0.4 * draw[:, 1:2]) * cell
    side = (filled.sqrt() * largest).ceil()
    # cells at the border may be cut: their blocks start inside the picture
    room = (cell - largest) * draw[:, 2:4]
    top = torch.minimum(room[:, :1], images.shape[-2] - 1 - cell * torch.arange(rows, device=images.device)[:, None])
    left = torch.minimum(room[:, 1:], images.shape[-1] - 1 - cell * torch.arange(columns, device=images.device))
    colour = draw[:, 4:7]
    low, high = colour.amin(1, keepdim=True), colour.amax(1, keepdim=True)
    # the place in its cell doubles as the coin: it says nothing about the colour
    colour = torch.where(draw[:, 2:3] < 0.5, (colour - low) / (high - low).clamp(min=1e-3), colour).clamp(0, 1)
    opacity = 0.5 + 0.5 * draw[:, 7:8]
    covered = _squares(images, side, cell, top.floor(), left.floor())
    cover = torch.lerp(images, _spread(colour, images, cell), _spread(opacity, images, cell))
    return torch.where(covered, cover, images)


_OFFSET_SHARE = 0.3


def block_intensity(images: Tensor, amount: Tensor, generator: Randomness) -> Tensor:
    """Blocks that are lighter or darker than they were, each by an amount of its own; amount = the largest change.

    Three of ten cells of a 16 x 16 grid change, by 0.3 to 1 of ``amount``.
    """
    cell = _cell_size(images, _BLOCKS_A_SIDE)
    rows, columns = _grid(images, cell)
    draw = filters.uniform((images.shape[0], 2, rows, columns), images, generator)
    height = 2 * draw[:, 1:] - 1
    height = torch.where(draw[:, :1] < _OFFSET_SHARE, height.sign() * (0.3 + 0.7 * height.abs()), 0.0)
    return (images + _spread(height * filters.column(amount, images), images, cell)).clamp(0, 1)


_PATCH = 15
_NEAREST, _FARTHEST = 4.0, 10.0


def pattern_patches(images: Tensor, share: Tensor, generator: Randomness) -> Tensor:
    """Patches of 15 pixels replaced by what lies 4 to 10 pixels beside them; share of the picture that is replaced."""
    batch, _, height, width = images.shape
    cell = min(_PATCH, max(_LEAST_CELL, min(height, width) // 4))
    rows, columns = _grid(images, cell)
    replaced = _random_cells(images, share, generator, cell)
    draw = filters.uniform((batch, 2, rows, columns), images, generator)
    angle, distance = 2 * math.pi * draw[:, 0], _NEAREST + (_FARTHEST - _NEAREST) * draw[:, 1]
    down = _spread((distance * angle.sin()).round().long(), images, cell)
    right = _spread((distance * angle.cos()).round().long(), images, cell)
    ys = _folded(torch.arange(height, device=images.device)[:, None] + down, height)
    xs = _folded(torch.arange(width, device=images.device) + right, width)
    return torch.where(replaced, _gathered(images, ys, xs), images)


_SWAPPED_A_SIDE = 32


def local_swap(images: Tensor, share: Tensor, generator: Randomness) -> Tensor:
    """Small blocks that have changed places with a neighbour; share of the blocks.

    Blocks stand in groups of 2 x 2: those of a group change places sideways, up and down, or crosswise. What is left
    over at the border, less than a group, keeps its place.
    """
    cell = _cell_size(images, _SWAPPED_A_SIDE)
    group = 2 * cell
    rows, columns = images.shape[-2] // group, images.shape[-1] // group
    whole = images[..., : rows * group, : columns * group]
    draw = filters.uniform((images.shape[0], 2, rows, columns), images, generator)
    side = (_filled(draw[:, 0].flatten(1), share).sqrt() * cell).ceil().view(-1, rows, columns)
    way = draw[:, 1] * 3
    ys = torch.arange(rows * group, device=images.device)[:, None]
    xs = torch.arange(columns * group, device=images.device)
    hit = torch.maximum(ys % cell, xs % cell) < _spread(side, whole, group)
    upright, sideways = _spread(way >= 1, whole, group), _spread((way < 1) | (way >= 2), whole, group)
    other_y = ys - ys % group + (ys + cell * (hit & upright)) % group
    other_x = xs - xs % group + (xs + cell * (hit & sideways)) % group
    swapped = images.clone()
    swapped[..., : rows * group, : columns * group] = _gathered(whole, other_y, other_x)
    return swapped


_NESTED = "own construction: cells in a drawn order; from a speck to "

DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        "missing_blocks",
        "loss",
        {"occlusion": 1.0},
        (0.0001, 0.2),
        missing_blocks,
        geometric=True,
        source=_NESTED + "a fifth of the picture, as after lost packets",
        inclusion=False,
    ),
    Distortion(
        "line_dropout",
        "loss",
        {"occlusion": 1.0},
        (0.0001, 0.2),
        line_dropout,
        geometric=True,
        source=_NESTED + "a fifth of the rows, as from worn tape",
        inclusion=False,
    ),
    Distortion(
        "copied_patch",
        "loss",
        {"occlusion": 1.0},
        (1e-4, 0.4),
        copied_patch,
        geometric=True,
        source=_NESTED + "two fifths of the picture, beyond which the copy would be the picture",
        dominance=False,
        inclusion=False,
        trace=False,
    ),
    Distortion(
        "colour_blocks",
        "loss",
        {"occlusion": 1.0},
        (4e-05, 0.4),
        colour_blocks,
        geometric=True,
        source="KADID-10k 23, colour block: from a speck (KADID starts at two blocks) to two fifths of the grid",
        inclusion=False,
    ),
    Distortion(
        "block_intensity",
        "loss",
        {"blocking": 1.0, "occlusion": 0.3},
        (0.01, 0.4),
        block_intensity,
        geometric=True,
        source="TID2013 15, local block-wise distortions of different intensity; range own construction",
        dominance=False,
        inclusion=False,
    ),
    Distortion(
        "pattern_patches",
        "loss",
        {"occlusion": 1.0},
        (0.001, 0.75),
        pattern_patches,
        geometric=True,
        source="TID2013 14, non-eccentricity pattern noise; range own construction, to three quarters of the picture",
        dominance=False,
        inclusion=False,
        trace=False,
    ),
    Distortion(
        "local_swap",
        "loss",
        {"occlusion": 1.0},
        (3e-4, 0.75),
        local_swap,
        geometric=True,
        source=_NESTED + "three quarters of the picture",
        dominance=False,
        inclusion=False,
        trace=False,
    ),
)
