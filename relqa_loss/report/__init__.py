"""One HTML page about pairs of pictures, which needs no network: pictures, maps, style and script are inside it."""

from __future__ import annotations

import hashlib
import heapq
import html
import importlib.resources
import json
import math
import statistics
import string
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..figures import colour_limit
from ..images import readable
from ..places import strongest_places
from ..relation import AXES, Relation
from ..words import AXIS_WORDS, MIXED_BELOW, balance, in_words, strongest
from .encode import map_uri, picture_uri, shrunk

PICTURES = 24
"""Pairs whose pictures a page holds; of more, those of the largest distance. The others are rows of its index."""
SIDE = 1200
"""Longer side in pixels that a picture of the page may have; larger ones are averaged down."""
MAP_SIDE = 320
MAPS, PLACES = 8, 8
"""Axes with a map, and places, of one pair."""
SHOWN_SHARE = 0.005
"""Share of the distance below which an axis without a map gets no bar."""


@dataclass(frozen=True)
class Compared:
    """What the page says of one pair.

    Attributes:
        name: of the picture.
        original: of its reference.
        group: what it is summed up with, e.g. its folder.
        distance: to the reference.
        psnr: in dB, infinite for equal pictures.
        says: the most visible differences in words.
        parts: the distance split by axis.
    """

    name: str
    original: str
    group: str
    distance: float
    psnr: float
    says: str
    parts: tuple[float, ...]


class Report:
    """Collects pairs one by one, and keeps the pictures of the worst only, so that memory stays bounded.

    Args:
        title: of the page.
        made: what the figures were made with, for the line below the title.
        pictures: pairs whose pictures are kept, at least 1.
        side: longer side of those pictures in pixels, at least 16.

    Raises:
        ValueError: ``pictures`` or ``side`` is too small.
    """

    def __init__(self, title: str, made: str, *, pictures: int = PICTURES, side: int = SIDE) -> None:
        if pictures < 1:
            raise ValueError(f"pictures must be at least 1, got {pictures}")
        if side < 16:
            raise ValueError(f"side must be at least 16 pixels, got {side}")
        self.title, self.made = title, made
        self._most, self._side = pictures, side
        self._compared: list[Compared] = []
        self._skipped: list[tuple[str, str]] = []
        # (distance, -number, what the page draws): the first to go is the nearest, of equals the last.
        self._worst: list[tuple[float, int, dict[str, Any]]] = []

    def add(
        self,
        name: str,
        image: Tensor,
        original: str,
        reference: Tensor,
        relation: Relation,
        *,
        psnr: float,
        group: str = "",
        item: int = 0,
    ) -> None:
        """Take in one pair.

        Args:
            name: of the picture.
            image: (3, H, W) in [0, 1].
            original: name of the reference.
            reference: (3, H, W) in [0, 1].
            relation: ``loss_fn.relate`` of the picture with the reference; its maps get decoded.
            psnr: of the pair in dB.
            group: what it is summed up with.
            item: which pair of the relation's batch.
        """
        distance = float(relation.distance[item].detach())
        parts = tuple(relation.parts[item].detach().float().tolist())
        words = [in_words(axis, direction) for axis, _, direction in strongest(relation, 3, item)]
        says = ", ".join(words) or ("no difference" if distance == 0 else "differences of single pixels")
        number = len(self._compared) + 1
        self._compared.append(Compared(name, original, group, distance, psnr, says, parts))
        if len(self._worst) == self._most and (distance, -number) < self._worst[0][:2]:
            return
        drawn = self._drawn(image, reference, relation, item)
        push = heapq.heappush if len(self._worst) < self._most else heapq.heappushpop
        push(self._worst, (distance, -number, drawn))

    def skip(self, image: str, reason: str) -> None:
        """Name a picture that could not be compared."""
        self._skipped.append((image, reason))

    def _drawn(self, image: Tensor, reference: Tensor, relation: Relation, item: int) -> dict[str, Any]:
        maps = relation.maps[item].detach().to("cpu", torch.float32)
        parts = relation.parts[item].detach().float().tolist()
        mapped = [axis for axis, _, _ in strongest(relation, MAPS, item)]
        limit = colour_limit([maps[AXES.index(axis)] for axis in mapped])
        small = shrunk(maps, MAP_SIDE)
        least = SHOWN_SHARE * float(relation.distance[item].detach())
        axes = []
        for k in sorted(range(len(AXES)), key=lambda k: -parts[k]):
            name = AXES[k]
            if name not in mapped and parts[k] <= least:
                continue
            direction = float(balance(maps[k].double()))
            plus, minus = AXIS_WORDS[name]
            axes.append(
                {
                    "name": name,
                    "title": name.replace("_", " "),
                    "words": in_words(name, direction),
                    "part": parts[k],
                    "direction": 0 if abs(direction) < MIXED_BELOW else math.copysign(1, direction),
                    "plus": plus,
                    "minus": minus,
                    "map": map_uri(small[k], limit) if name in mapped else None,
                }
            )
        height, width = image.shape[1:]
        return {
            "reference": picture_uri(shrunk(reference, self._side)),
            "picture": picture_uri(shrunk(image, self._side)),
            "width": width,
            "height": height,
            "shown": min(1.0, self._side / max(height, width)),
            "floor": float(relation.floor[item].detach()),
            "limit": limit,
            "axes": axes,
            "places": [asdict(place) for place in strongest_places(relation, PLACES, item)],
        }

    def html(self) -> str:
        """The page.

        Raises:
            ValueError: no pair was taken in.
        """
        if not self._compared:
            raise ValueError("a report needs at least one pair, got none")
        pictures: dict[str, str] = {}
        drawn = {-number: self._shared(pages, pictures) for _, number, pages in self._worst}
        pairs = [
            {
                "number": number,
                "name": one.name,
                "original": one.original,
                "distance": one.distance,
                "psnr": one.psnr if math.isfinite(one.psnr) else None,
                "says": one.says,
                **drawn.get(number, {"reference": None, "picture": None}),
            }
            for number, one in enumerate(self._compared, start=1)
        ]
        data = {
            "made": self.made,
            "pairs": pairs,
            "groups": [_summary(name, members) for name, members in _grouped(self._compared).items()],
            "skipped": [{"image": image, "reason": reason} for image, reason in self._skipped],
            "pictures": pictures,
        }
        # A file named "</script>" must not end the script that names it.
        text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
        page = importlib.resources.files(__package__)
        read = {name: (page / f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
        return string.Template(read["html"]).substitute(
            title=html.escape(readable(self.title)), style=read["css"], script=read["js"], data=text
        )

    @staticmethod
    def _shared(drawn: dict[str, Any], pictures: dict[str, str]) -> dict[str, Any]:
        """The same with names of pictures for pictures: a reference of many is in the page once."""
        names = {}
        for kind in ("reference", "picture"):
            uri: str = drawn[kind]
            names[kind] = hashlib.sha256(uri.encode()).hexdigest()[:16]
            pictures[names[kind]] = uri
        return {**drawn, **names}


def _grouped(compared: list[Compared]) -> dict[str, list[Compared]]:
    groups: dict[str, list[Compared]] = {}
    for one in compared:
        groups.setdefault(one.group, []).append(one)
    return groups


def _summary(name: str, members: list[Compared]) -> dict[str, Any]:
    distances = [one.distance for one in members]
    psnr = statistics.fmean(one.psnr for one in members)
    means = {axis: statistics.fmean(one.parts[k] for one in members) for k, axis in enumerate(AXES)}
    top = sorted(means, key=lambda axis: -means[axis])[:3]
    return {
        "name": name,
        "count": len(members),
        "mean": statistics.fmean(distances),
        "median": statistics.median(distances),
        "largest": max(distances),
        "psnr": psnr if math.isfinite(psnr) else None,
        "axes": ", ".join(f"{axis.replace('_', ' ')} ({means[axis]:.2g})" for axis in top if means[axis] > 0),
    }
