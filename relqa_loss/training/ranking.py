"""Losses that turn what is known of an order into a gradient on log-distances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .distributed import at_least_one

Count = Callable[[Tensor], Tensor]
RankingLoss = Callable[[Tensor, Tensor, float, Count], tuple[Tensor, Tensor]]

VOTE_SCALE = 0.25
"""Difference, in octaves of a metric, at which its vote is nearly whole: below, it says little and counts little."""

VOTES_TEMPERATURE = 0.25
"""Difference of log-distance at which the loss takes a pair as told apart."""


def pairwise_loss(
    log_distance: Tensor, order: Tensor, temperature: float, count: Count = at_least_one
) -> tuple[Tensor, Tensor]:
    """Pairwise logistic loss (RankNet, Burges et al., 2005).

    A tier's partial order is exactly a set of pairs; each counts the same.

    Args:
        log_distance: (B, T).
        order: (B, T, T) bool, [i, j] = i is better than j.
        temperature: difference of log-distance at which a pair counts as told apart.
        count: a number of things -> what their sum is divided by; another where a batch is spread over processes.

    Returns:
        Loss, and the share of pairs ordered right.
    """
    gap = _gaps(log_distance)
    known = order.float()
    per_tier = known.sum(dim=(1, 2)).clamp_min(1)
    loss = ((F.softplus(-gap / temperature) * known).sum(dim=(1, 2)) / per_tier).mean()
    return loss, _share_right(gap, known, count)


def contrastive_loss(
    log_distance: Tensor, order: Tensor, temperature: float, count: Count = at_least_one
) -> tuple[Tensor, Tensor]:
    """Supervised contrastive loss by rank: each picture is told from all that are known to be worse at once.

    The negative logarithm of the share that picture i has of ``exp(-log_distance / temperature)`` among itself and
    those worse than it (after Rank-N-Contrast, Zha et al., 2023, on distances to the reference instead of between
    embeddings). The hardest of the worse ones dominates. Arguments and results as for :func:`pairwise_loss`.
    """
    gap = _gaps(log_distance)
    known = order.float()
    against = torch.where(order, -gap / temperature, -torch.inf)
    terms = torch.logsumexp(F.pad(against, (1, 0)), dim=2)  # the column of zeros is the picture itself
    asked = order.any(dim=2).float()
    return (terms * asked).sum() / count(asked.sum()), _share_right(gap, known, count)


RANKING_LOSSES: Mapping[str, RankingLoss] = {
    "pairwise": pairwise_loss,
    "contrastive": contrastive_loss,
}
"""By the names that recipes use."""


def _gaps(log_distance: Tensor) -> Tensor:
    """(B, T, T): [i, j] = j's minus i's, positive where i is nearer to the reference."""
    return log_distance.unsqueeze(1) - log_distance.unsqueeze(2)


def _share_right(gap: Tensor, known: Tensor, count: Count) -> Tensor:
    return ((gap > 0).float() * known).sum() / count(known.sum())


def log_levels(scores: Tensor, thresholds: Tensor) -> Tensor:
    """A panel's scores in octaves above what its members count as seen, 0 below.

    Args:
        scores: (..., M) >= 0, higher is worse.
        thresholds: (M,) > 0.
    """
    return torch.log2(torch.maximum(scores, thresholds) / thresholds)


def votes_loss(log_distance: Tensor, levels: Tensor, families: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Logistic loss on all pairs of pictures, whatever they show, towards the votes of a panel.

    Each member votes on each pair, more weakly where it hardly tells the two apart; members of one family share one
    vote. The mean vote is the probability that the second is worse, and how far it lies from one half (the agreement)
    is the weight of the pair: where metrics contradict each other nothing is learned. Summed over its pairs, a
    picture's votes are its mean rank in the panel.

    Args:
        log_distance: (N,), of pictures to references of their own.
        levels: (N, M) of the members, higher is worse, NaN for pictures that count nothing (:func:`log_levels`).
        families: M names.

    Returns:
        Loss, and the share of the agreement that the distances follow, in [0, 1]; both 0 without a panel.
    """
    if levels.shape[1] == 0:
        return log_distance.new_zeros(()), log_distance.new_zeros(())
    counted = torch.isfinite(levels).all(dim=1)
    known = torch.where(counted[:, None], levels, 0.0)
    votes = torch.tanh((known.unsqueeze(0) - known.unsqueeze(1)) / VOTE_SCALE)
    groups = [[one == family for one in families] for family in dict.fromkeys(families)]
    mean = torch.stack([votes[..., group].mean(dim=-1) for group in groups]).mean(dim=0)
    weight = mean.abs() * counted.unsqueeze(0) * counted.unsqueeze(1)
    gap = log_distance.unsqueeze(0) - log_distance.unsqueeze(1)
    total = weight.sum().clamp_min(1e-6)
    loss = F.binary_cross_entropy_with_logits(gap / VOTES_TEMPERATURE, (1 + mean) / 2, weight, reduction="sum")
    followed = ((gap * mean > 0).float() * weight).sum()
    return loss / total, followed / total
