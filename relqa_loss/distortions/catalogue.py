"""The bank and its coverage as Markdown tables: what ``docs/distortions.md`` shows, made from the records."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import torch

from .bank import BANK
from .coverage import DATABASES, NOT_SIMULATED
from .record import Distortion

TABLES = ("bank", "coverage")
"""Tables of the documentation, each between its two :func:`marks`."""

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
        parts += [f"### {family}", _table((*header, "source"), rows)]
    return "\n\n".join(parts)


def coverage_markdown() -> str:
    """One table a database: its distortion types and the operators that make the same kind of damage."""
    parts = [NOT_SIMULATED]
    for database, types in DATABASES.items():
        rows = [
            (str(one.number), one.title, ", ".join(f"`{name}`" for name in one.operators) or "none", one.note)
            for one in types
        ]
        parts += [f"### {database}", _table(("no.", "type", "operators", "remark"), rows)]
    return "\n\n".join(parts)


def marks(table: str) -> tuple[str, str]:
    """The lines between which a table of ``TABLES`` stands in a document."""
    return f"<!-- {table}: begin, made by relqa distort --list --markdown -->", f"<!-- {table}: end -->"


def fill(document: str) -> str:
    """A document with its tables made anew.

    Args:
        document: Markdown text with the two marks of each table of ``TABLES``.

    Raises:
        ValueError: a table has no place in the document, or more than one.
    """
    made = {"bank": bank_markdown(), "coverage": coverage_markdown()}
    for table in TABLES:
        begin, end = marks(table)
        if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
            raise ValueError(f"the document must hold {begin!r} and then {end!r}, once each")
        before, _, rest = document.partition(begin)
        after = rest.partition(end)[2]
        document = f"{before}{begin}\n\n{made[table]}\n\n{end}{after}"
    return document


def _plain(text: str) -> str:
    """Text that stands in a cell: single back-ticks, no bars, no reStructuredText roles."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    return text.replace("``", "`").replace("|", "\\|").replace("\n", " ")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
