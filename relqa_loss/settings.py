"""Settings of the losses, checked and brought to the form they are computed with."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Literal, TypeGuard

import torch
from torch import Tensor

from .relation import AXES, axis_index
from .validation import unknown_name

Reduction = Literal["mean", "sum", "none"]
REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum", "none")


def check_reduction(reduction: str) -> None:
    """ValueError with the nearest match for an unknown reduction."""
    if reduction not in REDUCTIONS:
        raise ValueError(unknown_name("reduction", reduction, REDUCTIONS))


def reduce(values: Tensor, reduction: Reduction) -> Tensor:
    """Values (B,) of a batch to one, or left as they are."""
    return values.mean() if reduction == "mean" else values.sum() if reduction == "sum" else values


def axis_weight_vector(axis_weights: Mapping[str, float] | None) -> Tensor:
    """Factors (len(AXES),) from a mapping of names, 1 where missing.

    Raises:
        TypeError: not a mapping, or a factor is not a number.
        ValueError: an unknown axis (nearest match offered), or a factor that is negative or not finite.
    """
    if axis_weights is not None and not isinstance(axis_weights, Mapping):
        raise TypeError(f"axis_weights must map axis names to factors, got {type(axis_weights).__name__}")
    vector = torch.ones(len(AXES), dtype=torch.float32, device="cpu")
    for name, value in (axis_weights or {}).items():
        index = axis_index(name)
        if not _is_number(value):
            raise TypeError(f"axis_weights[{name!r}] must be a number, got {value!r}")
        if not 0 <= value < float("inf"):
            raise ValueError(f"axis_weights[{name!r}] must be finite and >= 0, got {value}")
        vector[index] = float(value)
    return vector


def have_one_factor(axis_weights: Tensor) -> bool:
    """Whether all axes of :func:`axis_weight_vector` weigh the same; reads the values, which waits for their device."""
    return len(set(axis_weights.tolist())) == 1


def range_ends(data_range: float | tuple[float, float]) -> tuple[float, float]:
    """``(low, high)`` of a ``data_range``: a number m stands for (0, m); ValueError unless finite and low < high."""
    ends = (0, data_range) if _is_number(data_range) else data_range
    if isinstance(ends, tuple | list) and len(ends) == 2 and all(_is_number(end) for end in ends):
        low, high = float(ends[0]), float(ends[1])
        if 0 < high - low < float("inf"):
            return low, high
    raise ValueError(
        f"data_range must be a number > 0 or a pair (low, high), finite and low < high, got {data_range!r}"
    )


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a setting is a real number, of NumPy too; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def normalise_weight(weight: Tensor, images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Weight map (B, 1, H, W) of mean 1 per image, from (B, 1, H, W) or (B, H, W).

    In ``dtype``, or that of ``images``, but float32 at least: small weights and their means are none of half precision.

    Raises:
        TypeError: not a tensor.
        ValueError: another shape than ``images`` or another device.
    """
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a torch.Tensor, got {type(weight).__name__}")
    batch, _, height, width = images.shape
    if tuple(weight.shape) not in ((batch, 1, height, width), (batch, height, width)):
        wanted = f"({batch}, 1, {height}, {width}) or ({batch}, {height}, {width})"
        raise ValueError(f"weight must have shape {wanted}, got {tuple(weight.shape)}")
    if weight.device != images.device:
        raise ValueError(f"weight must be on {images.device} like the images, got {weight.device}")
    weight = weight.reshape(batch, 1, height, width).to(torch.promote_types(dtype or images.dtype, torch.float32))
    mean = weight.mean(dim=(1, 2, 3), keepdim=True)
    return weight / mean.clamp_min(torch.finfo(weight.dtype).tiny)
