"""Lightning 2.x: log the distance in validation and keep the best checkpoint by comparison (extra ``lightning``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..losses import RelationalLoss
from ..selection import BETTER, CheckpointSelector, Verdict
from ..validation import check_pair

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:
        from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]
    except ImportError as error:
        raise ImportError('this needs Lightning 2.x: pip install "relqa_loss[lightning]"') from error

Predict = Callable[[LightningModule, Any], tuple[Tensor, Tensor]]


class RelqaCallback(Callback):
    """Judges validation outputs: logs their mean distance and saves the checkpoint that wins by pairwise comparison.

    The mean is logged as ``monitor``, synchronised over processes, so ``ModelCheckpoint(monitor="val/relqa")`` works as
    with any metric. Beside it, the first ``max_images`` validation images are compared one by one with what the best
    checkpoint so far made of them (:class:`relqa_loss.CheckpointSelector`), which tells a real gain from a lucky mean.
    Under several processes the first one's images decide, and all share the verdict. The validation loader must give
    the same images in the same order.

    The loss network lives in the callback: it is no part of the module, its optimiser or its ``state_dict``.

    Args:
        predict: ``(module, batch) -> (pred, ref)``, both (B, 3, H, W); runs under ``no_grad`` and the trainer's
            precision.
        loss_fn: None makes a ``RelationalLoss`` with the bundled weights.
        monitor: name of the logged mean distance; lower is better.
        dirpath: folder of the best checkpoint; None takes ``relqa`` under the trainer's ``default_root_dir``.
        max_images: validation images used for the comparison; the first process keeps their references, and their
            outputs until the epoch ends. A checkpoint holds some numbers for each, no picture.
        level: confidence a verdict needs; at 0.95 fewer than six images can never decide.

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
        max_images: int = 64,
        level: float = 0.95,
    ) -> None:
        super().__init__()
        if max_images < 1:
            raise ValueError(f"max_images must be at least 1, got {max_images}")
        self.predict = predict
        self.loss_fn = RelationalLoss() if loss_fn is None else loss_fn
        self.monitor = monitor
        self.dirpath = None if dirpath is None else Path(dirpath)
        self.max_images = max_images
        self.level = level
        self.best_path = ""
        self.verdicts: list[Verdict] = []
        self._selector: CheckpointSelector | None = None
        self._restored: dict[str, Any] | None = None
        self._reset()

    def _reset(self) -> None:
        self._total, self._count = 0.0, 0
        self._count_everywhere = 0
        self._outputs: list[Tensor] = []
        self._references: list[Tensor] = []

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint; differs by monitor, so two callbacks can live side by side."""
        return self._generate_state_key(monitor=self.monitor)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the previous epoch's images."""
        self._reset()

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
        """Judge one batch and keep its first images for the comparison."""
        if trainer.sanity_checking:
            return
        with trainer.precision_plugin.forward_context():
            pred, ref = self.predict(pl_module, batch)
        check_pair("pred", pred, "ref", ref)
        pred, ref = pred.detach(), ref.detach()
        self.loss_fn.to(pred.device)
        self._total += float(self.loss_fn.relate(pred, ref).distance.double().sum())
        self._count += pred.shape[0]
        room = self.max_images - len(self._outputs)
        if room > 0 and trainer.is_global_zero:
            self._outputs.extend(pred[:room].cpu())
            self._references.extend(ref[:room].cpu())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the mean distance over the images of all processes."""
        if trainer.sanity_checking:
            return
        # Every process gets here and takes part, also one that was given no batch: the others would wait for it.
        sums = torch.tensor([self._total, float(self._count)], device=trainer.strategy.root_device)
        total, count = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        self._count_everywhere = round(count)
        if count == 0:
            return
        # prog_bar stays off: the bar is the user's, and the logger has the value.
        pl_module.log(self.monitor, total / count, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """During a fit: compare with the best checkpoint so far, and save this one if it wins.

        Raises:
            ValueError: the comparison is not possible, in every process.
        """
        fitting = trainer.state.fn is not None and trainer.state.fn.value == "fit"
        if trainer.sanity_checking or getattr(trainer, "fast_dev_run", False) or not fitting:
            return
        if self._count_everywhere == 0:
            return
        verdict = self._shared_verdict(trainer)
        self.verdicts.append(verdict)
        if verdict.decision != BETTER:
            return
        folder = self.dirpath or Path(trainer.default_root_dir) / "relqa"
        self.best_path = str(folder / "relqa-best.ckpt")
        trainer.save_checkpoint(self.best_path)

    def _shared_verdict(self, trainer: Trainer) -> Verdict:
        """The first process compares; all get its verdict, or all raise: nobody is left waiting."""
        verdict: Verdict | None = None
        failure: Exception | None = None
        if trainer.is_global_zero:
            try:
                verdict = self._compare(trainer.global_step)
            except (ValueError, TypeError, RuntimeError, MemoryError) as error:
                failure = error
        told = None if failure is None else f"{type(failure).__name__}: {failure}"
        verdict, told = trainer.strategy.broadcast((verdict, told))
        if failure is not None:
            raise failure
        if verdict is None:
            raise ValueError(f"the comparison failed in the first process: {told}")
        return verdict

    def _compare(self, step: int) -> Verdict:
        if not self._references:
            raise ValueError(
                "the first process was given no validation image, and its images decide: give it some, or use one "
                "process"
            )
        if self._selector is None:
            self._selector = CheckpointSelector(self._references, self.loss_fn, level=self.level)
            if self._restored is not None:
                self._selector.load_state_dict(self._restored)
                self._restored = None
        elif not _same(self._references, self._selector.references):
            raise ValueError(
                "validation gave other references than in the first epoch: the comparison needs the same images in the "
                "same order (no shuffling, no random crops)"
            )
        verdict = self._selector.update(self._outputs, f"step={step}")
        self._outputs = []
        return verdict

    def state_dict(self) -> dict[str, Any]:
        """Path and distances of the best checkpoint: tensors, numbers and strings."""
        state: dict[str, Any] = {"best_path": self.best_path}
        if self._selector is not None:
            state["selector"] = self._selector.state_dict()
        elif self._restored is not None:
            state["selector"] = self._restored
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best checkpoint so far; its images are checked at the first comparison."""
        self.best_path = state_dict["best_path"]
        self._restored = state_dict.get("selector")
        self._selector = None


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
