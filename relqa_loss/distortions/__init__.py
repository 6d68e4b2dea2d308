"""The distortion engine: operators, regions, triplets and tiers. Needs torch; real codecs need Pillow.

An operator of one's own is a record, passed wherever an operator is asked for, alone or beside names of the bank::

    def fade(images, share, generator):  # share (B,): native units, from the span below
        return images * (1 - share.view(-1, 1, 1, 1)) + share.view(-1, 1, 1, 1)

    FADE = Distortion("fade", "tone", {"contrast": -1.0, "brightness": 0.5}, span=(0.02, 0.6), apply=fade)
    engine = DistortionEngine([FADE, "gaussian_blur"])

``effects`` are what the map targets show at full severity. Without ``levels`` severities 0 to 1 run evenly through
``span``; :func:`relqa_loss.distortions.calibration.calibrate` measures levels that look equally strong.
"""

from .bank import BANK, by_name
from .compose import distort
from .engine import DistortionEngine, Triplet
from .recipe import Component, Recipe
from .record import Distortion
from .regions import REGIONS, draw_region, nested_regions
from .tiers import Tier, across_kinds, consensus, dominance, inclusion, ladder
from .visibility import visibility
from .warp import warp

__all__ = [
    "BANK",
    "REGIONS",
    "Component",
    "Distortion",
    "DistortionEngine",
    "Recipe",
    "Tier",
    "Triplet",
    "across_kinds",
    "by_name",
    "consensus",
    "distort",
    "dominance",
    "draw_region",
    "inclusion",
    "ladder",
    "nested_regions",
    "visibility",
    "warp",
]
