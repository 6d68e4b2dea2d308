"""Recipes: what was done to a picture, small enough to be written down and enough to do it again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Component:
    """One operator in one region. ``dataclasses.asdict`` gives plain JSON values, ``Component(**values)`` reads them.

    Attributes:
        name: the operator.
        severity: in calibrated units, 0 (untouched) to 1.
        region: a kind of ``regions.REGIONS``, or ``"nested"``.
        seed: of both the operator's and the region's draw, below 2**53.
        extent: share of the picture that a ``"nested"`` region covers; without meaning for the others.
    """

    name: str
    severity: float
    region: str
    seed: int
    extent: float = 1.0


Recipe = tuple[Component, ...]
"""Components of one picture, in the order in which they act."""
