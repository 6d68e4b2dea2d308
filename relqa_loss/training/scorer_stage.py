"""Second stage: on the frozen predictor, the scorer learns from tiers what is worse than what.

Inside a tier, whose order is known, it ranks log-distances (:mod:`.ranking`). Between kinds of distortion and between
scenes no order is known; there it learns from the votes of a panel of closed-form metrics, weighted by how far they
agree.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distortions import Distortion, DistortionEngine
from ..distortions.filters import fixed_gaussian
from ..predictor import DistortionPredictor
from ..scorer import RelationalScorer
from .data import Photographs
from .distributed import at_least_one, current, gathered, share_of_count
from .loop import CHECKPOINT, ProgressCallback, run
from .provenance import fingerprint
from .ranking import RANKING_LOSSES, VOTES_TEMPERATURE, votes_loss
from .recipe import Recipe, ScorerConfig
from .start import ScorerStart, check_same_distance
from .tier_batches import MakeTiers, TierBatch, panel_members

SMALLEST_DISTANCE = 1e-4
"""Added to distances before their logarithm is taken."""

CIRCLE_WEIGHT = 0.5
"""Weight, beside the pairs, of what the judgement of three images gains by going round them."""

DESCENT_SIDE = 96
"""Largest side, in pixels, of the windows on which the gradient of the distance is trained: twice differentiated, they
cost several times a plain pass."""

DESCENT_BLUR = 1.0
"""Sigma, in pixels, of the Gaussian through which the way from the reference is seen: of white noise the finest octave
keeps 7 % of its length, the next one two fifths."""

JUDGE_SCALE = 0.1
"""Judgement at which a pair counts as told apart."""


class ScorerObjective(nn.Module):
    """Everything the scorer is trained for, computed on a frozen predictor.

    Args:
        predictor: frozen.
        scorer: the module that learns.
        config: weights of the terms.
        together: each process of the group has a part of the batch, and all of them call this equally often; otherwise
            the batch is whole.
    """

    def __init__(
        self, predictor: DistortionPredictor, scorer: RelationalScorer, config: ScorerConfig, *, together: bool = False
    ) -> None:
        super().__init__()
        self.predictor = predictor
        self.scorer = scorer
        self.config = config
        self.families = [member.family for member in panel_members(config.panel)]
        self.together = together
        self.count = share_of_count if together else at_least_one

    def forward(self, batch: TierBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and its terms: their means over the processes, and those of gradients, are the whole batch's."""
        config = self.config
        count, size = batch.images.shape[:2]
        images = batch.images.flatten(0, 1)
        repeated = batch.reference.repeat_interleave(size, dim=0)
        with torch.no_grad():
            of_images = self.predictor.encode(images)
            of_reference = self.predictor.encode(batch.reference)
            pair = self.predictor.relate(
                images, repeated, of_images, [f.repeat_interleave(size, dim=0) for f in of_reference]
            )
        parts, floor = self.scorer.distance_terms(pair, images, repeated)
        distance = (parts.sum(dim=1) + floor).view(count, size)
        log_distance = torch.log(distance + SMALLEST_DISTANCE)
        judge = self._judge_loss(images, of_images, log_distance.detach().flatten(), batch)
        if config.trained == "judgement":
            return judge, {"judge": judge}
        rank, accuracy = RANKING_LOSSES[config.ranking](log_distance, batch.order, config.temperature, self.count)
        pictures, levels = log_distance.flatten(), batch.panel.flatten(0, 1)
        if self.together:
            pictures, levels = gathered(pictures), gathered(levels)
        votes, agreement = votes_loss(pictures, levels, self.families)
        if self.together:
            # Every process sees all votes, but has the gradient of its own pictures alone: their mean over the
            # processes would be too small by the number of processes. The value is right as it is.
            votes = votes.detach() + current().size * (votes - votes.detach())

        # Tiers hold calibrated severities: the distance is read on that scale, and with it one kind against another.
        known = torch.isfinite(batch.severity)
        target = torch.log(torch.where(known, batch.severity, 1.0))
        off = F.smooth_l1_loss(log_distance, target, reduction="none", beta=0.3) * known
        scale = off.sum() / self.count(known.sum())

        share = parts / (parts.sum(dim=1, keepdim=True) + SMALLEST_DISTANCE) + 1e-3
        wanted = batch.axes.flatten(0, 1)
        axes = -(wanted * share.log()).sum(dim=1).mean()

        descent = self._descent_loss(images, repeated)
        terms = {"rank": rank, "votes": votes, "scale": scale, "axes": axes, "descent": descent, "judge": judge}
        total = (
            rank
            + config.panel_weight * votes
            + config.scale_weight * scale
            + config.axis_weight * axes
            + config.descent_weight * descent
            + config.judge_weight * judge
        )
        return total, {**terms, "order_accuracy": accuracy, "panel_agreement": agreement}

    def _descent_loss(self, images: Tensor, references: Tensor) -> Tensor:
        """One minus the cosine between the distance's gradient and the way from the reference, over a central window.

        Networks see much in the finest detail; a loss that follows them there pulls a picture in all directions but
        the right one. The way is seen through ``DESCENT_BLUR``: what a restorer cannot know lies in the finest detail
        too, and a pull towards it is spent on nothing. Pictures that are equal in the window count nothing.
        """
        if self.config.descent_weight == 0:
            return images.new_zeros(())
        rows, columns = (
            slice((side - small) // 2, (side - small) // 2 + small)
            for side, small in ((side, min(side, DESCENT_SIDE)) for side in images.shape[-2:])
        )
        b = references[..., rows, columns]
        a = images[..., rows, columns].detach().requires_grad_(True)
        # Twice differentiated in half precision, what is left of a small gradient is mostly rounding.
        with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            pair = self.predictor.relate(a, b, self.predictor.encode(a), self.predictor.encode(b))
            parts, floor = self.scorer.distance_terms(pair, a, b)
            (slope,) = torch.autograd.grad(parts.sum() + floor.sum(), a, create_graph=True)
        different = (a != b).flatten(1).any(dim=1)
        way = fixed_gaussian((a - b).detach(), DESCENT_BLUR)
        angle = 1 - F.cosine_similarity(slope.flatten(1), way.flatten(1), eps=1e-12)
        return torch.where(different, angle, 0.0).sum() / self.count(different.sum())

    def _judge_loss(self, images: Tensor, features: Sequence[Tensor], log_distance: Tensor, batch: TierBatch) -> Tensor:
        """Teaches the judgement, on all pairs of some images, what can be known of them.

        The better of two by construction must be judged better. Where construction says nothing, the judgement follows
        the distances to the original, which it does not see. Where a pair alone cannot tell, it is pulled to 0. And
        whatever is known: from one image to a second and on to a third it must say what it says from the first to the
        third, so that orders run in no circle.
        """
        first, second = batch.first.flatten(), batch.second.flatten()
        with torch.no_grad():
            a, b = images[first], images[second]
            pair = self.predictor.relate(a, b, [f[first] for f in features], [f[second] for f in features])
            maps = self.predictor.confine(self.predictor.gated_maps(pair, a, b), a, b)
        score = self.scorer.judge(pair, maps).view_as(batch.better) / JUDGE_SCALE
        gap = (log_distance[second] - log_distance[first]).view_as(score)
        target = torch.where(batch.better.isfinite(), batch.better, torch.sigmoid(gap / VOTES_TEMPERATURE))
        told = F.binary_cross_entropy_with_logits(score, target, reduction="none") * batch.told
        silent = F.smooth_l1_loss(score, torch.zeros_like(score), reduction="none") * batch.silent
        on_pairs = (told + 0.5 * silent).sum() / self.count((batch.told | batch.silent).sum())
        around = _circles(score)
        if not around.numel():
            return on_pairs
        circles = F.smooth_l1_loss(around, torch.zeros_like(around), reduction="sum")
        return on_pairs + CIRCLE_WEIGHT * circles / self.count(circles.new_tensor(float(around.numel())))


def _circles(score: Tensor) -> Tensor:
    """Score i to j plus score j to k minus score i to k, of all i < j < k.

    Args:
        score: (B, n (n - 1) / 2) of the pairs i < j of n images, sorted by i, then j.

    Returns:
        (B, n (n - 1) (n - 2) / 6).
    """
    size = (1 + math.isqrt(1 + 8 * score.shape[1])) // 2
    at = {pair: column for column, pair in enumerate(combinations(range(size), 2))}
    triples = [(at[i, j], at[j, k], at[i, k]) for i, j, k in combinations(range(size), 3)]
    one, two, both = torch.tensor(triples, dtype=torch.long, device=score.device).view(-1, 3).unbind(1)
    return score[:, one] + score[:, two] - score[:, both]


@torch.no_grad()
def start_at_scale(objective: ScorerObjective, batch: TierBatch) -> None:
    """Rescale a new scorer so that the parts of the batch's pictures add up to a typical severity of 0.5."""
    size = batch.images.shape[1]
    images, repeated = batch.images.flatten(0, 1), batch.reference.repeat_interleave(size, dim=0)
    predictor = objective.predictor
    pair = predictor.relate(images, repeated, predictor.encode(images), predictor.encode(repeated))
    typical = objective.scorer.distance_terms(pair, images, repeated).parts.sum(dim=1).median()
    objective.scorer.rescale(0.5 / float(typical.clamp_min(SMALLEST_DISTANCE)))


def check_start(config: ScorerConfig, start: ScorerStart | None) -> None:
    """ValueError for a judgement alone without a scorer whose distance it belongs to."""
    if config.trained == "judgement" and start is None:
        raise ValueError(
            "start must be given where trained is 'judgement', got None (--scorer-from on the command line)"
        )


def train_scorer(
    recipe: Recipe,
    photographs: Photographs,
    predictor: DistortionPredictor,
    out: str | Path,
    *,
    start: ScorerStart | None = None,
    further: Sequence[Distortion] = (),
    resume: bool = False,
    device: str | torch.device = "cpu",
    progress: ProgressCallback | None = None,
) -> RelationalScorer:
    """Train a scorer on a finished predictor; the folder then holds ``checkpoint.pt`` and ``metrics.jsonl``.

    Args:
        recipe: both stages' recipe; the ``scorer`` section is used.
        photographs: as :func:`load_photographs` returns them.
        predictor: moved to ``device``, put in evaluation mode and frozen, in place; its values stay.
        out: folder of this stage.
        start: a scorer to start from, as :func:`.start.start_scorer_from` returns it; None for random weights.
        further: operators of your own beside the recipe's, as the predictor had them.
        resume: go on from the checkpoint there.
        device: where to train.
        progress: called at every logged step.

    In a process group of ``torch.distributed`` each process trains on its rows of every batch.

    Returns:
        The averaged scorer in evaluation mode.

    Raises:
        MissingExtra: the codec of an operator is missing, and the recipe does not allow to do without; a panel is asked
            for, and piq is not installed.
        Stopped: SIGTERM arrived; the checkpoint is written.
        ValueError: a checkpoint of another run; a batch that cannot be split over the processes; a judgement alone
            with no start, or one whose distance would not stay; a start of another configuration than the recipe's;
            see :func:`.loop.run`.
    """
    config: ScorerConfig = recipe.scorer
    check_start(config, start)
    if config.trained == "judgement" and start is not None:
        check_same_distance(start, predictor)
    device = torch.device(device)
    torch.manual_seed(recipe.seed)
    predictor = predictor.to(device).eval().requires_grad_(False)
    scorer = RelationalScorer(
        recipe.predictor.pair_widths,
        recipe.predictor.texture_widths[0],
        config.channels,
        config.floor_weight,
    )
    if start is not None:
        for name in ("pair_widths", "texture_width", "channels", "floor_weight"):
            wanted, got = scorer.config[name], start.scorer.config[name]
            if wanted != got:
                raise ValueError(
                    f"start must be a scorer of the recipe's {name} {wanted}, got {got} "
                    "(--scorer-from on the command line)"
                )
        scorer = copy.deepcopy(start.scorer)
    scorer = scorer.to(device)
    if config.trained == "judgement":
        scorer.requires_grad_(False)
        for part in scorer.judging():
            part.requires_grad_(True)
    objective = ScorerObjective(predictor, scorer, config, together=True)
    engine = DistortionEngine([*recipe.data.operators(), *further], missing_codecs=recipe.data.missing_codecs)
    whole = range(config.batch)
    make_tiers = MakeTiers(photographs.training, recipe, engine, current().rows(config.batch))
    validation = MakeTiers(photographs.validation, recipe, engine, whole)
    if start is None and not (resume and (Path(out) / CHECKPOINT).exists()):
        first = dataclasses.replace(make_tiers, rows=whole)(0)
        start_at_scale(objective, TierBatch(*(tensor.to(device) for tensor in first)))

    def loss_of(batch: TierBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(TierBatch(*(tensor.to(device) for tensor in batch)))

    @torch.no_grad()
    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, RelationalScorer)
        if not photographs.validation:
            return {}
        # The first process validates alone.
        averaged = ScorerObjective(predictor, model, config)
        # Steps below 0 belong to no training batch.
        terms = [averaged(TierBatch(*(t.to(device) for t in validation(-1 - n))))[1] for n in range(8)]
        return {f"validation_{name}": float(sum(float(term[name]) for term in terms)) / len(terms) for name in terms[0]}

    base = None if start is None else start.scorer
    run(
        "scorer",
        scorer,
        config,
        make_tiers,
        loss_of,
        validate,
        Path(out),
        fingerprint=fingerprint(recipe, "scorer", photographs, predictor, base, further=further),
        record={},
        resume=resume,
        device=device,
        progress=progress,
    )
    return scorer.eval().requires_grad_(True)
