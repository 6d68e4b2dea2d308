"""``relqa benchmark human``: agreement with people on a dataset of opinion scores or choices that you bring."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Commands, UsageError, add_loss_arguments, command, make_loss, names, note, print_table, write_json

if TYPE_CHECKING:
    from ..evaluation.human_distances import Judge
    from ..losses import RelationalLoss

DATASETS = ("tid2013", "kadid10k", "csiq", "live", "pipal", "bapps")
"""Kept here too, so that help needs nothing of the evaluation."""


def add_human(kinds: Commands) -> None:
    """Register ``human`` among the kinds of ``benchmark``."""
    parser = command(kinds, "human", "Agreement with people on a labelled dataset, beside other metrics.")
    parser.add_argument("--dataset", required=True, choices=DATASETS, help="which dataset it is")
    parser.add_argument(
        "--root", required=True, type=Path, metavar="DIR", help="folder that the authors' archive unpacks to"
    )
    parser.add_argument(
        "--metrics",
        default="all",
        type=_metrics,
        metavar="NAMES",
        help="other metrics beside ours: names parted by commas, all that are installed, or none (default: all)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="use N pairs drawn at random (of bapps, N of each subset)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.add_argument(
        "--cache", type=Path, metavar="FILE", help="keep distances in this file and go on from it after a stop"
    )
    parser.add_argument(
        "--save-mapping", type=Path, metavar="FILE", help="fit a MOS mapping of our distance and write it (not bapps)"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples of scenes (default: 1000)")
    parser.add_argument("--seed", type=int, default=20260502, help="of --limit and the bootstrap (default: 20260502)")
    add_loss_arguments(parser)
    parser.set_defaults(run=run)


def _metrics(text: str) -> list[str] | None:
    """Names of metrics; None for all that are installed."""
    return {"all": None, "none": []}[text] if text in ("all", "none") else names(text)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    if args.resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {args.resamples}")
    if args.dataset == "bapps" and args.save_mapping is not None:
        raise UsageError("bapps has no opinion scores to map distances to: leave out --save-mapping")
    if args.dataset == "bapps":
        _bapps(args)
    else:
        _rated(args)
    return 0


def _write(args: argparse.Namespace, report: Mapping[str, Any]) -> None:
    if args.json is not None:
        write_json(args.json, report)


def _judges(args: argparse.Namespace) -> tuple[RelationalLoss, list[Judge], dict[str, Any]]:
    """Our loss, all judges, and what the report says of both."""
    from ..evaluation.human_distances import our_judge, peer_judge
    from ..evaluation.peer_metrics import load_metrics

    found, missing = load_metrics(args.metrics)
    loss = make_loss(args, reduction="none")
    judges = [our_judge(loss), *(peer_judge(peer) for peer in found.values())]
    for name, reason in missing.items():
        note(f"left out: {name}, {reason}")
    info = loss.info()
    of_weights = {"name": info["weights"], "files": info["files"], "distance": info["distance"]}
    return loss, judges, {"missing": missing, "weights": of_weights}


def _rated(args: argparse.Namespace) -> None:
    from ..evaluation.human import OURS, evaluate_rated, sample
    from ..evaluation.human_data import load_rated
    from ..evaluation.mos_mapping import MOSMapping

    whole = load_rated(args.dataset, args.root)
    dataset = sample(whole, args.limit, args.seed)
    loss, judges, about = _judges(args)
    report, distances = evaluate_rated(
        dataset, judges, cache=args.cache, resamples=args.resamples, seed=args.seed, progress=note
    )
    report |= about
    report["setup"]["of"] = len(whole.pairs)
    print_rated(report)
    # Before the mapping, whose fit may be refused.
    _write(args, report)
    if args.save_mapping is not None:
        mapping = MOSMapping.fit(
            distances[OURS],
            [pair.score for pair in dataset.pairs],
            dataset=dataset.title,
            scale=dataset.scale,
            distance_sha256=loss.info()["distance"],
        )
        note(f"written: {mapping.save(args.save_mapping)}")


def _bapps(args: argparse.Namespace) -> None:
    from ..evaluation.human import evaluate_bapps, sample_bapps
    from ..evaluation.human_bapps import load_bapps

    dataset = sample_bapps(load_bapps(args.root), args.limit, args.seed)
    _, judges, about = _judges(args)
    report = evaluate_bapps(dataset, judges, cache=args.cache, resamples=args.resamples, seed=args.seed, progress=note)
    report |= about
    print_bapps(report)
    _write(args, report)


def print_rated(report: Mapping[str, Any]) -> None:
    """Tables of a report on opinion scores."""
    setup, metrics = report["setup"], report["metrics"]
    part = "" if setup["pairs"] == setup["of"] else f" of {setup['of']}"
    print(f"{setup['title']}: {setup['pairs']}{part} pairs of {setup['scenes']} scenes, {setup['scale']}")
    _print_setup(setup)
    rows = [
        [
            one["name"],
            *(_cell(one[name]) for name in ("spearman", "kendall", "pearson")),
            _against(report, one["name"], "spearman"),
        ]
        for one in metrics
    ]
    print_table(["metric", "Spearman", "Kendall", "Pearson (logistic)", "ours is, by Spearman"], rows)
    for one in metrics:
        mapping = one["mapping"]
        if "reason" in mapping:
            print(f"{one['name']}: no Pearson, {mapping['reason']}")
        elif not mapping["linear_term"]:
            print(f"{one['name']}: the five-parameter curve turns; fitted without its linear term")
    print("\nSpearman by distortion, pooled across scenes")
    types = {name: row["pairs"] for one in metrics[:1] for name, row in one["distortions"].items()}
    table = [
        [name, str(pairs), *(_number(one["distortions"][name]["spearman"]["value"]) for one in metrics)]
        for name, pairs in types.items()
    ]
    print_table(["distortion", "pairs", *(one["name"] for one in metrics)], table)
    _print_left_out(report)


def print_bapps(report: Mapping[str, Any]) -> None:
    """Tables of a report on BAPPS."""
    setup, metrics = report["setup"], report["metrics"]
    size = "stored size" if setup["side"] is None else f"{setup['side']} px"
    print(f"{setup['title']}: {setup['choices']} triplets and {setup['detections']} pairs at {size}")
    _print_setup(setup)
    for part, title in (("choices", "2AFC score"), ("detections", "JND average precision")):
        if not setup[part]:
            continue
        subsets = list(metrics[0][part]["subsets"])
        rows = [
            [
                one["name"],
                *(_number(one[part]["subsets"][name]["value"]) for name in subsets),
                _cell(one[part]["mean"]),
                _against(report, one["name"], part),
            ]
            for one in metrics
        ]
        if part == "choices":
            viewer = report["viewer"]
            values = [_number(viewer["subsets"][name]["value"]) for name in subsets]
            rows.append(["(one viewer)", *values, _number(viewer["mean"]["value"]), ""])
        print(title)
        print_table(["metric", *subsets, "mean", "ours is"], rows)
        print()
    _print_left_out(report)


def _print_setup(setup: Mapping[str, Any]) -> None:
    print(
        f"{setup['confidence']:.0%} intervals of {setup['resamples']} resamples, seed {setup['seed']}, "
        f"relqa_loss {setup['relqa_loss']}, torch {setup['torch']}\n"
    )


def _print_left_out(report: Mapping[str, Any]) -> None:
    for one in report["metrics"]:
        if one["trained_on"]:
            print(f"{one['name']} owes to people's judgements: {one['trained_on']}")
    left_out: Sequence[tuple[str, str]] = [*report["missing"].items(), *report["failed"].items()]
    for name, reason in left_out:
        print(f"left out: {name}, {reason}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cell(figures: Mapping[str, Any]) -> str:
    if figures["value"] is None:
        return "-"
    return f"{figures['value']:.3f} [{_number(figures['low'])}, {_number(figures['high'])}]"


def _against(report: Mapping[str, Any], name: str, statistic: str) -> str:
    if name not in report["against"]:
        return ""
    figures = report["against"][name][statistic]
    if figures["value"] is None:
        return str(figures["verdict"])
    interval = f"[{figures['low']:+.3f}, {figures['high']:+.3f}]" if figures["low"] is not None else ""
    return f"{figures['verdict']} {figures['value']:+.3f} {interval}".rstrip()
