"""Reports on severity as Markdown and a figure (extra ``figures``: matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..distortions import BANK, Distortion
from ..distortions.record import KNOTS
from ..figures_severity import Curves, curve_figure
from ..files import whole_files
from .severity import in_spread, listed, spread

REPORT, CURVES = "severity-report.md", "severity-curves.png"

REASONS = {
    "short_of_target": "never reach the common visibility at severity 1",
    "above_foot": "are above the common foot at their weakest (they stay in the spread)",
    "displacements": "displace content, which no member of the panel follows; they keep their span",
    "codec_missing": "need a codec that is missing here",
}


def calibration_curves(table: Mapping[str, Any]) -> tuple[Curves, Curves]:
    """Visibility at the ``KNOTS`` severities, evenly through the spans and calibrated, both read off the curves."""
    knots = np.linspace(0, 1, KNOTS)
    before = {
        name: np.interp(knots, np.linspace(0, 1, len(curve)), curve).tolist() for name, curve in table["curves"].items()
    }
    return before, dict(table["visibility"])


def write_calibration_report(
    table: Mapping[str, Any], folder: Path, distortions: Sequence[Distortion] = BANK
) -> list[Path]:
    """Report of a calibration: :func:`relqa_loss.distortions.calibration.calibrate`'s table.

    Args:
        table: the table.
        folder: where ``severity-report.md`` and ``severity-curves.png`` go; made if need be.
        distortions: the operators that were asked for.

    Returns:
        The files written.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    before, after = calibration_curves(table)
    left_out = listed(table, distortions)
    kept = in_spread(list(after), left_out)
    provenance = table["provenance"]
    lines = [
        "# Severity calibration",
        "",
        f"Panel: {', '.join(provenance['panel'])}. {len(provenance['photographs'])} photographs; visibility is read "
        "off the curves measured on them (`relqa benchmark severity` measures unseen ones). Severity 0 leaves a "
        "picture untouched: 0.0 stands for the weakest that is just above it.",
        "",
        *_spread_lines(before, after, kept),
        *_left_out_lines(left_out),
        "## Curves that fall",
        "",
        *(
            [
                f"- `{name}`: "
                + ", ".join(f"by {fall:.3f} up to position {place:.1f} of the span" for place, fall in places)
                for name, places in sorted(table["not_monotone"].items())
            ]
            or ["None."]
        ),
        "",
        *_curve_lines("Visibility at severity, calibrated", after),
        *_curve_lines("Visibility evenly through the span", before),
    ]
    return _write(folder, lines, before, after, table["targets"])


def write_severity_report(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Report of a check on unseen photographs: :func:`relqa_loss.evaluation.severity.check_severity_steps`.

    Args:
        report: the figures.
        folder: where ``severity-report.md`` and ``severity-curves.png`` go; made if need be.

    Returns:
        The files written.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    operators = report["per_operator"]
    before = {name: entry["before"] for name, entry in operators.items()}
    after = {name: entry["after"] for name, entry in operators.items()}
    kept = in_spread(list(after), report["left_out"])
    lines = [
        "# Severity on unseen photographs",
        "",
        f"{len(report['photographs'])} photographs, {len(operators)} operators. Panel: {', '.join(report['panel'])}.",
        "",
        f"Adjacent steps of 0.1 that are monotone by the panel's consensus: **{100 * report['share']:.2f} %** "
        f"({report['monotone']} of {report['steps']}; goal {100 * report['goal']:.0f} %). A step counts as monotone "
        f"where the visibility does not fall by more than {report['epsilon']}. {report['bitwise_equal']} steps change "
        "nothing at all (bitwise equal pictures, counted as monotone). From severity 0.1 on, where any fall at all "
        f"counts and an equal picture does too: {100 * report['strict']['share']:.2f} % of "
        f"{report['strict']['steps']}.",
        "",
        *_spread_lines(before, after, kept),
        *_left_out_lines(report["left_out"]),
        "## Steps",
        "",
        "| operator | steps | monotone | share | bitwise equal |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {e['steps']} | {e['monotone']} | {100 * e['share']:.1f} % | {e['bitwise_equal']} |"
            for name, e in sorted(operators.items(), key=lambda item: (item[1]["share"], item[0]))
        ),
        "",
        "## Exceptions",
        "",
        *(
            [
                f"- `{e['operator']}` on {e['photograph']}, {e['from']:.1f} to {e['to']:.1f}: falls by {e['fall']:.3f}"
                for e in report["exceptions"]
            ]
            or ["None."]
        ),
        "",
        *_curve_lines("Median visibility at severity, calibrated", after),
        *_curve_lines("Median visibility evenly through the span", before),
    ]
    return _write(folder, lines, before, after, None)


def _spread_lines(before: Curves, after: Curves, kept: Sequence[str]) -> list[str]:
    lines = ["## Spread between operators", ""]
    if not kept:
        return [*lines, "Every operator is listed below: nothing to compare.", ""]
    for text, names in (
        (f"{len(kept)} operators, without those that stand apart (below)", kept),
        ("all operators", list(after)),
    ):
        lines += [f"{text[0].upper()}{text[1:]}:", "", "| severity | sd before | sd after | 10-90 % before | after |"]
        lines.append("|---|---|---|---|---|")
        first, second = (spread({name: curves[name] for name in names}) for curves in (before, after))
        for k in range(KNOTS):
            cells = (first["sd"][k], second["sd"][k], first["range_10_90"][k], second["range_10_90"][k])
            lines.append(f"| {k / (KNOTS - 1):.1f} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
        means = (first["mean_sd"], second["mean_sd"], first["mean_range_10_90"], second["mean_range_10_90"])
        lines += ["| mean above 0 | " + " | ".join(f"{mean:.3f}" for mean in means) + " |", ""]
    return lines


def _left_out_lines(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    lines = ["## Operators that stand apart, left out of the spread unless said otherwise", ""]
    named = [f"- {REASONS[why]}: {', '.join(f'`{n}`' for n in names)}" for why, names in left_out.items() if names]
    return [*lines, *(named or ["None."]), ""]


def _curve_lines(title: str, curves: Curves) -> list[str]:
    knots = " | ".join(f"{k / (KNOTS - 1):.1f}" for k in range(KNOTS))
    rows = [f"| {name} | " + " | ".join(f"{v:.2f}" for v in curve) + " |" for name, curve in sorted(curves.items())]
    return [f"## {title}", "", f"| operator | {knots} |", "|---" * (KNOTS + 1) + "|", *rows, ""]


def _write(
    folder: Path, lines: Sequence[str], before: Curves, after: Curves, targets: Sequence[float] | None
) -> list[Path]:
    figure = curve_figure(before, after, targets)
    with whole_files(folder) as scratch:
        (scratch / REPORT).write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
        figure.savefig(scratch / CURVES, dpi=110)
    return [folder / REPORT, folder / CURVES]
