"""What weights should reach on the engine-based figures and as a loss that is descended, and whether they do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["share", "coefficient", "pixels", "decibels"]

REACHED, SHORT, NOT_ASKED = "reached", "short", "not asked"


def percent(share: float | None) -> str:
    """A share of 1 in percent: 100.0 only where it is whole, a dash for None."""
    if share is None:
        return "-"
    # All but a few in ten thousand are not all.
    nearly_all = 0.9995 <= share < 1
    return f"{min(100 * share, 99.99):.2f} %" if nearly_all else f"{100 * share:.1f} %"


@dataclass(frozen=True)
class Figure:
    """One number of an evaluation.

    Attributes:
        title: for people.
        path: keys that lead to it in the dictionary of the benchmark.
        unit: a share is shown in percent, 100.0 only where it is whole, a coefficient as it is, pixels with two places.
    """

    title: str
    path: tuple[str, ...]
    unit: Unit = "share"

    def measured(self, evaluation: Mapping[str, Any]) -> float | None:
        """Its value; None where it was not asked, as in the evaluation of an older version."""
        found: Any = evaluation
        for key in self.path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return None if found is None else float(found)

    def text(self, value: float | None) -> str:
        """A value in this figure's unit."""
        if value is None:
            return NOT_ASKED
        if self.unit == "share":
            return percent(value)
        if self.unit == "decibels":
            return f"{value:.1f} dB"
        return f"{value:.3f}" if self.unit == "coefficient" else f"{value:.2f} px"


@dataclass(frozen=True)
class Target:
    """What a figure should reach.

    Attributes:
        figure: which.
        goal: the least value that will do, or the largest.
        lower_is_better: True where ``goal`` is the largest.
    """

    figure: Figure
    goal: float
    lower_is_better: bool = False

    def verdict(self, value: float | None) -> str:
        """``reached``, ``short`` or ``not asked``."""
        if value is None:
            return NOT_ASKED
        # A mean of shares that is the goal exactly may come out a rounding below it.
        reached = value <= self.goal if self.lower_is_better else value >= self.goal
        return REACHED if reached or math.isclose(value, self.goal, rel_tol=1e-12) else SHORT

    def goal_text(self) -> str:
        """The goal with its direction."""
        return f"{'<=' if self.lower_is_better else '>='} {self.figure.text(self.goal)}"


@dataclass(frozen=True)
class Verdict:
    """One line of the table.

    Attributes:
        target: what was wanted.
        measured: what there is; None where it was not asked.
        verdict: ``reached``, ``short`` or ``not asked``.
    """

    target: Target
    measured: float | None
    verdict: str

    def cells(self) -> tuple[str, str, str, str]:
        """Figure, target, measured and verdict in words; what was not asked has no verdict of its own."""
        figure = self.target.figure
        verdict = "" if self.measured is None else self.verdict
        return figure.title, self.target.goal_text(), figure.text(self.measured), verdict


TARGETS: tuple[Target, ...] = (
    Target(Figure("Axis accuracy", ("axis_accuracy",)), 0.92),
    Target(Figure("Two operators, both among the top three axes", ("two_operator_top3",)), 0.85),
    Target(Figure("Sign accuracy, tone axes", ("sign_accuracy", "tone")), 0.99),
    Target(Figure("Localisation (ROC-AUC)", ("localisation_auc",), "coefficient"), 0.97),
    Target(Figure("Severity as laid down (Spearman, lowest axis)", ("severity_spearman", "min"), "coefficient"), 0.90),
    Target(
        Figure("Nominal severity (Spearman, lowest axis)", ("nominal_severity_spearman", "min"), "coefficient"), 0.90
    ),
    Target(Figure("Leakage (lower is better)", ("leakage",), "coefficient"), 0.15, lower_is_better=True),
    Target(
        Figure("Shift end-point error (lower is better)", ("shift_endpoint_error_px",), "pixels"),
        0.5,
        lower_is_better=True,
    ),
    Target(Figure("Ladder accuracy", ("ladder_accuracy",)), 0.985),
    Target(Figure("Dominance accuracy", ("dominance_accuracy",)), 0.97),
    Target(Figure("Inclusion accuracy", ("inclusion_accuracy",)), 0.98),
    Target(Figure("Unanchored accuracy", ("unanchored_accuracy",)), 0.93),
    Target(Figure("Transitivity without reference", ("transitivity", "all")), 0.99),
    Target(
        Figure("Across scenes (Spearman with severity, median operator)", ("scene_spearman", "median"), "coefficient"),
        0.93,
    ),
)


HELD_OUT_TARGETS: tuple[Target, ...] = (
    Target(Figure("Ladder accuracy, distortions that training did not see", ("ladder_accuracy",)), 0.96),
    Target(Figure("Axis accuracy, distortions that training did not see", ("axis_accuracy",)), 0.80),
)
"""Of operators held out, as means over them: :func:`.card_sections.held_out_figures`."""

RECOVERY_STEPS, RECOVERY_CROP = 500, 192
"""Steps of Adam, at most, and side of the crops in pixels that ``RECOVERY_TARGETS`` are meant for."""

RECOVERY_TARGETS: tuple[Target, ...] = tuple(
    Target(Figure(f"PSNR from {start}", ("psnr", start, "RelationalLoss"), "decibels"), goal)
    for start, goal in (
        ("noise, sigma 0.1", 40.0),
        ("blur, sigma 2", 34.0),
        ("JPEG, quality 10", 32.0),
        ("grey field", 30.0),
        ("contrast halved", 38.0),
        ("colour cast", 38.0),
    )
)
"""Of :func:`.recovery.recovery_table`, as the mean over pictures."""

LINE_TARGETS: tuple[Target, ...] = (Target(Figure("Pairs whose distance rises along the line", ("share",)), 0.99),)
"""Of :func:`.line.line_study`."""


def verdicts(measured: Mapping[str, Any], targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """Every target beside what was measured, in the order of ``targets``.

    Args:
        measured: what the benchmark of these targets gave (by default :func:`.engine_scores.evaluate`), of this version
            or an older one.
        targets: what was wanted.
    """
    values = [(target, target.figure.measured(measured)) for target in targets]
    return [Verdict(target, value, target.verdict(value)) for target, value in values]
