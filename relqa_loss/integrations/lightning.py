"""Lightning 2.x: log the distance in validation and keep the best checkpoint by comparison (extra ``lightning``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..images import MissingExtra
from ..losses import RelationalLoss
from ..selection import CheckpointSelector, ImageScores, Verdict
from ..validation import check_pair
from .common import follow

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:
        from pytorch_lightning import Callback, LightningModule, Trainer
    except ImportError as error:
        raise MissingExtra("Lightning 2.x", "lightning") from error

Predict = Callable[[LightningModule, Any], tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Any]]


class RelqaCallback(Callback):
    """Judges validation outputs: logs their mean distance and saves the checkpoint that wins by pairwise comparison.

    The mean is logged as ``monitor``, over the images of all processes, so ``ModelCheckpoint(monitor="val/relqa")``
    works as with any metric. Beside it, the validation images are compared one by one with what the best checkpoint so
    far made of them (:class:`relqa_loss.CheckpointSelector`), which tells a real gain from a lucky mean. The validation
    loader must give the same images each time, in any order and split over the processes in any way; an image that
    ``DistributedSampler`` repeats counts once. Only numbers are kept of an image.

    The loss network lives in the callback: it is no part of the module, its optimiser or its ``state_dict``.

    Args:
        predict: ``(module, batch) -> (pred, ref)``, both (B, 3, H, W), or ``(pred, ref, ids)`` with a name for each
            image where several processes see one reference with different inputs; runs under ``no_grad`` and the
            trainer's precision.
        loss_fn: None makes a ``RelationalLoss`` with the bundled weights.
        monitor: name of the logged mean distance; lower is better.
        dirpath: folder of the best checkpoint; None takes ``relqa`` under the trainer's ``default_root_dir``.
        level: confidence a verdict needs; at 0.95 fewer than six images can never decide.
        directions: also decode the maps, so that ``verdict.why()`` tells "sharper" from "blurrier"; takes two to three
            times as long.

    Attributes:
        best_path: the checkpoint that has won so far, ``""`` before the first validation.
        verdicts: one for each validation epoch of the fit.
    """

    def __init__(
        self,
        predict: Predict,
        loss_fn: RelationalLoss | None = None,
        *,
        monitor: str = "val/relqa",
        dirpath: str | Path | None = None,
        level: float = 0.95,
        directions: bool = True,
    ) -> None:
        super().__init__()
        self.predict = predict
        self.loss_fn = RelationalLoss() if loss_fn is None else loss_fn
        self.monitor = monitor
        self.dirpath = None if dirpath is None else Path(dirpath)
        self.best_path = ""
        self.verdicts: list[Verdict] = []
        self._selector = CheckpointSelector(loss_fn=self.loss_fn, level=level, directions=directions, sharded=True)
        self._tally = self._selector.tally()
        self._scores: ImageScores | None = None

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint; differs by monitor, so two callbacks can live side by side."""
        return self._generate_state_key(monitor=self.monitor)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the previous epoch's images."""
        self._tally, self._scores = self._selector.tally(), None

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Judge one batch."""
        if trainer.sanity_checking:
            return
        with trainer.precision_plugin.forward_context():
            pred, ref, *ids = self.predict(pl_module, batch)
        check_pair("pred", pred, "ref", ref)
        follow(self.loss_fn, pred.device)
        self._tally.add(pred, ref, *ids)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the mean distance over the images of all processes."""
        if trainer.sanity_checking:
            return
        # Every process gets here and takes part, also one that was given no batch: the others would wait for it.
        self._scores = self._tally.scores()
        if len(self._scores) == 0:
            return
        mean = float(self._scores.distances.mean())
        # prog_bar stays off: the bar is the user's, and the logger has the value.
        pl_module.log(self.monitor, mean, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """During a fit: compare with the best checkpoint so far, and save this one if it wins.

        Raises:
            ValueError: validation gave other images than before, in every process.
        """
        fitting = trainer.state.fn is not None and trainer.state.fn.value == "fit"
        if trainer.sanity_checking or getattr(trainer, "fast_dev_run", False) or not fitting:
            return
        if self._scores is None or len(self._scores) == 0:
            return
        # All processes hold the same scores, and come to the same verdict.
        verdict = self._selector.judge(self._scores, f"step={trainer.global_step}")
        self.verdicts.append(verdict)
        if not verdict.promoted:
            return
        folder = self.dirpath or Path(trainer.default_root_dir) / "relqa"
        self.best_path = str(folder / "relqa-best.ckpt")
        trainer.save_checkpoint(self.best_path)

    def state_dict(self) -> dict[str, Any]:
        """Path and numbers of the best checkpoint: tensors, numbers and strings."""
        return {"best_path": self.best_path, "selector": self._selector.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best checkpoint so far; its images are checked at the first comparison."""
        self.best_path = state_dict["best_path"]
        self._selector.load_state_dict(state_dict["selector"])
