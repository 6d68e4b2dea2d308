"""Where a run starts from, if not from chance: the average of another run, or weights that are already there."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from .. import weights
from .loop import CHECKPOINT, average_in, read_checkpoint


def start_from(predictor: nn.Module, source: str | Path) -> None:
    """Fill a new predictor with trained weights, finished or not.

    Args:
        predictor: of the same architecture as those.
        source: folder of a predictor run, or weights as :class:`relqa_loss.RelationalLoss` takes them.

    Raises:
        ValueError: nothing there, or weights that do not fit.
    """
    checkpoint = Path(source) / CHECKPOINT
    if checkpoint.is_file():
        tensors, name = average_in(read_checkpoint(checkpoint, "cpu")), str(checkpoint)
    else:
        loaded = weights.load(weights.resolve(str(source)))
        tensors, name = loaded.predictor, f"{loaded.folder / weights.PREDICTOR_FILE}"
    weights.load_strictly(predictor, tensors, name)
