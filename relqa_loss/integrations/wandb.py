"""Weights & Biases: a relation in the user's own run (extra ``wandb``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..images import MissingExtra
from ..relation import Relation
from .common import mean_parts, overlays

try:
    from wandb import Image
except ImportError as error:
    raise MissingExtra("wandb", "wandb") from error

if TYPE_CHECKING:
    from wandb import Run


def log_relation(
    run: Run,
    relation: Relation,
    step: int | None = None,
    *,
    pred: Tensor | None = None,
    ref: Tensor | None = None,
    tag: str = "relqa",
    max_images: int = 1,
    max_maps: int = 4,
) -> None:
    """Log the mean distance of a batch, its split by axis and, with the pictures, the strongest maps over them.

    One row of the run's history holds ``{tag}/distance``, ``{tag}/floor``, ``{tag}/{axis}`` and the pictures as
    ``{tag}/maps``. With Lightning the run is ``trainer.logger.experiment``, with accelerate
    ``accelerator.get_tracker("wandb", unwrap=True)``.

    Args:
        run: what ``wandb.init`` returned.
        relation: ``loss_fn.relate(pred, ref)``.
        step: of the run's history, which never goes back; None adds to the current one and closes it, as ``run.log``.
        pred: (B, 3, H, W) in [0, 1]; None, together with ``ref``, logs scalars only.
        ref: the originals, same shape.
        tag: what the names start with.
        max_images: pictures of the batch at most.
        max_maps: maps of each at most.

    Raises:
        ValueError: one of ``pred`` and ``ref`` without the other, or pictures that are not those of the relation.
        MissingExtra: pictures without matplotlib.
    """
    row: dict[str, Any] = {f"{tag}/{name}": value for name, value in mean_parts(relation).items()}
    drawn = overlays(relation, pred, ref, max_images, max_maps)
    if drawn:
        row[f"{tag}/maps"] = [Image(picture) for picture in drawn]
    run.log(row, step=step)
