"""What a run depends on: fingerprints that a resumed run must match, and the record that weights carry."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..digests import digest_of, tensors_digest, without_parts
from ..distortions import Distortion
from ..distortions.availability import can_run, missing_codecs
from ..distortions.bank import BANK, SEVERITY_FILE, by_name
from ..predictor import DistortionPredictor
from .data import Photographs
from .kept_cells import CONTENT
from .recipe import Recipe
from .start import ScorerStart, Start, unseen_operators


def _severity_table() -> bytes:
    return (importlib.resources.files("relqa_loss.distortions") / SEVERITY_FILE).read_bytes()


def fingerprint(
    recipe: Recipe,
    stage: str,
    photographs: Photographs,
    *bases: nn.Module | None,
    further: Sequence[Distortion] = (),
) -> str:
    """sha256 over what decides a stage's result.

    Args:
        recipe: its values for this stage; not those that only decide how a run is watched.
        stage: ``"predictor"`` or ``"scorer"``.
        photographs: names and contents.
        bases: the networks that the stage builds on or starts from; None counts nothing.
        further: operators beside the recipe's. Their values count; what their functions do cannot be seen.
    """
    known = [tensors_digest(base) for base in bases if base is not None]
    return _fingerprint(recipe, stage, photographs, known, further)


def fingerprint_of_pairs(
    recipe: Recipe, photographs: Photographs, predictor: DistortionPredictor, further: Sequence[Distortion] = ()
) -> str:
    """sha256 over what kept pairs hold (:mod:`.kept_cells`), whatever the competition then learns from them.

    The version of this package counts, and :data:`.kept_cells.CONTENT` between versions: what lies in a folder may come
    from an engine or networks that have changed since.
    """
    before = without_parts(predictor, (predictor.competition,))
    return _fingerprint(recipe, "pairs", photographs, [digest_of(before), __version__, str(CONTENT)], further)


def _fingerprint(
    recipe: Recipe, stage: str, photographs: Photographs, bases: Sequence[str], further: Sequence[Distortion]
) -> str:
    digest = hashlib.sha256(recipe.digest(stage).encode())
    digest.update(photographs.digest.encode())
    digest.update(_severity_table())
    digest.update(json.dumps([(one.name, one.effects) for one in BANK], sort_keys=True).encode())
    for base in bases:
        digest.update(base.encode())
    if recipe.data.missing_codecs == "skip":
        # What is left out here may not be left out elsewhere. With nothing missing it is the data of "raise".
        for name in missing_codecs([*map(by_name, recipe.data.operators()), *further]):
            digest.update(f"without {name}".encode())
    for one in further:
        values = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
        plain = {name: value for name, value in values.items() if not callable(value)}
        digest.update(json.dumps(plain, sort_keys=True).encode())
    return digest.hexdigest()


def runnable(further: Sequence[Distortion]) -> list[str]:
    """Names of those operators whose codec is here: the others have not taken part."""
    return [one.name for one in further if can_run(one)]


def provenance_of(
    recipe: Recipe,
    photographs: Photographs,
    *,
    start: Start | None,
    scorer_start: ScorerStart | None = None,
    further: Sequence[Distortion] = (),
    predictor_seconds: float,
    scorer_seconds: float,
    device: torch.device,
    processes: int = 1,
) -> dict[str, Any]:
    """What weights come from, as JSON can hold it; device and processes are those of the scorer's run."""
    table = _severity_table()
    threads = torch.get_num_threads()
    plural = "" if threads == 1 else "s"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{threads} CPU thread{plural}"
    if processes > 1:
        where = f"{processes} processes, {where} each"
    return {
        "recipe": recipe.as_dict(),
        "recipe_sha256": recipe.digest(),
        "start_sha256": None if start is None else tensors_digest(start.predictor),
        "earlier_runs": [] if start is None else list(start.runs),
        "earlier_scorer_runs": [] if scorer_start is None else list(scorer_start.runs),
        "further_operators": runnable(further),
        "trained_without": list(unseen_operators(recipe, start)),
        "data_sha256": photographs.digest,
        "training_photographs": len(photographs.training),
        "validation_photographs": len(photographs.validation),
        "severity_sha256": hashlib.sha256(table).hexdigest(),
        "panel": json.loads(table)["provenance"]["panel"],
        "predictor_seconds": round(predictor_seconds),
        "scorer_seconds": round(scorer_seconds),
        "device": where,
        "relqa_loss": __version__,
        "torch": torch.__version__,
    }
