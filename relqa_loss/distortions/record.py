"""`Distortion`: one operator of the bank, with everything the engine needs to know about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..relation import AXES, SHIFT_AXES, TONE_AXES
from ..validation import unknown_name
from .draws import Randomness

KNOTS = 11
"""A severity table holds the native parameter at severity 0, 0.1, ..., 1."""

RIGHT = 0.5
"""An axis is a right answer if the operator's effect on it is at least this share of its largest."""

PixelOperator = Callable[[Tensor, Tensor, Randomness], Tensor]
"""(images (B, 3, H, W) in [0, 1], parameter (B,) in native units, generator) -> images of the same shape, in [0, 1].

The parameter is on the CPU whatever the device of the images, so that reading its numbers never waits for a device.
"""

FlowOperator = Callable[[Tensor, Tensor, Randomness], Tensor]
"""Same arguments -> displacement (B, 2, H, W) in pixels, (x, y): content at p moves to p + displacement."""

Profile = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""(before, after), both (B, 3, H, W) -> axis -> (B, H, W) in [-1, 1]: the operator's own pattern over the picture."""


def plain_numbers(argument: str, values: Iterable[Any]) -> tuple[float, ...]:
    """Numbers of any kind (NumPy's too) as Python's own, which JSON can hold.

    Raises:
        TypeError: not several numbers.
    """
    several = isinstance(values, Iterable) and not isinstance(values, Mapping | Set)
    found = tuple(values) if several else ()
    if not several or not all(isinstance(value, Real) for value in found):
        raise TypeError(f"{argument} must be numbers, got {values!r}")
    return tuple(value if type(value) in (int, float) else float(value) for value in found)


@dataclass(frozen=True)
class Distortion:
    """One operator: a pure function with its meaning and its severity table beside it.

    Attributes:
        name: unique name, ``snake_case``.
        family: the file it lives in: ``optics``, ``sensor``, ``tone``, ``compression``, ``resampling``, ``processing``,
            ``geometry`` or ``loss``.
        apply: the pixel operator; None for geometry.
        flow: the displacement field; None for pixel operators.
        effects: axis name -> signed effect relative to the strongest one (+1 or -1). For geometry only the axes
            count: the target is the true displacement.
        span: native parameter where the effect starts to be visible and at the strongest level worth simulating.
        geometric: True if the parameter is interpolated geometrically between the ends of ``span``, else linearly.
        source: where the formula or the range comes from.
        levels: native parameter at the 11 severities 0, 0.1, ..., 1 (calibrated), or None to follow ``span``.
        codec: name of the codec the operator needs (``"JPEG"`` as Pillow calls it), or None.
        dominance: may be a component of dominance tiers.
        inclusion: may stand in region-inclusion tiers (a part never looks worse than the whole).
        smooths: removes noise that is already there, so nothing noisy may precede it in a dominance tier.
        trace: False where the pair bears no sign of which image is damaged (a copied patch): map targets get zero
            weight.
        one_direction: False where the sign differs from place to place or from draw to draw (a turn of the hues, a
            warp): no sign figure is taken.
        profile: for operators that do not act evenly, or whose sign differs from place to place (a turn of the hues):
            the pattern by which their targets are multiplied on the axes it names, levelled so that the mean of its
            magnitude, weighted by itself, is 1; None for an even effect.
        batched: draws only through ``filters.uniform`` and ``filters.normal``, so that images may share a call on an
            accelerator; others are called with one image at a time and a plain ``torch.Generator``.
    """

    name: str
    family: str
    effects: dict[str, float]
    span: tuple[float, float]
    apply: PixelOperator | None = None
    flow: FlowOperator | None = None
    geometric: bool = False
    source: str = ""
    levels: tuple[float, ...] | None = None
    codec: str | None = None
    dominance: bool = True
    inclusion: bool = True
    smooths: bool = False
    trace: bool = True
    one_direction: bool = True
    profile: Profile | None = None
    batched: bool = False

    def __post_init__(self) -> None:
        if (self.apply is None) == (self.flow is None):
            raise ValueError(f"distortion {self.name!r} needs exactly one of apply and flow")
        if self.profile is not None and self.apply is None:
            raise ValueError(f"distortion {self.name!r} has a profile: only pixel operators may")
        for axis in self.effects:
            if axis not in AXES:
                raise ValueError(unknown_name("axis", axis, AXES))
        if not self.effects or max(abs(v) for v in self.effects.values()) != 1.0:
            raise ValueError(f"effects of {self.name!r} must have a largest magnitude of 1, got {self.effects}")
        span = plain_numbers(f"span of {self.name!r}", self.span)
        if len(span) != 2:
            raise ValueError(f"span of {self.name!r} must be two numbers, got {self.span!r}")
        low, high = span
        object.__setattr__(self, "span", span)
        if not (math.isfinite(low) and math.isfinite(high)) or (self.geometric and low * high <= 0):
            wanted = "finite" + (", of one sign and not 0, to be interpolated geometrically" if self.geometric else "")
            raise ValueError(f"both ends of the span of {self.name!r} must be {wanted}, got {self.span}")
        if self.levels is None:
            return
        levels = plain_numbers(f"levels of {self.name!r}", self.levels)
        if len(levels) != KNOTS or not all(map(math.isfinite, levels)):
            raise ValueError(f"levels of {self.name!r} must hold {KNOTS} numbers, finite, got {self.levels!r}")
        object.__setattr__(self, "levels", levels)

    @property
    def right_axes(self) -> tuple[str, ...]:
        """Axes that count as a right answer for this operator: effects of at least ``RIGHT`` of the largest."""
        return tuple(axis for axis, effect in self.effects.items() if abs(effect) >= RIGHT)

    @property
    def told_apart_alone(self) -> bool:
        """Whether two severities can be ordered without the original: not by tone, place, or a damage without trace."""
        return self.trace and not set(self.effects) <= {*TONE_AXES, *SHIFT_AXES}

    def with_levels(self, levels: tuple[float, ...]) -> Distortion:
        """The same operator with another severity table (11 native parameters)."""
        return replace(self, levels=levels)

    def parameter_at(self, position: Tensor) -> Tensor:
        """Native parameter at a position in [0, 1] of ``span`` (not calibrated)."""
        low, high = self.span
        if self.geometric:
            return low * (high / low) ** position
        return low + (high - low) * position

    def parameter(self, severity: Tensor) -> Tensor:
        """Native parameter (B,) for calibrated severities (B,) in [0, 1]: linear between the knots of ``levels``."""
        if self.levels is None:
            return self.parameter_at(severity)
        table = torch.tensor(self.levels, dtype=severity.dtype, device=severity.device)
        place = severity.clamp(0, 1) * (KNOTS - 1)
        index = place.floor().clamp(max=KNOTS - 2).long()
        return torch.lerp(table[index], table[index + 1], place - index)
