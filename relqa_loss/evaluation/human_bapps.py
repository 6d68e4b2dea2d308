"""BAPPS, the Berkeley-Adobe perceptual patch similarity dataset: choices and detections instead of opinion scores.

Validation parts only (``2afc/val``, ``jnd/val``), as ``scripts/download_dataset_valonly.sh`` of
richzhang/PerceptualSimilarity unpacks them into its folder ``dataset``, which is the ``root`` here. The folders of the
patches and of the labels, what a label means, the size at which the authors' code compares patches, and both scores are
read from ``data/dataset/twoafc_dataset.py``, ``data/dataset/jnd_dataset.py`` and ``lpips/trainer.py`` of that
repository, the names of the subsets from its ``test_dataset_model.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .label_files import find_folder, missing_files

CHOICE_SUBSETS = ("traditional", "cnn", "superres", "deblur", "color", "frameinterp")
"""Folders of ``2afc/val``."""

SAME_SUBSETS = ("traditional", "cnn")
"""Folders of ``jnd/val``."""

SIDE = 64
"""Patches are stored at 256 px and compared at this side, as the authors' loaders do (``load_size=64``)."""


SHOWN = 4
"""How many values of a bad label an error shows."""


@dataclass(frozen=True)
class Choice:
    """Two distorted patches, of which viewers said which one is nearer to the reference.

    Attributes:
        reference: file of the original patch.
        first: file of the patch ``p0``.
        second: file of the patch ``p1``.
        preference: share of viewers who chose ``second``, in [0, 1].
        subset: one of ``CHOICE_SUBSETS``.
    """

    reference: Path
    first: Path
    second: Path
    preference: float
    subset: str


@dataclass(frozen=True)
class Detection:
    """Two patches shown briefly, of which viewers said whether they are the same.

    Attributes:
        first: file of the patch ``p0``.
        second: file of the patch ``p1``.
        same: share of viewers who called them the same, in [0, 1].
        subset: one of ``SAME_SUBSETS``.
    """

    first: Path
    second: Path
    same: float
    subset: str


@dataclass(frozen=True)
class Bapps:
    """The validation parts that are there.

    Attributes:
        root: folder it was read from.
        choices: the 2AFC part; empty if there is no ``2afc``.
        detections: the JND part; empty if there is no ``jnd``.
    """

    root: Path
    choices: tuple[Choice, ...]
    detections: tuple[Detection, ...]


def load_bapps(root: str | Path) -> Bapps:
    """Read the labels and find the patches.

    ``2afc/val/SUBSET/`` has the folders ``ref``, ``p0``, ``p1`` (``000000.png``, ...) and ``judge`` (``000000.npy``,
    one number each, the share that chose p1); ``jnd/val/SUBSET/`` has ``p0``, ``p1`` and ``same`` (one number each).
    The two parts are downloads of their own: one of them suffices, but a part has to be whole.

    Args:
        root: the folder that holds ``2afc`` and ``jnd``.

    Raises:
        ValueError: neither part, a subset or a folder that is missing, patches or labels that lack their counterparts
            (counted, the first ones named), or a label that is not one number in [0, 1].
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"root must be the folder of BAPPS, got {root}" + ("" if root.exists() else " (not there)"))
    if not (root / "2afc").is_dir() and not (root / "jnd").is_dir():
        raise ValueError(f"BAPPS: neither 2afc nor jnd in {root}")
    choices: list[Choice] = []
    detections: list[Detection] = []
    if (root / "2afc").is_dir():
        for subset in CHOICE_SUBSETS:
            for found in _subset(root / "2afc", subset, ("ref", "p0", "p1"), "judge"):
                preference = _label(found["judge"])
                choices.append(Choice(found["ref"], found["p0"], found["p1"], preference, subset))
    if (root / "jnd").is_dir():
        for subset in SAME_SUBSETS:
            for found in _subset(root / "jnd", subset, ("p0", "p1"), "same"):
                detections.append(Detection(found["p0"], found["p1"], _label(found["same"]), subset))
    return Bapps(root, tuple(choices), tuple(detections))


def choice_agreement(first: ArrayLike, second: ArrayLike, preferences: ArrayLike) -> NDArray[np.float64]:
    """Share of viewers whose choice the distances predict, for each triplet; its mean is the 2AFC score.

    Args:
        first: distances of ``p0`` to the reference, higher = worse.
        second: distances of ``p1``.
        preferences: share of viewers who chose ``p1``.

    Returns:
        ``1 - preference`` where the first distance is smaller, ``preference`` where the second is, one half for a tie.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    share = np.asarray(preferences, dtype=np.float64)
    return np.where(a < b, 1 - share, np.where(b < a, share, 0.5))


def viewer_agreement(preferences: ArrayLike) -> NDArray[np.float64]:
    """What one viewer, drawn at random, scores on each triplet on average: ``p^2 + (1 - p)^2``."""
    share = np.asarray(preferences, dtype=np.float64)
    return share**2 + (1 - share) ** 2


def detection_precision(distances: ArrayLike, same: ArrayLike) -> float:
    """Average precision of "called the same" when pairs are taken in order of their distances.

    Each pair counts as positive with weight ``same`` and as negative with ``1 - same``. The area under precision over
    recall is taken after precision has been made to fall with recall (PASCAL VOC, from 2010 on), as the authors do.
    Pairs of equal distance are taken together, so that their order does not count.

    Returns:
        A value in [0, 1]; NaN where no pair was called the same.
    """
    d, s = np.asarray(distances, dtype=np.float64), np.asarray(same, dtype=np.float64)
    if d.size == 0 or s.sum() <= 0:
        return float("nan")
    order = np.argsort(d, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(d[order])), d.size - 1)
    positives = np.cumsum(s[order])[last_of_ties]
    taken = last_of_ties + 1.0
    precision, recall = positives / taken, positives / s.sum()
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def _subset(part: Path, subset: str, images: tuple[str, ...], labels: str) -> list[Mapping[str, Path]]:
    folder = find_folder(find_folder(part, "val"), subset)
    files = {name: _stems(find_folder(folder, name), ".png") for name in images}
    files[labels] = _stems(find_folder(folder, labels), ".npy")
    stems = sorted(set().union(*files.values()))
    if not stems:
        raise ValueError(f"BAPPS: {folder} holds no patches")
    for name, there in files.items():
        absent = [f"{name}/{stem}" for stem in stems if stem not in there]
        if absent:
            raise missing_files("BAPPS", absent, len(stems), f"in {folder}")
    return [{name: there[stem] for name, there in files.items()} for stem in stems]


def _stems(folder: Path, ending: str) -> dict[str, Path]:
    # Archives made on a Mac carry hidden twins of files.
    return {p.stem: p for p in folder.iterdir() if p.suffix.lower() == ending and not p.name.startswith(".")}


def _label(path: Path) -> float:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not a NumPy file that can be read: {error}") from error
    if values.size != 1 or not 0 <= float(values.ravel()[0]) <= 1:
        raise ValueError(f"{path} must hold one number in [0, 1], got {values.ravel()[:SHOWN].tolist()}")
    return float(values.ravel()[0])
