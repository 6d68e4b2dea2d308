"""Sections of the model card that state measured numbers: one function each, Markdown out, nothing invented."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..distortions.panel import PANEL
from ..relation import AXES
from .failures import weakest_operators
from .human_distances import OURS
from .jury_figures import JURY, PANEL_CONSENSUS
from .statistics import mean_of
from .targets import HELD_OUT_TARGETS, NOT_ASKED, TARGETS, Figure, Verdict, percent, verdicts

WEAKEST = 8
"""So many operators are named whose axis is told least reliably."""

NAMED_WRONG, LOST, ADRIFT, UNEVEN = 0.5, 0.9, 0.8, 0.9
"""Below these, an operator or axis is listed among what the weights cannot see: axis accuracy, localisation, Spearman
across scenes, Spearman of an axis with severity."""

FURTHER: tuple[Figure, ...] = (
    Figure("Sign accuracy, shift axes", ("sign_accuracy", "shift")),
    Figure("Sign accuracy, all axes", ("sign_accuracy", "all")),
    Figure("Severity (Spearman, mean over axes)", ("severity_spearman", "mean"), "coefficient"),
    Figure("Ladder accuracy, steps of 0.1", ("ladder_neighbour_accuracy",)),
    Figure("Transitivity, severities of one operator", ("transitivity", "one_operator")),
    Figure("Transitivity, mixes of operators", ("transitivity", "mixed")),
    Figure("Across scenes (Spearman with severity, lowest operator)", ("scene_spearman", "min"), "coefficient"),
)
"""Figures without a target."""

OF_THE_SCORER: tuple[tuple[str, ...], ...] = (
    ("ladder_accuracy",),
    ("dominance_accuracy",),
    ("inclusion_accuracy",),
    ("unanchored_accuracy",),
    ("transitivity", "all"),
    ("scene_spearman", "median"),
)
"""Paths of the figures that ask distances or the score without reference; the others ask maps alone."""


def figures(evaluation: Mapping[str, Any]) -> str:
    """Figures beside their targets, further figures, every axis, and the weakest operators."""
    rows = []
    for one in verdicts(evaluation):
        title, goal, measured, verdict = one.cells()
        rows.append(f"| {title} | {measured} | {goal} | {verdict} |")
    further = [f"| {figure.title} | {figure.text(figure.measured(evaluation))} |" for figure in FURTHER]
    further.append(f"| Agreement with the panel (Spearman) | {_estimate(evaluation.get('panel_agreement'))} |")
    if (numbers := evaluation.get("parameters")) is not None:
        further.append(f"| Parameters | {numbers:,}, {evaluation['weight_bytes'] / 1e6:.1f} MB |")
    operators = evaluation["per_operator"]
    weak = ", ".join(f"`{name}` {percent(accuracy)}" for name, accuracy in weakest_operators(evaluation, WEAKEST))
    return (
        "## Figures\n\n"
        f"On {evaluation['photographs']} photographs that no training saw, {len(operators)} operators, "
        f"{evaluation['photographs_per_operator']} photographs each, crops of {evaluation['crop']} pixels, severities "
        f"{', '.join(map(str, evaluation['severities']))}, seed {evaluation['seed']}; operators weigh equally.\n\n"
        f"| Figure | Measured | Target | |\n|---|---|---|---|\n{_lines(rows)}\n"
        f"Without a target:\n\n| Figure | Measured |\n|---|---|\n{_lines(further)}\n"
        f"Severity by axis (Spearman of the mean |map| with severity as laid down): {_by_axis(evaluation)}.\n\n"
        f"{_nominal(evaluation)}"
        f"Operators whose axis is named least reliably: {weak or 'none is ever named wrong'}.\n"
    )


def held_out(report: Mapping[str, Any], weights: Mapping[str, str] | None) -> str:
    """How operators that a training did not see are ordered and named.

    Args:
        report: of ``relqa benchmark engine``, with weights whose training held operators out (``trained_without``).
            Those of them that it measured are the ones that count.
        weights: sha256 of the files of the card's weights, or None.

    Raises:
        ValueError: the report holds no operator that its weights were trained without.
    """
    unseen = unseen_by(report)
    own = weights is not None and report.get("weights_sha256") == weights
    who = "These weights were" if own else "Other weights, for this test only, were"
    rows = []
    for one in held_out_figures(report):
        title, goal, measured, verdict = one.cells()
        rows.append(f"| {title.partition(',')[0]} | {measured} | {goal} | {verdict} |")
    return (
        "## Distortions that training did not see\n\n"
        f"{who} trained without {len(unseen)} operator{'s' * (len(unseen) > 1)} ({_names(unseen)}), which weigh "
        "equally here:\n\n"
        f"| Figure | Measured | Target | |\n|---|---|---|---|\n{_lines(rows)}"
    )


def held_out_figures(report: Mapping[str, Any]) -> list[Verdict]:
    """Means over the operators that the report's weights were trained without, beside their targets.

    Raises:
        ValueError: there is no such operator.
    """
    measured = [report["per_operator"][name] for name in unseen_by(report)]
    means = {one.figure.path[0]: mean_of(one.figure.measured(of) for of in measured) for one in HELD_OUT_TARGETS}
    return verdicts(means, HELD_OUT_TARGETS)


def unseen_by(report: Mapping[str, Any]) -> list[str]:
    """Operators of the report that its weights were trained without.

    Raises:
        ValueError: there are none.
    """
    unseen = [name for name in report["per_operator"] if name in report.get("trained_without", ())]
    if not unseen:
        raise ValueError("held_out must hold operators that its weights were trained without, got none")
    return unseen


def without_opinion_constants(evaluation: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What the constants that owe to opinion scores have done: the figures that depend on the scorer, with and without.

    Args:
        evaluation: of the card's weights.
        other: the same of weights of the same predictor, whose scorer was taught by the panel's other members alone
            (``scorer.panel = "no-opinion"``).

    Raises:
        ValueError: no panel was asked in ``other``.
    """
    members = "panel_agreement_without_opinion_constants"
    if not other.get(members):
        raise ValueError(f"no_opinion must hold {members} (taken with the extra benchmark), got none")
    rows = []
    for one, without in zip(verdicts(evaluation), verdicts(other), strict=True):
        if one.target.figure.path in OF_THE_SCORER:
            rows.append(f"| {' | '.join((*one.cells(), *without.cells()[2:]))} |")
    for title, key in (("panel", "panel_agreement"), ("panel without those constants", members)):
        ours, theirs = (_estimate(one.get(key)) for one in (evaluation, other))
        rows.append(f"| Agreement with the {title} | | {ours} | | {theirs} | |")
    return (
        "## Without constants that owe to opinion scores\n\n"
        "Other weights, for this test only: the same predictor, and a scorer taught by those members of the panel "
        f"alone whose authors used no opinion scores ({_names(other[members]['members'])}). Severities stay as the "
        "whole panel put them on one scale. How long each of the two was taught to judge without reference, which "
        "unanchored accuracy and transitivity depend on, is not held equal by this: `benchmarks/README.md` has it for "
        "the bundled weights.\n\n"
        f"| Figure | Target | These weights | | Without | |\n|---|---|---|---|---|---|\n{_lines(rows)}"
    )


def agreement(
    evaluation: Mapping[str, Any] | None, jury: Mapping[str, Any] | None, human: Sequence[Mapping[str, Any]]
) -> str:
    """Agreement with the panel, with a jury of metrics, and with people: what of these was measured; "" for nothing."""
    lines = []
    whole = (evaluation or {}).get("panel_agreement")
    free = (evaluation or {}).get("panel_agreement_without_opinion_constants")
    if whole:
        lines.append(
            f"- With the panel of closed-form metrics that training leans on ({_names(whole['members'])}): "
            f"{_estimate(whole)} over {whole['pictures']} pictures."
        )
    if free:
        lines.append(
            f"- With those members that owe nothing to opinion scores ({_names(free['members'])}): {_estimate(free)}."
        )
    if jury is not None:
        table = jury["spearman"]["pooled"][JURY]
        lines.append(
            f"- With a jury of human-calibrated metrics ({_names(jury['jury'])}), not people, that took no part in "
            f"training: {_estimate(table[OURS])}; the panel itself {_estimate(table.get(PANEL_CONSENSUS))}. "
            f"{len(jury['setup']['photographs'])} photographs, {jury['setup']['pictures']} pictures. "
            f"{others_by_the_jury(jury)}."
        )
    lines += [people(report) for report in human]
    if not lines:
        return ""
    return "## Agreement\n\nSpearman, with 95 % intervals:\n\n" + _lines(lines)


def others_by_the_jury(jury: Mapping[str, Any]) -> str:
    """Which other metrics agree less, as well or more with the jury; its members are not asked of themselves."""
    table = jury["spearman"]["pooled"][JURY]
    told = []
    for verdict, words in (("better", "more than"), ("tie", "as well as"), ("worse", "less than")):
        alike = {name for name, one in table.items() if one["verdict"] == verdict}
        names = []
        for name, one in table.items():
            whose, _, member = name.rpartition("/")
            if name not in alike or name in (OURS, *jury["jury"]) or (whose and member in alike):
                continue
            shown = f"{member} (at the panel's scale)" if whose else name
            if name == PANEL_CONSENSUS:
                shown = "the whole panel of closed-form metrics that training leans on"
            names.append(shown if verdict == "better" else f"{shown} {one['value']:.3f}")
        if names:
            told.append(f"{words} {', '.join(names)}")
    return f"It agrees {'; '.join(told)}" if told else "No other metric was asked"


def cannot_see(evaluation: Mapping[str, Any]) -> str:
    """What the measured numbers say these weights miss."""
    operators: Mapping[str, Mapping[str, Any]] = evaluation["per_operator"]
    lines = [
        "- An artefact that is none of the bank's has no axis: it is measured through those that it resembles, and "
        "through the full-resolution floor."
    ]

    def listed(figure: str, below: float) -> list[str]:
        known = {name: entry.get(figure) for name, entry in operators.items()}
        return sorted(name for name, value in known.items() if value is not None and value < below)

    def say(names: Iterable[str], text: str) -> None:
        if several := list(names):
            lines.append(f"- {text}: {_names(several)}.")

    say(listed("axis_accuracy", NAMED_WRONG), "Named wrong more often than right")
    say(listed("localisation_auc", LOST), f"Poorly placed (ROC-AUC below {LOST})")
    axes = evaluation["severity_spearman"]
    say(
        (axis for axis in AXES if axes.get(axis) is not None and axes[axis] < UNEVEN),
        f"Axes whose maps are a poor measure of how strong a distortion is (Spearman below {UNEVEN})",
    )
    say(
        listed("scene_spearman", ADRIFT),
        f"Distances that are not comparable from scene to scene (Spearman with severity below {ADRIFT})",
    )
    say(evaluation["without_sign"], "No direction can be told of")
    return "## What they cannot see\n\n" + _lines(lines)


def failures(file: str) -> str:
    """Reference to the figure of failures."""
    return (
        f"## Failures\n\n![Pairs that these weights get wrong]({file})\n\n"
        "Reference, picture, and the map that shows what is wrong, or should. Named wrong, where that happens: the "
        "strongest map is on another axis. Overlooked: of two operators, each in a region of its own, one is not among "
        "the three strongest axes; the map is the one that should show it.\n"
    )


def panel(members: Sequence[str]) -> str:
    """The panel's members, and the constants that their authors chose with the help of opinion scores."""
    known = {member.name: member for member in PANEL}
    lines = []
    for name in members:
        constants = known[name].opinion_constants or "none" if name in known else "unknown to this version"
        lines.append(f"  - `{name}`: {constants}")
    return "\n".join(lines)


def _nominal(evaluation: Mapping[str, Any]) -> str:
    """Nominal severity of the axes where the engine's own maps fall short of its target too; "" where none does."""
    (goal,) = (one.goal for one in TARGETS if one.figure.path == ("nominal_severity_spearman", "min"))
    ours, own = evaluation["nominal_severity_spearman"], evaluation.get("nominal_severity_of_own_maps", {})
    short = [axis for axis in AXES if own.get(axis) is not None and own[axis] < goal]
    others = [ours[axis] for axis in AXES if axis not in short and ours.get(axis) is not None]
    if not short or not others:
        return ""
    told = ", ".join(f"`{axis}` {ours[axis]:.3f} ({own[axis]:.3f})" for axis in short)
    return (
        "What was asked for (nominal severity) and what came of it differ where an operator acts unevenly, so that the "
        f"engine's own maps, in brackets, do not follow it either: {told}. The lowest of the other axes is "
        f"{min(others):.3f}.\n\n"
    )


def _by_axis(evaluation: Mapping[str, Any]) -> str:
    table = evaluation["severity_spearman"]
    known = {axis: table.get(axis) for axis in AXES}
    return ", ".join(
        f"`{axis}` {NOT_ASKED}" if value is None else f"`{axis}` {value:.3f}" for axis, value in known.items()
    )


def people(report: Mapping[str, Any]) -> str:
    """Agreement with people, from a report of ``relqa benchmark human``."""
    setup = report["setup"]
    (ours,) = (one for one in report["metrics"] if one["name"] == OURS)
    if "spearman" in ours:
        return f"- With people on {setup['title']} ({setup['pairs']} pairs): {_estimate(ours['spearman'])}."
    return (
        f"- With people on {setup['title']}: 2AFC score {_estimate(ours['choices']['mean'])} "
        f"({setup['choices']} triplets; not a correlation)."
    )


def _estimate(figures: Mapping[str, Any] | None) -> str:
    if figures is None or figures["value"] is None:
        return NOT_ASKED
    if figures["low"] is None:
        return f"{figures['value']:.3f}"
    return f"{figures['value']:.3f} [{figures['low']:.3f}, {figures['high']:.3f}]"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
