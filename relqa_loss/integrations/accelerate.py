"""accelerate: validation figures over all processes of a user's own loop, and the best of them, kept over a resume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..losses import RelationalLoss
from .common import DISTANCE, RunningMean, measure

if TYPE_CHECKING:
    from accelerate import Accelerator


class RelqaEvaluator:
    """Mean distance, and its split by axis, of a validation set that the processes share between them.

    ::

        evaluator = RelqaEvaluator(accelerator)
        accelerator.register_for_checkpointing(evaluator)
        for epoch in range(epochs):
            ...
            for noisy, clean in val_loader:  # prepared by the accelerator
                with torch.no_grad():
                    evaluator.update(model(noisy), clean)
            accelerator.log(evaluator.finish(f"epoch {epoch}"), step=epoch)
            if evaluator.improved:
                accelerator.save_state("best")

    The pictures that accelerate repeats to give every process a last batch of one size are counted once, where the
    loader's dataset has a length. The loss is not ``prepare``d and no part of a checkpoint: of the evaluator only the
    best figure and its tag are. Best by the mean, that is; for a verdict image by image, register a
    ``CheckpointSelector(sharded=True)`` beside it, and fill its ``tally`` in the same loop.

    Args:
        accelerator: the one of the loop.
        loss_fn: None makes a ``RelationalLoss`` with the bundled weights.

    Attributes:
        best: lowest mean distance so far, None before the first validation.
        best_tag: where it was, ``""`` before the first validation.
        improved: whether the last validation was the best so far; the same in every process.
    """

    def __init__(self, accelerator: Accelerator, loss_fn: RelationalLoss | None = None) -> None:
        self.accelerator = accelerator
        self.loss_fn = RelationalLoss() if loss_fn is None else loss_fn
        self.best: float | None = None
        self.best_tag = ""
        self.improved = False
        self._mean = RunningMean()

    def update(self, pred: Tensor, ref: Tensor) -> None:
        """Take in a batch; every process calls this equally often, within the loop over the prepared loader.

        Args:
            pred: (B, 3, H, W) in the loss's ``data_range``, this process's part.
            ref: the originals, same shape and device.

        Raises:
            TypeError, ValueError: not a pair of image batches.
        """
        self._mean.add(self.accelerator.gather_for_metrics(measure(self.loss_fn, pred, ref)))

    def finish(self, tag: str) -> dict[str, float]:
        """End a validation: its means under ``relqa_loss.integrations.common.NAMES``, equal in all processes.

        Args:
            tag: a name for the state of the model, e.g. a step.

        Raises:
            ValueError: no image since the last one.
        """
        means = self._mean.means()
        self._mean.reset()
        # A model that diverged is no best, nor the end of the loop.
        self.improved = math.isfinite(means[DISTANCE]) and (self.best is None or means[DISTANCE] < self.best)
        if self.improved:
            self.best, self.best_tag = means[DISTANCE], tag
        return means

    def state_dict(self) -> dict[str, Any]:
        """The best figure so far and its tag."""
        return {"best": self.best, "best_tag": self.best_tag}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.best, self.best_tag = state["best"], state["best_tag"]
