"""What the integrations share: what is measured of a batch, its running mean, and what a tracker is given to show."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..figures import relation_figure
from ..losses import RelationalLoss
from ..relation import AXES, Relation
from ..validation import check_pair

DISTANCE = "relqa_loss"
"""Name of the mean distance. Ends in ``loss``, from which trainers conclude that less is better."""

NAMES: tuple[str, ...] = (DISTANCE, *(f"relqa_{axis}" for axis in AXES))
"""Names of the columns of :func:`measure`: the distance, then its part on each axis."""


def follow(loss_fn: RelationalLoss, device: torch.device) -> torch.device:
    """Bring a loss that is on the CPU to the device of the images; one that is elsewhere stays.

    So a loss that is shared with the training loop never leaves its accelerator.

    Returns:
        Where the loss computes from now on.
    """
    current = next(loss_fn.parameters()).device
    if current.type != "cpu" or current == device:
        return current
    # Tensors made in inference mode, where trainers validate, could not take part in a later training step.
    with torch.inference_mode(False):
        loss_fn.to(device)
    return device


@torch.no_grad()
def measure(loss_fn: RelationalLoss, pred: Tensor, ref: Tensor) -> Tensor:
    """Distance and parts of each image of a batch: detached, and in the loss's own precision under autocast too.

    The loss may be brought to the device of the images, see :func:`follow`.

    Args:
        loss_fn: the judge.
        pred: (B, 3, H, W) in the loss's ``data_range``.
        ref: same shape and device.

    Returns:
        (B, len(NAMES)) >= 0, on the device of ``pred``.

    Raises:
        TypeError, ValueError: not a pair of image batches.
    """
    check_pair("pred", pred, "ref", ref)
    device = follow(loss_fn, pred.device)
    with torch.autocast(device.type, enabled=False):
        relation = loss_fn.relate(pred.to(device), ref.to(device))
    return torch.cat([relation.distance[:, None], relation.parts], dim=1).to(pred.device)


class RunningMean:
    """Mean over images of what :func:`measure` found, in memory that does not grow with them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._sum = torch.zeros(len(NAMES), dtype=torch.float64)
        self._count = 0

    def add(self, rows: Tensor) -> None:
        """Take in rows (B, len(NAMES))."""
        self._sum += rows.detach().cpu().double().sum(dim=0)
        self._count += rows.shape[0]

    def means(self) -> dict[str, float]:
        """Mean of each column under its name.

        Raises:
            ValueError: no image so far.
        """
        if self._count == 0:
            raise ValueError("there is no mean distance yet: no image was measured")
        return dict(zip(NAMES, (self._sum / self._count).tolist(), strict=True))


def mean_parts(relation: Relation) -> dict[str, float]:
    """Means over a batch: ``distance``, ``floor`` and each axis; the floor and the axes sum to the distance."""
    columns = torch.cat([relation.distance[:, None], relation.floor[:, None], relation.parts], dim=1).detach()
    means = columns.cpu().double().mean(dim=0).tolist()
    return dict(zip(("distance", "floor", *AXES), means, strict=True))


def overlays(
    relation: Relation, pred: Tensor | None, ref: Tensor | None, max_images: int, max_maps: int
) -> list[np.ndarray]:
    """The strongest maps over the first images of a batch, drawn: (height, width, 3) uint8 each.

    Args:
        relation: ``loss_fn.relate(pred, ref)``.
        pred: (B, 3, H, W) in [0, 1], or None, together with ``ref``: nothing is drawn.
        ref: same shape.
        max_images: images at most.
        max_maps: maps of each at most.

    Raises:
        ValueError: one of ``pred`` and ``ref`` without the other, or pictures that are not those of the relation.
        MissingExtra: matplotlib is not installed.
    """
    if (pred is None) != (ref is None):
        raise ValueError("pred and ref go together: pass both, or neither for scalars only")
    if pred is None or ref is None:
        return []
    check_pair("pred", pred, "ref", ref)
    if len(pred) != len(relation.distance):
        raise ValueError(f"pred must hold the relation's {len(relation.distance)} images, got {len(pred)}")
    drawn = []
    for item in range(min(len(pred), max_images)):
        canvas: Any = relation_figure(ref[item], pred[item], relation, count=max_maps, item=item).canvas
        canvas.draw()
        drawn.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return drawn
