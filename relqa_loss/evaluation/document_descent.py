"""Parts of the documentation on descending the loss: see :mod:`.document`."""

from __future__ import annotations

from ..markdown import table
from .document_remarks import Report, remark
from .human_distances import OURS
from .recovery import START
from .targets import LINE_TARGETS, RECOVERY_TARGETS, verdicts


def recovery(report: Report, engine: Report) -> str:
    """What descending the loss alone brings back."""
    rows, others = [], [name for name in next(iter(report["psnr"].values())) if name not in (START, OURS)]
    for one in verdicts(report, RECOVERY_TARGETS):
        start = one.target.figure.path[1]
        psnr, lowest = report["psnr"][start], report["lowest_psnr"][start]
        rows.append(
            [
                start,
                f"{psnr[START]:.1f} dB",
                f"{psnr[OURS]:.1f} dB",
                f"{lowest[OURS]:.1f} dB",
                one.target.goal_text(),
                one.verdict,
                f"{report['grain'][start][OURS]:.1f}",
                f"{report['checkerboard_steps'][start][OURS]:.2f}",
                *(f"{psnr[name]:.1f} dB" for name in others),
            ]
        )
    height, width = report["size"]
    header = (
        "from",
        "before",
        "after",
        "worst picture",
        "target",
        "",
        "grain",
        "checkerboard",
        *(f"after, {name}" for name in others),
    )
    return (
        f"{report['pictures']} pictures of {height}x{width}, Adam, {report['steps']} steps"
        f"{remark(report, engine)}:\n\n{table(header, rows)}"
    )


def recovery_by_axis(report: Report, engine: Report) -> str:
    """The same with one axis of the loss at a time, below the pictures as they were and the whole loss."""
    psnr = report["psnr"]
    alone = [name for name in next(iter(psnr.values())) if name not in (START, OURS)]
    rows = [[name, *(f"{by[name]:.1f} dB" for by in psnr.values())] for name in (START, OURS, *alone)]
    height, width = report["size"]
    pictures = "1 picture" if report["pictures"] == 1 else f"{report['pictures']} pictures"
    return (
        f"{pictures} of {height}x{width}, Adam, {report['steps']} steps{remark(report, engine)}; "
        f"columns are what is descended from:\n\n{table(('descended', *psnr), rows)}"
    )


def line(report: Report, engine: Report) -> str:
    """Whether the distance rises all the way to a degraded copy."""
    (found,) = verdicts(report, LINE_TARGETS)
    worst = report["worst"]
    text = (
        f"The distance never falls for {found.target.figure.text(found.measured)} of {report['pairs']} pairs (target "
        f"{found.target.goal_text()}), on {report['photographs']} photographs, crops of {report['crop']} pixels"
        f"{remark(report, engine)}."
    )
    if worst is not None:
        text += (
            f" The worst fall is {worst['fall']:.3f} of the larger distance, with `{worst['operator']}` at severity "
            f"{worst['severity']:g}."
        )
    return text


def alignment(report: Report, engine: Report) -> str:
    """Where gradients point, beside those of other losses."""
    degraded = report["degraded"]
    others = [name for name in next(iter(degraded.values())) if name != OURS]
    rows = [
        [name, *(f"{by[loss]['cosine']:.2f} ({by[loss]['finest_share']:.2f})" for loss in (OURS, *others))]
        for name, by in degraded.items()
    ]
    height, width = report["size"]
    return (
        f"{report['pictures']} pictures of {height}x{width}{remark(report, engine)}:\n\n"
        f"{table(('degraded by', OURS, *others), rows)}"
    )


def gradients(report: Report, engine: Report) -> str:
    """The steepest place that was found."""
    low, high = report["value_range"]
    return (
        f"The steepest of {report['samples']} random pairs of {report['side']}x{report['side']} has a slope of "
        f"{report['random']:.0f}, and {report['ascended']:.0f} was found by ascending the slope in both pictures, "
        f"values kept in {low:g} to {high:g}, from the {report['starts']} steepest of them, {report['steps']} steps "
        f"each{remark(report, engine)}. "
        + ("All gradients were finite." if report["finite"] else "Not all gradients were finite.")
    )
