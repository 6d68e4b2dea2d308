"""Recipes as JSON files: what was done to which photograph, checked before it is done again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..images import pillow
from .bank import SEVERITY_FILE, by_name
from .compose import check_severity
from .draws import SEED_LIMIT
from .recipe import Component, Recipe

FORMAT = 1
"""Version of the file's layout."""

_DEFAULTS: dict[str, Any] = {"region": "whole", "seed": 0, "extent": 1.0}
_KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "severity": (int, float),
    "region": (str,),
    "seed": (int,),
    "extent": (int, float),
}


def file_sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, as ``sha256sum`` prints it."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def severity_sha256() -> str:
    """sha256 of the committed severity table."""
    return hashlib.sha256(resources.files(__package__).joinpath(SEVERITY_FILE).read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """What the bytes of a result depend on besides recipe, photograph and severity table."""
    return {"relqa_loss": __version__, "torch": str(torch.__version__), "pillow": pillow().__version__}


def recipe_record(recipe: Recipe, photo: str | Path) -> dict[str, Any]:
    """A recipe of operators of the bank with everything that is needed to do it again, as JSON can hold it.

    Args:
        recipe: what is done, in order.
        photo: the file of the picture it is done to.

    Returns:
        ``format``; ``components``, each with its native ``parameter``; ``photo`` (``name``, ``sha256`` of its bytes);
        ``severity_sha256``; ``versions``.
    """
    components = [{**asdict(one), "parameter": _native(one)} for one in recipe]
    return {
        "format": FORMAT,
        "components": components,
        "photo": {"name": Path(photo).name, "sha256": file_sha256(photo)},
        "severity_sha256": severity_sha256(),
        "versions": versions(),
    }


def read_recipe(path: str | Path) -> tuple[Recipe, dict[str, Any]]:
    """A recipe and all else its file says.

    Written by hand, a file needs ``components`` only, and of a component ``name`` and ``severity``.

    Args:
        path: a JSON file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, another format, or a component with a missing, unknown or wrong entry.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such recipe: {path}") from error
    except ValueError as error:
        raise ValueError(f"recipe {path} is not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("components"), list) or not record["components"]:
        raise ValueError(f"recipe {path} must be an object with a list of components that holds at least one")
    for key in ("photo", "versions"):
        if not isinstance(record.get(key, {}), dict):
            raise ValueError(f"recipe {path}: {key} must be an object, got {record[key]!r}")
    if record.get("format", FORMAT) != FORMAT:
        raise ValueError(f"recipe {path} has format {record['format']!r}, this version reads {FORMAT}")
    components = (_component(values, f"recipe {path}, component {k}") for k, values in enumerate(record["components"]))
    return tuple(components), record


def check_record(
    recipe: Recipe, record: Mapping[str, Any], photo: str | Path, *, other_photo: bool = False
) -> list[str]:
    """Raise unless what a file says belongs to this photograph and to this package's severities.

    What a file does not say is not checked.

    Args:
        recipe: first result of :func:`read_recipe`.
        record: its second result.
        photo: the file of the picture.
        other_photo: whether another picture will do.

    Returns:
        One remark for each library of which another version made the file: the bytes may then differ.

    Raises:
        ValueError: another photograph, another severity table, or another native parameter; an unknown operator.
    """
    known = record.get("photo", {})
    wanted, found = known.get("sha256"), file_sha256(photo)
    if wanted not in (None, found) and not other_photo:
        raise ValueError(
            f"the recipe was made for another photograph: {known.get('name', 'one')} with sha256 {str(wanted)[:12]}, "
            f"got {Path(photo).name} with sha256 {found[:12]}; --other-photo (other_photo=True) does it to this one"
        )
    table, here = record.get("severity_sha256"), severity_sha256()
    made = record.get("versions", {})
    if table not in (None, here):
        raise ValueError(
            f"the recipe was made with another severity table (sha256 {str(table)[:12]}, relqa_loss "
            f"{made.get('relqa_loss', 'unknown')}; here {here[:12]}, relqa_loss {__version__}): its severities do not "
            "mean the same strength here"
        )
    for component, values in zip(recipe, record["components"], strict=True):
        said = values.get("parameter")
        if said is None:
            continue
        native = _native(component)
        if not math.isclose(native, said, rel_tol=1e-6):
            raise ValueError(
                f"the recipe was made with another range of {component.name!r}: severity {component.severity:g} was "
                f"{said:g} in native units, here it is {native:g}"
            )
    return [
        f"made with {library} {made[library]}, this is {library} {version}: the bytes may differ"
        for library, version in versions().items()
        if made.get(library, version) != version
    ]


def _native(component: Component) -> float:
    severity = torch.tensor([component.severity], dtype=torch.float64)
    return float(by_name(component.name).parameter(severity)[0])


def _component(values: object, where: str) -> Component:
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be an object, got {values!r}")
    names = [field.name for field in fields(Component)]
    entries = {**_DEFAULTS, **{key: value for key, value in values.items() if key != "parameter"}}
    for name in names:
        if name not in entries:
            raise ValueError(f"{where} has no {name!r}")
        if not isinstance(entries[name], _KINDS[name]) or isinstance(entries[name], bool):
            wanted = " or ".join(kind.__name__ for kind in _KINDS[name])
            raise ValueError(f"{where}: {name} must be {wanted}, got {entries[name]!r}")
    if not isinstance(values.get("parameter", 0), int | float):
        raise ValueError(f"{where}: parameter must be a number, got {values['parameter']!r}")
    unknown = sorted(entries.keys() - set(names))
    if unknown:
        raise ValueError(f"{where} has unknown entries: {', '.join(unknown)} (known: {', '.join(names)})")
    check_severity(f"severity of {entries['name']!r}", entries["severity"])
    check_severity(f"extent of {entries['name']!r}", entries["extent"])
    check_seed(entries["seed"])
    return Component(**entries)


def check_seed(seed: int) -> int:
    """The seed; ValueError unless it lies in [0, 2**53)."""
    if not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"seed must lie in [0, 2**53), got {seed}")
    return seed
