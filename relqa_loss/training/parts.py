"""The predictor of a recipe of several parts: each in a folder of its own, from the weights of the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..predictor import DistortionPredictor
from .data import Photographs, load_photographs
from .distributed import any_rank, current
from .loop import CHECKPOINT, ProgressCallback
from .predictor_stage import new_predictor, train_predictor
from .recipe import DataConfig
from .recipe_toml import Part
from .start import Start, start_from


def folders_of_parts(parts: Sequence[Part], out: Path) -> list[Path]:
    """Where each part's run lies: the last one in ``out``, where the scorer's stage looks, the others below it."""
    return [*(out / part.name for part in parts[:-1]), out]


def start_of_last(parts: Sequence[Part], out: Path, start: Start | None) -> Start | None:
    """What the last part started from: the part before it, in ``out``, or ``start`` where there is none."""
    if len(parts) == 1:
        return start
    return start_from(new_predictor(parts[-1].recipe.predictor), folders_of_parts(parts, out)[-2])


def train_parts(
    parts: Sequence[Part],
    data: Path,
    out: Path,
    *,
    start: Start | None = None,
    resume: bool = False,
    device: torch.device,
    loaded: Callable[[Photographs, DataConfig], None] | None = None,
    progress: ProgressCallback | None = None,
) -> DistortionPredictor:
    """Train a recipe's predictor, part after part.

    Args:
        parts: as :func:`.recipe_toml.load_parts` returns them.
        data: folder of photographs.
        out: folder of the stage; see :func:`folders_of_parts`.
        start: what the first part starts from; None for random weights.
        resume: go on where ``out`` says: parts that are finished are taken as they are.
        device: where to train.
        loaded: called with photographs and part of the recipe, whenever they are read.
        progress: as for :func:`.predictor_stage.train_predictor`, which see for the rest.

    In a process group every process calls this; all must see the same ``out``.

    Returns:
        The last part's averaged predictor in evaluation mode.

    Raises:
        Stopped: SIGTERM arrived; what is finished is kept.
        ValueError: see :func:`.predictor_stage.train_predictor`.
    """
    folders = folders_of_parts(parts, out)
    for part, folder in zip(parts, folders, strict=True):
        # What would be refused hours from now is refused now.
        current().rows(part.recipe.predictor.batch)
        if not resume and (folder / CHECKPOINT).exists():
            raise ValueError(f"{folder} already holds a run; resume it or choose another folder")
    photographs, loaded_for = None, None
    for part, folder in zip(parts, folders, strict=True):
        recipe = part.recipe
        wanted = (recipe.data.validation_share, recipe.predictor.crop)
        if photographs is None or wanted != loaded_for:
            photographs = None  # memory holds them once
            photographs, loaded_for = load_photographs(data, *wanted), wanted
            if loaded is not None:
                loaded(photographs, recipe.data)
        predictor = train_predictor(
            recipe,
            photographs,
            folder,
            start=start,
            resume=resume,
            device=device,
            progress=progress,
        )
        any_rank([False], device)  # so the first process has written its checkpoint before another one reads it
        if part is not parts[-1]:
            start = start_from(new_predictor(recipe.predictor), folder)
    return predictor
