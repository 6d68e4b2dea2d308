"""``relqa benchmark speed`` and ``growth``: time and memory of the loss, beside others and over sizes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Commands, add_loss_arguments, command, make_loss, note, print_table, set_threads, write_json

if TYPE_CHECKING:
    from ..evaluation.growth import Growth
    from ..evaluation.speed import SpeedReport


def add_speed(kinds: Commands) -> None:
    """Register ``speed`` and ``growth`` among the kinds of ``benchmark``."""
    speed = command(kinds, "speed", "Time and peak memory of a forward and backward pass, beside LPIPS and MS-SSIM.")
    speed.add_argument("--batch", type=int, default=8, help="images in a batch (default: 8)")
    speed.add_argument("--size", type=int, default=256, help="side of the images in pixels (default: 256)")
    speed.add_argument("--repeats", type=int, default=7, help="timed passes of each, at most (default: 7)")
    speed.add_argument("--compile", action="store_true", help="run the loss, not its peers, through torch.compile")
    speed.add_argument("--profile", action="store_true", help="also show which parts of the loss take the time")
    _add_common(speed)
    speed.set_defaults(run=run_speed)
    growth = command(kinds, "growth", "How time and peak memory grow with the side of a picture and with the batch.")
    growth.add_argument("--largest-side", type=int, default=4096, help="of one picture, in pixels (default: 4096)")
    growth.add_argument("--largest-batch", type=int, default=64, help="images in a batch (default: 64)")
    growth.add_argument("--batch-side", type=int, default=128, help="side of their images in pixels (default: 128)")
    growth.add_argument("--repeats", type=int, default=3, help="timed passes at each size (default: 3)")
    growth.add_argument("--figure", type=Path, metavar="FILE", help="draw it; .svg and .pdf are vectors")
    _add_common(growth)
    growth.set_defaults(run=run_growth)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of forward passes; bfloat16 by autocast (default: float32)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    add_loss_arguments(parser)


def _prepare(args: argparse.Namespace) -> None:
    set_threads(args.threads)
    # Torch's profiler, which counts memory on the CPU, otherwise logs its own starts and stops to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def run_speed(args: argparse.Namespace) -> int:
    """Costs side by side."""
    from ..evaluation.speed import measure
    from ..evaluation.speed_profile import profile

    _prepare(args)
    loss_fn = make_loss(args)
    shape = (args.batch, 3, args.size, args.size)
    settings: dict[str, Any] = {
        "shape": shape,
        "repeats": args.repeats,
        "device": args.device,
        "precision": args.precision,
    }
    # First, so that a size that cannot be profiled is told before the long run.
    parts = profile(loss_fn, **settings) if args.profile else None
    report = measure(loss_fn, **settings, compiled=args.compile, progress=note)
    print_speed(report)
    figures = report.to_dict()
    if parts is not None:
        print_profile(parts)
        figures["profile"] = parts
    if args.json is not None:
        write_json(args.json, figures)
    return 0


def print_speed(report: SpeedReport) -> None:
    """One row a contender, and the targets."""
    from ..evaluation.speed import TARGETS
    from ..evaluation.targets import verdicts

    setup = report.setup
    print(f"forward + backward to pred, {'x'.join(map(str, setup['shape']))}, {_machine(setup)}")
    if setup["compiled"]:
        print("the loss through torch.compile, its peers in eager mode")
    rows = []
    for one in report.contenders.values():
        low, high = one.ratio_spread
        rows.append(
            [
                *(one.title, str(one.repeats), f"{one.ms:.1f}", f"{one.best_ms:.1f}"),
                *(f"{one.ratio:.3f}", f"{low:.3f} to {high:.3f}"),
                *(f"{one.peak_mib:.1f}", f"{one.memory_ratio:.3f}"),
            ]
        )
    print()
    print_table(["", "passes", "ms", "best ms", "ours / it", "over the repeats", "peak MiB", "ours / it"], rows)
    print(f"\npeak memory beyond weights and pictures: {report.memory_method}")
    for title, reason in report.left_out.items():
        print(f"left out: {title}, {reason}")
    print("\ntargets, set for 8x3x256x256 float32 on 2 CPU threads")
    found = verdicts(report.to_dict()["contenders"], TARGETS)
    print_table(["ours beside", "target", "measured", ""], [list(one.cells()) for one in found])


def print_profile(parts: dict[str, Any]) -> None:
    """One row a part."""
    print("\nwhere the time goes, in eager mode; median of each part, a wait for the device after it")
    rows = [[part, f"{ms:.1f}", f"{100 * parts['share'][part]:.1f}"] for part, ms in parts["ms"].items()]
    print_table(["part", "ms", "%"], [*rows, ["sum", f"{sum(parts['ms'].values()):.1f}", "100.0"]])


def run_growth(args: argparse.Namespace) -> int:
    """Costs over sizes."""
    from ..evaluation.growth import measure_growth
    from ..figures import check_ending, figure_path
    from ..figures_growth import growth_figure

    if args.figure is not None:
        check_ending(figure_path(args.figure))
    _prepare(args)
    report = measure_growth(
        make_loss(args),
        largest_side=args.largest_side,
        largest_batch=args.largest_batch,
        batch_side=args.batch_side,
        repeats=args.repeats,
        device=args.device,
        precision=args.precision,
        progress=note,
    )
    print(f"forward + backward to pred, {_machine(report.setup)}")
    print(f"peak memory beyond weights and pictures: {report.memory_method}")
    _print_growth("one picture, its side doubles", report.side)
    _print_growth("the batch doubles", report.batch)
    if args.json is not None:
        write_json(args.json, report.to_dict())
    if args.figure is not None:
        growth_figure(report.to_dict(), args.figure)
        note(f"written: {figure_path(args.figure)}")
    return 0


def _print_growth(title: str, growth: Growth) -> None:
    print(f"\n{title}: time grows as pixels^{growth.time_exponent:.2f}, memory as pixels^{growth.memory_exponent:.2f}")
    rows = [
        [str(one.batch), str(one.side), f"{one.ms:.1f}", f"{one.best_ms:.1f}", f"{one.peak_mib:.1f}"]
        for one in growth.points
    ]
    print_table(["batch", "side", "ms", "best ms", "peak MiB"], rows)
    for reason in growth.left_out:
        print(f"left out: {reason}")


def _machine(setup: dict[str, Any]) -> str:
    parts = (setup["precision"], setup["device"], f"{setup['threads']} CPU threads", f"torch {setup['torch']}")
    return ", ".join((*parts, setup["allocator"])) if setup["allocator"] else ", ".join(parts)
