"""``relqa train predictor`` and ``relqa train scorer``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .common import Commands, command, note, note_skipped, print_json

if TYPE_CHECKING:
    from ..predictor import DistortionPredictor
    from ..training.loop import Progress
    from ..training.recipe import Recipe


def add_commands(commands: Commands) -> None:
    """Register ``train predictor`` and ``train scorer``."""
    parser = command(
        commands, "train", "Train the networks from pristine photographs: first the predictor, then the scorer."
    )
    stages = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    predictor = command(stages, "predictor", "First stage: signed maps.")
    predictor.set_defaults(run=run_predictor)
    scorer = command(stages, "scorer", "Second stage: distance and judgement; writes the weights folder OUT/weights.")
    scorer.add_argument("--predictor", type=Path, metavar="PATH", required=True, help="OUT of the predictor stage")
    scorer.add_argument("--test", type=Path, metavar="DIR", help="photographs for the final figures, never trained on")
    scorer.set_defaults(run=run_scorer)
    for stage in (predictor, scorer):
        stage.add_argument("--recipe", default="cpu-small", metavar="NAME|FILE", help="bundled recipe or TOML file")
        stage.add_argument("--data", type=Path, required=True, metavar="DIR", help="pristine photographs")
        stage.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoint and metrics go here")
        stage.add_argument("--resume", action="store_true", help="go on from the checkpoint in OUT")
        stage.add_argument("--device", default="cpu", help="where to train, e.g. cuda (default: cpu)")
        stage.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override, e.g. predictor.steps=200; repeatable",
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


def _show(progress: Progress) -> None:
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    note(
        f"{progress.stage} {progress.step}/{progress.steps}  loss {progress.loss:.4f}  "
        f"{progress.steps_per_second:.2f} steps/s  {minutes}:{seconds:02d} left"
    )


def run_predictor(args: argparse.Namespace) -> int:
    """First stage."""
    from ..training.predictor_stage import train_predictor
    from ..training.recipe import load_recipe

    recipe = load_recipe(args.recipe, parse_overrides(args.set))
    _, photographs = train_predictor(
        recipe, args.data, args.out, resume=args.resume, device=args.device, progress=_show
    )
    for reason in photographs.skipped:
        note(f"skipped {reason}")
    print(args.out)
    return 0


def run_scorer(args: argparse.Namespace) -> int:
    """Second stage, the weights folder, and the final figures."""
    from ..training.data import load_photographs
    from ..training.recipe import load_recipe
    from ..training.scorer_stage import train_scorer
    from ..weights import save

    recipe = load_recipe(args.recipe, parse_overrides(args.set))
    predictor = load_predictor(args.predictor, recipe)
    smallest = max(recipe.predictor.crop, recipe.scorer.crop)
    photographs = load_photographs(args.data, recipe.data.validation_share, smallest)
    for reason in photographs.skipped:
        note(f"skipped {reason}")
    scorer = train_scorer(
        recipe, photographs, predictor, args.out, resume=args.resume, device=args.device, progress=_show
    )
    folder = args.out / "weights"
    save(
        folder,
        predictor=predictor.state_dict(),
        predictor_config=predictor.config,
        scorer=scorer.state_dict(),
        scorer_config=scorer.config,
        provenance={"recipe": recipe.as_dict(), "recipe_sha256": recipe.digest(), "data_sha256": photographs.digest},
    )
    print(folder)
    if args.test is not None:
        evaluate_on(args.test, folder, args.device)
    return 0


def load_predictor(folder: Path, recipe: Recipe) -> DistortionPredictor:
    """The averaged predictor of a finished stage.

    Raises:
        ValueError: no checkpoint in the folder, an unfinished one, or one of other widths than the recipe's.
    """
    import torch

    from ..predictor import DistortionPredictor
    from ..training.loop import CHECKPOINT

    path = folder / CHECKPOINT
    if not path.is_file():
        raise ValueError(f"--predictor must be the OUT of a predictor stage; {folder} holds no {CHECKPOINT}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["step"] < recipe.predictor.steps:
        done = f"{state['step']} of {recipe.predictor.steps} steps"
        raise ValueError(f"the predictor in {folder} is not finished ({done}): train it with --resume first")
    predictor = DistortionPredictor(recipe.predictor.widths, recipe.predictor.pair_widths)
    prefix = "module."
    average = {key.removeprefix(prefix): t for key, t in state["average"].items() if key.startswith(prefix)}
    try:
        predictor.load_state_dict(average)
    except RuntimeError as error:
        raise ValueError(f"the predictor in {folder} has other widths than the recipe") from error
    return predictor.eval()


def evaluate_on(data: Path, weights: Path, device: str) -> None:
    """Print the engine-based figures of finished weights on photographs that no training has seen."""
    from ..evaluation.engine_scores import evaluate
    from ..images import read_folder
    from ..losses import RelationalLoss

    folder = read_folder(data)
    note_skipped(folder.skipped)
    photographs = [image.to(device) for image in folder.images]
    print_json(evaluate(RelationalLoss(weights).to(device), photographs, progress=note))
