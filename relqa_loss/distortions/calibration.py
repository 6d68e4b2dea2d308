"""Severity calibration: which native parameter of each operator is equally visible.

Method. Every operator is applied to the same photographs at evenly spaced positions of its ``span``, with the same
random draw at every position, and every member of the closed-form panel judges the result. A member's values become
ranks in [0, 1] within all its own values (operators weigh equally), which makes the members comparable without
assuming anything about their scales. The visibility of one case is the mean of its ``VOTES`` highest ranks: what
several families notice is seen, and a member that is blind to a kind of damage (gradients to tone) does not vote it
down. The median over photographs, made monotone, is the operator's visibility curve. Severity s then stands for a
visibility that rises linearly with s from "just visible" to a maximum that most operators reach; each operator's
curve is inverted at those targets.

Operators that do not reach the common maximum at the end of their span, or that are above its foot at the start, have
their own range stretched over the severities, and are listed. Displacements keep their span: no member of the panel
follows displaced content, so to them one pixel is already ruin, while viewers hardly notice it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from ..images import list_images, read_each
from .panel import PANEL, panel_scores
from .record import KNOTS, Distortion

VOTES = 3
"""So many members of the panel must notice a damage for it to count as fully visible."""

MIN_STEP = 0.01
"""Smallest rise of the position in the span from one knot to the next: a ladder must never stand still."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class CalibrationSettings:
    """What a calibration depends on besides the photographs and the operators.

    Attributes:
        photographs: number of crops, one a photograph.
        crop: side of the crops, in pixels.
        positions: number of evenly spaced positions of the span, both ends included.
        foot_quantile: visibility at severity 0 is this quantile of the operators' weakest visibilities.
        top_quantile: visibility at severity 1 is this quantile of the operators' strongest visibilities.
        seed: chooses photographs, crops and the operators' random draws.
    """

    photographs: int = 12
    crop: int = 256
    positions: int = 9
    foot_quantile: float = 0.5
    top_quantile: float = 0.3
    seed: int = 0


def load_crops(
    data_dir: str | Path, settings: CalibrationSettings, progress: Progress | None = None
) -> tuple[Tensor, list[str]]:
    """Seeded crops (N, 3, crop, crop) in [0, 1] of photographs below ``data_dir``, and their file names.

    Folders take turns, so that a large source does not crowd out the small ones.

    Args:
        data_dir: folder with photographs, searched recursively.
        settings: how many crops, their side and the seed.
        progress: called with a line of text for each photograph that was drawn and cannot be used.

    Raises:
        ValueError: no such folder, or too few photographs that can be read and are large enough.
        MissingExtra: Pillow is not installed.
    """
    root = Path(data_dir)
    random = np.random.default_rng(settings.seed)
    folders: dict[str, list[Path]] = {}
    for path in list_images(root, recursive=True):
        folders.setdefault(path.parent.relative_to(root).as_posix(), []).append(path)
    # Read from the end of each shuffled pile: with it the committed table names the photographs it was measured on.
    piles = [read_each([pile[i] for i in random.permutation(len(pile))[::-1]]) for _, pile in sorted(folders.items())]
    crops: list[Tensor] = []
    names: list[str] = []
    while piles and len(crops) < settings.photographs:
        for pile in piles.copy():
            if len(crops) == settings.photographs:
                break
            drawn = _next_usable(pile, settings.crop, root, progress)
            if drawn is None:
                piles.remove(pile)
                continue
            path, image = drawn
            top, left = (int(random.integers(side - settings.crop + 1)) for side in image.shape[1:])
            crops.append(image[:, top : top + settings.crop, left : left + settings.crop].clone())
            names.append(path.relative_to(root).as_posix())
    if len(crops) < settings.photographs:
        raise ValueError(
            f"data_dir must hold at least {settings.photographs} photographs of {settings.crop} px or more, "
            f"found {len(crops)} in {root}"
        )
    return torch.stack(crops), names


def _next_usable(
    pile: Iterator[tuple[Path, Tensor | str]], side: int, root: Path, progress: Progress | None
) -> tuple[Path, Tensor] | None:
    """The next photograph of a pile that can be read and holds a crop; None at the end of the pile."""
    for path, image in pile:
        if isinstance(image, Tensor) and min(image.shape[1:]) >= side:
            return path, image
        if progress is not None:
            reason = image if isinstance(image, str) else f"smaller than a crop of {side} pixels"
            progress(f"skipped {path.relative_to(root).as_posix()}: {reason}")
    return None


def measure(distortion: Distortion, crops: Tensor, settings: CalibrationSettings) -> Tensor:
    """Panel values (positions, photographs, members) of one operator over its span, higher = worse.

    Args:
        distortion: a pixel operator; its table, if any, is set aside.
        crops: (N, 3, H, W) in [0, 1].
        settings: positions and seed.

    Raises:
        ValueError: the operator displaces content.
    """
    if distortion.apply is None:
        raise ValueError(f"distortion must be a pixel operator, {distortion.name!r} displaces content")
    # A stable number, unlike hash(): every operator has its own draws, the same at every position.
    offset = int.from_bytes(hashlib.sha256(distortion.name.encode()).digest()[:4], "little")
    rows = []
    for position in torch.linspace(0, 1, settings.positions):
        generator = Generator().manual_seed(settings.seed * 1_000_003 + offset)
        parameter = distortion.parameter_at(position).float().expand(crops.shape[0])
        distorted = distortion.apply(crops, parameter, generator)
        rows.append(panel_scores(distorted, crops))
    return torch.stack(rows)


def visibility_curves(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Consensus of the panel for each operator.

    Args:
        values: operator -> (positions, photographs, members), higher = worse.

    Returns:
        Operator -> (positions,) in [0, 1], non-decreasing, comparable between operators.
    """
    stacked = torch.stack(list(values.values()))
    flat = stacked.reshape(-1, stacked.shape[-1])
    columns = flat.T.contiguous()
    # Ties take their lowest rank, so that "no difference at all" is 0 however often it occurs.
    ranks = torch.searchsorted(columns.sort(dim=1).values, columns).T.float() / (flat.shape[0] - 1)
    votes = ranks.topk(min(VOTES, ranks.shape[1]), dim=1).values.mean(dim=1)
    # The median: flat screen content, where noise stands out and blur does nothing, must not pull the curves.
    curves = votes.reshape(stacked.shape[:-1]).quantile(0.5, dim=2).cummax(dim=1).values
    return dict(zip(values, curves, strict=True))


def invert(curve: Sequence[float], foot: float, top: float) -> tuple[list[float], list[float]]:
    """Positions in the span at which a visibility curve meets the common targets.

    Args:
        curve: visibility at evenly spaced positions, non-decreasing.
        foot: common visibility at severity 0.
        top: common visibility at severity 1.

    Returns:
        Position and achieved visibility at the ``KNOTS`` severities; positions rise by at least ``MIN_STEP``.
    """
    grid = np.linspace(0, 1, len(curve))
    heights = np.asarray(curve, dtype=float)
    low, high = max(foot, heights[0]), min(top, heights[-1])
    if high <= low:
        # The whole curve lies outside the common range: spread what there is.
        low, high = heights[0], heights[-1]
    targets = np.linspace(low, high, KNOTS)
    # A plateau has many positions for one visibility; the tiny slope takes the middle of none twice.
    positions = np.interp(targets, heights + 1e-6 * grid, grid)
    positions[0] = 0.0
    if high == heights[-1]:
        positions[-1] = 1.0
    floor = np.arange(KNOTS) * MIN_STEP
    ceiling = 1 - floor[::-1]
    positions = np.maximum.accumulate(positions - floor) + floor
    positions = np.minimum(np.maximum(positions, floor), ceiling)
    return positions.tolist(), np.interp(positions, grid, heights).tolist()


def calibrate(
    data_dir: str | Path,
    *,
    distortions: Sequence[Distortion] | None = None,
    settings: CalibrationSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure the bank on photographs and build its severity table.

    Args:
        data_dir: folder with photographs; sub-folders take turns.
        distortions: the operators; None for the whole bank.
        settings: photographs, crop, positions, quantiles and seed; None for the defaults.
        progress: called with a line of text for each photograph that is skipped and after each operator.

    Returns:
        JSON-able: ``levels`` (operator -> 11 native parameters), ``visibility`` (operator -> visibility achieved at
        the knots), ``curves`` (operator -> visibility at the evenly spaced positions of the span), ``targets`` (common
        visibility at the knots), ``short_of_target`` and ``above_foot`` (operator -> strongest or weakest visibility,
        of those whose range had to be stretched by more than half a knot), ``span_kept`` (displacements),
        ``skipped`` (operators whose codec is missing here), ``provenance``.

    Raises:
        ValueError: no such folder, or too few photographs that can be read and are large enough.
        MissingExtra: Pillow or piq is not installed.
    """
    from .availability import can_run
    from .bank import BANK

    chosen = settings or CalibrationSettings()
    crops, names = load_crops(data_dir, chosen, progress)
    asked = tuple(BANK if distortions is None else distortions)
    bank = tuple(one for one in asked if can_run(one))
    values: dict[str, Tensor] = {}
    for index, distortion in enumerate(bank):
        if distortion.apply is not None:
            values[distortion.name] = measure(distortion, crops, chosen)
        if progress is not None:
            progress(f"{index + 1}/{len(bank)} {distortion.name}")
    pixel_bytes = (crops * 255).round().to(torch.uint8).numpy().tobytes()
    table = build_table(bank, values, chosen)
    table["skipped"] = [one.name for one in asked if one not in bank]
    table["provenance"] = {
        "photographs": names,
        "photographs_sha256": hashlib.sha256(pixel_bytes).hexdigest(),
        "panel": [member.name for member in PANEL],
        "piq": version("piq"),
        "votes": VOTES,
        "settings": asdict(chosen),
        "command": "relqa benchmark calibration --data DIR --out FILE",
    }
    return table


def build_table(bank: Sequence[Distortion], values: dict[str, Tensor], settings: CalibrationSettings) -> dict[str, Any]:
    """The severity table from the panel's values: everything :func:`calibrate` returns but the provenance."""
    curves = visibility_curves(values)
    starts = torch.stack([curve[0] for curve in curves.values()])
    ends = torch.stack([curve[-1] for curve in curves.values()])
    foot = float(starts.quantile(settings.foot_quantile))
    top = float(ends.quantile(settings.top_quantile))
    levels: dict[str, list[float]] = {}
    visibility: dict[str, list[float]] = {}
    for distortion in bank:
        positions = np.linspace(0, 1, KNOTS).tolist()
        if distortion.name in curves:
            positions, achieved = invert(curves[distortion.name].tolist(), foot, top)
            visibility[distortion.name] = [round(value, 4) for value in achieved]
        parameters = distortion.parameter_at(torch.tensor(positions, dtype=torch.float64))
        levels[distortion.name] = [float(f"{value:.6g}") for value in parameters.tolist()]
    step = (top - foot) / (KNOTS - 1)
    return {
        "levels": levels,
        "visibility": visibility,
        "curves": {name: [round(v, 4) for v in curve.tolist()] for name, curve in curves.items()},
        "targets": [round(foot + (top - foot) * k / (KNOTS - 1), 4) for k in range(KNOTS)],
        "short_of_target": {n: round(float(c[-1]), 4) for n, c in curves.items() if c[-1] < top - step / 2},
        "above_foot": {n: round(float(c[0]), 4) for n, c in curves.items() if c[0] > foot + step / 2},
        "span_kept": [d.name for d in bank if d.name not in curves],
    }


def write_table(table: dict[str, Any], path: str | Path) -> None:
    """Write a table as JSON with sorted keys and one operator a line, so that changes read well in a diff."""
    parts = []
    for key in sorted(table):
        value = table[key]
        if isinstance(value, dict) and key != "provenance":
            lines = ",\n".join(f"    {json.dumps(k)}: {json.dumps(value[k])}" for k in sorted(value))
            parts.append(f"  {json.dumps(key)}: {{\n{lines}\n  }}" if lines else f"  {json.dumps(key)}: {{}}")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(value, sort_keys=True)}")
    Path(path).write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
