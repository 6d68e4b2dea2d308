"""Where a run starts from, if not from chance: the average of another run, or weights that are already there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import weights
from ..digests import without_parts
from ..evaluation.engine_cases import trained_without
from ..predictor import DistortionPredictor
from ..scorer import RelationalScorer
from .loop import CHECKPOINT, average_in, read_checkpoint
from .recipe import Recipe

DECODING = ("decoder", "competition")
"""The parts of a predictor that learn where only its maps do: all that has to do with maps alone, but the hints, which
are taught with the features that they read."""

UNRECORDED: tuple[dict[str, Any], ...] = ({"unrecorded": True},)
"""Stands for the runs before one that recorded none, if there were any."""


@dataclass(frozen=True)
class Start:
    """What a predictor run starts from.

    Attributes:
        predictor: with its trained weights.
        trained_without: names of the operators that their training is known not to have seen; none where nothing tells.
        runs: what is known of the predictor runs that led to it, the first one first, as :func:`account_of` gives them;
            runs of earlier versions left steps and seconds alone, and of those before them nothing (``UNRECORDED``).
    """

    predictor: DistortionPredictor
    trained_without: tuple[str, ...] = ()
    runs: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class ScorerStart:
    """What a scorer run starts from.

    Attributes:
        scorer: with its trained weights.
        predictor: the tensors, by name, of the predictor that it was trained on.
        runs: what is known of the scorer runs that led to it, the first one first, as :func:`account_of` gives them.
    """

    scorer: RelationalScorer
    predictor: Mapping[str, Tensor]
    runs: tuple[dict[str, Any], ...] = ()


def account_of(recipe: Mapping[str, Any], stage_name: str = "predictor", further: Sequence[str] = ()) -> dict[str, Any]:
    """What later runs and the model card tell of a stage's run, from its recipe as a dictionary.

    ``further``: names of operators beside the recipe's.
    """
    stage = recipe[stage_name]
    # Recipes of earlier versions knew nothing but whole predictors.
    trained = stage.get("trained", "all")
    account = {"recipe": recipe["name"], "seed": recipe["seed"], "trained": trained, "steps": stage["steps"]}
    return {**account, "further_operators": list(further)} if further else account


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
        state = read_checkpoint(checkpoint, ("average", "step", "seconds"))
        tensors, name = average_in(state), str(checkpoint)
        # Checkpoints of earlier versions have no record.
        record = state.get("record", {})
        unseen = tuple(record.get("trained_without", ()))
        last = {**record.get("run", {}), "steps": state["step"], "seconds": round(state["seconds"])}
        runs = (*record.get("earlier_runs", UNRECORDED), last)
    else:
        loaded = weights.fetch(source)
        tensors, name = loaded.predictor, f"{loaded.folder / weights.PREDICTOR_FILE}"
        provenance = loaded.config.get("provenance", {})
        unseen = trained_without(provenance)
        runs = tuple(provenance.get("earlier_runs", () if provenance.get("start_sha256") is None else UNRECORDED))
        if "recipe" in provenance:
            account = account_of(provenance["recipe"], further=provenance.get("further_operators", ()))
            runs = (*runs, account | {"seconds": provenance["predictor_seconds"]})
    weights.load_strictly(predictor, tensors, name)
    return Start(predictor, unseen, runs)


def start_scorer_from(source: str | Path) -> ScorerStart:
    """The scorer of finished weights, to go on from.

    Args:
        source: weights as :class:`relqa_loss.RelationalLoss` takes them.

    Raises:
        ValueError: nothing there, or damaged weights.
    """
    loaded = weights.fetch(source)
    file_name = f"{loaded.folder / weights.SCORER_FILE}"
    scorer = weights.build(RelationalScorer, loaded.config["scorer"], loaded.scorer, file_name)
    provenance = loaded.config.get("provenance", {})
    runs = tuple(provenance.get("earlier_scorer_runs", ()))
    if "recipe" in provenance:
        seconds = {"seconds": provenance["scorer_seconds"]}
        further = provenance.get("further_operators", ())
        runs = (*runs, account_of(provenance["recipe"], "scorer", further) | seconds)
    return ScorerStart(scorer, loaded.predictor, runs)


def check_same_distance(start: ScorerStart, predictor: DistortionPredictor) -> None:
    """ValueError unless the scorer's distance on this predictor is what it was on its own, to the last bit."""
    for name, tensor in without_parts(predictor, predictor.map_making()).items():
        if name not in start.predictor or not torch.equal(tensor.cpu(), start.predictor[name].to(tensor.dtype)):
            raise ValueError(
                f"start must be a scorer of this predictor where trained is 'judgement', got one whose predictor "
                f"differs in {name!r}: its distance would be another (--scorer-from on the command line)"
            )


def unseen_operators(recipe: Recipe, start: Start | None) -> tuple[str, ...]:
    """Operators that the recipe holds out and that its start is known not to have seen either."""
    held_out = recipe.data.held_out
    return held_out if start is None else tuple(name for name in held_out if name in start.trained_without)
