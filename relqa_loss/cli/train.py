"""``relqa train``: both stages, and a plot of their logs."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .common import Commands, command, names, note, note_skipped, print_json, write_json
from .progress import Bar

if TYPE_CHECKING:
    from ..distortions import Distortion
    from ..training.data import Photographs
    from ..training.loop import Progress
    from ..training.recipe import DataConfig, PredictorConfig
    from ..training.start import Start


def add_commands(commands: Commands) -> None:
    """Register ``train predictor``, ``train scorer`` and ``train plot``."""
    parser = command(
        commands, "train", "Train the networks from pristine photographs: first the predictor, then the scorer."
    )
    stages = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    predictor = command(stages, "predictor", "First stage: signed maps.")
    predictor.set_defaults(run=run_predictor)
    scorer = command(stages, "scorer", "Second stage: distance and judgement; writes the weights folder OUT/weights.")
    scorer.add_argument("--predictor", type=Path, metavar="PATH", required=True, help="OUT of the predictor stage")
    scorer.add_argument(
        "--scorer-from",
        metavar="WEIGHTS",
        help="weights (OUT/weights of a scorer run) whose scorer this one starts from; random if left out. With "
        "scorer.trained=judgement their distance stays as it is",
    )
    scorer.add_argument(
        "--test",
        type=Path,
        metavar="DIR",
        help="photographs for the final figures, in this folder alone, never trained on",
    )
    scorer.add_argument("--name", default="my-weights", help="title of the model card (default: my-weights)")
    scorer.add_argument(
        "--source", action="append", default=[], metavar="NAME=LICENCE", help="photographs, for the card; repeatable"
    )
    scorer.add_argument(
        "--note",
        action="append",
        default=[],
        metavar="TEXT",
        help="what the recipe does not tell, for the card; repeatable",
    )
    scorer.set_defaults(run=run_scorer)
    plot = command(stages, "plot", "Training curves from the metrics logs of one run, or of several in one figure.")
    plot.add_argument("logs", type=Path, metavar="RUN", nargs="+", help="OUT of a stage, or its metrics.jsonl")
    plot.add_argument("--out", type=Path, required=True, metavar="FILE", help="figure to write (PNG, PDF or SVG)")
    plot.add_argument("--only", metavar="A,B", type=names, help="only these numbers of the log, e.g. loss")
    plot.add_argument("--narrow", action="store_true", help="as wide as one column of a paper (default: two)")
    plot.set_defaults(run=run_plot)
    for stage in (predictor, scorer):
        stage.add_argument("--recipe", default="cpu-small", metavar="NAME|FILE", help="bundled recipe or TOML file")
        stage.add_argument(
            "--data", type=Path, required=True, metavar="DIR", help="pristine photographs, searched recursively"
        )
        stage.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoint and metrics go here")
        stage.add_argument(
            "--start-from",  # torchrun would take --start for one of its own
            dest="start",
            metavar="RUN|WEIGHTS",
            help="what the predictor starts from: OUT of another run, or weights; random if left out. With a recipe of "
            "several parts: what the first one does; the scorer's stage does not ask it then",
        )
        stage.add_argument(
            "--further",
            type=Path,
            metavar="FILE.py",
            help="Python file whose list DISTORTIONS holds operators of your own, drawn beside the recipe's",
        )
        stage.add_argument("--resume", action="store_true", help="go on from OUT's checkpoint and kept pairs")
        stage.add_argument("--device", default="cpu", help="where to train, e.g. cuda (default: cpu)")
        stage.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override, e.g. predictor.steps=200, or PART.predictor.steps=200; repeatable",
        )


def parse_overrides(items: list[str]) -> dict[str, str]:
    """``KEY=VALUE`` texts to a dict.

    Raises:
        ValueError: a text without ``=`` or key.
    """
    overrides = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set wants KEY=VALUE, got {item!r}")
        overrides[key.strip()] = value.strip()
    return overrides


def parse_source(text: str) -> tuple[str, str]:
    """``NAME=LICENCE`` to a pair.

    Raises:
        ValueError: no ``=``, or nothing on one side of it.
    """
    name, _, licence = text.partition("=")
    if not name.strip() or not licence.strip():
        raise ValueError(f"--source wants NAME=LICENCE, got {text!r}")
    return name.strip(), licence.strip()


def own_operators(path: Path | None) -> list[Distortion]:
    """What ``--further`` names; the file runs, as a module that worker processes can import too.

    Raises:
        ValueError: no such file, one whose name another module has, or no list of operators in it.
    """
    from ..distortions import Distortion

    if path is None:
        return []
    if path.suffix != ".py" or not path.is_file() or not path.stem.isidentifier():
        raise ValueError(f"--further must be a Python file that can be imported by its name, got {path}")
    # At the end, so that neither this file nor those beside it stand in for other modules.
    sys.path.append(str(path.absolute().parent))
    module = importlib.import_module(path.stem)
    origin = getattr(module, "__file__", None)
    if origin is None or not path.samefile(origin):
        raise ValueError(f"--further must have a name that no other module has, got {path}")
    found = getattr(module, "DISTORTIONS", None)
    if not isinstance(found, list | tuple) or not found or not all(isinstance(one, Distortion) for one in found):
        raise ValueError(f"{path} must hold a list DISTORTIONS of relqa_loss.distortions.Distortion, got {found!r}")
    return list(found)


class ProgressBar:
    """How far a run is, with its loss: a bar on a terminal; elsewhere, for logs, a line now and then.

    Args:
        seconds: between two lines where there is no terminal.
    """

    def __init__(self, seconds: float = 30.0) -> None:
        self._seconds = seconds
        self._last = -float("inf")
        self._bar = Bar("training")

    def __call__(self, progress: Progress) -> None:
        """Show where the run stands."""
        loss = "" if progress.loss is None else f"loss {progress.loss:.4f}"
        self._bar(progress.step, progress.steps, f"{progress.stage}, {loss}" if loss else progress.stage)
        finished = progress.step == progress.steps
        if sys.stderr.isatty() or not (finished or time.monotonic() - self._last >= self._seconds):
            return
        self._last = time.monotonic()
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        note(
            f"{progress.stage} {progress.step}/{progress.steps}  {f'{loss}  ' if loss else ''}"
            f"{progress.steps_per_second:.2f} steps/s  {minutes}:{seconds:02d} left"
        )


def run_predictor(args: argparse.Namespace) -> int:
    """First stage."""
    from ..training.distributed import joined
    from ..training.parts import train_parts
    from ..training.recipe_toml import load_parts
    from ..training.stopping import Stopped

    parts = load_parts(args.recipe, parse_overrides(args.set))
    start = starting_point(parts[0].recipe.predictor, args.start)
    further = own_operators(args.further)
    with joined(args.device) as (ranks, device):
        try:
            train_parts(
                parts,
                args.data,
                args.out,
                start=start,
                further=further,
                resume=args.resume,
                device=device,
                loaded=note_left_out if ranks.first else None,
                progress=ProgressBar(),
            )
        except Stopped as stop:
            return stopped(stop, ranks.first)
    if ranks.first:
        print(args.out)
    return 0


def note_left_out(photographs: Photographs, config: DataConfig) -> None:
    """Name the photographs that were skipped; say so if none is left to validate on although the recipe wants some."""
    note_skipped(photographs.skipped)
    if config.validation_share > 0 and not photographs.validation:
        note(
            f"none of {len(photographs.training)} photographs falls into the validation share of "
            f"{config.validation_share:g}: the log will hold no validation figures"
        )


def starting_point(config: PredictorConfig, source: str | None) -> Start | None:
    """What ``--start-from`` names, or None."""
    from ..training.predictor_stage import new_predictor
    from ..training.start import start_from

    if source is None:
        return None
    return start_from(new_predictor(config), source)


def stopped(stop: Exception, tells: bool) -> int:
    """Say that a run was stopped, if this process does the talking; exit code of a process that SIGTERM ended."""
    if tells:
        note(f"relqa train: {stop}")
    return 128 + 15


def run_scorer(args: argparse.Namespace) -> int:
    """Second stage, the weights folder, and the final figures."""
    from ..images import Folder, read_folder
    from ..training.data import load_photographs
    from ..training.distributed import joined
    from ..training.loop import load_average
    from ..training.parts import start_of_last
    from ..training.predictor_stage import new_predictor
    from ..training.provenance import fingerprint, provenance_of
    from ..training.recipe_toml import load_parts
    from ..training.release import release
    from ..training.scorer_stage import check_start, train_scorer
    from ..training.start import start_scorer_from
    from ..training.stopping import Stopped

    sources = [parse_source(text) for text in args.source]
    parts = load_parts(args.recipe, parse_overrides(args.set))
    recipe = parts[-1].recipe
    predictor = new_predictor(recipe.predictor)
    start = starting_point(recipe.predictor, args.start) if len(parts) == 1 else start_of_last(parts, args.predictor)
    scorer_start = None if args.scorer_from is None else start_scorer_from(args.scorer_from)
    check_start(recipe.scorer, scorer_start)
    further = own_operators(args.further)
    with joined(args.device) as (ranks, device):
        photographs = load_photographs(args.data, recipe.data.validation_share, recipe.scorer.crop)
        base = None if start is None else start.predictor
        of_predictor = fingerprint(recipe, "predictor", photographs, base, further=further)
        predictor_seconds = load_average(predictor, args.predictor, recipe.predictor.steps, of_predictor)
        tests = Folder((), ()) if args.test is None or not ranks.first else read_folder(args.test)
        if ranks.first:
            note_left_out(photographs, recipe.data)
            note_skipped(tests.skipped)
        try:
            scorer = train_scorer(
                recipe,
                photographs,
                predictor,
                args.out,
                start=scorer_start,
                further=further,
                resume=args.resume,
                device=device,
                progress=ProgressBar(),
            )
        except Stopped as stop:
            return stopped(stop, ranks.first)
    if not ranks.first:
        return 0
    scorer_base = None if scorer_start is None else scorer_start.scorer
    of_scorer = fingerprint(recipe, "scorer", photographs, predictor, scorer_base, further=further)
    provenance = provenance_of(
        recipe,
        photographs,
        start=start,
        scorer_start=scorer_start,
        further=further,
        predictor_seconds=predictor_seconds,
        scorer_seconds=load_average(scorer, args.out, recipe.scorer.steps, of_scorer),
        device=device,
        processes=ranks.size,
    )
    if args.note:
        provenance["notes"] = args.note
    folder = args.out / "weights"
    evaluation = release(
        folder,
        predictor,
        scorer,
        provenance,
        name=args.name,
        sources=sources,
        test_photographs=[image.to(device) for image in tests.images],
        progress=note,
        measured=partial(write_json, args.out / "evaluation.json"),
    )
    if evaluation is not None:
        print_json(evaluation)
    note(f"written: {folder}")
    return 0


def run_plot(args: argparse.Namespace) -> int:
    """Training curves."""
    from ..figures import NARROW, WIDE, check_ending, figure_path
    from ..figures_training import training_curves
    from ..training.loop import METRICS

    check_ending(figure_path(args.out))
    logs = {str(log): log / METRICS if log.is_dir() else log for log in args.logs}
    chosen = next(iter(logs.values())) if len(logs) == 1 else logs
    training_curves(chosen, args.out, names=args.only, width=NARROW if args.narrow else WIDE)
    print(figure_path(args.out))
    return 0
