"""The bank and its coverage as Markdown tables: what ``docs/bank.md`` shows, made from the records."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import torch

from ..markdown import table
from .bank import BANK
from .coverage import DATABASES, NOT_SIMULATED
from .record import Distortion

COMMAND = "relqa distort --list --markdown"
"""What makes :func:`tables`, as the documentation names it."""

_ENDS = (0.1, 1.0)


def summary(distortion: Distortion) -> str:
    """First line of the docstring of the operator's function, without its last full stop; "" if it has none."""
    function = distortion.apply or distortion.flow
    while isinstance(function, functools.partial):
        function = function.func
    lines = (function.__doc__ or "").strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else ""


def native_range(distortion: Distortion) -> str:
    """Native parameter at severity 0.1 and at severity 1, e.g. ``"0.58 to 5"``; see :func:`summary` for its meaning."""
    low, high = distortion.parameter(torch.tensor(_ENDS, dtype=torch.float64)).tolist()
    return f"{low:.3g} to {high:.3g}"


def flags(distortion: Distortion) -> str:
    """What else the engine knows about an operator, as words."""
    words = {
        "dominance": distortion.dominance,
        "inclusion": distortion.inclusion,
        "smooths": distortion.smooths,
        "no trace": not distortion.trace,
        "uneven": distortion.profile is not None,
    }
    return ", ".join(word for word, holds in words.items() if holds)


def bank_markdown(distortions: Sequence[Distortion] = BANK) -> str:
    """One row an operator, one heading a family."""
    families: dict[str, list[Distortion]] = {}
    for one in distortions:
        families.setdefault(one.family, []).append(one)
    parts = [f"{len(distortions)} operators in {len(families)} families."]
    header = ("name", "what it does; its native parameter", "severity 0.1 to 1", "effect on axes", "codec", "flags")
    for family, members in families.items():
        rows = [
            (
                f"`{one.name}`",
                _plain(summary(one)),
                native_range(one),
                ", ".join(f"`{axis}` {effect:+g}" for axis, effect in one.effects.items()),
                one.codec or "",
                flags(one),
                _plain(one.source),
            )
            for one in members
        ]
        parts += [f"### {family}", table((*header, "source"), rows)]
    return "\n\n".join(parts)


def coverage_markdown() -> str:
    """One table a database: its distortion types and the operators that make the same kind of damage."""
    parts = [NOT_SIMULATED]
    for database, types in DATABASES.items():
        rows = [
            (str(one.number), one.title, ", ".join(f"`{name}`" for name in one.operators) or "none", one.note)
            for one in types
        ]
        parts += [f"### {database}", table(("no.", "type", "operators", "remark"), rows)]
    return "\n\n".join(parts)


def tables() -> dict[str, str]:
    """The parts of the documentation, by name; see :func:`relqa_loss.markdown.fill`."""
    return {"bank": bank_markdown(), "coverage": coverage_markdown()}


def _plain(text: str) -> str:
    """Text that stands in a cell: single back-ticks, no bars, no reStructuredText roles."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    return text.replace("``", "`").replace("|", "\\|").replace("\n", " ")
