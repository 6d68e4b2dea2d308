"""Relational image quality: a perceptual loss that says what differs, where, how much and in which direction.

``RelationalLoss()(pred, ref)`` is the plainest use. The names of the distortion engine and of the checkpoint selector
are imported when they are first asked for, so that ``import relqa_loss`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .losses import RelationalLoss
from .predictor import DistortionPredictor
from .relation import AXES, Relation
from .scorer import RelationalScorer
from .weighted import SpatiallyWeightedLoss

if TYPE_CHECKING:
    from .distortions import DistortionEngine, Tier, Triplet, distort
    from .selection import CheckpointSelector

__version__ = "0.1.0"

__all__ = [
    "AXES",
    "CheckpointSelector",
    "DistortionEngine",
    "DistortionPredictor",
    "Relation",
    "RelationalLoss",
    "RelationalScorer",
    "SpatiallyWeightedLoss",
    "Tier",
    "Triplet",
    "distort",
]

_HOMES = {
    "CheckpointSelector": ".selection",
    "DistortionEngine": ".distortions",
    "Tier": ".distortions",
    "Triplet": ".distortions",
    "distort": ".distortions",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
