"""``relqa benchmark restoration``: restorers trained with several losses, judged by metrics that took no part."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Commands, add_loss_arguments, command, names, note, note_skipped, print_table, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from ..restoration.restorers import Restorer


def add_restoration(kinds: Commands) -> None:
    """Register ``restoration`` among the kinds of ``benchmark``."""
    parser = command(
        kinds, "restoration", "Small restorers, fine-tuned from one start with one loss each, judged by other metrics."
    )
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="photographs to train on")
    parser.add_argument("--test", required=True, type=Path, metavar="DIR", help="photographs to be judged on")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="restorers go here; finished ones stay")
    parser.add_argument("--tasks", type=names, metavar="A,B", help="denoise, deblur, x2 (default: all)")
    parser.add_argument(
        "--losses", type=partial(names, between=";"), metavar="A;B", help="what to train with, by name (default: all)"
    )
    parser.add_argument("--judges", type=names, metavar="A,B", help="psnr, cvvdp, ... (default: four)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of training (default: 0 1)")
    parser.add_argument("--start-steps", type=int, default=1500, help="steps with L1 alone, for all (default: 1500)")
    parser.add_argument("--steps", type=int, default=500, help="steps with each loss after them (default: 500)")
    parser.add_argument("--crop", type=int, default=176, help="side of the training crops in pixels (default: 176)")
    parser.add_argument("--batch", type=int, default=4, help="crops a step (default: 4)")
    parser.add_argument(
        "--share", type=float, default=1.0, help="a term's gradient beside L1's, at the start (default: 1)"
    )
    parser.add_argument("--test-crop", type=int, default=256, help="side of the judged crops in pixels (default: 256)")
    parser.add_argument("--limit", type=int, help="judge on at most this many photographs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="crops side by side, e.g. restoration.webp")
    add_loss_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, judge, print."""
    from dataclasses import asdict

    from ..evaluation.peer_metrics import load_metrics
    from ..figures_distortions import check_ending
    from ..images import central_crop, read_folder
    from ..losses import RelationalLoss
    from ..restoration.judging import JUDGES, compare, goal, measures, restored
    from ..restoration.restorers import LOSSES, TASKS, Plan, check_tasks, terms, train
    from ..training.data import load_photographs
    from ..validation import MIN_SIDE

    plan = Plan(args.start_steps, args.steps, args.batch, args.crop, share=args.share)
    tasks = check_tasks(args.tasks or list(TASKS))
    losses, missing = terms(args.losses or LOSSES, args.weights, plan.crop, args.device)
    judges, absent = load_metrics(args.judges or JUDGES)
    too_large = [name for name, judge in judges.items() if judge.min_side > args.test_crop]
    if too_large:
        raise ValueError(f"--test-crop must be larger for {', '.join(too_large)}, got {args.test_crop}")
    if args.test_crop < MIN_SIDE or args.test_crop % 2:
        raise ValueError(f"--test-crop must be even and at least {MIN_SIDE}, got {args.test_crop}")
    if args.figure is not None:
        check_ending(args.figure)
    for name, reason in (missing | absent).items():
        note(f"{name} left out: {reason}")
    loss_fn = RelationalLoss(args.weights)
    training = load_photographs(args.data, 0.0, plan.crop)
    folder = read_folder(args.test, args.limit)
    note_skipped([*training.skipped, *folder.skipped])
    tests = [central_crop(image, args.test_crop) for image in folder.images]
    identity = {"photographs": training.digest, "weights": loss_fn.info()["files"]}

    report: dict[str, Any] = {
        "plan": asdict(plan), "seeds": args.seeds, "photographs": len(tests), "crop": args.test_crop,
        "judges": {name: f"{one.package} {one.version}" for name, one in judges.items()},
        "weights_sha256": identity["weights"], "tasks": {},
    }  # fmt: skip
    rows: dict[str, dict[str, Tensor]] = {}
    for task in tasks:
        tables: dict[str, list[Mapping[str, Sequence[float]]]] = {}
        factors: dict[str, list[float]] = {}
        for seed in args.seeds:
            made = train(
                task, seed, losses, training.training, plan, args.out,
                identity=identity, device=args.device, progress=note,
            )  # fmt: skip
            for name, one in made.items():
                pictures = restored(one.model, task, tests, seed)
                tables.setdefault(name, []).append(measures(pictures, tests, judges, loss_fn))
                factors.setdefault(name, []).append(one.factor)
            if seed == args.seeds[0]:
                rows[task] = _first_of_each(task, {name: one.model for name, one in made.items()}, tests, seed)
            note(f"{task}, seed {seed}: judged")
        figures = compare(tables, list(judges))
        report["tasks"][task] = {**figures, "factors": factors, "goal": goal(figures, list(judges))}
        print_task(task, report["tasks"][task], list(judges))
    if args.json is not None:
        write_json(args.json, report)
    if args.figure is not None:
        from ..figures_restoration import restoration_figure

        restoration_figure(rows, args.figure)
    return 0


def _first_of_each(task: str, models: Mapping[str, Restorer], tests: Sequence[Tensor], seed: int) -> dict[str, Tensor]:
    """The first photograph: spoilt, restored by each, and itself; (3, H, W) each."""
    from ..restoration.judging import restored, spoilt_as_seen

    pictures = {"input": spoilt_as_seen(task, tests[0], seed)}
    pictures |= {name: restored(model, task, tests[:1], seed)[0][0] for name, model in models.items()}
    return {**pictures, "reference": tests[0]}


def print_task(task: str, figures: Mapping[str, Any], judges: Sequence[str]) -> None:
    """Means, verdicts and the goal of one task."""
    measures = list(next(iter(figures["mean"].values())))
    print(f"\n{task}: means over photographs and seeds; of {', '.join(judges)} lower is better (PSNR is negated)")
    print_table(
        ["trained with", *measures],
        [[name, *(f"{row[key]:.3f}" for key in measures)] for name, row in figures["mean"].items()],
    )
    if figures["against"]:
        print(
            "\nL1 + RelationalLoss beside each other loss: difference (negative: ours is better), 95 % over photographs"
        )
        cells = [
            [name, *(f"{one['difference']:+.3f} {one['verdict']}" for one in by_judge.values())]
            for name, by_judge in figures["against"].items()
        ]
        print_table(["", *judges], cells)
    goal = figures["goal"]
    if goal["reached"] is not None:
        counts = ", ".join(f"{name} {count}" for name, count in goal["better_or_tie"].items())
        lost = "-" if goal["psnr_lost_db"] is None else f"{goal['psnr_lost_db']:+.2f} dB"
        print(f"better or tie by so many of {len(judges)} judges: {counts}; PSNR lost to L1 {lost}")
        print(f"goal (by most judges against each, at most 0.2 dB lost): {'reached' if goal['reached'] else 'short'}")
