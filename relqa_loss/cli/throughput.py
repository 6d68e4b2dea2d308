"""``relqa benchmark throughput``: speed of operators, engine and other packages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import Commands, command, note, note_skipped, print_table, set_threads, write_json


def add_throughput(kinds: Commands) -> None:
    """Register ``throughput`` among the kinds of ``benchmark``."""
    parser = command(kinds, "throughput", "Time of each distortion, triplets a second, other packages beside it.")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of photographs (default: the package's own)")
    parser.add_argument("--limit", type=int, default=16, help="use at most this many photographs (default: 16)")
    parser.add_argument("--size", type=int, default=256, help="side of the crops in pixels (default: 256)")
    parser.add_argument("--device", default="cpu", help="where to compute, e.g. cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the data loader (default: 2)")
    parser.add_argument("--seconds", type=float, default=8.0, help="spent on each figure of the engine (default: 8)")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes, of which the median counts (default: 3)")
    parser.add_argument("--no-peers", action="store_true", help="leave other packages out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from ..demo import PHOTOGRAPHS, photograph
    from ..evaluation.throughput import measure_throughput
    from ..images import read_folder

    set_threads(args.threads)
    if args.data is None:
        photographs = [photograph(name) for name in PHOTOGRAPHS]
    else:
        folder = read_folder(args.data, args.limit, args.size)
        note_skipped(folder.skipped)
        photographs = list(folder.images)
    report = measure_throughput(
        photographs,
        size=args.size,
        device=args.device,
        seconds=args.seconds,
        repeats=args.repeats,
        workers=args.workers,
        peers=not args.no_peers,
        progress=note,
    )
    print_report(report)
    if args.json is not None:
        write_json(args.json, report)
    return 0


_ENGINE = {
    "triplets": "triplets a second, engine called on batches",
    "triplets_without_codecs": "the same without real codecs",
    "triplets_loader": "triplets a second through a DataLoader",
}


def print_report(report: dict[str, Any]) -> None:
    """Everything measured, as tables."""
    setup = report["setup"]
    print(
        f"{setup['device']}, {setup['threads']} threads, crops of {setup['size']} px of {setup['photographs']} "
        f"photographs, torch {setup['torch']}, Pillow {setup['pillow']}, relqa_loss {setup['relqa_loss']}"
    )
    print(f"\nplain JPEG round trip with Pillow, quality 75: {report['jpeg_ms']:.2f} ms an image\n")
    rows = [
        [one["name"], one["family"], one["codec"] or "", f"{one['ms']:.2f}", f"{one['ratio']:.2f}"]
        for one in report["operators"]
    ]
    print(f"operators, batch of {setup['batch']}, severities 0.1 to 1")
    print_table(["operator", "family", "codec", "ms an image", "x JPEG"], rows)
    print()
    for key, rate in report["engine"].items():
        label = _ENGINE.get(key, key.replace("_", " ") + " a second")
        workers = f", {setup['workers']} workers of one thread" if key == "triplets_loader" else ""
        print(f"{label + workers:<68}{rate:9.1f}")
    if report["peers"]:
        _print_peers(report["peers"])
    for name, reason in report["peers_missing"].items():
        print(f"\nleft out: {name}, {reason}", end="")
    print()


def _print_peers(peers: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for one in peers for name in (*one["ms"], *one["failed"])))
    print("\nside by side on the same crops, one thread each: ms an image, and images a second of the even mix")
    rows = []
    for one in peers:
        cells = [f"{one['ms'][name]:.2f}" if name in one["ms"] else "-" for name in names]
        rate = one["images_a_second"]
        rows.append([one["name"], one["version"], *cells, "-" if rate is None else f"{rate:.0f}"])
    print_table(["package", "version", *names, "images/s"], rows)
    for one in peers:
        for name, reason in one["failed"].items():
            print(f"{one['name']}, {name}: {reason}")
    print("\nwhat they offer and return")
    facts = list(peers[0]["facts"])
    table = [[one["name"], str(one["operators"]), *(one["facts"][key] for key in facts)] for one in peers]
    print_table(["package", "operators", *facts], table)
    for one in peers:
        print(f"{one['name']}: {one['operators']} {one['counted']}")
