"""The axes in words: what a positive and a negative map value say about the first image of a pair."""

from __future__ import annotations

import torch
from torch import Tensor

from .relation import AXES, SHIFT_AXES, TONE_AXES, Relation, axis_index

AXIS_WORDS: dict[str, tuple[str, str]] = {
    "blur": ("blurrier", "sharper"),
    "noise": ("grainier", "less grainy"),
    "chroma_noise": ("more colour noise", "less colour noise"),
    "impulse": ("more dead or hot pixels", "fewer dead or hot pixels"),
    "blocking": ("blockier", "less blocky"),
    "ringing": ("more ringing", "less ringing"),
    "banding": ("more banding", "smoother gradients"),
    "aliasing": ("more jaggies", "fewer jaggies"),
    "fringing": ("more colour fringes", "fewer colour fringes"),
    "brightness": ("brighter", "darker"),
    "contrast": ("more contrast", "flatter"),
    "saturation": ("more saturated", "greyer"),
    "tint_blue": ("bluer", "yellower"),
    "tint_red": ("redder", "greener"),
    "shift_x": ("shifted right", "shifted left"),
    "shift_y": ("shifted down", "shifted up"),
    "occlusion": ("content lost or replaced", "content added back"),
}
"""Axis -> (meaning of a positive value, meaning of a negative value), said of image a compared with image b."""

RELEVANT = 0.05
"""Share of the strongest map's mean magnitude below which an axis is not worth a word."""

MIXED_BELOW = 0.2
"""|sum of map| / sum of |map| under which an axis goes both ways inside one picture: no single word is right."""


def balance(signed_map: Tensor) -> Tensor:
    """How one-sided a signed map (..., H, W) is: sum / sum of magnitudes, in [-1, 1], 0 for an all-zero map."""
    magnitude = signed_map.abs().sum(dim=(-2, -1))
    return signed_map.sum(dim=(-2, -1)) / magnitude.clamp_min(torch.finfo(signed_map.dtype).tiny)


def in_words(axis: str, direction: float) -> str:
    """What an axis says, e.g. ``"blurrier"``.

    Args:
        axis: one of ``AXES``.
        direction: in [-1, 1], see :func:`balance`; near 0 the axis goes both ways, and that is said.

    Raises:
        ValueError: unknown axis.
    """
    plus, minus = AXIS_WORDS[AXES[axis_index(axis)]]
    if abs(direction) < MIXED_BELOW:
        return f"{axis.replace('_', ' ')} both ways"
    return plus if direction > 0 else minus


def change_in_words(axis: str, change: float, turn: float) -> str:
    """What became of an axis from one output to the next, e.g. ``"sharper"``.

    That less of an artefact is better, and more of it worse, goes without saying; the rest is said, e.g.
    ``"darker, farther from the originals"``.

    Args:
        axis: one of ``AXES``.
        change: of the axis's part of the distance; negative = nearer to the originals.
        turn: change of the axis's signed map; 0 where it has no common direction.

    Raises:
        ValueError: unknown axis.
    """
    plus, minus = AXIS_WORDS[AXES[axis_index(axis)]]
    outcome = "nearer to the originals" if change < 0 else "farther from the originals"
    if turn == 0:
        return f"{axis.replace('_', ' ')} {outcome}"
    word = plus if turn > 0 else minus
    expected = axis not in TONE_AXES + SHIFT_AXES and (turn > 0) == (change > 0)
    return word if expected else f"{word}, {outcome}"


def strongest(relation: Relation, count: int, item: int = 0) -> list[tuple[str, float, float]]:
    """The axes with the strongest maps of one pair of a batch; those below ``RELEVANT`` of the first are left out.

    Args:
        relation: from ``loss_fn.relate``; its maps get decoded.
        count: how many axes at most.
        item: which pair of the batch.

    Returns:
        (axis, its part of the distance, direction in [-1, 1]) each, strongest map first; none for equal images.
    """
    strength = relation.maps[item].detach().abs().mean(dim=(1, 2))
    order = strength.argsort(descending=True)[:count].tolist()
    chosen = [k for k in order if float(strength[k]) > RELEVANT * float(strength.max())]
    if not chosen:
        return []
    parts = relation.parts[item].detach()
    directions = balance(relation.maps[item, chosen].detach().double())
    return [(AXES[k], float(parts[k]), float(d)) for k, d in zip(chosen, directions, strict=True)]
