"""``relqa benchmark jury``: agreement with human-calibrated metrics, which stand in for people."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Commands, add_loss_arguments, command, make_loss, names, note, note_skipped, print_table, write_json

if TYPE_CHECKING:
    from torch import Tensor

CACHE_SUFFIX = ".cache.jsonl"

FEW = 8
"""Below so many photographs a bootstrap over them says little."""


def add_jury(kinds: Commands) -> None:
    """Register ``jury`` among the kinds of ``benchmark``."""
    parser = command(kinds, "jury", "Agreement with a jury of human-calibrated metrics (not people), peers beside us.")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder of pristine photographs")
    parser.add_argument("--limit", type=int, help="use at most this many photographs")
    parser.add_argument("--crop", type=int, default=384, help="side of the central crops in pixels (default: 384)")
    parser.add_argument("--metrics", type=names, metavar="A,B", help="metrics to ask (default: all that are installed)")
    parser.add_argument("--pictures", type=int, help="degraded pictures of each photograph (default: by measured cost)")
    parser.add_argument("--minutes", type=float, default=8.0, help="of scoring, without --pictures (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of pictures and intervals (default: 0)")
    parser.add_argument("--workers", type=int, help="threads (default: torch's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FILE",
        help="keep the metrics' values here, so that a stopped run goes on "
        f"(default: that of --json with {CACHE_SUFFIX}, else none)",
    )
    add_loss_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Degrade, score, compare, print."""
    from ..evaluation.jury import hold_jury
    from ..evaluation.peer_metrics import load_metrics

    metrics, missing = load_metrics(args.metrics)
    for name, reason in missing.items():
        note(f"left out: {name}, {reason}")
    cache = args.cache
    if cache is None and args.json is not None:
        cache = args.json.with_name(args.json.name + CACHE_SUFFIX)
    report = hold_jury(
        make_loss(args),
        _crops(args),
        metrics,
        pictures=args.pictures,
        minutes=args.minutes,
        seed=args.seed,
        workers=args.workers,
        cache=cache,
        progress=note,
    )
    report["missing"] = missing
    print_report(report)
    if args.json is not None:
        write_json(args.json, report)
    return 0


def _crops(args: argparse.Namespace) -> dict[str, Tensor]:
    """Squares from the middle of the photographs at viewing scale, by file name."""
    from ..distortions.crops import at_viewing_scale
    from ..images import central_crop, read_folder

    folder = read_folder(args.data, args.limit, args.crop)
    note_skipped(folder.skipped)
    pairs = zip(folder.names, folder.images, strict=True)
    return {name: central_crop(at_viewing_scale(image, args.crop), args.crop) for name, image in pairs}


def print_report(report: Mapping[str, Any]) -> None:
    """Setup, jury, and the figures as tables."""
    setup, jury = report["setup"], report["jury"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in setup["kinds"].items())
    print(f"{report['what']}: {', '.join(jury)}")
    print(
        f"{len(setup['photographs'])} photographs of {setup['size'][1]}x{setup['size'][0]}, "
        f"{setup['pictures_of_each']} pictures of each ({setup['number_of_pictures']}): {kinds}; seed {setup['seed']}, "
        f"weights {setup['weights']}, {setup['seconds']:.0f} s"
    )
    rows = [
        [name, one["role"], f"{one['package']} {one['version']}", _ms(setup, name), one["trained_on"] or "-"]
        for name, one in report["metrics"].items()
    ]
    print()
    print_table(["metric", "role", "package", "ms", "owes to people's judgements"], rows)
    agreement = ", ".join(f"{pair} {value:.3f}" for pair, value in report["jurors"].items())
    print(f"\njurors and observers among themselves, Spearman: {agreement}")
    print("\nagreement with the jury's mean rank (a juror: with that of the others), 95 % intervals over photographs,")
    print("and how RelationalLoss stands to each by the paired difference")
    if len(setup["photographs"]) < FEW:
        print(f"fewer than {FEW} photographs: intervals and verdicts mean little")
    _print_agreement(report)
    print("\nSpearman with each juror and observer, pooled")
    columns = [*jury, *report["observers"]]
    table = report["spearman"]["pooled"]
    print_table(["", *columns], [[name, *(_value(table[c].get(name)) for c in columns)] for name in table[columns[0]]])
    _print_kinds(report["kinds"])
    _print_worst(report["operators"])


def _print_agreement(report: Mapping[str, Any]) -> None:
    parts = [
        ("pooled", report["spearman"]["pooled"]),
        ("within", report["spearman"]["within"]),
        ("operators", report["spearman"]["operators"]),
        ("Kendall", report["kendall"]["pooled"]),
        ("within", report["kendall"]["within"]),
    ]
    header = [""]
    for title, _ in parts:
        header += [title, "", "we are"]
    tables = [table["jury"] for _, table in parts]
    names = sorted(tables[0], key=lambda name: -(tables[0][name]["value"] or -1))
    print_table(header, [[name, *(cell for table in tables for cell in _cells(name, table[name]))] for name in names])


def _print_kinds(kinds: Mapping[str, Any]) -> None:
    print("\nrelation between kinds: pairs of different operators on whole pictures where the jury is unanimous")
    for place in ("within", "between"):
        one = kinds[place]
        print(f"{place} photographs: {one['unanimous']} of {one['pairs']} pairs")
    within, between = (kinds[place]["candidates"] for place in ("within", "between"))
    names = sorted(within, key=lambda name: -(within[name]["value"] or 0))
    print_table(
        ["", "within", "", "we are", "between", "", "we are"],
        [[name, *_cells(name, within[name]), *_cells(name, between[name])] for name in names],
    )


def _print_worst(operators: Mapping[str, Mapping[str, float]], count: int = 10) -> None:
    known = {name: row for name, row in operators.items() if row["RelationalLoss"] == row["RelationalLoss"]}
    worst = sorted(known, key=lambda name: known[name]["RelationalLoss"])[:count]
    if not worst:
        return
    print("\noperators on which RelationalLoss follows the jury least, Spearman across photographs")
    rows = [
        [name, str(known[name]["pictures"]), f"{known[name]['RelationalLoss']:.3f}", f"{known[name]['panel']:.3f}"]
        for name in worst
    ]
    print_table(["operator", "pictures", "RelationalLoss", "panel"], rows)


def _cells(name: str, entry: Mapping[str, Any]) -> list[str]:
    if entry["value"] is None:
        return ["-", "", ""]
    interval = f"{entry['low']:.3f}..{entry['high']:.3f}"
    return [f"{entry['value']:.3f}", interval, "" if name == "RelationalLoss" else entry["verdict"]]


def _value(entry: Mapping[str, Any] | None) -> str:
    return "-" if entry is None or entry["value"] is None else f"{entry['value']:.3f}"


def _ms(setup: Mapping[str, Any], name: str) -> str:
    ms = setup["ms_a_picture"].get(name)
    return "-" if ms is None else f"{ms:.0f}"
