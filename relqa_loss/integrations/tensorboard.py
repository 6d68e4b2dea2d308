"""TensorBoard: a relation in the user's own ``SummaryWriter`` (extra ``tensorboard``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..relation import Relation
from .common import mean_parts, overlays

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def log_relation(
    writer: SummaryWriter,
    relation: Relation,
    step: int,
    *,
    pred: Tensor | None = None,
    ref: Tensor | None = None,
    tag: str = "relqa",
    max_images: int = 1,
    max_maps: int = 4,
) -> None:
    """Log the mean distance of a batch, its split by axis and, with the pictures, the strongest maps over them.

    Scalars go to ``{tag}/distance``, ``{tag}/floor`` and ``{tag}/{axis}``, pictures to ``{tag}/maps/{index}``. With
    Lightning the writer is ``trainer.logger.experiment``, with accelerate
    ``accelerator.get_tracker("tensorboard", unwrap=True)``; ``tensorboardX`` has the same methods.

    Args:
        writer: gets the events; flushing and closing stay the caller's.
        relation: ``loss_fn.relate(pred, ref)``.
        step: global step.
        pred: (B, 3, H, W) in [0, 1]; None, together with ``ref``, logs scalars only.
        ref: the originals, same shape.
        tag: what the names start with.
        max_images: pictures of the batch at most.
        max_maps: maps of each at most.

    Raises:
        ValueError: one of ``pred`` and ``ref`` without the other, or pictures that are not those of the relation.
        MissingExtra: pictures without matplotlib.
    """
    # Drawn before anything is written: an error leaves no half of a record.
    drawn = overlays(relation, pred, ref, max_images, max_maps)
    for name, value in mean_parts(relation).items():
        writer.add_scalar(f"{tag}/{name}", value, step)
    for index, picture in enumerate(drawn):
        writer.add_image(f"{tag}/maps/{index}", picture, step, dataformats="HWC")
