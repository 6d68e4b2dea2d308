"""What the engine-based figures are counted in: one row an operator, and the summary over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ..distortions.record import Distortion
from ..relation import AXES, SHIFT_AXES, TONE_AXES
from .statistics import lowest_of, mean_of, median_of, spearman


@dataclass
class Count:
    """Right answers among those asked."""

    right: int = 0
    asked: int = 0

    def add(self, right: Tensor, counted: Tensor) -> None:
        """Count answers (B,), bool, where ``counted`` (B,), bool."""
        self.right += int((right & counted).sum())
        self.asked += int(counted.sum())

    def __iadd__(self, other: Count) -> Count:
        self.right += other.right
        self.asked += other.asked
        return self

    def share(self) -> float | None:
        """Share of right answers; None if none was asked."""
        return self.right / self.asked if self.asked else None


@dataclass
class Row:
    """Everything measured of one operator.

    Attributes:
        axis: argmax of the axes.
        sign: signs, by axis with a declared effect.
        ladder: all pairs of the ladders.
        neighbours: pairs of the ladders that lie one step apart.
        inclusion: pairs of nested regions.
        unanchored: pairs of severities, without the reference.
        strength: mean |map|, one a visible pair, by channel of the axes that the operator acts on in full.
        stray: mean |map| of the axes with no declared effect, one a visible pair.
        severity: severities of the same pairs.
        laid_down: what ``strength`` would be if the maps were the engine's own: severity where an operator acts evenly;
            where it does not, and for displacements, what it came to in this picture.
        areas: ROC-AUC of the region, one a picture.
        transitive: triples of its severities, without the reference: those without a cycle.
        top_three: pictures of this and another operator on which a right axis of both is among the strongest three.
        shift_errors: end-point errors in pixels, one a picture.
        scene_severity: severities of the pictures of all photographs.
        scene_distance: distances of the same pictures.
        left_out: pairs without a visible pixel.
    """

    axis: Count = field(default_factory=Count)
    sign: dict[str, Count] = field(default_factory=dict)
    ladder: Count = field(default_factory=Count)
    neighbours: Count = field(default_factory=Count)
    inclusion: Count = field(default_factory=Count)
    unanchored: Count = field(default_factory=Count)
    strength: dict[int, list[float]] = field(default_factory=dict)
    stray: list[float] = field(default_factory=list)
    severity: list[float] = field(default_factory=list)
    laid_down: dict[int, list[float]] = field(default_factory=dict)
    areas: list[float] = field(default_factory=list)
    transitive: Count = field(default_factory=Count)
    top_three: Count = field(default_factory=Count)
    shift_errors: list[float] = field(default_factory=list)
    scene_severity: list[float] = field(default_factory=list)
    scene_distance: list[float] = field(default_factory=list)
    left_out: int = 0

    def sign_share(self, axes: Sequence[str]) -> float | None:
        """Share of right signs over those of ``axes`` that the operator acts on."""
        counts = [count for name, count in self.sign.items() if name in axes]
        asked = sum(count.asked for count in counts)
        return sum(count.right for count in counts) / asked if asked else None

    def leakage(self) -> float | None:
        """Mean |map| off the declared axes over that on the right ones; None where these never respond."""
        on_axis = sum(over_channels(self.strength))
        return sum(self.stray) / on_axis if on_axis > 0 else None


def over_channels(values: Mapping[int, Sequence[float]]) -> list[float]:
    """The mean over an operator's axes, one a visible pair."""
    return [float(np.mean(pair)) for pair in zip(*values.values(), strict=True)]


def strongest_axes(distortion: Distortion) -> tuple[int, ...]:
    """Channels of the axes that an operator acts on in full."""
    return tuple(AXES.index(name) for name, effect in distortion.effects.items() if abs(effect) == 1.0)


def has_sign(distortion: Distortion) -> bool:
    """False where no sign is right: no trace in the pair, or one that differs from place to place or draw to draw."""
    return distortion.trace and distortion.one_direction


def summary(bank: Sequence[Distortion], rows: Mapping[str, Row]) -> dict[str, Any]:
    """The figures, each the mean over the operators that have it, with one entry an operator beside them."""
    table = {distortion.name: _entry(distortion, rows[distortion.name]) for distortion in bank}
    per_axis: dict[str, float | None] = {}
    nominal: dict[str, float | None] = {}
    own: dict[str, float | None] = {}
    for channel, name in enumerate(AXES):
        members = [rows[d.name] for d in bank if channel in strongest_axes(d)]
        severity = [s for row in members for s in row.severity]
        # the map of this very axis: that of another one, on which the operator acts too, says nothing of it
        strength = [s for row in members for s in row.strength.get(channel, ())]
        laid_down = [t for row in members for t in row.laid_down.get(channel, ())]
        per_axis[name] = _following(laid_down, strength)
        nominal[name] = _following(severity, strength)
        own[name] = _following(severity, laid_down)

    def mean(figure: str) -> float | None:
        return mean_of(entry[figure] for entry in table.values())

    return {
        "axis_accuracy": mean("axis_accuracy"),
        "sign_accuracy": {
            "tone": mean_of(row.sign_share(TONE_AXES) for row in rows.values()),
            "shift": mean_of(row.sign_share(SHIFT_AXES) for row in rows.values()),
            "all": mean("sign_accuracy"),
        },
        "localisation_auc": mean("localisation_auc"),
        "severity_spearman": _over_axes(per_axis),
        "nominal_severity_spearman": _over_axes(nominal),
        "nominal_severity_of_own_maps": _over_axes(own),
        "leakage": mean("leakage"),
        "ladder_accuracy": mean("ladder_accuracy"),
        "ladder_neighbour_accuracy": mean("ladder_neighbour_accuracy"),
        "inclusion_accuracy": mean("inclusion_accuracy"),
        "unanchored_accuracy": mean("unanchored_accuracy"),
        "two_operator_top3": mean("two_operator_top3"),
        "two_operator_pictures": sum(row.top_three.asked for row in rows.values()),
        "shift_endpoint_error_px": mean("shift_endpoint_error_px"),
        "scene_spearman": {
            "median": median_of(entry["scene_spearman"] for entry in table.values()),
            "min": lowest_of(entry["scene_spearman"] for entry in table.values()),
        },
        "without_sign": [d.name for d in bank if not has_sign(d)],
        "per_operator": table,
    }


def _over_axes(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {"mean": mean_of(values.values()), "min": lowest_of(values.values()), **values}


def _following(severity: Sequence[float], strength: Sequence[float]) -> float | None:
    """Spearman of what maps show with what is there: 0 where they never move, None if there is nothing to follow."""
    found = _known(spearman(severity, strength))
    return 0.0 if found is None and np.ptp(severity or [0.0]) > 0 else found


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _entry(distortion: Distortion, row: Row) -> dict[str, Any]:
    return {
        "axes": dict(distortion.effects),
        "pairs": row.axis.asked,
        "left_out": row.left_out,
        "axis_accuracy": row.axis.share(),
        "sign_accuracy": row.sign_share(AXES),
        "localisation_auc": mean_of(row.areas),
        "severity_spearman": _following(over_channels(row.laid_down), over_channels(row.strength)),
        "leakage": row.leakage(),
        "ladder_accuracy": row.ladder.share(),
        "ladder_neighbour_accuracy": row.neighbours.share(),
        "inclusion_accuracy": row.inclusion.share(),
        "unanchored_accuracy": row.unanchored.share(),
        "transitivity": row.transitive.share(),
        "two_operator_top3": row.top_three.share(),
        "shift_endpoint_error_px": mean_of(row.shift_errors),
        "scene_spearman": _known(spearman(row.scene_severity, row.scene_distance)),
    }
