"""``relqa benchmark``: figures of merit of the loss, its speed, agreement with others, and the distortion engine."""

from __future__ import annotations

import argparse
from pathlib import Path

from .benchmark_card import add_card
from .benchmark_descent import add_descent
from .benchmark_engine import add_kinds
from .common import Commands, add_loss_arguments, command, make_loss, names, note, note_skipped, print_json, write_json
from .human import add_human
from .jury import add_jury
from .restoration import add_restoration
from .resume import add_resume
from .selection_study import add_selection
from .speed import add_speed
from .throughput import add_throughput


def add_commands(commands: Commands) -> None:
    """Register ``benchmark`` and its kinds."""
    parser = command(
        commands,
        "benchmark",
        "Measure the loss, its speed, recovery by descent, or the distortion engine.",
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    engine = command(kinds, "engine", "Axis, sign, map and order accuracy on photographs degraded by the engine.")
    engine.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder of pristine photographs")
    engine.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    engine.add_argument("--limit", type=int, help="use at most this many photographs")
    engine.add_argument(
        "--operators",
        type=names,
        metavar="A,B,C",
        help="measure these operators alone, e.g. those a training held out (default: all of the bank)",
    )
    add_loss_arguments(engine)
    engine.set_defaults(run=run_engine)
    add_speed(kinds)
    gradients = command(kinds, "gradients", "The largest gradient of the distance that search and ascent find.")
    gradients.add_argument("--side", type=int, default=48, help="side of the pictures in pixels (default: 48)")
    gradients.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    add_loss_arguments(gradients)
    gradients.set_defaults(run=run_gradients)
    add_descent(kinds)
    add_kinds(kinds)
    add_throughput(kinds)
    add_human(kinds)
    add_jury(kinds)
    add_restoration(kinds)
    add_selection(kinds)
    add_resume(kinds)
    add_card(kinds)


def run_engine(args: argparse.Namespace) -> int:
    """Engine-based figures."""
    from ..evaluation.engine_scores import evaluate
    from ..images import read_folder

    folder = read_folder(args.data, args.limit)
    note_skipped(folder.skipped)
    loss_fn = make_loss(args)
    photographs = [image.to(args.device) for image in folder.images]
    scores = evaluate(loss_fn, photographs, distortions=args.operators, progress=note)
    print_json(scores)
    if args.json is not None:
        write_json(args.json, scores)
    return 0


def run_gradients(args: argparse.Namespace) -> int:
    """Largest gradient found."""
    from ..evaluation.engine_cases import of_weights
    from ..evaluation.gradient_bound import search

    loss_fn = make_loss(args)
    found = search(loss_fn, side=args.side, device=args.device)
    report = {**found.to_dict(), **of_weights(loss_fn)}
    print_json(report)
    if args.json is not None:
        write_json(args.json, report)
    return 0
