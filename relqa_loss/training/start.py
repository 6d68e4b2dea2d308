"""Where a run starts from, if not from chance: the average of another run, or weights that are already there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import weights
from ..evaluation.engine_cases import trained_without
from ..predictor import DistortionPredictor
from .loop import CHECKPOINT, average_in, read_checkpoint
from .recipe import Recipe


@dataclass(frozen=True)
class Start:
    """What a predictor run starts from.

    Attributes:
        predictor: with its trained weights.
        trained_without: names of the operators that their training is known not to have seen; none where nothing tells.
    """

    predictor: DistortionPredictor
    trained_without: tuple[str, ...] = ()


def start_from(predictor: DistortionPredictor, source: str | Path) -> Start:
    """Fill a new predictor with trained weights, finished or not.

    Args:
        predictor: of the same architecture as those.
        source: folder of a predictor run, or weights as :class:`relqa_loss.RelationalLoss` takes them.

    Returns:
        The predictor, and what its weights have not been trained on.

    Raises:
        ValueError: nothing there, or weights that do not fit.
    """
    checkpoint = Path(source) / CHECKPOINT
    if checkpoint.is_file():
        state = read_checkpoint(checkpoint, ("average",))
        tensors, name = average_in(state), str(checkpoint)
        # Checkpoints of earlier versions have no record.
        unseen = tuple(state.get("record", {}).get("trained_without", ()))
    else:
        loaded = weights.fetch(source)
        tensors, name = loaded.predictor, f"{loaded.folder / weights.PREDICTOR_FILE}"
        unseen = trained_without(loaded.config.get("provenance", {}))
    weights.load_strictly(predictor, tensors, name)
    return Start(predictor, unseen)


def unseen_operators(recipe: Recipe, start: Start | None) -> tuple[str, ...]:
    """Operators that the recipe holds out and that its start is known not to have seen either."""
    held_out = recipe.data.held_out
    return held_out if start is None else tuple(name for name in held_out if name in start.trained_without)
