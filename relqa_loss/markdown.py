"""Markdown that commands write: tables, and the places of a document whose content is made, not written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, without a final line break; cells are taken as they are."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def marks(part: str, command: str) -> tuple[str, str]:
    """The lines between which a part of a document stands that a command makes."""
    return f"<!-- {part}: begin, made by {command} -->", f"<!-- {part}: end -->"


def fill(document: str, parts: Mapping[str, str], command: str) -> str:
    """A document with its made parts made anew.

    Args:
        document: Markdown text that holds the two marks of one or more parts; other parts are not asked for.
        parts: name -> content.
        command: that makes them.

    Raises:
        ValueError: none of the parts has a place in the document, or one has more than one place or half of one.
    """
    places = {part: marks(part, command) for part in parts}
    held = {part: ends for part, ends in places.items() if any(mark in document for mark in ends)}
    if not held:
        begin, end = next(iter(places.values()))
        names = ", ".join(repr(part) for part in parts)
        raise ValueError(f"the document must hold {begin!r} and then {end!r}, or the marks of another part of {names}")
    for part, (begin, end) in held.items():
        if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
            raise ValueError(f"the document must hold {begin!r} and then {end!r}, once each")
        before, _, rest = document.partition(begin)
        after = rest.partition(end)[2]
        document = f"{before}{begin}\n\n{parts[part]}\n\n{end}{after}"
    return document
