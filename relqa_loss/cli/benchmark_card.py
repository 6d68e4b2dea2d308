"""``relqa benchmark targets``, ``card`` and ``document``: measured figures beside what was wanted, and who says so."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..files import whole_files
from .common import Commands, command, note, note_skipped, print_table
from .train import parse_source


def add_card(kinds: Commands) -> None:
    """Register ``targets``, ``card`` and ``document`` among the kinds of ``benchmark``."""
    targets = command(kinds, "targets", "The engine figures of a JSON file beside their targets.")
    targets.add_argument("--json", required=True, type=Path, metavar="FILE", help="what benchmark engine --json wrote")
    targets.set_defaults(run=run_targets)
    card = command(kinds, "card", "Write the model card of a weights folder anew, from the JSON of other benchmarks.")
    card.add_argument("folder", type=Path, metavar="WEIGHTS_FOLDER", help="its README.md is replaced")
    card.add_argument("--engine", required=True, type=Path, metavar="FILE", help="what benchmark engine --json wrote")
    card.add_argument(
        "--held-out",
        type=Path,
        metavar="FILE",
        help="what benchmark engine --json wrote of weights whose recipe held operators out (data.held_out)",
    )
    card.add_argument(
        "--no-opinion",
        type=Path,
        metavar="FILE",
        help='what benchmark engine --json wrote of weights of the same predictor with scorer.panel = "no-opinion"',
    )
    card.add_argument("--jury", type=Path, metavar="FILE", help="what benchmark jury --json wrote")
    card.add_argument(
        "--human", type=Path, nargs="+", default=[], metavar="FILE", help="what benchmark human --json wrote"
    )
    card.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="photographs for the figure of failures, which shows crops of them: take what may be passed on "
        "(default: a figure that is there stays)",
    )
    card.add_argument("--limit", type=int, help="use at most this many photographs")
    card.add_argument("--name", help="title of the card (default: name of the folder)")
    card.add_argument(
        "--source",
        action="append",
        metavar="NAME=LICENCE",
        help="photographs trained on; may be repeated (default: as recorded with the weights, or in the old card)",
    )
    card.add_argument("--device", default="cpu", help="where to compute, e.g. cuda (default: cpu)")
    card.set_defaults(run=run_card)
    document = command(kinds, "document", "Write the measured figures into their marked places in Markdown files.")
    document.add_argument("files", type=Path, nargs="+", metavar="FILE.md", help="e.g. README.md docs/figures.md")
    document.add_argument(
        "--results",
        type=Path,
        default=Path("benchmarks/results"),
        metavar="DIR",
        help="folder of the benchmarks' JSON (default: benchmarks/results)",
    )
    document.set_defaults(run=run_document)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: no such file, or something else in it; the message names it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def run_targets(args: argparse.Namespace) -> int:
    """Target, measured, and whether that is enough."""
    from ..evaluation.targets import verdicts

    with _complete(str(args.json)):
        rows = [list(one.cells()) for one in verdicts(read_json(args.json))]
    print_table(["figure", "target", "measured", ""], rows)
    return 0


def run_card(args: argparse.Namespace) -> int:
    """The card, and its figure where photographs are given."""
    from .. import weights
    from ..evaluation.model_card import model_card, sources_of
    from ..losses import RelationalLoss

    config = weights.load(args.folder).config
    if "provenance" not in config:
        raise ValueError(f"{args.folder} does not say how its weights were made: its config.json has no provenance")
    evaluation = _report(args.engine, "engine", "per_operator")
    _check_weights(args.engine, evaluation.get("weights_sha256"), config["files"])
    jury = None if args.jury is None else _report(args.jury, "jury", "jury")
    human = [_report(path, "human", "weights") for path in args.human]
    # Jury and people are asked for distances alone, which weights with other maps may share.
    distance = RelationalLoss(args.folder).info()["distance"]
    if jury is not None:
        _check_distance(args.jury, jury["setup"].get("distance_sha256"), distance)
    for path, report in zip(args.human, human, strict=True):
        _check_distance(path, report["weights"].get("distance"), distance)
    provenance, old = config["provenance"], args.folder / weights.CARD_FILE
    if args.source is not None:
        sources = [parse_source(text) for text in args.source]
    elif "sources" in provenance:
        sources = [(name, licence) for name, licence in provenance["sources"]]
    else:
        sources = sources_of(old.read_text(encoding="utf-8")) if old.is_file() else []
    figure_file = args.folder / weights.FIGURE_FILE
    if args.data is not None:
        figure = _failures(args, evaluation)
    else:
        figure = figure_file.read_bytes() if figure_file.is_file() else None
    with _complete(f"the reports and {args.folder}"):
        text = model_card(
            args.name or args.folder.resolve().name,
            provenance,
            evaluation,
            sources,
            held_out=None if args.held_out is None else _report(args.held_out, "engine", "per_operator"),
            no_opinion=None if args.no_opinion is None else _report(args.no_opinion, "engine", "per_operator"),
            jury=jury,
            human=human,
            figure=figure is not None,
        )
    weights.save_card(args.folder, text, figure)
    note(f"written: {old}")
    return 0


def run_document(args: argparse.Namespace) -> int:
    """The documents: none is replaced before all of them are written."""
    from ..evaluation import document
    from ..markdown import fill

    results = {stem: read_json(args.results / f"{stem}.json") for stem in document.RESULTS}
    human = [_report(path, "human", "weights") for path in sorted(args.results.glob(document.HUMAN))]
    whole = sorted(args.results.glob(document.FROM_SCRATCH))
    runs = {document.run_name(path): _report(path, "engine", "per_operator") for path in whole}
    with _complete(f"the reports in {args.results}"):
        parts = document.parts(results, human, runs)
    texts = {path: fill(path.read_text(encoding="utf-8"), parts, document.COMMAND) for path in args.files}
    with ExitStack() as folders:
        # All of them are written before the first one takes its place.
        for path, text in texts.items():
            scratch = folders.enter_context(whole_files(path.parent))
            (scratch / path.name).write_text(text, encoding="utf-8")
    for path in texts:
        print(path)
    return 0


@contextmanager
def _complete(reports: str) -> Iterator[None]:
    """JSON of an older state of this package, or of a run that left a figure out, is told as such."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{reports} lack a figure that is to be shown: {error}") from None


def _report(path: Path, kind: str, key: str) -> dict[str, Any]:
    """What a benchmark wrote, told by a key that only this kind has."""
    report = read_json(path)
    if key not in report:
        raise ValueError(f"{path} is not what relqa benchmark {kind} --json writes: it has no {key!r}")
    return report


def _check_weights(path: Path, measured: object, files: object) -> None:
    if measured != files:
        raise ValueError(f"{path} was not measured with the weights of this folder: their sha256 differ")


def _check_distance(path: Path, measured: str | None, distance: str) -> None:
    if measured != distance:
        raise ValueError(
            f"{path} must be of the distance of this folder, sha256 {distance[:12]}, got {measured and measured[:12]}"
        )


def _failures(args: argparse.Namespace, evaluation: dict[str, Any]) -> bytes | None:
    from ..evaluation.failures import failures_webp
    from ..images import read_folder
    from ..losses import RelationalLoss

    folder = read_folder(args.data, args.limit)
    note_skipped(folder.skipped)
    loss_fn = RelationalLoss(args.folder).to(args.device)
    figure = failures_webp(loss_fn, [image.to(args.device) for image in folder.images], evaluation)
    if figure is None:
        note("no figure of failures: nothing is named wrong on these photographs")
    return figure
