"""torchmetrics: the mean distance as a ``Metric``, right over any number of processes (extra ``torchmetrics``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..images import MissingExtra
from ..losses import RelationalLoss
from .common import NAMES, measure

try:
    from torchmetrics import Metric
except ImportError as error:
    raise MissingExtra("torchmetrics", "torchmetrics") from error


class RelationalDistance(Metric):
    """Mean distance over images, summed up as they come: of a batch nothing is kept but 18 sums and a count.

    Works alone, in a ``MetricCollection``, and as an attribute of a ``LightningModule`` given to ``self.log``. The loss
    network is no part of the parameters and the ``state_dict`` of the metric or of its owner; copies of the metric
    share it. Neither ``train()`` nor autocast changes what it says. Values are detached: train with ``RelationalLoss``.

    Args:
        loss_fn: None makes a ``RelationalLoss`` with the bundled weights.
        per_axis: report a dict with the distance and its part on each axis, under
            ``relqa_loss.integrations.common.NAMES``, in place of the distance alone.
        sync_on_compute: whether ``compute`` takes in all processes, as in every ``Metric``.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0

    total: Tensor
    count: Tensor

    def __init__(
        self, loss_fn: RelationalLoss | None = None, *, per_axis: bool = False, sync_on_compute: bool = True
    ) -> None:
        super().__init__(sync_on_compute=sync_on_compute)
        self._shared = _Shared(RelationalLoss() if loss_fn is None else loss_fn)
        self.per_axis = per_axis
        self.add_state("total", torch.zeros(len(NAMES)), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @property
    def loss_fn(self) -> RelationalLoss:
        """The loss that measures."""
        return self._shared.loss_fn

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Take in a batch.

        Args:
            preds: (B, 3, H, W) in the loss's ``data_range``.
            target: the originals, same shape and device.

        Raises:
            TypeError, ValueError: not a pair of image batches.
        """
        rows = measure(self.loss_fn, preds, target)
        self.total += rows.to(self.total).sum(dim=0)
        self.count += rows.shape[0]

    def compute(self) -> Tensor | dict[str, Tensor]:
        """Mean distance (), or the dict of means that ``per_axis`` asks for; nan before the first image."""
        means = self.total / self.count
        return dict(zip(NAMES, means, strict=True)) if self.per_axis else means[0]

    def plot(self, val: Any | Sequence[Any] | None = None, ax: Any | None = None) -> Any:
        """Draw a value, or a list of values over time, as every ``Metric`` does; None draws the current one."""
        return self._plot(val, ax)


class _Shared:
    """Keeps the network out of the metric's module tree, and the same one in all copies of the metric."""

    def __init__(self, loss_fn: RelationalLoss) -> None:
        self.loss_fn = loss_fn

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self
