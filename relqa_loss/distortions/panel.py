"""The panel: closed-form full-reference metrics of different families, without learned weights.

Each member maps (distorted, reference) to (B,), images (B, 3, H, W) in [0, 1], higher = worse, about 0 for equal
images. Their scales differ: compare ranks or map them to one scale first (:class:`.votes.Pool`).

All members look at the picture as a viewer does. The colour members filter by the contrast sensitivity at
``PIXELS_PER_DEGREE``. GMSD and HaarPSI halve every picture, as their authors do. SSIM, MDSI and VSI were made for
pictures of about 256 px whatever comes in (their authors divide the sides by round(shorter side / 256)), which halves
a 512 px photograph but not a 256 px crop of it; the crop stands for a part of the photograph, so it is halved all the
same (``Prepared.viewed``). Use whole photographs or crops of at least 256 px.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import MissingExtra
from ..validation import check_pair
from . import filters
from .colour_difference import lab_difference, seen_lab
from .haar import Wavelets, wavelet_similarity, wavelets
from .saliency import Salient, saliency_similarity, salient_features

MIN_PANEL_SIDE = 128
"""Below this (64 px once halved) the filters of the metrics no longer fit the picture."""

LEVELS_PER_OCTAVE = 16
"""Scores are compared in steps of a sixteenth of an octave (4.4 %): below that the panel abstains."""

FAMILIES = 2
"""So many families must find a picture worse before the panel says so."""

# Wang, Bovik, Sheikh and Simoncelli (2004): window of 11 px and 1.5 px deviation, K1 and K2.
_WINDOW, _DEVIATION, _K1, _K2 = 11, 1.5, 0.01, 0.03


def _piq() -> ModuleType:
    try:
        import piq
    except ImportError as error:
        raise MissingExtra("piq", "benchmark") from error
    return piq


def _windowed(planes: Tensor) -> Tensor:
    """Gaussian-weighted mean (B, C, H - 10, W - 10) of every window of SSIM that fits into (B, C, H, W)."""
    taps = [math.exp(-0.5 * ((x - _WINDOW // 2) / _DEVIATION) ** 2) for x in range(_WINDOW)]
    total = sum(taps)
    for dim in (3, 2):
        size = planes.shape[dim] - _WINDOW + 1
        # Shifted sums: on the CPU several times faster than a convolution with one channel.
        out = planes.narrow(dim, 0, size) * (taps[0] / total)
        for offset in range(1, _WINDOW):
            out.add_(planes.narrow(dim, offset, size), alpha=taps[offset] / total)
        planes = out
    return planes


class Prepared:
    """A batch of pictures with what the members derive from it, each worked out when first asked for.

    A reference that many pictures are compared with should be prepared once: half of the panel's work is done on it.

    Args:
        image: (B, 3, H, W); brought to float32 and [0, 1], on which the metrics are defined.
    """

    def __init__(self, image: Tensor) -> None:
        self.image = image.detach().float().clamp(0, 1)

    @cached_property
    def luma(self) -> Tensor:
        """BT.601 luma (B, 1, H, W)."""
        return filters.luma(self.image)

    @cached_property
    def viewed(self) -> Tensor:
        """The picture (B, 3, h, w) at the scale that SSIM, MDSI and VSI expect: see the head of this file."""
        return F.avg_pool2d(self.image, max(2, round(min(self.image.shape[2:]) / 256)))

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Luma (B, 1, h, w) at viewing scale, its local mean and its local variance."""
        luma = filters.luma(self.viewed)
        mean, square = _windowed(torch.cat((luma, luma.square()), 1)).split(1, 1)
        return luma, mean, square - mean.square()

    @cached_property
    def salient(self) -> Salient:
        """Features of VSI."""
        return salient_features(self.viewed)

    @cached_property
    def wavelets(self) -> Wavelets:
        """Coefficients of HaarPSI."""
        return wavelets(self.image)

    @cached_property
    def lab(self) -> Tensor:
        """CIELAB (B, 3, H, W) as the eye resolves it."""
        return seen_lab(self.image)


Metric = Callable[[Prepared, Prepared], Tensor]


@dataclass(frozen=True)
class PanelMember:
    """One metric of the panel.

    Attributes:
        name: unique name, ``snake_case``.
        metric: (distorted, reference), prepared -> (B,), higher = worse.
        family: what the metric looks at; members of one family share their blind spots.
        sees_colour: False if two pictures of equal luminance are the same to it.
        threshold: value up to which a difference counts as not seen: the rounded median of its values over the bank
            at the start of the spans, where damage is just visible, on training photographs.
        sees_level: True if it notices a uniform change of brightness.
        opinion_constants: the constants its authors chose with the help of opinion scores; "" if none.
    """

    name: str
    metric: Metric
    family: str
    sees_colour: bool
    threshold: float
    sees_level: bool = False
    opinion_constants: str = ""

    def function(self, distorted: Tensor, reference: Tensor) -> Tensor:
        """The metric on plain pictures, both (B, 3, H, W) in [0, 1] -> (B,)."""
        check_pictures(distorted, reference)
        return self.metric(Prepared(distorted), Prepared(reference))


def check_pictures(distorted: Tensor, reference: Tensor) -> None:
    """Raise unless both are images (B, 3, H, W) of one shape, large enough for the panel."""
    check_pair("distorted", distorted, "reference", reference)
    if min(distorted.shape[2:]) < MIN_PANEL_SIDE:
        raise ValueError(
            f"distorted must be at least {MIN_PANEL_SIDE}x{MIN_PANEL_SIDE} pixels for the panel, "
            f"got {distorted.shape[2]}x{distorted.shape[3]}"
        )


def ssim_dissimilarity(distorted: Prepared, reference: Prepared) -> Tensor:
    """1 - structural similarity (Wang et al. 2004) of luma at viewing scale, (B,) in [0, 2]."""
    (a, mean_a, variance_a), (b, mean_b, variance_b) = distorted.moments, reference.moments
    product = mean_a * mean_b
    covariance = _windowed(a * b) - product
    c1, c2 = _K1**2, _K2**2
    level = (2 * product + c1) / (mean_a.square() + mean_b.square() + c1)
    local = level * (2 * covariance + c2) / (variance_a + variance_b + c2)
    return 1 - local.mean((1, 2, 3))


def gmsd(distorted: Prepared, reference: Prepared) -> Tensor:
    """Gradient magnitude similarity deviation (Xue et al. 2014): luminance only, (B,) >= 0."""
    return _piq().gmsd(distorted.luma, reference.luma, reduction="none").reshape(-1)


def mdsi(distorted: Prepared, reference: Prepared) -> Tensor:
    """Mean deviation similarity index (Nafchi et al. 2016): gradient and chromaticity, (B,) >= 0."""
    return _piq().mdsi(distorted.viewed, reference.viewed, reduction="none").reshape(-1)


def vsi_dissimilarity(distorted: Prepared, reference: Prepared) -> Tensor:
    """1 - visual saliency-induced index (Zhang et al. 2014): saliency, gradient and chromaticity, (B,) in [0, 1]."""
    return 1 - saliency_similarity(distorted.salient, reference.salient)


def haarpsi_dissimilarity(distorted: Prepared, reference: Prepared) -> Tensor:
    """1 - Haar wavelet perceptual similarity (Reisenhofer et al. 2018), chroma included, (B,) in [0, 1]."""
    return 1 - wavelet_similarity(distorted.wavelets, reference.wavelets)


def colour_difference_map(distorted: Tensor, reference: Tensor) -> Tensor:
    """Colour difference of each pixel (B, H, W) in CIE94 units, as the eye resolves it.

    S-CIELAB (Zhang and Wandell 1996): opponent channels are blurred by their contrast sensitivity at
    ``PIXELS_PER_DEGREE`` before CIELAB. 1 is about just noticeable for large patches.
    """
    check_pictures(distorted, reference)
    return lab_difference(Prepared(distorted).lab, Prepared(reference).lab)


def _pooled(difference: Tensor, norm: int) -> Tensor:
    return difference.mean(dim=(1, 2)) if norm == 1 else difference.pow(norm).mean(dim=(1, 2)).pow(1 / norm)


def colour_difference(distorted: Prepared, reference: Prepared) -> Tensor:
    """Mean of :func:`colour_difference_map`, (B,) >= 0."""
    return _pooled(lab_difference(distorted.lab, reference.lab), 1)


def colour_difference_peak(distorted: Prepared, reference: Prepared) -> Tensor:
    """4-norm of :func:`colour_difference_map`, (B,) >= 0: rare strong errors (a lost block, dead pixels) count."""
    return _pooled(lab_difference(distorted.lab, reference.lab), 4)


PANEL: tuple[PanelMember, ...] = (
    PanelMember("ssim", ssim_dissimilarity, "structure", sees_colour=False, threshold=0.001),
    PanelMember(
        "gmsd",
        gmsd,
        "gradient",
        sees_colour=False,
        threshold=0.002,
        opinion_constants="c = 170 of the gradient similarity",
    ),
    PanelMember(
        "mdsi",
        mdsi,
        "gradient and chromaticity",
        sees_colour=True,
        threshold=0.11,
        opinion_constants="C1, C2, C3 of the similarities, their weight alpha, and the powers q, rho and o of pooling",
    ),
    PanelMember(
        "vsi",
        vsi_dissimilarity,
        "saliency",
        sees_colour=True,
        threshold=0.0003,
        opinion_constants="C1, C2, C3 of the similarities, exponents alpha and beta, and the parameters of SDSP: the "
        "values of highest rank correlation on a part of TID2008",
    ),
    PanelMember(
        "haarpsi",
        haarpsi_dissimilarity,
        "wavelet",
        sees_colour=True,
        threshold=0.005,
        opinion_constants="C = 30 and alpha = 4.2: the values of highest rank correlation on parts of LIVE, TID2008, "
        "TID2013 and CSIQ",
    ),
    PanelMember("colour_difference", colour_difference, "colour difference", True, 0.4, sees_level=True),
    PanelMember("colour_difference_peak", colour_difference_peak, "colour difference", True, 1.3, sees_level=True),
)


@torch.no_grad()
def panel_scores(distorted: Tensor, reference: Tensor | Prepared) -> Tensor:
    """Every member's dissimilarity: (B, len(PANEL)), higher = worse, columns in the order of ``PANEL``.

    Args:
        distorted: (B, 3, H, W) in [0, 1].
        reference: the same shape, or prepared, which halves the work where it is used more than once.

    Raises:
        ValueError: shapes that differ, or pictures below ``MIN_PANEL_SIDE``.
        MissingExtra: piq is not installed.
    """
    known = reference if isinstance(reference, Prepared) else Prepared(reference)
    check_pictures(distorted, reference.image if isinstance(reference, Prepared) else reference)
    asked = Prepared(distorted)
    difference = lab_difference(asked.lab, known.lab)
    # The two colour members share their map.
    shared = {colour_difference: 1, colour_difference_peak: 4}
    columns = [
        _pooled(difference, shared[member.metric]) if member.metric in shared else member.metric(asked, known)
        for member in PANEL
    ]
    return torch.stack(columns, dim=1)


def score_order(scores: Tensor, members: Sequence[PanelMember] = PANEL) -> Tensor:
    """The weak order of a set of pictures by their scores.

    Each member's scores become whole levels: 0 up to the member's ``threshold``, from there ``LEVELS_PER_OCTAVE`` to a
    doubling. i is better than j where no member's level of i is above that of j, and members of at least ``FAMILIES``
    families have i strictly lower.

    That is a strict partial order whatever the scores. No picture is strictly lower than itself in any member
    (irreflexive). Let i be better than j and j better than k: in every member level(i) <= level(j) <= level(k), and
    where the first is strict so is level(i) < level(k), hence at least as many families are strict (transitive);
    asymmetry follows from the two. The levels are what makes it so: "differs by less than a tolerance" is not
    transitive, "has the same level" is. A member that is blind to a damage has the same level for all pictures and so
    abstains; one whose small differences fall on both sides of a border between levels can only withhold the
    consensus, never turn it round.

    Args:
        scores: (..., T, M), higher = worse.
        members: M members, for their thresholds and families.

    Returns:
        (..., T, T) bool, True where the picture of the row is better than that of the column.
    """
    threshold = scores.new_tensor([member.threshold for member in members])
    octaves = torch.log2(torch.maximum(scores, threshold) / threshold)
    levels = torch.floor(octaves * LEVELS_PER_OCTAVE)
    row, column = levels.unsqueeze(-2), levels.unsqueeze(-3)
    lower = row < column
    families = dict.fromkeys(member.family for member in members)
    strict = torch.stack(
        [lower[..., [m.family == family for m in members]].any(-1) for family in families], dim=-1
    ).sum(-1)
    return (row <= column).all(-1) & (strict >= min(FAMILIES, len(families)))


def panel_order(reference: Tensor, images: Tensor) -> Tensor:
    """The weak consensus order: where the panel is unanimous about which of two pictures is nearer to the reference.

    A strict partial order by construction (:func:`score_order`).

    Args:
        reference: (B, 3, H, W) in [0, 1], or (3, H, W).
        images: (B, T, 3, H, W), or (T, 3, H, W) for a reference without batch.

    Returns:
        (B, T, T) bool, or (T, T): True where the picture of the row is better than that of the column.

    Raises:
        ValueError: shapes that do not fit together, or pictures too small for the panel.
        MissingExtra: piq is not installed.
    """
    if images.ndim != reference.ndim + 1 or reference.ndim not in (3, 4):
        raise ValueError(
            "images must have shape (B, T, 3, H, W) for a reference (B, 3, H, W), or (T, 3, H, W) for (3, H, W), "
            f"got {tuple(images.shape)} and {tuple(reference.shape)}"
        )
    if reference.ndim == 3:
        return panel_order(reference[None], images[None])[0]
    prepared = Prepared(reference)
    return score_order(torch.stack([panel_scores(picture, prepared) for picture in images.unbind(1)], dim=1))
