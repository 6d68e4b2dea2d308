"""A pair of pictures in one pass: what distance, maps and judgement are read from; see :mod:`.tiles` for large ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .predictor import DistortionPredictor
from .scorer import DistanceTerms, RelationalScorer


class Encoded(NamedTuple):
    """Images in [0, 1] in the networks' dtype, and the predictor's features of them."""

    images: Tensor
    features: tuple[Tensor, ...]


class WholePair:
    """Two pictures of one shape, compared in one pass.

    Args:
        predictor: gives the features.
        scorer: gives densities and judgement.
        axis_weights: (len(AXES),) factor of each part; one for all without ``named``.
        a: the first picture.
        b: the second.
        named: False where nothing but the distance is asked, and one factor for all axes stands before it: terms then
            have a single part, and there are no maps and no judgement.
    """

    def __init__(
        self,
        predictor: DistortionPredictor,
        scorer: RelationalScorer,
        axis_weights: Tensor,
        a: Encoded,
        b: Encoded,
        *,
        named: bool = True,
    ) -> None:
        self._predictor, self._scorer = predictor, scorer
        self._factors = axis_weights if named else axis_weights[:1]
        self._images = a.images, b.images
        self._pair = predictor.relate(a.images, b.images, a.features, b.features, named=named)
        self._gated: Tensor | None = None
        self._recorded = False

    def terms(self, weight: Tensor | None = None) -> DistanceTerms:
        """Distance terms with the axes' factors; pixels count by ``weight`` (B, 1, H, W) of mean 1 per image."""
        terms = self._scorer.distance_terms(self._pair, *self._images, weight)
        return DistanceTerms(terms.parts * self._factors, terms.floor)

    def judgement(self) -> Tensor:
        """The unanchored judgement (B,) of :meth:`RelationalScorer.judge`."""
        maps = self._predictor.confine(self._gated_maps(), *self._images)
        return self._scorer.judge(self._pair, maps)

    def maps(self) -> Tensor:
        """Signed maps (B, len(AXES), H, W)."""
        return self._predictor.decode(self._gated_maps(), *self._images)

    def images(self) -> tuple[Tensor, Tensor]:
        """Both pictures in [0, 1]."""
        return self._images

    def _gated_maps(self) -> Tensor:
        """What maps and judgement share, and most of what either takes: made once, or again to have gradients."""
        recorded = torch.is_grad_enabled()
        if self._gated is None or (recorded and not self._recorded):
            self._recorded = recorded
            self._gated = self._predictor.gated_maps(self._pair, *self._images)
        return self._gated
