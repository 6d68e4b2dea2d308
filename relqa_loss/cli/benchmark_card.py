"""``relqa benchmark targets`` and ``card``: what was measured beside what was wanted, and the card that says so."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .common import Commands, command, print_table


def add_card(kinds: Commands) -> None:
    """Register ``targets`` among the kinds of ``benchmark``."""
    targets = command(kinds, "targets", "The engine figures of a JSON file beside their targets.")
    targets.add_argument("--json", required=True, type=Path, metavar="FILE", help="what benchmark engine --json wrote")
    targets.set_defaults(run=run_targets)


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

    print_table(["figure", "target", "measured", ""], [list(one.cells()) for one in verdicts(read_json(args.json))])
    return 0
