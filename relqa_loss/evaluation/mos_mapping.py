"""Distances on a scale of opinion scores: a fitted logistic that can be kept in a file.

A mapping belongs to the dataset it was fitted on, with its display, viewing distance, rating scale and choice of
distortions, and to the weights whose distances were mapped. It says what those viewers would have said of such
pictures; on another dataset, or with other weights, it says nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..files import write_whole
from .logistic import Parameters, direction, fit_monotone, slope
from .statistics import spearman

FORMAT = "relqa_loss MOS mapping 2"
"""First entry of the file."""


@dataclass(frozen=True)
class MOSMapping:
    """Maps distances to opinion scores; call it with a tensor of distances.

    Inside ``distances`` it is the five-parameter logistic of :mod:`relqa_loss.evaluation.logistic`. Beyond, it goes on
    along the tangent at the end, so that it stays monotone and differentiable; such values are extrapolated and may
    leave the rating scale.

    Attributes:
        parameters: b1 to b5.
        distances: smallest and largest distance of the fit.
        scores: smallest and largest opinion score of the fit.
        direction: -1 if scores fall as distances rise (higher score = better quality), 1 if they rise.
        dataset: what it was fitted on.
        scale: what the scores are.
        pairs: number of pairs of the fit.
        pearson: linear correlation of mapped distances and scores in the fit, > 0.
        spearman: rank correlation of distances and scores in the fit, with its sign.
        rmse: root mean square error of the fit, in units of the scores.
        distance_sha256: of what the distances depended on, ``RelationalLoss.info()["distance"]``; "" if unknown.

    Raises:
        ValueError: parameters or ranges that are not finite or not ordered, a mapping that is not monotone over
            ``distances`` or not of this direction.
    """

    parameters: Parameters
    distances: tuple[float, float]
    scores: tuple[float, float]
    direction: int
    dataset: str
    scale: str
    pairs: int
    pearson: float
    spearman: float
    rmse: float
    distance_sha256: str

    def __post_init__(self) -> None:
        for name, values, count in (
            ("parameters", self.parameters, 5),
            ("distances", self.distances, 2),
            ("scores", self.scores, 2),
        ):
            if len(values) != count or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} must be {count} finite numbers, got {values}")
        for name, (low, high) in (("distances", self.distances), ("scores", self.scores)):
            if not low < high:
                raise ValueError(f"{name} must rise, got {low} to {high}")
        found = direction(self.parameters, *self.distances)
        if found == 0:
            raise ValueError(
                f"the mapping is not monotone between distances {self.distances[0]} and {self.distances[1]}"
            )
        if found != self.direction:
            raise ValueError(f"direction must be {found} for these parameters, got {self.direction}")

    @classmethod
    def fit(
        cls,
        distances: ArrayLike,
        scores: ArrayLike,
        *,
        dataset: str,
        scale: str = "",
        distance_sha256: str = "",
    ) -> MOSMapping:
        """Least-squares fit; where all five parameters make a curve that turns, the best one with b4 = 0.

        Args:
            distances: at least 6 finite distances, not all equal.
            scores: as many opinion scores; their direction is found and kept.
            dataset: what they come from.
            scale: what the scores are.
            distance_sha256: ``RelationalLoss.info()["distance"]`` of the loss whose distances they are.

        Raises:
            ValueError: values that cannot be fitted, or no monotone mapping.
            MissingExtra: SciPy, which only the fit needs, is not installed.
        """
        fit = fit_monotone(distances, scores)
        x = [float(value) for value in torch.as_tensor(distances, dtype=torch.float64).flatten()]
        y = [float(value) for value in torch.as_tensor(scores, dtype=torch.float64).flatten()]
        return cls(
            parameters=fit.parameters,
            distances=(min(x), max(x)),
            scores=(min(y), max(y)),
            direction=fit.direction,
            dataset=dataset,
            scale=scale,
            pairs=len(x),
            pearson=fit.pearson,
            spearman=spearman(x, y),
            rmse=fit.rmse,
            distance_sha256=distance_sha256,
        )

    def __call__(self, distance: Tensor) -> Tensor:
        """Opinion scores of distances: same shape, dtype and device, differentiable.

        Computed in float32 at least.

        Raises:
            TypeError: not a floating-point tensor.
        """
        if not isinstance(distance, Tensor) or not distance.is_floating_point():
            raise TypeError(f"distance must be a floating-point tensor, got {distance!r}")
        b1, b2, b3, b4, b5 = self.parameters
        low, high = self.distances
        x = distance.to(torch.promote_types(distance.dtype, torch.float32))
        inside = x.clamp(low, high)
        mapped = b1 * 0.5 * torch.tanh(b2 * (inside - b3) / 2) + b4 * inside + b5
        first, last = (float(value) for value in slope([low, high], self.parameters))
        # clamp sends no gradient beyond the ends: the tangents carry it there.
        beyond = first * (x - low).clamp(max=0) + last * (x - high).clamp(min=0)
        return (mapped + beyond).to(distance.dtype)

    def save(self, path: str | Path) -> Path:
        """Write the mapping as JSON; returns the path."""
        path = Path(path)
        content = {"format": FORMAT, **asdict(self)}
        write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path, *, distance_sha256: str | None = None) -> MOSMapping:
        """Read a mapping and check it.

        Args:
            path: a file that :meth:`save` wrote.
            distance_sha256: ``RelationalLoss.info()["distance"]`` of the loss whose distances are to be mapped, which
                changes with its weights and with its axis weights; None skips the check.

        Raises:
            ValueError: no such file, not a mapping, entries that are missing, of another type or contradict one
                another, or another distance than the one it was fitted with.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read the MOS mapping {path}: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path} is not a MOS mapping of the format {FORMAT!r}")
        try:
            mapping = cls(**{field.name: _entry(content, field.name) for field in fields(cls)})
        except ValueError as error:
            raise ValueError(f"MOS mapping {path}: {error}") from error
        if distance_sha256 not in (None, mapping.distance_sha256):
            raise ValueError(
                f"MOS mapping {path} was fitted with another distance, of other weights or axis weights: "
                f"{mapping.distance_sha256[:12] or 'an unknown one'}, not {distance_sha256[:12]}"
            )
        return mapping


_NUMBERS = {"pearson", "spearman", "rmse"}
_TUPLES = {"parameters", "distances", "scores"}
_WHOLE = {"direction", "pairs"}
_TEXTS = {"dataset", "scale", "distance_sha256"}


def _entry(content: Mapping[str, Any], name: str) -> Any:
    """One entry in the type that the mapping keeps it in; ValueError otherwise."""
    if name not in content:
        raise ValueError(f"the entry {name!r} is missing")
    value = content[name]
    if name in _TUPLES and isinstance(value, list) and all(_is_number(item) for item in value):
        return tuple(float(item) for item in value)
    if name in _NUMBERS and _is_number(value) and math.isfinite(value):
        return float(value)
    if name in _WHOLE and isinstance(value, int) and not isinstance(value, bool):
        return value
    if name in _TEXTS and isinstance(value, str):
        return value
    raise ValueError(f"the entry {name!r} has another type: {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
