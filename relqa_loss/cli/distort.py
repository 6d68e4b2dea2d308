"""``relqa distort``: one operator of the bank on one photograph."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import Commands, command, print_table


def add_commands(commands: Commands) -> None:
    """Register ``distort``."""
    parser = command(commands, "distort", "Distort a photograph, or list the distortions.")
    parser.add_argument("photo", metavar="PHOTO", type=Path, nargs="?", help="the photograph")
    parser.add_argument("--list", action="store_true", help="list the distortions and regions, and stop")
    parser.add_argument("--name", help="which distortion")
    parser.add_argument("--severity", type=float, default=0.5, help="0 = untouched, 1 = strongest (default: 0.5)")
    parser.add_argument("--region", metavar="KIND", help="where it acts (default: everywhere)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR|FILE", help="file to write, or folder for PHOTO-NAME-SEVERITY.png"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random draws (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the distorted photograph and say where it is."""
    if args.list:
        return list_bank()
    missing = [
        flag for flag, value in (("PHOTO", args.photo), ("--name", args.name), ("--out", args.out)) if value is None
    ]
    if missing:
        raise ValueError(f"needs {', '.join(missing)} (or --list)")
    import torch

    from ..distortions import distort
    from ..images import SUFFIXES, read_image, write_image

    image = read_image(args.photo)
    generator = torch.Generator().manual_seed(args.seed)
    result = distort(image[None], args.name, args.severity, region=args.region, generator=generator)
    target = args.out
    if target.suffix.lower() not in SUFFIXES or target.is_dir():
        target = target / f"{args.photo.stem}-{args.name}-{args.severity:g}.png"
    print(write_image(target, result))
    return 0


def list_bank() -> int:
    """Names, families and effects."""
    from ..distortions import BANK, REGIONS

    rows = [[d.name, d.family, ", ".join(f"{axis} {effect:+g}" for axis, effect in d.effects.items())] for d in BANK]
    print_table(["name", "family", "effect on axes"], rows)
    print(f"\nregions: {', '.join(REGIONS)}")
    return 0
