"""``relqa benchmark restoration``: restorers trained with several losses, judged by metrics that took no part."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Commands, add_loss_arguments, command, names, note, note_skipped, print_table, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.peer_metrics import PeerMetric
    from ..losses import RelationalLoss
    from ..restoration.restorers import Plan, Restorer, Term


def add_restoration(kinds: Commands) -> None:
    """Register ``restoration`` among the kinds of ``benchmark``."""
    parser = command(
        kinds, "restoration", "Small restorers, fine-tuned from one start with one loss each, judged by other metrics."
    )
    add_training_arguments(parser, seeds=[0, 1], start_steps=1500, steps=500, crop=176)
    parser.add_argument("--judges", type=names, metavar="A,B", help="psnr, cvvdp, ... (default: four)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="crops side by side, e.g. restoration.webp")
    parser.set_defaults(run=run)


def add_training_arguments(
    parser: argparse.ArgumentParser, *, seeds: list[int], start_steps: int, steps: int, crop: int
) -> None:
    """What says how restorers are trained and on what they are judged; the rest are defaults of the options."""
    parser.add_argument(
        "--data", required=True, type=Path, metavar="DIR", help="photographs to train on, searched recursively"
    )
    parser.add_argument(
        "--test", required=True, type=Path, metavar="DIR", help="photographs to be judged on, in this folder alone"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="restorers go here; finished ones stay")
    parser.add_argument("--tasks", type=names, metavar="A,B", help="denoise, deblur, x2 (default: all)")
    parser.add_argument(
        "--losses", type=partial(names, between=";"), metavar="A;B", help="what to train with, by name (default: all)"
    )
    default = " ".join(map(str, seeds))
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds, help=f"of training (default: {default})")
    parser.add_argument(
        "--start-steps",
        type=int,
        default=start_steps,
        help=f"steps with L1 alone, for all (default: {start_steps})",
    )
    parser.add_argument("--steps", type=int, default=steps, help=f"steps with each loss after them (default: {steps})")
    parser.add_argument(
        "--crop", type=int, default=crop, help=f"side of the training crops in pixels (default: {crop})"
    )
    parser.add_argument("--batch", type=int, default=4, help="crops a step (default: 4)")
    parser.add_argument(
        "--share",
        type=_shares,
        default=(1.0, {}),
        metavar="S[;A=S]",
        help="a term's gradient beside L1's, at the start; for single losses another, e.g. \"1;L1 + MS-SSIM=2\" "
        "(default: 1)",
    )
    parser.add_argument("--test-crop", type=int, default=256, help="side of the judged crops in pixels (default: 256)")
    parser.add_argument("--limit", type=int, help="judge on at most this many photographs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    add_loss_arguments(parser)


def _shares(text: str) -> tuple[float, dict[str, float]]:
    """``"1; L1 + MS-SSIM=2"`` -> the share of all terms, and those of single losses by name."""
    found: dict[str, float] = {}
    for piece in names(text, between=";"):
        name, equals, value = piece.rpartition("=")
        name = name.strip()
        try:
            share = float(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number or LOSS=NUMBER, several by ;, got {piece!r}") from None
        if (equals and not name) or name in found:
            raise argparse.ArgumentTypeError(f"must give each loss one number, got {text!r}")
        found[name] = share
    return found.pop("", 1.0), found


@dataclass(frozen=True)
class Setup:
    """What the options of :func:`add_training_arguments` come to.

    Attributes:
        plan: how restorers are trained.
        shares: name of a loss -> its share, where it is not the plan's.
        tasks: names of what they undo.
        losses: name -> term beside L1.
        metrics: name -> metric of another package.
        training: photographs to train on, uint8 (3, H, W) each.
        tests: central crops to judge on, (3, H, W) in [0, 1] each.
        loss_fn: the loss of ``--weights`` on the CPU, where restored pictures are.
        digest: of the photographs to train on.
        weights: digests of the files of the loss's weights.
        distance: digest of what its distances depend on.
    """

    plan: Plan
    shares: dict[str, float]
    tasks: list[str]
    losses: dict[str, Term | None]
    metrics: dict[str, PeerMetric]
    training: list[Tensor]
    tests: list[Tensor]
    loss_fn: RelationalLoss
    digest: str
    weights: dict[str, str]
    distance: str

    def report(self, seeds: list[int]) -> dict[str, Any]:
        """The beginning of a report: what was trained and judged, how and on what."""
        return {
            "plan": asdict(self.plan), "shares": self.shares, "seeds": seeds, "photographs": len(self.tests),
            "crop": int(self.tests[0].shape[-1]),
            "judges": {name: f"{one.package} {one.version}" for name, one in self.metrics.items()},
            "weights_sha256": self.weights,
            "distance_sha256": self.distance,
        }  # fmt: skip


def set_up(args: argparse.Namespace, losses: Sequence[str], metrics: Sequence[str]) -> Setup:
    """Check the options of :func:`add_training_arguments` and read what they name.

    Args:
        args: the parsed options.
        losses: names of losses, where ``--losses`` gives none.
        metrics: names of metrics to judge by; what is not installed is named on stderr and left out.

    Raises:
        ValueError: an unknown name, a size that does not do, or photographs that cannot be used.
    """
    from ..evaluation.peer_metrics import load_metrics
    from ..images import central_crop, read_folder
    from ..losses import RelationalLoss
    from ..restoration.restorers import TASKS, Plan, check_tasks, terms
    from ..training.data import load_photographs
    from ..validation import MIN_SIDE

    common, shares = args.share
    plan = Plan(args.start_steps, args.steps, args.batch, args.crop, share=common)
    tasks = check_tasks(args.tasks or list(TASKS))
    found, missing = terms(args.losses or losses, args.weights, plan.crop, args.device)
    judges, absent = load_metrics(metrics)
    too_large = [name for name, judge in judges.items() if judge.min_side > args.test_crop]
    if too_large:
        raise ValueError(f"--test-crop must be larger for {', '.join(too_large)}, got {args.test_crop}")
    if args.test_crop < MIN_SIDE or args.test_crop % 2:
        raise ValueError(f"--test-crop must be even and at least {MIN_SIDE}, got {args.test_crop}")
    for name, reason in (missing | absent).items():
        note(f"{name} left out: {reason}")
    # What is left out needs no share either.
    shares = {name: share for name, share in shares.items() if name not in missing}
    loss_fn = RelationalLoss(args.weights)
    training = load_photographs(args.data, 0.0, plan.crop)
    folder = read_folder(args.test, args.limit, args.test_crop)
    note_skipped([*training.skipped, *folder.skipped])
    tests = [central_crop(image, args.test_crop) for image in folder.images]
    info = loss_fn.info()
    return Setup(
        plan, shares, tasks, found, judges, training.training, tests, loss_fn, training.digest, info["files"],
        info["distance"],
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train, judge, print."""
    from ..figures import check_ending, figure_path
    from ..restoration.judging import JUDGES, compare, goal, measures, restored
    from ..restoration.restorers import LOSSES, train

    if args.figure is not None:
        check_ending(figure_path(args.figure))
    setup = set_up(args, LOSSES, args.judges or JUDGES)
    judges = list(setup.metrics)
    report: dict[str, Any] = {**setup.report(args.seeds), "tasks": {}}
    rows: dict[str, dict[str, Tensor]] = {}
    for task in setup.tasks:
        tables: dict[str, list[Mapping[str, Sequence[float]]]] = {}
        factors: dict[str, list[float]] = {}
        map_factors: dict[str, list[float]] = {}
        for seed in args.seeds:
            made = train(
                task, seed, setup.losses, setup.training, setup.plan, args.out,
                digest=setup.digest, weights=setup.weights, distance=setup.distance, shares=setup.shares,
                device=args.device, progress=note,
            )  # fmt: skip
            for name, one in made.items():
                pictures = restored(one.model, task, setup.tests, seed)
                tables.setdefault(name, []).append(measures(pictures, setup.tests, setup.metrics, setup.loss_fn))
                factors.setdefault(name, []).append(one.factor)
                if one.map_factor:
                    map_factors.setdefault(name, []).append(one.map_factor)
            if seed == args.seeds[0]:
                rows[task] = _first_of_each(task, {name: one.model for name, one in made.items()}, setup.tests, seed)
            note(f"{task}, seed {seed}: judged")
        figures = compare(tables, judges)
        report["tasks"][task] = {
            **figures,
            "factors": factors,
            "map_factors": map_factors,
            "goal": goal(figures, judges),
        }
        print_task(task, report["tasks"][task], judges)
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
