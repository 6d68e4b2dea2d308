"""Figure of cases that weights get wrong (extra ``figures``: matplotlib)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .figures import PANEL_INCHES, _figure, _photo, _show, _show_map, colour_limit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 150_000
"""Bytes that :func:`as_webp` may return: the figure travels with the weights."""

WEBP_DPI = 80

LEGEND_INCHES = 0.5
"""Height of a legend under a map, with its words on two lines."""

LEAST_LIMIT = 0.3
"""Height at which colours may first be full, in severity units: a map of next to nothing shall look like nothing."""

QUALITIES = (85, 70, 55, 40, 25, 10)


@dataclass(frozen=True)
class Case:
    """A pair that weights get wrong.

    Attributes:
        title: what was done to the picture.
        reference: (3, H, W) in [0, 1].
        picture: (3, H, W) in [0, 1].
        verdict: what is wrong.
        axis: whose map shows it.
        axis_map: (H, W), signed.
    """

    title: str
    reference: Tensor
    picture: Tensor
    verdict: str
    axis: str
    axis_map: Tensor


def failure_figure(cases: Sequence[Case]) -> Figure:
    """One row a case: reference, picture, and the map that shows what is wrong.

    Args:
        cases: at least one.

    Raises:
        ValueError: no cases, or pictures of a wrong shape.
        MissingExtra: matplotlib is not installed.
    """
    if not cases:
        raise ValueError("cases must hold at least one, got none")
    height = len(cases) * (PANEL_INCHES + 0.6)
    figure = _figure(3 * PANEL_INCHES, height)
    # The legends under the maps are insets, which the layout does not see: the lowest needs room of its own.
    below = LEGEND_INCHES / height
    figure.get_layout_engine().set(hspace=0.12, rect=(0, below, 1, 1 - below))  # type: ignore[union-attr, call-arg]
    limit = max(LEAST_LIMIT, colour_limit([case.axis_map for case in cases]))
    for row, case in enumerate(cases):
        left, middle, right = (figure.add_subplot(len(cases), 3, 3 * row + column) for column in (1, 2, 3))
        picture = _photo("picture", case.picture)
        _show(left, _photo("reference", case.reference), "reference")
        _show(middle, picture, case.title)
        _show_map(figure, right, picture, case.axis_map, case.axis, limit)
        right.set_title(case.verdict, fontsize=9)
    return figure


def as_webp(figure: Figure, largest: int = LARGEST) -> bytes:
    """A figure as the bytes of a WebP file, of the best quality that stays within ``largest`` bytes.

    Raises:
        ValueError: not even the lowest quality does.
    """
    for quality in QUALITIES:
        file = io.BytesIO()
        figure.savefig(file, format="webp", dpi=WEBP_DPI, pil_kwargs={"quality": quality, "method": 6})
        if file.tell() <= largest:
            return file.getvalue()
    raise ValueError(f"the figure takes {file.tell()} bytes at the lowest quality, more than {largest}")
