"""Hugging Face ``Trainer``: the distance among its evaluation metrics, for its best-model selection to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..losses import RelationalLoss
from .common import DISTANCE, NAMES, RunningMean, measure

if TYPE_CHECKING:
    from transformers import EvalPrediction

Images = Callable[[Any, Any], tuple[Tensor, Tensor]]


class RelqaMetrics:
    """``compute_metrics`` of an image-to-image ``Trainer``, in memory that does not grow with the evaluation set.

    ::

        relqa = RelqaMetrics()
        arguments = TrainingArguments(..., batch_eval_metrics=True, metric_for_best_model="relqa_loss",
                                      load_best_model_at_end=True)
        trainer = Trainer(model, arguments, ..., compute_metrics=relqa,
                          preprocess_logits_for_metrics=relqa.preprocess)

    :meth:`preprocess` turns the pictures that a process has restored into some numbers each, before the ``Trainer``
    gathers predictions; ``batch_eval_metrics=True`` lets it drop the labels of a batch as well, which it else keeps for
    the whole evaluation. The metric is ``eval_relqa_loss``, the mean distance: the ``Trainer`` takes a metric whose
    name ends in ``loss`` for one that should fall. ``Trainer.predict`` returns the numbers too, in place of pictures.

    Args:
        loss_fn: None makes a ``RelationalLoss`` with the bundled weights.
        images: ``(logits, labels) -> (pred, ref)``, both (B, 3, H, W) in the loss's ``data_range``, where ``logits``
            is what the model returns beside its loss. None takes both as they are, and of several outputs the first.
        per_axis: report the distance's part on each axis too (``eval_relqa_blur``, ...). To select by one,
            ``TrainingArguments`` needs ``greater_is_better=False``: only names that end in ``loss`` are taken as such.
    """

    def __init__(
        self, loss_fn: RelationalLoss | None = None, images: Images | None = None, *, per_axis: bool = False
    ) -> None:
        self.loss_fn = RelationalLoss() if loss_fn is None else loss_fn
        self.images = _first if images is None else images
        self.per_axis = per_axis
        self._mean = RunningMean()

    def preprocess(self, logits: Any, labels: Any) -> Tensor:
        """For ``preprocess_logits_for_metrics``: a batch's distances and parts, (B, 1 + len(AXES)).

        Raises:
            TypeError, ValueError: not a pair of image batches.
        """
        pred, ref = self.images(logits, labels)
        return measure(self.loss_fn, pred, ref)

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """For ``compute_metrics``, with ``batch_eval_metrics`` or without.

        Args:
            prediction: what :meth:`preprocess` made, of a batch or of all.
            compute_result: whether this ends the evaluation.

        Returns:
            The means by name at the end of an evaluation, else nothing.

        Raises:
            ValueError: :meth:`preprocess` was not given to the ``Trainer``.
        """
        rows = torch.as_tensor(prediction.predictions)
        if rows.ndim != 2 or rows.shape[1] != len(NAMES):
            raise ValueError(
                f"predictions must be what preprocess makes, (B, {len(NAMES)}), got {tuple(rows.shape)}: give the "
                "Trainer preprocess_logits_for_metrics=relqa.preprocess"
            )
        self._mean.add(rows)
        if not compute_result:
            return {}
        means = self._mean.means()
        self.reset()
        return means if self.per_axis else {DISTANCE: means[DISTANCE]}

    def reset(self) -> None:
        """Forget the batches of an evaluation that was broken off; one that ends does so by itself."""
        self._mean.reset()


def _first(logits: Any, labels: Any) -> tuple[Tensor, Tensor]:
    return (logits[0] if isinstance(logits, tuple | list) else logits), labels
