"""First stage: the predictor learns the engine's signed maps, on its own objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..competition import AxisCompetition, Cells, gated
from ..distortions import Distortion, DistortionEngine
from ..evaluation.engine_cases import VISIBLE, weighted_mean
from ..evaluation.statistics import mean_of, spearman
from ..predictor import DistortionPredictor
from ..relation import AXES
from .data import Photographs, random_crops, seeded
from .distributed import at_least_one, current, share_of_count
from .kept_cells import CellBatch, KeptCells, keep
from .loop import ProgressCallback, run
from .pairs import MakePairs, PairBatch, halved
from .provenance import fingerprint, fingerprint_of_pairs, runnable
from .recipe import ARCHITECTURE, PredictorConfig, Recipe
from .start import DECODING, Start, account_of, unseen_operators

MAP_SCALE = 0.5
"""Map error, in severity units, below which the regression loss grows quadratically. An absolute error would pull
every axis that is not yet sure to 0, its median."""

HEIGHT_SCALE = 0.2
"""Error of a picture's mean map, in severity units, below which the loss on it grows quadratically."""

SHARE_SOFTNESS = 0.002
"""Height, in severity units, around which an axis begins to have a share of a picture."""

ORDER_SCALE = 0.1
"""Difference of two axes' true heights, in severity units, at which their order counts half."""

ORDER_SOFTNESS = 0.02
"""Height, in severity units, around which an axis begins to take part in that order: in logarithms, the pull on axes
that are next to nothing would drown everything else."""

PRESENT = 0.02
"""Height in a cell of 16 pixels, in severity units, from which an axis is taught to be there: a faint side effect at
the edge of a region is not worth a name."""

SEEN_CELL = 0.02
"""Mean weight of a cell from which it is asked what is there: some twentieth of its pixels are plain to see."""

WHITENED_PAIRS = 640
"""Kept pairs at most by whose cells the competition's inputs are whitened."""

ORDER_TEMPERATURE = 0.5
"""Logarithm of the ratio of two heights at which the loss takes them as told apart."""

LEARNING = {"decoder": DECODING, "competition": ("competition",)}
"""What of a predictor learns where not all of it does."""

SINGLE = {1: 1.0}
VALIDATION_CROPS = 4
VALIDATION_SEVERITY = (0.3, 1.0)


def map_loss(
    maps: Tensor,
    target: Tensor,
    weight: Tensor,
    unsigned: Tensor,
    config: PredictorConfig,
    count: Callable[[Tensor], Tensor] = at_least_one,
    kinds_first: bool | Tensor = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Regression of the maps and of each picture's mean magnitudes; for its axes, a cross-entropy and a ranking loss.

    Args:
        maps: (B, len(AXES), h, w) predicted.
        target: same shape.
        weight: (B, 1, h, w) >= 0; pictures without visible change count nothing.
        unsigned: same shape: weight of magnitudes alone, where the sign is not known.
        config: weights of the terms.
        count: number of visible pairs -> what their sum is divided by; another where a batch is spread over processes.
        kinds_first: take the shares from magnitudes, whatever their sign.

    Returns:
        The loss, and its terms for the log.
    """
    both = weight + unsigned
    total = both.sum(dim=(2, 3)).clamp_min(1e-3)
    visible = (both.mean(dim=(1, 2, 3)) > 1e-3).float()
    pairs = count(visible.sum())

    def mean(values: Tensor) -> Tensor:
        return (values * both).sum(dim=(2, 3)) / total

    def over_pairs(values: Tensor) -> Tensor:
        return (values * visible).sum() / pairs

    maps = maps.float()
    # Where only magnitudes are known, the map's own sign is as good as any.
    wanted = torch.where(unsigned > 0, maps.detach().sign() * target.abs(), target)
    dense = mean(F.smooth_l1_loss(maps, wanted, reduction="none", beta=MAP_SCALE))
    # A map of the wrong sign has a negative height: were it as high as one of the right sign, the terms below would
    # hold an axis that has settled the wrong way round where it is.
    height = mean(torch.where(wanted == 0, maps.abs(), maps * wanted.sign()))
    true_height = mean(target.abs())
    # Errors that pixels share are what puts one picture's severity above another's.
    heights = F.smooth_l1_loss(height, true_height, reduction="none", beta=HEIGHT_SCALE)
    # Positive and rising everywhere, so that a height below 0 is still drawn up. Signs are the harder lesson: while
    # none is known yet, half of an axis's pictures would teach nothing of its kind.
    extent = torch.where(torch.as_tensor(kinds_first, device=maps.device), mean(maps.abs()), height)
    share = F.normalize(_rising(extent, SHARE_SOFTNESS), p=1, dim=1)
    types = -(F.normalize(true_height, p=1, dim=1) * share.log()).sum(dim=1)
    order = _order_loss(_rising(extent, ORDER_SOFTNESS).log(), true_height)
    terms = {
        "dense": over_pairs(dense.sum(dim=1)),
        "heights": over_pairs(heights.sum(dim=1)),
        "types": over_pairs(types),
        "order": over_pairs(order),
    }
    total_loss = (
        terms["dense"]
        + config.height_weight * terms["heights"]
        + config.type_weight * terms["types"]
        + config.order_weight * terms["order"]
    )
    return total_loss, terms


def presence_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    unsigned: Tensor,
    count: Callable[[Tensor], Tensor] = at_least_one,
) -> Tensor:
    """Binary cross-entropy on which axes are there: summed over axes, over the cells with something to see, a number.

    Args:
        logits: (B, len(AXES), h / cell, w / cell).
        target: (B, len(AXES), h, w), maps.
        weight: (B, 1, h, w) >= 0.
        unsigned: same shape: weight of magnitudes alone.
        count: as for :func:`map_loss`.
    """
    both = weight + unsigned
    cell = target.shape[-1] // logits.shape[-1]
    seen = F.avg_pool2d(both, cell)
    height = F.avg_pool2d(target.abs() * both, cell) / seen.clamp_min(1e-6)
    told = F.binary_cross_entropy_with_logits(logits.float(), (height > PRESENT).float(), reduction="none")
    plain = (seen > SEEN_CELL).float()
    cells = plain.sum(dim=(1, 2, 3))
    of_pair = (told * plain).sum(dim=(1, 2, 3)) / cells.clamp_min(1)
    return of_pair.sum() / count((cells > 0).float().sum())


def _order_loss(log_height: Tensor, true_height: Tensor) -> Tensor:
    """Pairwise logistic loss on the order of a picture's axes: (B,), of heights (B, len(AXES)).

    A regression spreads what it is not sure of over several axes, each too low to cost much; together they outrank the
    weaker of two kinds of damage that are really there. Pairs of axes weigh the more the further apart they truly are.
    """
    apart = (true_height.unsqueeze(2) - true_height.unsqueeze(1)).clamp_min(0)
    weight = apart / (apart + ORDER_SCALE)
    gap = log_height.unsqueeze(2) - log_height.unsqueeze(1)
    loss = F.softplus(-gap / ORDER_TEMPERATURE) * weight
    return loss.sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp_min(1e-6)


def _rising(height: Tensor, softness: float) -> Tensor:
    """``(x + sqrt(x^2 + s^2)) / 2``, s being the softness: > 0, near x above s, falling as 1 / |x| below -s."""
    root = (height.square() + softness**2).sqrt()
    # Below 0 the sum would be a difference of nearly equal numbers.
    return torch.where(height < 0, softness**2 / (root + height.abs()), root + height) / 2


@torch.no_grad()
def quick_figures(
    predictor: DistortionPredictor,
    distortions: Sequence[Distortion],
    photographs: list[Tensor],
    crop: int,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """Axis accuracy and severity Spearman (mean over axes) on a few validation crops, in regions of all kinds.

    Crops without a visible pixel are left out; a figure without a crop is not there.

    Args:
        predictor: on ``device``.
        distortions: operators; those without a trace of their direction are left out.
        photographs: uint8 (3, H, W) each.
        crop: side of the crops in pixels.
        seed: of crops and operators.
        device: where to compute.
    """
    right = count = 0
    seen: dict[str, list[tuple[float, float]]] = {}
    for index, distortion in enumerate(one for one in distortions if one.trace):
        generator = seeded(seed, 2, index)
        engine = DistortionEngine([distortion], components=SINGLE, severity=VALIDATION_SEVERITY)
        crops = random_crops(photographs, VALIDATION_CROPS, crop, 1.0, generator)
        triplet = engine(crops, generator=generator)
        maps = predictor(triplet.distorted.to(device), crops.to(device)).float().cpu()
        seen_somewhere = triplet.weight.amax(dim=(1, 2)) >= VISIBLE
        strength, true = (weighted_mean(one.abs(), triplet.weight)[seen_somewhere] for one in (maps, triplet.maps))
        best, channels = strength.max(dim=1)
        # Maps of zeros name nothing.
        named = zip(best.tolist(), channels.tolist(), strict=True)
        right += sum(value > 0 and AXES[channel] in distortion.right_axes for value, channel in named)
        count += len(strength)
        for axis, effect in distortion.effects.items():
            if abs(effect) == 1.0:
                channel = AXES.index(axis)
                pairs = zip(true[:, channel].tolist(), strength[:, channel].tolist(), strict=True)
                seen.setdefault(axis, []).extend(pairs)
    figures = {
        "validation_axis_accuracy": right / count if count else None,
        "validation_severity_spearman": mean_of(
            spearman(*zip(*pairs, strict=True)) for pairs in seen.values() if pairs
        ),
    }
    return {name: value for name, value in figures.items() if value is not None}


def whiten_by(competition: AxisCompetition, kept: KeptCells, device: torch.device) -> None:
    """Whiten what the competition reads by ``WHITENED_PAIRS`` of the kept pairs, spread evenly, and start it anew.

    Not where it was done before: what has been learned since holds for that whitening. Nor where fewer cells show
    anything than there are channels: their covariance would tell nothing of most directions.
    """
    if competition.measure.fitted or not kept.count:
        return
    places = range(0, kept.count, -(-kept.count // WHITENED_PAIRS))
    some = CellBatch(*(tensor.to(device) for tensor in kept.chosen(places)))
    seen = some.weight + some.unsigned > SEEN_CELL
    if int(seen.sum()) >= competition.measure.in_channels:
        competition.fit_whitening(Cells(some.heights, some.statistics, some.counts), some.even, seen)


def new_predictor(config: PredictorConfig) -> DistortionPredictor:
    """An untrained predictor of a recipe's architecture."""
    return DistortionPredictor(*(getattr(config, name) for name in ARCHITECTURE))


def engine_of(recipe: Recipe, further: Sequence[Distortion] = ()) -> DistortionEngine:
    """What makes the pairs of a recipe's predictor, with further operators that the bank does not have.

    Raises:
        MissingExtra: the codec of an operator is missing, and the recipe does not allow to do without.
    """
    several = recipe.predictor.two_operators
    return DistortionEngine(
        [*recipe.data.operators(), *further],
        components={1: 1 - several, 2: several},
        missing_codecs=recipe.data.missing_codecs,
        odds=recipe.data.odds,
        whole=recipe.data.whole,
    )


def train_predictor(
    recipe: Recipe,
    photographs: Photographs,
    out: str | Path,
    *,
    start: Start | None = None,
    further: Sequence[Distortion] = (),
    resume: bool = False,
    device: str | torch.device = "cpu",
    progress: ProgressCallback | None = None,
) -> DistortionPredictor:
    """Train a predictor by a recipe; its folder then holds ``checkpoint.pt`` and ``metrics.jsonl``.

    Args:
        recipe: both stages' recipe; the ``predictor`` section is used.
        photographs: as :func:`load_photographs` returns them.
        out: folder of this stage; the competition alone also leaves its pairs there, see :mod:`.kept_cells`.
        start: a predictor of the recipe's architecture to start from, as :func:`start_from` returns it; None for
            random weights.
        further: operators of your own beside the recipe's, each drawn as often as one of these.
        resume: go on from the checkpoint there.
        device: where to train.
        progress: called at every logged step.

    In a process group of ``torch.distributed`` each process trains on its rows of every batch.

    Returns:
        The averaged predictor in evaluation mode.

    Raises:
        MissingExtra: the codec of an operator is missing, and the recipe does not allow to do without.
        Stopped: SIGTERM arrived; the checkpoint, or what there is of kept pairs, is written.
        ValueError: a checkpoint or kept pairs of another run; a batch that cannot be split over the processes; a part
            alone with no start; see :func:`.loop.run`.
    """
    config: PredictorConfig = recipe.predictor
    learning = LEARNING.get(config.trained)
    if learning is not None and start is None:
        raise ValueError(
            f"start must be given where trained is {config.trained!r}, got None (--start-from on the command line)"
        )
    device = torch.device(device)
    torch.manual_seed(recipe.seed)
    engine = engine_of(recipe, further)
    predictor = new_predictor(config)
    if start is not None:
        predictor.load_state_dict(start.predictor.state_dict())
    predictor = predictor.to(device).to(memory_format=torch.channels_last)
    if learning is not None:
        predictor.requires_grad_(False)
        for name in learning:
            predictor.get_submodule(name).requires_grad_(True)

    def map_terms(
        maps: Tensor, presence: Tensor, known: tuple[Tensor, Tensor, Tensor], kinds_first: bool | Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = map_loss(maps, *known, config, share_of_count, kinds_first)
        terms["presence"] = presence_loss(presence, *known, share_of_count)
        return loss + config.presence_weight * terms["presence"], terms

    def loss_of_cells(rows: tuple[CellBatch, Tensor | None]) -> tuple[Tensor, dict[str, Tensor]]:
        batch = CellBatch(*(tensor.to(device) for tensor in rows[0]))
        gains = None if rows[1] is None else rows[1].to(device)
        maps, presence = batch.settled(predictor, gains)
        return map_terms(maps, presence, (batch.target, batch.weight, batch.unsigned), False)

    def loss_of(batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        a, b, target, weight, unsigned, kinds_first = (tensor.to(device) for tensor in batch)
        pair = predictor.relate(a, b, predictor.encode(a), predictor.encode(b))
        present, presence = predictor.maps_if_present(pair, a, b)
        # The heights ask nothing of the probability: it would settle for one in between. The probability may ask the
        # maps to make presence plain, since it reads them.
        maps = predictor.confine(gated(present, presence.detach()), a, b)
        loss, terms = map_terms(maps, presence, (target, weight, unsigned), kinds_first)
        if learning is not None:
            return loss, terms  # the hints are not its to change
        coarse = halved(target, weight, unsigned)
        hint, _ = map_loss(predictor.hints(pair), *coarse, config, share_of_count, kinds_first)
        return loss + config.hint_weight * hint, {**terms, "hint": hint}

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, DistortionPredictor)
        if not photographs.validation:
            return {}
        return quick_figures(model, engine.distortions, photographs.validation, config.crop, recipe.seed, device)

    base = None if start is None else start.predictor
    of_run = fingerprint(recipe, "predictor", photographs, base, further=further)
    rows = current().rows(config.batch)
    make: Callable[[int], object] = MakePairs(photographs.training, recipe, engine, rows)
    takes: Callable[[Any], tuple[Tensor, dict[str, Tensor]]] = loss_of
    if config.trained == "competition":
        every = MakePairs(photographs.training, recipe, engine, range(config.batch))
        shards = keep(
            every,
            predictor,
            config,
            Path(out),
            fingerprint=of_run,
            of_pairs=fingerprint_of_pairs(recipe, photographs, predictor, further),
            resume=resume,
            device=device,
            progress=progress,
        )
        kept = KeptCells(shards, config.batch, recipe.seed, rows, config.dropout)
        whiten_by(predictor.competition, kept, device)
        make, takes = kept, loss_of_cells
        config = replace(config, workers=0)  # while the files are cached, taking a batch of them is next to nothing
    run(
        "predictor",
        predictor,
        config,
        make,
        takes,
        validate,
        Path(out),
        fingerprint=of_run,
        record={
            "trained_without": list(unseen_operators(recipe, start)),
            "run": account_of(recipe.as_dict(), further=runnable(further)),
            "earlier_runs": [] if start is None else list(start.runs),
        },
        resume=resume,
        device=device,
        progress=progress,
    )
    return predictor.eval().requires_grad_(True)
