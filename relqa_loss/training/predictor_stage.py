"""First stage: the predictor learns the engine's signed maps, on its own objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distortions import Distortion, DistortionEngine, Triplet, visibility
from ..predictor import DistortionPredictor
from ..relation import AXES
from .data import Photographs, random_crops, row_crops, seeded
from .distributed import at_least_one, current, share_of_count
from .loop import ProgressCallback, run
from .provenance import fingerprint
from .recipe import PredictorConfig, Recipe

MAP_SCALE = 0.5
"""Map error, in severity units, below which the regression loss grows quadratically. An absolute error would pull
every axis that is not yet sure to 0, its median."""

SINGLE = {1: 1.0}
VALIDATION_CROPS = 4
VALIDATION_SEVERITY = (0.3, 1.0)


class PairBatch(NamedTuple):
    """Pairs ``a``, ``b`` (B, 3, H, W); ``maps`` (B, len(AXES), H / 2, W / 2) and ``weight`` (B, 1, H / 2, W / 2)."""

    a: Tensor
    b: Tensor
    maps: Tensor
    weight: Tensor


@dataclass(frozen=True)
class _MakePairs:
    """Step -> ``rows`` of its batch of pairs; a plain object, so that worker processes can receive it."""

    photographs: list[Tensor]
    recipe: Recipe
    engine: DistortionEngine
    rows: range

    def __call__(self, step: int) -> PairBatch:
        config = self.recipe.predictor
        streams = [seeded(self.recipe.seed, 1, step, row) for row in self.rows]
        crops = row_crops(self.photographs, config.crop, self.recipe.data.smallest_scale, streams)
        first = self.engine(crops, generator=streams)
        a, b, maps, weight = first.distorted, crops.clone(), first.maps, first.weight
        other = torch.stack([torch.rand((), generator=stream) for stream in streams]) < config.both_distorted
        if other.any():
            second = self.engine(crops[other], generator=[streams[row] for row in other.nonzero().flatten()])
            b[other] = second.distorted
            maps[other] = maps[other] - second.maps
            unseen = _unseen(first)[other] | _unseen(second)
            weight[other] = torch.where(unseen, 0.0, visibility(a[other], b[other]))
        weight = weight.unsqueeze(1)
        small_weight = F.avg_pool2d(weight, 2)
        return PairBatch(a, b, F.avg_pool2d(maps * weight, 2) / small_weight.clamp_min(1e-6), small_weight)


def _unseen(triplet: Triplet) -> Tensor:
    """Where the maps claim something that changed nothing or left no trace: (B, H, W) bool."""
    return (triplet.weight == 0) & (triplet.maps != 0).any(dim=1)


def map_loss(
    maps: Tensor,
    target: Tensor,
    weight: Tensor,
    type_weight: float,
    count: Callable[[Tensor], Tensor] = at_least_one,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Dense regression of the maps, and a cross-entropy on the share of each axis.

    Args:
        maps: (B, len(AXES), h, w) predicted.
        target: same shape.
        weight: (B, 1, h, w) >= 0; pictures without visible change count nothing.
        type_weight: weight of the cross-entropy.
        count: number of visible pairs -> what their sum is divided by; another where a batch is spread over processes.
    """
    total = weight.sum(dim=(2, 3)).clamp_min(1e-3)
    visible = (weight.mean(dim=(1, 2, 3)) > 1e-3).float()
    pairs = count(visible.sum())

    def mean(values: Tensor) -> Tensor:
        return (values * weight).sum(dim=(2, 3)) / total

    def over_pairs(values: Tensor) -> Tensor:
        return (values * visible).sum() / pairs

    maps = maps.float()
    error = F.smooth_l1_loss(maps, target, reduction="none", beta=MAP_SCALE)
    dense = over_pairs(mean(error).sum(dim=1))
    true_share = F.normalize(mean(target.abs()), p=1, dim=1)
    share = mean(maps.abs()) + 1e-3
    share = share / share.sum(dim=1, keepdim=True)
    types = over_pairs(-(true_share * share.log()).sum(dim=1))
    return dense + type_weight * types, {"dense": dense, "types": types}


@torch.no_grad()
def quick_axis_accuracy(
    predictor: DistortionPredictor,
    distortions: Sequence[Distortion],
    photographs: list[Tensor],
    crop: int,
    seed: int,
    device: torch.device,
) -> float:
    """Share of operators' pictures whose strongest mean |map| is on an accepted axis, on a few validation crops."""
    right = count = 0
    for index, distortion in enumerate(one for one in distortions if one.trace):
        generator = seeded(seed, 2, index)
        engine = DistortionEngine([distortion], components=SINGLE, severity=VALIDATION_SEVERITY)
        crops = random_crops(photographs, VALIDATION_CROPS, crop, 1.0, generator)
        triplet = engine(crops, generator=generator)
        maps = predictor(triplet.distorted.to(device), crops.to(device)).float().cpu()
        strength = (maps.abs() * triplet.weight.unsqueeze(1)).mean(dim=(2, 3))
        right += sum(AXES[channel] in distortion.right_axes for channel in strength.argmax(dim=1).tolist())
        count += VALIDATION_CROPS
    return right / count


def train_predictor(
    recipe: Recipe,
    photographs: Photographs,
    out: str | Path,
    *,
    resume: bool = False,
    device: str | torch.device = "cpu",
    progress: ProgressCallback | None = None,
) -> DistortionPredictor:
    """Train a predictor by a recipe; its folder then holds ``checkpoint.pt`` and ``metrics.jsonl``.

    Args:
        recipe: both stages' recipe; the ``predictor`` section is used.
        photographs: as :func:`load_photographs` returns them.
        out: folder of this stage.
        resume: go on from the checkpoint there.
        device: where to train.
        progress: called at every logged step.

    In a process group of ``torch.distributed`` each process trains on its rows of every batch.

    Returns:
        The averaged predictor in evaluation mode.

    Raises:
        ValueError: a checkpoint of another run; a batch that cannot be split over the processes.
    """
    config: PredictorConfig = recipe.predictor
    device = torch.device(device)
    torch.manual_seed(recipe.seed)
    components = {1: 1 - config.two_operators, 2: config.two_operators}
    engine = DistortionEngine(components=components, missing_codecs=recipe.data.missing_codecs)
    predictor = (
        DistortionPredictor(config.widths, config.pair_widths, config.texture_widths)
        .to(device)
        .to(memory_format=torch.channels_last)
    )

    def loss_of(batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        a, b, target, weight = (tensor.to(device) for tensor in batch)
        pair = predictor.relate(a, b, predictor.encode(a), predictor.encode(b))
        return map_loss(predictor.half_resolution_maps(pair), target, weight, config.type_weight, share_of_count)

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, DistortionPredictor)
        accuracy = quick_axis_accuracy(
            model, engine.distortions, photographs.validation, config.crop, recipe.seed, device
        )
        return {"validation_axis_accuracy": accuracy}

    run(
        "predictor",
        predictor,
        config,
        _MakePairs(photographs.training, recipe, engine, current().rows(config.batch)),
        loss_of,
        validate,
        Path(out),
        fingerprint=fingerprint(recipe, "predictor", photographs),
        resume=resume,
        device=device,
        progress=progress,
    )
    return predictor.eval()
