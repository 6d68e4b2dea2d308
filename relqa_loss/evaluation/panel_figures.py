"""Agreement with the panel of closed-form metrics, whole and without the members that owe to opinion scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distortions.crops import at_viewing_scale, draw_crop
from ..distortions.panel import PANEL, Prepared, panel_scores
from ..distortions.record import Distortion
from ..distortions.render import Renderer
from ..images import MissingExtra
from . import jury_statistics as statistics
from .engine_cases import Comparer, prepared
from .jury import plan_pictures
from .jury_figures import DRAWS, OURS, PANEL_CONSENSUS
from .statistics import mean_rank

PICTURES = 20
"""Of each photograph: single operators, compositions, and operators in a part (:data:`.jury.PATTERN`)."""

SIDE = 256
"""Of the crops, in pixels, from photographs at viewing scale; smaller photographs are left out."""

INDEPENDENT = "panel without opinion constants"


def panel_agreement(
    loss_fn: Comparer, bank: Sequence[Distortion], photographs: Sequence[Tensor], seed: int
) -> dict[str, Any]:
    """Spearman of the distance with the mean rank of the panel's members, over pictures of all photographs.

    Displacements are left out, as from the jury: the panel compares pixel by pixel.

    Args:
        loss_fn: what is measured.
        bank: the operators.
        photographs: (3, H, W) in [0, 1].
        seed: of pictures, crops and the bootstrap over photographs.

    Returns:
        ``panel_agreement`` and ``panel_agreement_without_opinion_constants``: ``value``, ``low`` and ``high`` of the
        95 % interval (None for a single photograph), ``members`` and ``pictures``; the second also ``lead``, the paired
        difference of the first from it. Both None without piq, without photographs that are large enough, or without an
        operator on pixels.
    """
    nothing = {"panel_agreement": None, "panel_agreement_without_opinion_constants": None}
    large = [photo for photo in photographs if min(photo.shape[1:]) >= SIDE]
    usable = [one for one in bank if one.apply is not None]
    if not large or not usable:
        return nothing
    try:
        distances, scores = _measure(loss_fn, usable, large, seed)
    except MissingExtra:
        return nothing
    members = [member.name for member in PANEL]
    free = [member.name for member in PANEL if not member.opinion_constants]
    columns = dict(zip(members, scores.T, strict=True))
    values = {
        OURS: distances,
        PANEL_CONSENSUS: mean_rank([columns[name] for name in members]),
        INDEPENDENT: mean_rank([columns[name] for name in free]),
    }
    cases = statistics.Cases(np.repeat(np.arange(len(large)), PICTURES), np.full(len(distances), ""))
    pairs = [(OURS, PANEL_CONSENSUS), (OURS, INDEPENDENT)]
    counts = statistics.bootstrap_counts(len(large), DRAWS, seed)
    drawn = statistics.pooled_spearman(values, pairs, cases, counts)
    whole, independent = (drawn[pair] for pair in pairs)

    def estimate(values: statistics.Array) -> dict[str, float | None]:
        unknown = {"low": None, "high": None} if len(large) < 2 else {}
        return {**statistics.estimate(values), **unknown}

    return {
        "panel_agreement": {**estimate(whole), "members": members, "pictures": len(distances)},
        "panel_agreement_without_opinion_constants": {
            **estimate(independent),
            "lead": estimate(whole - independent),
            "members": free,
            "pictures": len(distances),
        },
    }


def _measure(
    loss_fn: Comparer, bank: Sequence[Distortion], photographs: Sequence[Tensor], seed: int
) -> tuple[statistics.Array, statistics.Array]:
    """Distances (N,) and scores (N, members) of the pictures of all photographs, N = ``PICTURES`` of each."""
    table = {one.name: one for one in bank}
    distances, scores = [], []
    for number, photo in enumerate(photographs):
        random = np.random.default_rng([seed, number])
        reference = draw_crop(at_viewing_scale(photo, SIDE), SIDE, random)[None].float()
        plan = plan_pictures(number, len(photographs), PICTURES, seed, bank)
        known, ours = Prepared(reference), prepared(loss_fn, reference)
        for image in Renderer(reference, table).render([(0, one.recipe) for one in plan]):
            scores.append(panel_scores(image, known)[0].cpu())
            distances.append(loss_fn.relate(image, ours).distance[0].float().cpu())
    return (
        torch.stack(distances).double().numpy(),
        torch.stack(scores).double().numpy(),
    )
