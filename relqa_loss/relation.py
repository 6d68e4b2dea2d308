"""The axes, and `Relation`: what one batch of image pairs has to say."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .validation import MissingExtra, unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES: tuple[str, ...] = (
    "blur",
    "noise",
    "chroma_noise",
    "impulse",
    "blocking",
    "ringing",
    "banding",
    "aliasing",
    "fringing",
    "brightness",
    "contrast",
    "saturation",
    "tint_blue",
    "tint_red",
    "shift_x",
    "shift_y",
    "occlusion",
)
"""Names of the map channels, in order."""

TONE_AXES: tuple[str, ...] = ("brightness", "contrast", "saturation", "tint_blue", "tint_red")
SHIFT_AXES: tuple[str, ...] = ("shift_x", "shift_y")

PIXELS_PER_UNIT_SHIFT = 4.0
"""A map value of 1 on ``shift_x`` or ``shift_y`` stands for this many pixels."""


MOST_ROWS = 16
"""Pairs that a notebook lists of a batch."""


def axis_index(name: str) -> int:
    """Channel of an axis; ValueError with the nearest match for an unknown name."""
    if name not in AXES:
        raise ValueError(unknown_name("axis", name, AXES))
    return AXES.index(name)


class Relation:
    """How image a compares with image b, for each pair of a batch; everything in it carries gradients.

    A notebook shows it as a table with a figure; :meth:`plot` draws any pair.

    Attributes:
        distance: (B,) how far a and b look apart: symmetric, >= 0, exactly 0 for equal images, lower is better. It
            grows with the engine's calibrated severity, of which it has the order of magnitude; it has no upper bound.
        parts: (B, len(AXES)) >= 0, the distance split by axis; ``parts.sum(1) + floor`` is ``distance``.
        floor: (B,) >= 0, the full-resolution term that no axis weight switches off.
        maps: (B, len(AXES), H, W) signed; positive where a shows more of the axis than b, anti-symmetric, aligned
            with the input pixels. Decoded when first asked for, then kept.
        score: (B,) anti-symmetric; positive where a is better than b. Not a loss: its slope at identity is not zero
            and it has no lower bound. Computed when first asked for, then kept.
    """

    def __init__(
        self,
        distance: Tensor,
        parts: Tensor,
        floor: Tensor,
        decode_maps: Callable[[], Tensor],
        compute_score: Callable[[], Tensor],
        images: Callable[[], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.distance = distance
        self.parts = parts
        self.floor = floor
        self._decode_maps = decode_maps
        self._compute_score = compute_score
        self._images = images
        # Not functools.cached_property: its lock (Python 3.11) cannot be traced by torch.compile(fullgraph=True).
        self._maps: Tensor | None = None
        self._score: Tensor | None = None

    @property
    def maps(self) -> Tensor:
        """Signed maps (B, len(AXES), H, W)."""
        if self._maps is None:
            self._maps = self._decode_maps()
        return self._maps

    @property
    def score(self) -> Tensor:
        """Signed score (B,)."""
        if self._score is None:
            self._score = self._compute_score()
        return self._score

    def __getitem__(self, axis: str) -> Tensor:
        """Signed map (B, H, W) of one axis by name."""
        return self.maps[:, axis_index(axis)]

    def strength(self) -> Tensor:
        """Mean magnitude of each map, (B, len(AXES)) >= 0, detached: what the images differ in, whatever it costs."""
        return self.maps.detach().abs().mean(dim=(2, 3))

    def dominant(self) -> list[str | None]:
        """Name of the axis with the strongest map, for each pair (waits for the device).

        None for equal images, and where a map is not finite.
        """
        strength = self.strength()
        strength = strength.where(strength.isfinite().all(dim=1, keepdim=True), 0)
        names = [AXES[k] for k in strength.argmax(dim=1).tolist()]
        differs = strength.any(dim=1).tolist()
        return [name if differ else None for name, differ in zip(names, differs, strict=True)]

    def plot(
        self,
        path: str | Path | None = None,
        *,
        item: int = 0,
        count: int = 4,
        width: float | None = None,
        names: tuple[str, str] = ("a", "b"),
    ) -> Figure:
        """Draw one pair: b, a, the strongest signed maps over a, and the distance split by axis.

        Nothing is shown on a screen and no gradient is lost: a notebook displays the figure that comes back.

        Args:
            path: where to write the figure too; its ending picks the format (SVG and PDF keep text as text).
            item: which pair of the batch.
            count: how many maps at most.
            width: in inches; by default that of two columns of a paper (7.1), 3.45 is one column.
            names: what a and b are called.

        Raises:
            ValueError: the relation was made without its images, no such pair, or a format matplotlib cannot write.
            MissingExtra: matplotlib is not installed.
        """
        from . import figures

        if self._images is None:
            raise ValueError("this relation was made without its images: draw it with figures.relation_figure")
        pairs = self.distance.shape[0]
        if not -pairs <= item < pairs:
            raise ValueError(f"item must be one of the {pairs} pairs, got {item}")
        a, b = (images[item].detach() for images in self._images())
        width = figures.WIDE if width is None else width
        return figures.relation_figure(
            b, a, self, path, count=count, item=item, width=width, names=(names[1], names[0])
        )

    def _repr_html_(self) -> str:
        """The pairs as a table, with the figure of the first; without matplotlib or images only the table."""
        from .words import in_words, strongest

        shown = range(min(self.distance.shape[0], MOST_ROWS))
        rows = ""
        for item in shown:
            words = ", ".join(in_words(axis, direction) for axis, _, direction in strongest(self, 3, item))
            distance = float(self.distance[item].detach())
            said = html.escape(words) or ("no difference" if distance == 0 else "no axis stands out")
            rows += f"<tr><td>{item}</td><td>{distance:.4g}</td><td>{said}</td></tr>"
        rest = self.distance.shape[0] - len(shown)
        more = f"<p>and {rest} more</p>" if rest else ""
        head = "<tr><th>pair</th><th>distance</th><th>a, compared with b</th></tr>"
        return f"<table>{head}{rows}</table>{more}{self._drawing()}"

    def _drawing(self) -> str:
        """The figure of the first pair as an ``<img>``; empty where it cannot be drawn."""
        if self._images is None:
            return ""
        from .figures import as_image_tag

        try:
            return as_image_tag(self.plot())
        except MissingExtra:
            return ""

    def __repr__(self) -> str:
        return f"Relation({self.distance.shape[0]} pairs on {self.distance.device})"
