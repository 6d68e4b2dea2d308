"""From two finished stages to a weights folder with its model card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import weights as weights_module
from ..distortions.availability import can_run
from ..distortions.bank import BANK
from ..evaluation.engine_scores import evaluate
from ..evaluation.model_card import model_card
from ..losses import RelationalLoss
from ..predictor import DistortionPredictor
from ..scorer import RelationalScorer


def release(
    folder: Path,
    predictor: DistortionPredictor,
    scorer: RelationalScorer,
    provenance: dict[str, Any],
    *,
    name: str,
    sources: Sequence[tuple[str, str]] = (),
    test_photographs: Sequence[Tensor] = (),
    progress: Callable[[str], None] | None = None,
    measured: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any] | None:
    """Write a weights folder; with test photographs, measure the weights as they were written and put that in the card.

    Args:
        folder: of the weights.
        predictor: averaged.
        scorer: averaged.
        provenance: as ``provenance_of`` returns it.
        name: title of the card.
        sources: (source, licence) of the photographs, for the card.
        test_photographs: (3, H, W) in [0, 1] that no training saw, on the device to measure on.
        progress: called with a line of text after each operator.
        measured: called with the figures, before the card is written with them.

    Returns:
        The figures, or None without test photographs.
    """
    if sources:
        # With the weights, so that the card can be written again.
        provenance = provenance | {"sources": [list(pair) for pair in sources]}

    def save(evaluation: dict[str, Any] | None) -> None:
        weights_module.save(
            folder,
            predictor={key: tensor.float() for key, tensor in predictor.state_dict().items()},
            predictor_config=predictor.config,
            scorer={key: tensor.float() for key, tensor in scorer.state_dict().items()},
            scorer_config=scorer.config,
            provenance=provenance,
            card=model_card(name, provenance, evaluation, sources),
        )

    save(None)
    if not test_photographs:
        return None
    loss_fn = RelationalLoss(folder).to(test_photographs[0].device)
    # A training may have done without a codec that is missing here.
    operators = [one for one in BANK if can_run(one)]
    evaluation = evaluate(loss_fn, test_photographs, distortions=operators, progress=progress)
    if measured is not None:
        measured(evaluation)
    save(evaluation)
    return evaluation
