"""The predictor of a recipe of several parts: each in a folder of its own, from the weights of the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from ..distortions import Distortion
from ..predictor import DistortionPredictor
from .data import Photographs, load_photographs
from .distributed import any_rank, current
from .kept_cells import FOLDER as PAIRS
from .loop import CHECKPOINT, Progress, ProgressCallback
from .predictor_stage import engine_of, new_predictor, train_predictor
from .recipe import DataConfig
from .recipe_toml import Part
from .start import Start, start_from
from .stopping import Stopped


def folders_of_parts(parts: Sequence[Part], out: Path) -> list[Path]:
    """Where each part's run lies: the last one in ``out``, where the scorer's stage looks, the others below it."""
    return [*(out / part.name for part in parts[:-1]), out]


def start_of_last(parts: Sequence[Part], out: Path) -> Start:
    """What the last of several parts started from: the part before it.

    Raises:
        ValueError: there is no such part in ``out``.
    """
    folder = folders_of_parts(parts, out)[-2]
    if not (folder / CHECKPOINT).is_file():
        raise ValueError(
            f"{out} holds no finished run of this recipe's {len(parts)} parts: no {CHECKPOINT} in {folder}"
        )
    return start_from(new_predictor(parts[-1].recipe.predictor), folder)


def train_parts(
    parts: Sequence[Part],
    data: Path,
    out: Path,
    *,
    start: Start | None = None,
    further: Sequence[Distortion] = (),
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
        further: operators of your own beside the recipe's, in every part.
        resume: go on where ``out`` says: parts that are finished are taken as they are.
        device: where to train.
        loaded: called with the photographs and the recipe's section of them, each time they are read.
        progress: as for :func:`.predictor_stage.train_predictor`, which see for the rest.

    In a process group every process calls this; all must see the same ``out``.

    Returns:
        The last part's averaged predictor in evaluation mode.

    Raises:
        MissingExtra: the codec of an operator of any part is missing, and the recipe does not allow to do without.
        Stopped: SIGTERM arrived; what is finished is kept.
        ValueError: runs in ``out`` and no ``resume``, or a part without the one before it; no photograph that is large
            enough for a part; see :func:`.predictor_stage.train_predictor`.
    """
    folders = folders_of_parts(parts, out)
    _check_folders(folders, resume)
    for part in parts:
        # What would be refused hours from now is refused now.
        current().rows(part.recipe.predictor.batch)
        engine_of(part.recipe, further)
    photographs, loaded_for = None, None
    for part, folder in zip(parts, folders, strict=True):
        recipe = part.recipe
        wanted = (recipe.data.validation_share, recipe.predictor.crop)
        if photographs is None or wanted != loaded_for:
            photographs = None  # memory holds them once
            photographs, loaded_for = load_photographs(data, *wanted), wanted
            if part is parts[0]:
                _check_sizes(parts, photographs, data)
            if loaded is not None:
                loaded(photographs, recipe.data)
        try:
            predictor = train_predictor(
                recipe,
                photographs,
                folder,
                start=start,
                further=further,
                resume=resume,
                device=device,
                progress=progress if len(parts) == 1 else _naming(part, progress),
            )
        except Stopped as stop:
            raise Stopped(f"{stop} (part {part.name!r})" if len(parts) > 1 else str(stop)) from stop
        any_rank([False], device)  # so the first process has written its checkpoint before another one reads it
        if part is not parts[-1]:
            start = start_from(new_predictor(recipe.predictor), folder)
    return predictor


def _check_folders(folders: Sequence[Path], resume: bool) -> None:
    """ValueError for runs that are in the way, and for one that cannot have come from the part before it."""
    for folder in folders:
        if not resume and any((folder / name).exists() for name in (CHECKPOINT, PAIRS)):
            raise ValueError(f"{folder} already holds a run; resume it or choose another folder")
    for before, after in pairwise(folders):
        if (after / CHECKPOINT).exists() and not (before / CHECKPOINT).exists():
            raise ValueError(
                f"{after} holds a run, and {before}, from which this recipe would start it, holds none: choose another "
                "folder"
            )


def _check_sizes(parts: Sequence[Part], photographs: Photographs, data: Path) -> None:
    """ValueError for a part whose crops are larger than any photograph."""
    largest = max(min(one.shape[1:]) for one in photographs.training)
    for part in parts:
        crop = part.recipe.predictor.crop
        if crop > largest:
            raise ValueError(
                f"data folder {data} has no photograph to train part {part.name!r} on: it takes crops of {crop} "
                f"pixels, and the shorter side of the largest one has {largest}"
            )


def _naming(part: Part, progress: ProgressCallback | None) -> ProgressCallback | None:
    """A callback that also tells which part it is."""
    if progress is None:
        return None

    def tell(state: Progress) -> None:
        progress(replace(state, stage=f"{part.name}, {state.stage}"))

    return tell
