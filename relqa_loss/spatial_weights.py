"""From distortion maps to weight maps: how much each pixel counts, with mean 1 per image and a bounded contrast."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .layers import at_least_float32
from .relation import AXES, axis_index
from .settings import normalise_weight

DEFAULT_LIMIT = 20.0


def axis_channels(axes: str | Iterable[str] | None) -> list[int]:
    """Map channels of the axes to follow: one name, several, or None for all.

    Raises:
        ValueError: an unknown axis (nearest match offered), or none at all.
    """
    names = list(AXES if axes is None else [axes] if isinstance(axes, str) else axes)
    if not names:
        raise ValueError("axes must name at least one axis, got none; None follows all")
    return [axis_index(name) for name in names]


def check_emphasis(strength: float, limit: float) -> None:
    """ValueError unless ``strength`` >= 0 and ``limit`` >= 1, both finite."""
    if not 0 <= strength < float("inf"):
        raise ValueError(f"strength must be finite and >= 0, got {strength}")
    if not 1 <= limit < float("inf"):
        raise ValueError(f"limit must be finite and >= 1, got {limit}")


@torch.no_grad()
def spatial_weights(
    maps: Tensor,
    *,
    axes: str | Iterable[str] | None = None,
    strength: float = 1.0,
    limit: float = DEFAULT_LIMIT,
    focus: float | Tensor = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """How much each pixel of a per-pixel loss should count, by what the distortion maps say of it.

    With ``m`` the sum of ``|maps|`` over the followed axes and ``mean`` over the image, weighted by ``weight``:
    ``u = min(1 + strength * m / mean(m), limit) ** focus``, and the result is ``weight * u / mean(u)``. Where the maps
    are 0 everywhere (equal images), it is ``weight`` alone. Without ``weight`` it lies between ``1 / limit`` and
    ``limit``.

    Args:
        maps: (B, len(AXES), H, W), as ``Relation.maps``; get no gradient.
        axes: name or names of the axes to follow; all if None.
        strength: >= 0; a pixel with the image's mean of ``m`` counts ``1 + strength`` times one with 0.
        limit: >= 1, the most that one pixel of an image counts in terms of another: one dead pixel must not take the
            whole loss.
        focus: in [-1, 1]: 1 looks at the hard places, where much is wrong; 0 at all places alike; -1 at the easy ones,
            which count as many times more as they count less at 1. A tensor of one number is not checked.
        weight: (B, 1, H, W) or (B, H, W), >= 0, how much each pixel counts to begin with; normalised to mean 1 per
            image. Places where it is 0 have no say in ``mean(m)``. One that is 0 everywhere gives 0.

    Returns:
        (B, 1, H, W) >= 0, detached, of mean 1 per image, float32 at least.

    Raises:
        TypeError: ``weight`` is not a tensor.
        ValueError: an unknown axis or none, a number out of its range, a weight of another shape or device.
    """
    check_emphasis(strength, limit)
    if not isinstance(focus, Tensor) and not -1 <= focus <= 1:
        raise ValueError(f"focus must lie in [-1, 1], got {focus}")
    emphasis = at_least_float32(maps[:, axis_channels(axes)]).abs().sum(dim=1, keepdim=True)
    prior = torch.ones_like(emphasis) if weight is None else normalise_weight(weight, emphasis)
    mean = (prior * emphasis).mean(dim=(1, 2, 3), keepdim=True)
    relative = emphasis / mean.clamp_min(torch.finfo(mean.dtype).tiny)
    return normalise_weight(prior * (1 + strength * relative).clamp(max=limit) ** focus, emphasis)
