"""The bank: every operator, with its calibrated severity table."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

from ..validation import unknown_name
from . import codecs, compression, geometry, loss, optics, processing, resampling, sensor, tone
from .record import Distortion

SEVERITY_FILE = "severity.json"
"""Committed table beside this file: ``{"levels": {name: [11 native parameters]}}``."""


def read_levels() -> dict[str, tuple[float, ...]]:
    """Native parameters at severities 0, 0.1, ..., 1 by operator; empty where no table has been written yet."""
    table = resources.files(__package__).joinpath(SEVERITY_FILE)
    if not table.is_file():
        return {}
    entries = json.loads(table.read_text(encoding="utf-8"))["levels"]
    return {name: tuple(float(value) for value in levels) for name, levels in entries.items()}


def _assemble() -> tuple[Distortion, ...]:
    levels = read_levels()
    families = (optics, sensor, tone, codecs, compression, resampling, processing, geometry, loss)
    operators = [distortion for family in families for distortion in family.DISTORTIONS]
    return tuple(replace(one, levels=levels.get(one.name), batched=True) for one in operators)


BANK: tuple[Distortion, ...] = _assemble()
"""Every operator, family by family; its order is part of the seeded behaviour of the engine."""


def by_name(name: str) -> Distortion:
    """The operator called ``name``; ValueError with the nearest match for an unknown one."""
    for distortion in BANK:
        if distortion.name == name:
            return distortion
    raise ValueError(unknown_name("distortion", name, (one.name for one in BANK)))
