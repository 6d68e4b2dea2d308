"""Severity calibration: which native parameter of each operator is equally visible.

Method. Every operator is applied to the same photographs, at the scale at which they are viewed, at evenly spaced
positions of its ``span``, with the same random draw at every position, and every member of the closed-form panel judges
the result. :class:`.votes.Pool` makes one visibility of what the members say, within all values of the calibration
(operators weigh equally). The median over photographs, made monotone, is the operator's visibility curve. Severity s
then stands for a visibility that rises linearly with s from "just visible" to a maximum that most operators reach; each
operator's curve is inverted at those targets.

Operators that do not reach the common maximum at the end of their span, or that are above its foot at the start, leave
the common line only in the half of the severities where they must, and are listed. Displacements keep their span: no
member of the panel follows displaced content, so to them one pixel is already ruin, while viewers hardly notice it.

Of the ways to make one visibility of seven members (the 2, 3 or 4 highest ranks, of members or of families, the median,
the mean) the mean of the 3 highest orders operators most alike from photograph to photograph; the mean of all lets the
members that are blind to tint and saturation vote those down.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from ..files import write_whole
from ..images import list_images, read_each
from .crops import at_viewing_scale, detail, draw_crop
from .panel import PANEL, Prepared, panel_scores
from .record import KNOTS, Distortion
from .threads import Progress, for_each
from .votes import VOTES, Pool

MIN_STEP = 0.01
"""Smallest rise of the position in the span from one knot to the next: a ladder must never stand still."""

FALL = 0.02
"""A curve that falls by more than this from one position to the next, before it is made monotone, is reported."""


@dataclass(frozen=True)
class CalibrationSettings:
    """What a calibration depends on besides the photographs and the operators.

    Attributes:
        photographs: number of crops, one a photograph.
        crop: side of the crops, in pixels, once the photographs are at viewing scale.
        candidates: crops drawn of each photograph; the one with most detail is taken, for that is where viewers look,
            and a patch of sky shows every noise and hides every blur.
        positions: number of evenly spaced positions of the span, both ends included.
        foot_quantile: visibility at severity 0 is this quantile of the operators' weakest visibilities.
        top_quantile: visibility at severity 1 is this quantile of the operators' strongest visibilities.
        seed: chooses photographs, crops and the operators' random draws.
    """

    photographs: int = 16
    crop: int = 256
    candidates: int = 8
    positions: int = 11
    foot_quantile: float = 0.5
    top_quantile: float = 0.3
    seed: int = 0


def load_crops(
    data_dir: str | Path, settings: CalibrationSettings, progress: Progress | None = None
) -> tuple[Tensor, list[str]]:
    """Seeded crops (N, 3, crop, crop) in [0, 1] of photographs below ``data_dir``, and their file names.

    Folders take turns, so that a large source does not crowd out the small ones. Photographs are brought to viewing
    scale first (:func:`at_viewing_scale`).

    Args:
        data_dir: folder with photographs, searched recursively.
        settings: how many crops, their side and the seed.
        progress: called with a line of text for each photograph that was drawn and cannot be used.

    Raises:
        ValueError: no such folder, or too few photographs that can be read and are large enough.
        MissingExtra: Pillow is not installed, or what a 16-bit photograph needs beside it.
    """
    root = Path(data_dir)
    random = np.random.default_rng(settings.seed)
    folders: dict[str, list[Path]] = {}
    for path in list_images(root, recursive=True):
        folders.setdefault(path.parent.relative_to(root).as_posix(), []).append(path)
    # Read from the end of each shuffled pile: with it the committed table names the photographs it was measured on.
    piles = [
        read_each([pile[i] for i in random.permutation(len(pile))[::-1]], settings.crop)
        for _, pile in sorted(folders.items())
    ]
    crops: list[Tensor] = []
    names: list[str] = []
    while piles and len(crops) < settings.photographs:
        for pile in piles.copy():
            if len(crops) == settings.photographs:
                break
            drawn = _next_usable(pile, root, progress)
            if drawn is None:
                piles.remove(pile)
                continue
            path, image = drawn[0], at_viewing_scale(drawn[1], settings.crop)
            drawn_crops = [draw_crop(image, settings.crop, random) for _ in range(settings.candidates)]
            crops.append(max(drawn_crops, key=detail).clone())
            names.append(path.relative_to(root).as_posix())
    if len(crops) < settings.photographs:
        raise ValueError(
            f"data_dir must hold at least {settings.photographs} photographs of {settings.crop} px or more, "
            f"found {len(crops)} in {root}"
        )
    return torch.stack(crops), names


def _next_usable(
    pile: Iterator[tuple[Path, Tensor | str]], root: Path, progress: Progress | None
) -> tuple[Path, Tensor] | None:
    """The next photograph of a pile that can be used; None at the end of the pile."""
    for path, image in pile:
        if isinstance(image, Tensor):
            return path, image
        if progress is not None:
            progress(f"skipped {path.relative_to(root).as_posix()}: {image}")
    return None


def stable_seed(name: str, seed: int) -> int:
    """A seed for an operator: unlike that of hash(), the same in every process."""
    return seed * 1_000_003 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def measure(
    distortion: Distortion, crops: Tensor, settings: CalibrationSettings, reference: Prepared | None = None
) -> Tensor:
    """Panel values (positions, photographs, members) of one operator over its span, higher = worse.

    Args:
        distortion: a pixel operator; its table, if any, is set aside.
        crops: (N, 3, H, W) in [0, 1].
        settings: positions and seed.
        reference: the crops prepared for the panel; None to do it here.

    Raises:
        ValueError: the operator displaces content.
    """
    if distortion.apply is None:
        raise ValueError(f"distortion must be a pixel operator, {distortion.name!r} displaces content")
    known = Prepared(crops) if reference is None else reference
    rows = []
    for position in torch.linspace(0, 1, settings.positions):
        # The same draws at every position.
        generator = Generator().manual_seed(stable_seed(distortion.name, settings.seed))
        parameter = distortion.parameter_at(position).float().expand(crops.shape[0])
        rows.append(panel_scores(distortion.apply(crops, parameter, generator), known))
    return torch.stack(rows)


def median_visibility(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Consensus of the panel for each operator, as measured.

    Args:
        values: operator -> (positions, photographs, members), higher = worse.

    Returns:
        Operator -> (positions,) in [0, 1], comparable between operators.
    """
    stacked = torch.stack(list(values.values()))
    # The median: flat screen content, where noise stands out and blur does nothing, must not pull the curves.
    curves = Pool(stacked).visibility(stacked).quantile(0.5, dim=2)
    return dict(zip(values, curves, strict=True))


def visibility_curves(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """:func:`median_visibility` made non-decreasing."""
    return {name: curve.cummax(dim=0).values for name, curve in median_visibility(values).items()}


def falls(curve: Sequence[float]) -> list[list[float]]:
    """Where a curve over [0, 1] falls by more than ``FALL``: [position at the lower end, how far it falls]."""
    heights = np.asarray(curve, dtype=float)
    steps = np.diff(heights)
    where = np.flatnonzero(steps < -FALL)
    return [[round(float(k + 1) / (len(heights) - 1), 4), round(float(-steps[k]), 4)] for k in where]


def _path(low: float, high: float, middle: float) -> np.ndarray:
    """Visibility at the knots from ``low`` to ``high``, by way of the common ``middle`` where that leaves room.

    An operator that falls short at one end of the range so keeps to the others in the half where it can; either half
    gets a quarter of its own range at least, so that no ladder stands still.
    """
    quarter = (high - low) / 4
    return np.interp(np.linspace(0, 1, KNOTS), (0, 0.5, 1), (low, np.clip(middle, low + quarter, high - quarter), high))


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
    targets = _path(low, high, (foot + top) / 2)
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
    workers: int | None = None,
) -> dict[str, Any]:
    """Measure the bank on photographs and build its severity table.

    Args:
        data_dir: folder with photographs; sub-folders take turns.
        distortions: the operators; None for the whole bank.
        settings: photographs, crop, positions, quantiles and seed; None for the defaults.
        progress: called with a line of text for each photograph that is skipped and after each operator.
        workers: operators measured at a time; None for torch's number of threads. The table does not depend on it.

    Returns:
        JSON-able: ``levels`` (operator -> 11 native parameters), ``visibility`` (operator -> visibility achieved at
        the knots), ``curves`` (operator -> visibility at the evenly spaced positions of the span), ``targets`` (common
        visibility at the knots), ``short_of_target`` and ``above_foot`` (operator -> strongest or weakest visibility,
        of those more than half a knot off the common range), ``not_monotone`` (operator -> where its
        curve falls, :func:`falls`), ``span_kept`` (displacements), ``skipped`` (operators whose codec is missing
        here), ``provenance``.

    Raises:
        ValueError: no such folder, or too few photographs that can be read and are large enough.
        MissingExtra: Pillow or piq is not installed, or what a 16-bit photograph needs beside them.
    """
    from .availability import can_run
    from .bank import BANK

    chosen = settings or CalibrationSettings()
    crops, names = load_crops(data_dir, chosen, progress)
    asked = tuple(BANK if distortions is None else distortions)
    bank = tuple(one for one in asked if can_run(one))
    reference = Prepared(crops)
    # What the panel derives of the photographs, worked out before several threads ask for it.
    for_each({"photographs": partial(panel_scores, crops, reference)}, 1)
    tasks = {d.name: partial(measure, d, crops, chosen, reference) for d in bank if d.apply is not None}
    values = for_each(tasks, workers, progress)
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
    measured = median_visibility(values)
    curves = {name: curve.cummax(dim=0).values for name, curve in measured.items()}
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
        "not_monotone": {n: where for n, c in measured.items() if (where := falls(c.tolist()))},
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
    write_whole(Path(path), "{\n" + ",\n".join(parts) + "\n}\n")
