"""The distortion engine: operators, regions, triplets and tiers. Needs torch; real codecs need Pillow."""

from .bank import BANK, by_name
from .compose import distort
from .engine import DistortionEngine, Triplet
from .recipe import Component, Recipe
from .record import Distortion
from .regions import REGIONS, draw_region, nested_regions
from .tiers import Tier, across_kinds, dominance, inclusion, ladder
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
    "distort",
    "dominance",
    "draw_region",
    "inclusion",
    "ladder",
    "nested_regions",
    "visibility",
    "warp",
]
