"""``relqa benchmark selection``: does the selector pick the checkpoints that an independent jury prefers?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from .common import Commands, UsageError, command, names, note, print_table, write_json
from .restoration import add_training_arguments, set_up


def add_selection(kinds: Commands) -> None:
    """Register ``selection`` among the kinds of ``benchmark``."""
    parser = command(
        kinds,
        "selection",
        "Checkpoints of small restorers: which figure on one half of the photographs picks those that a jury prefers "
        "on the other half?",
    )
    add_training_arguments(parser, seeds=[0], start_steps=400, steps=200, crop=96)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints (default: 100)")
    parser.add_argument(
        "--jury", type=names, metavar="A,B", help="metrics that judge (default: cvvdp,ssimulacra2,flip)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, keep checkpoints along the way, measure all, compare choosers."""
    from ..restoration.judging import restored
    from ..restoration.restorers import LOSSES, train
    from ..restoration.selection_study import JURY, PEERS, check_photographs, measures_of, study, values_of

    if args.every < 1:
        raise ValueError(f"--every must be at least 1, got {args.every}")
    few_pixels = [name for name in LOSSES if name != "L1 + MS-SSIM" or args.crop >= 161]
    judges = args.jury or JURY
    both = [name for name in judges if name in PEERS.values()]
    if both:
        raise UsageError(f"--jury must name metrics that choose nothing, got {', '.join(both)}")
    setup = set_up(args, few_pixels, [*PEERS.values(), *judges])
    measures, choosers = measures_of(setup.loss_fn, setup.metrics)
    jury = [name for name in judges if name in measures]
    # Before hours of training.
    if not jury:
        raise UsageError(f"none of --jury is installed here: {', '.join(judges)} (see the extra 'jury')")
    check_photographs(len(setup.tests))
    along = range(args.every, max(args.start_steps, args.steps), args.every)
    runs: dict[str, dict[str, dict[str, list[float]]]] = {}
    for task in setup.tasks:
        for seed in args.seeds:
            made = train(
                task, seed, setup.losses, setup.training, setup.plan, args.out,
                digest=setup.digest, weights=setup.weights, distance=setup.distance, shares=setup.shares, along=along,
                device=args.device, progress=note,
            )  # fmt: skip
            runs[f"{task}, seed {seed}"] = {
                name: values_of(restored(one.model, task, setup.tests, seed), setup.tests, measures)
                for name, one in made.items()
            }
            note(f"{task}, seed {seed}: {len(made)} checkpoints judged")
    report = {
        **setup.report(args.seeds),
        "checkpoints": {name: list(table) for name, table in runs.items()},
        "jury": jury,
        **study(runs, choosers, jury),
    }
    print_report(report)
    if args.json is not None:
        write_json(args.json, report)
    return 0


def print_report(report: Mapping[str, Any]) -> None:
    """The choosers beside each other, and whether the goal is reached."""
    jury = report["jury"]
    print(
        f"{report['pairs']} choices between two checkpoints of one task and seed, made on one half of "
        f"{report['photographs']} photographs, judged on the other by {', '.join(jury)}: unanimous in "
        f"{100 * report['unanimous']:.0f} %"
    )
    print("share of choices that the jury shares, 95 % intervals over photographs; how RelationalLoss stands to each")
    rows = []
    for name, one in report["choosers"].items():
        agreement, disputed, decided = one["agreement"], one["disputed"], one["decided"]
        itself = name == "RelationalLoss"
        rows.append(
            [
                name,
                _figure(agreement),
                "" if itself else f"{_figure(agreement['lead'], '+')} {agreement['verdict']}",
                _figure(one["unanimous"]),
                *(_percent(one["by_juror"][juror]["value"]) for juror in jury),
                _figure(one["picked"]),
                "" if itself else f"{disputed['pairs']}: {_figure(disputed['ours'])}",
                f"{_percent(decided['share'])}: {_percent(decided['agreement'])}",
            ]
        )
    print()
    print_table(
        ["chosen by", "agrees %", "our lead", "unanimous", *jury, "pick beats", "we differ: right", "decides: right"],
        rows,
    )
    rivals = ", ".join(f"{name}: {verdict}" for name, verdict in report["goal"]["rivals"].items())
    outcome = "reached" if report["goal"]["reached"] else "short"
    print(f"\ngoal (better than validation L1 and PSNR by the intervals): {outcome} ({rivals})")


def _figure(entry: Mapping[str, float | None], sign: str = "") -> str:
    if entry["value"] is None:
        return "-"
    value, low, high = (100 * (entry[key] or 0.0) for key in ("value", "low", "high"))
    return f"{value:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
