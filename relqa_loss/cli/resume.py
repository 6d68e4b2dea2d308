"""``relqa benchmark resume``: training that is killed and resumed, and training that is repeated."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import Commands, command, note, print_json, write_json


def add_resume(kinds: Commands) -> None:
    """Register ``resume`` among the kinds of ``benchmark``."""
    parser = command(
        kinds, "resume", "Kill a small training run at random moments, resume it, compare with a whole one."
    )
    parser.add_argument(
        "--data", required=True, type=Path, metavar="DIR", help="a few photographs, searched recursively"
    )
    parser.add_argument("--recipe", default="cpu-small", metavar="NAME|FILE", help="recipe, made small (cpu-small)")
    parser.add_argument("--kills", type=int, default=10, help="how often to kill (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="CPU threads of the whole runs (default: 1 2)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override of the small run; repeatable"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    import tempfile

    from ..training.resume_study import SMALL_RUN, resume_study
    from .train import parse_overrides

    with tempfile.TemporaryDirectory() as folder:
        report = resume_study(
            args.data,
            Path(folder),
            recipe=args.recipe,
            overrides=SMALL_RUN | parse_overrides(args.set),
            kills=args.kills,
            seed=args.seed,
            threads=args.threads,
            progress=note,
        )
    print_json(report)
    if args.json is not None:
        write_json(args.json, report)
    return 0
