"""``relqa benchmark``: figures of merit of the loss, its speed, agreement with others, and the distortion engine."""

from __future__ import annotations

import argparse
from pathlib import Path

from .benchmark_card import add_card
from .benchmark_descent import add_descent
from .benchmark_engine import add_kinds
from .common import Commands, add_loss_arguments, command, make_loss, note, note_skipped, print_json, write_json
from .human import add_human
from .jury import add_jury
from .restoration import add_restoration
from .resume import add_resume
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
        type=lambda text: [name.strip() for name in text.split(",")],
        metavar="A,B,C",
        help="measure these operators alone, e.g. those a training held out (default: all of the bank)",
    )
    add_loss_arguments(engine)
    engine.set_defaults(run=run_engine)
    speed = command(kinds, "speed", "Forward and backward time beside a network of the LPIPS-AlexNet architecture.")
    speed.add_argument("--batch", type=int, default=8, help="images in a batch (default: 8)")
    speed.add_argument("--size", type=int, default=256, help="side of the images in pixels (default: 256)")
    speed.add_argument("--repeats", type=int, default=7, help="timed passes of each (default: 7)")
    speed.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    speed.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    add_loss_arguments(speed)
    speed.set_defaults(run=run_speed)
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


def run_speed(args: argparse.Namespace) -> int:
    """Time of one forward and backward pass."""
    import torch

    from ..evaluation.speed import measure

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    shape = (args.batch, 3, args.size, args.size)
    report = measure(make_loss(args), shape=shape, repeats=args.repeats, device=args.device)
    print(
        f"forward + backward to pred, {'x'.join(map(str, shape))} float32, {report.device}, {report.threads} threads,"
    )
    print(f"torch {report.torch_version}, median of {report.repeats} interleaved repeats")
    print(f"RelationalLoss              {report.loss_ms:9.1f} ms     (fastest {report.loss_best_ms:.1f})")
    fastest = report.lpips_alexnet_best_ms
    print(f"LPIPS-AlexNet architecture  {report.lpips_alexnet_ms:9.1f} ms     (fastest {fastest:.1f})")
    low, high = report.ratio_spread
    print(f"ratio                       {report.ratio:9.2f}     ({low:.2f} to {high:.2f} over the repeats)")
    if args.json is not None:
        write_json(args.json, report.to_dict())
    return 0


def run_gradients(args: argparse.Namespace) -> int:
    """Largest gradient found."""
    from ..evaluation.gradient_bound import search

    report = search(make_loss(args), side=args.side, device=args.device).to_dict()
    print_json(report)
    if args.json is not None:
        write_json(args.json, report)
    return 0
