"""Recipes as TOML files: reading, overriding and checking them.

A recipe's predictor may be trained in several parts, each from the weights of the one before. What is at the top of
the file is the first part; every ``[[then]]`` is one more, and says only what differs from the part before it::

    name = "mine"
    seed = 7
    [predictor]
    steps = 5000

    [[then]]
    part = "maps"
    [then.predictor]
    trained = "decoder"
    steps = 3000

A table in a part (``odds``) replaces that of the part before as a whole. The scorer comes last, on the data and the
seed of the last part.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.resources
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..validation import unknown_name
from .kept_cells import FOLDER as PAIRS
from .recipe import ARCHITECTURE, DataConfig, PredictorConfig, Recipe, ScorerConfig

FIRST = "first"
"""Name of the part that a recipe begins with."""

SECTIONS = {"data": DataConfig, "predictor": PredictorConfig, "scorer": ScorerConfig}
SECTIONS_OF_A_PART = ("data", "predictor")


class Part(NamedTuple):
    """One of the runs in which a recipe's predictor is trained.

    Attributes:
        name: of its folder, where it is not the last one.
        recipe: of this part, as if it stood alone. Its seed is the file's plus the number of parts before it, so that
            no part is taught on the pairs of another.
    """

    name: str
    recipe: Recipe


def bundled_recipes() -> tuple[str, ...]:
    """Names of the recipes that travel with the package."""
    folder = importlib.resources.files(__package__) / "recipes"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_recipe(name_or_path: str | Path, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe whose predictor is trained in one go; otherwise as :func:`load_parts`.

    Raises:
        ValueError: it has several parts; see :func:`load_parts`.
    """
    parts = load_parts(name_or_path, overrides)
    if len(parts) > 1:
        names = ", ".join(part.name for part in parts)
        raise ValueError(f"recipe must be of one part, got {name_or_path} of {len(parts)} ({names}): see load_parts")
    return parts[0].recipe


def load_parts(name_or_path: str | Path, overrides: Mapping[str, str] | None = None) -> tuple[Part, ...]:
    """Read a bundled recipe by name, or a TOML file: the parts in which its predictor is trained, in order.

    Args:
        name_or_path: a bundled name, else a path.
        overrides: dotted key -> TOML value as text, e.g. ``{"predictor.steps": "200"}`` for every part, or
            ``{"maps.predictor.steps": "200"}`` for the part of that name alone, whatever the others say.

    Raises:
        ValueError: no such recipe, not TOML, an unknown or missing key (nearest match offered), a value of another
            type or out of its range.
    """
    bundled = bundled_recipes()
    if str(name_or_path) in bundled:
        text = (importlib.resources.files(__package__) / "recipes" / f"{name_or_path}.toml").read_text(encoding="utf-8")
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text(encoding="utf-8")
    else:
        raise ValueError(unknown_name("recipe", str(name_or_path), bundled) + "; the path of a TOML file would also do")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"recipe {name_or_path} is not valid TOML: {error}") from error
    of_parts = _values_of_parts(values)
    for name in (None, *of_parts):  # what is said of one part holds, whatever is said of all
        for key, value in (overrides or {}).items():
            part, _, rest = key.partition(".")
            if part == name:
                if rest.partition(".")[0] not in SECTIONS_OF_A_PART:
                    raise ValueError(f"of one part, {' or '.join(SECTIONS_OF_A_PART)} can be overridden, got {key!r}")
                _override(of_parts[part], rest, value)
            elif name is None and part not in of_parts:
                for values in of_parts.values():
                    _override(values, key, value)
    parts: list[Part] = []
    for number, (name, values) in enumerate(of_parts.items()):
        try:
            recipe = _build(Recipe, values, "recipe")
            for key in ARCHITECTURE if parts else ():
                first, here = (getattr(one.predictor, key) for one in (parts[0].recipe, recipe))
                if first != here:
                    raise ValueError(f"{key} must be that of part {FIRST!r}, {first}, got {here}")
            parts.append(Part(name, dataclasses.replace(recipe, seed=recipe.seed + number)))
        except ValueError as error:
            raise ValueError(f"part {name!r}: {error}" if len(of_parts) > 1 else str(error)) from error
    return tuple(parts)


def _values_of_parts(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Part -> all its values, those of the part before where it says nothing of its own."""
    further = values.pop("then", [])
    if not (isinstance(further, list) and all(isinstance(one, dict) for one in further)):
        raise ValueError(f"recipe.then must be sections [[then]], got {further!r}")
    of_parts = {FIRST: values}
    for one in further:
        known = ("part", *SECTIONS_OF_A_PART)
        for key in one:
            if key not in known:
                raise ValueError(unknown_name("key in recipe.then", key, known))
        name = one.get("part")
        taken = {*of_parts, PAIRS, *(field.name for field in dataclasses.fields(Recipe))}
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9-]*", name) or name in taken:
            raise ValueError(
                f"recipe.then.part must be lower-case letters, digits and hyphens, and not one of "
                f"{', '.join(sorted(taken))}; got {name!r}"
            )
        values = copy.deepcopy(values)
        for section in SECTIONS_OF_A_PART:
            changes, before = one.get(section, {}), values.get(section, {})
            if not (isinstance(changes, dict) and isinstance(before, dict)):
                raise ValueError(f"recipe.then.{section} must be a section, got {changes!r} after {before!r}")
            values[section] = before | changes
        of_parts[name] = values
    return of_parts


def _override(values: dict[str, Any], key: str, text: str) -> None:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ValueError(f"recipe key {key!r} goes through {section!r}, which is not a section")
    values[last] = value


def _build(cls: Any, values: Any, where: str) -> Any:
    """Dataclass from nested plain values, with every key and type checked."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be a section, got {values!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ValueError(unknown_name(f"key in {where}", key, fields))
    arguments = {}
    for key, f in fields.items():
        if key in SECTIONS and cls is Recipe:
            arguments[key] = _build(SECTIONS[key], values.get(key, {}), f"{where}.{key}")
        elif key in values:
            arguments[key] = _checked(values[key], str(f.type), f"{where}.{key}")
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} lacks the key {key!r}")
    return cls(**arguments)


def _checked(value: Any, wanted: str, where: str) -> Any:
    if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted.startswith("tuple") and isinstance(value, list):
        of = str if "str" in wanted else int
        if all(type(item) is of for item in value):
            return tuple(value)
    if (
        wanted.startswith("dict")
        and isinstance(value, dict)
        and all(type(item) in (int, float) for item in value.values())
    ):
        return {str(key): float(item) for key, item in value.items()}
    if type(value).__name__ != wanted:
        raise ValueError(f"{where} must be of type {wanted}, got {value!r}")
    return value
