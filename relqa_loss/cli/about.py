"""``relqa info`` and ``relqa demo``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..demo import PHOTOGRAPH, PHOTOGRAPHS, STEPS
from .common import Commands, add_weights_argument, command, print_json, print_table
from .progress import Bar


def add_commands(commands: Commands) -> None:
    """Register ``info`` and ``demo``."""
    info = command(commands, "info", "Version, weights, their sha256 and provenance, axes.")
    add_weights_argument(info)
    info.add_argument("--json", action="store_true", help="print JSON instead of text")
    info.set_defaults(run=run_info)
    demo = command(commands, "demo", "Degrade a shipped photograph, say what is wrong, and repair it by descent.")
    demo.add_argument(
        "--out",
        type=Path,
        metavar="DIR|FILE",
        default=Path("relqa-demo"),
        help="folder of the figure, or its file (default: relqa-demo)",
    )
    demo.add_argument("--photograph", default=PHOTOGRAPH, choices=PHOTOGRAPHS, help=f"default: {PHOTOGRAPH}")
    add_weights_argument(demo)
    demo.add_argument("--steps", type=int, default=STEPS, help=f"descent steps (default: {STEPS})")
    demo.set_defaults(run=run_demo)


def run_info(args: argparse.Namespace) -> int:
    """What is installed."""
    from .. import __version__
    from ..relation import AXES
    from ..weights import bundled, fetch
    from ..words import AXIS_WORDS

    weights = fetch(args.weights)
    tensors = (*weights.predictor.values(), *weights.scorer.values())
    facts = {
        "version": __version__,
        "weights": args.weights,
        "revision": weights.revision,
        "folder": str(weights.folder),
        "parameters": sum(tensor.numel() for tensor in tensors),
        "sha256": weights.sha256,
        "bundled": list(bundled()),
        "provenance": weights.config.get("provenance", {}),
        "axes": {axis: {"+": AXIS_WORDS[axis][0], "-": AXIS_WORDS[axis][1]} for axis in AXES},
    }
    if args.json:
        print_json(facts)
        return 0
    print(f"relqa_loss {__version__}")
    print(f"weights    {args.weights} ({weights.folder}), {facts['parameters']:,} numbers")
    if weights.revision is not None:
        print(f"revision   {weights.revision}")
    for name, digest in weights.sha256.items():
        print(f"sha256     {digest}  {name}")
    print(f"bundled    {', '.join(bundled()) or 'none'}")
    print("provenance (all of it: --json)")
    for key, value in provenance_lines(weights.config.get("provenance", {})):
        print(f"  {key:<24} {value}")
    print()
    print_table(["axis", "+ : the first image, compared with the second, is", "-"], [[a, *AXIS_WORDS[a]] for a in AXES])
    return 0


def provenance_lines(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, value) of what a line can tell of a provenance: of a recipe its name and seed, of lists their members.

    Members that say several things have lines of their own, without a key.
    """
    lines = []
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            value = [f"{name} {value[name]}" for name in ("name", "seed") if name in value]
        parts = value if isinstance(value, list) else [value]
        members = list(map(_member, parts))
        if not any(isinstance(one, Mapping) for one in parts):
            members = ["; ".join(members)]
        lines += [("" if number else key, member or "-") for number, member in enumerate(members)]
    return lines


def _member(one: Any) -> str:
    if isinstance(one, Mapping):
        return ", ".join(f"{name} {value}" for name, value in one.items())
    return ": ".join(map(str, one)) if isinstance(one, list) else str(one)


def run_demo(args: argparse.Namespace) -> int:
    """Run, print, and say where the figure is."""
    from .. import demo
    from ..words import in_words

    result = demo.run_demo(args.out, args.photograph, args.weights, steps=args.steps, progress=Bar("repairing"))
    (quality, sigma), (mild_quality, mild_sigma) = demo.STRONG, demo.MILD
    print(f"{result.photograph}: JPEG quality {quality} on the left, noise of sigma {sigma:g} on the right")
    print(f"(a milder copy to compare with: quality {mild_quality}, sigma {mild_sigma:g})")
    print(f"distance to the original   strong {result.distance:.4f}   mild {result.mild_distance:.4f}")
    nearer = (
        "the mild one is nearer to the original" if result.score > 0 else "the strong one is nearer to the original"
    )
    print(f"score mild against strong  {result.score:+.4f} ({nearer})\n")
    shown = [(axis, part, direction) for axis, part, direction in result.axes if part >= 0.01 * result.distance]
    rows = [[axis, f"{part:.4f}", f"{part / result.distance:.0%}", in_words(axis, d)] for axis, part, d in shown]
    rest = result.distance - result.floor - sum(part for _, part, _ in shown)
    rows.append(["(other axes)", f"{max(rest, 0.0):.4f}", f"{max(rest, 0.0) / result.distance:.0%}", ""])
    rows.append(
        ["(floor)", f"{result.floor:.4f}", f"{result.floor / result.distance:.0%}", "differences of single pixels"]
    )
    print_table(["axis", "part", "share", "the degraded photograph is, has"], rows)
    before, after = result.crop_distance
    print(f"\nrepair of the middle by {args.steps} steps down the loss, from the degraded photograph:")
    print(f"PSNR {result.psnr_before:.2f} dB -> {result.psnr_after:.2f} dB, distance {before:.4f} -> {after:.4f}")
    print(f"figure: {result.figure}")
    times = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in result.seconds.items())
    print(f"time: {times}; {sum(result.seconds.values()):.1f} s in all")
    return 0
