"""``relqa benchmark calibration``, ``severity`` and ``tiers``: the distortion engine against the panel of metrics."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Commands, command, note, note_skipped, print_table, write_json

if TYPE_CHECKING:
    from torch import Tensor

CROP = 256


def add_kinds(kinds: Commands) -> None:
    """Register ``calibration``, ``severity`` and ``tiers``."""
    calibration = command(kinds, "calibration", "Measure the severity tables of the distortion bank anew.")
    calibration.add_argument(
        "--data", required=True, type=Path, metavar="DIR", help="pristine photographs, searched recursively"
    )
    calibration.add_argument("--out", required=True, type=Path, metavar="FILE", help="JSON file to write")
    _add_report(calibration)
    _add_workers(calibration)
    calibration.set_defaults(run=run_calibration)
    severity = command(kinds, "severity", "Is calibrated severity monotone and even on photographs it has not seen?")
    _add_photographs(severity)
    _add_report(severity)
    _add_workers(severity)
    severity.set_defaults(run=run_severity)
    tiers = command(kinds, "tiers", "Does a unanimous panel contradict the order of ladders, dominance or inclusion?")
    _add_photographs(tiers)
    _add_workers(tiers)
    tiers.set_defaults(run=run_tiers)


def _add_photographs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder of pristine photographs")
    parser.add_argument("--limit", type=int, help="use at most this many photographs")
    parser.add_argument("--seed", type=int, default=0, help="of the operators' random draws (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write severity-report.md and severity-curves.png here"
    )


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, help="threads (default: torch's); results do not depend on it")


def _need(report: Path | None) -> None:
    """Fail before minutes of work rather than after."""
    from ..images import MissingExtra

    libraries = [("piq", "benchmark")] + ([("matplotlib", "figures")] if report is not None else [])
    for library, extra in libraries:
        try:
            __import__(library)
        except ImportError as error:
            raise MissingExtra(library, extra) from error


def _central_crops(args: argparse.Namespace) -> dict[str, Tensor]:
    """Squares from the middle of the photographs at viewing scale, by file name."""
    from ..distortions.crops import at_viewing_scale
    from ..images import central_crop, read_folder

    folder = read_folder(args.data, args.limit, CROP)
    note_skipped(folder.skipped)
    pairs = zip(folder.names, folder.images, strict=True)
    return {name: central_crop(at_viewing_scale(image, CROP), CROP) for name, image in pairs}


def run_calibration(args: argparse.Namespace) -> int:
    """Severity tables."""
    _need(args.report)
    from ..distortions.calibration import calibrate, write_table

    table = calibrate(args.data, progress=note, workers=args.workers)
    write_table(table, args.out)
    note(f"written: {args.out}")
    if args.report is not None:
        from ..evaluation.severity_report import write_calibration_report

        for path in write_calibration_report(table, args.report):
            note(f"written: {path}")
    return 0


def run_severity(args: argparse.Namespace) -> int:
    """Monotone steps and spread on unseen photographs; exit code 1 below the goal."""
    _need(args.report)
    from ..evaluation.severity import check_severity_steps

    report = check_severity_steps(_central_crops(args), seed=args.seed, workers=args.workers, progress=note)
    _say_severity(report)
    if args.json is not None:
        write_json(args.json, report)
    if args.report is not None:
        from ..evaluation.severity_report import write_severity_report

        for path in write_severity_report(report, args.report):
            note(f"written: {path}")
    return 0 if report["share"] >= report["goal"] else 1


def _say_severity(report: Mapping[str, Any]) -> None:
    print(
        f"{100 * report['share']:.2f} % of {report['steps']} steps of 0.1 are monotone (goal "
        f"{100 * report['goal']:.0f} %); {report['bitwise_equal']} change nothing"
    )
    strict = report["strict"]
    print(f"from severity 0.1 on, where any fall at all counts: {100 * strict['share']:.2f} % of {strict['steps']}")
    for key, text in (("spread", "operators in the spread"), ("spread_of_all", "all operators")):
        part = report[key]
        if part["after"]:
            print(
                f"{text} ({part['operators']}): sd {part['before']['mean_sd']:.3f} before, "
                f"{part['after']['mean_sd']:.3f} after; 10-90 % {part['before']['mean_range_10_90']:.3f} before, "
                f"{part['after']['mean_range_10_90']:.3f} after"
            )
    for why, names in report["left_out"].items():
        if names:
            print(f"{why.replace('_', ' ')}: {', '.join(names)}")
    if report["exceptions"]:
        rows = [
            [e["operator"], e["photograph"], f"{e['from']:.1f}", f"{e['to']:.1f}", f"{e['fall']:.3f}"]
            for e in report["exceptions"]
        ]
        print()
        print_table(["operator", "photograph", "from", "to", "falls by"], rows)


def run_tiers(args: argparse.Namespace) -> int:
    """Unanimous contradictions; exit code 1 if an operator is above the limit."""
    _need(None)
    from ..evaluation.tier_agreement import check_tiers

    report = check_tiers(_central_crops(args), seed=args.seed, workers=args.workers, progress=note)
    print(f"{report['contradicted']} of {report['pairs']} ordered pairs are contradicted by a unanimous panel")
    rows = [
        [name, kind, str(entry["pairs"]), str(entry["disagreements"]), f"{100 * entry['share']:.2f}"]
        for name, kinds in report["per_operator"].items()
        for kind, entry in kinds.items()
        if entry["disagreements"]
    ]
    if rows:
        print_table(["operator", "kind", "pairs", "contradicted", "%"], sorted(rows, key=lambda row: -float(row[4])))
    limit = f"{100 * report['limit']:g} %"
    above = [f"{one['operator']} ({one['kind']}, {100 * one['share']:.1f} %)" for one in report["above_limit"]]
    print(f"above {limit}: {', '.join(above) or 'none'}")
    pairs = [(name, e) for name, e in report["per_pair"].items() if e["share"] > report["limit"]]
    if pairs:
        listing = ", ".join(f"{name} ({100 * e['share']:.1f} %)" for name, e in pairs)
        print(f"pairs of a dominance tier above {limit}: {listing}")
    if args.json is not None:
        write_json(args.json, report)
    return 1 if above else 0
