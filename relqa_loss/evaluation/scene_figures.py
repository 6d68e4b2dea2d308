"""One scale for all scenes: does the distance follow severity across photographs, not only within one?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ..distortions.calibration import stable_seed
from ..distortions.compose import distort
from ..distortions.record import Distortion
from .engine_cases import LADDER, Comparer, any_visible, batches, generator_for, prepared
from .engine_rows import Row

TURNS = 2
"""Photographs take turns: half carry severities 0.1, 0.3, ... 0.9, the others 0.2, 0.4, ... 1.0."""

TOGETHER = 8
"""Photographs in one call."""


def measure_scenes(
    loss_fn: Comparer,
    bank: Sequence[Distortion],
    pictures: Sequence[Tensor],
    seed: int,
    rows: Mapping[str, Row],
    progress: Callable[[str], None] | None = None,
) -> None:
    """A ladder of every operator on every photograph: severities and distances, photographs together.

    Args:
        loss_fn: what is measured.
        bank: the operators.
        pictures: (1, 3, H, W) in [0, 1].
        seed: of the operators' draws; all steps of a ladder share one.
        rows: take severity and distance of each picture with a visible pixel, by operator.
        progress: called with a line of text after each batch of photographs.
    """
    done = 0
    for turn in range(TURNS):
        for number, reference in enumerate(batches(pictures[turn::TURNS], TOGETHER)):
            known = prepared(loss_fn, reference)
            for one in bank:
                draw = stable_seed(f"scenes {one.name} {turn} {number}", seed)
                for severity in LADDER[turn::TURNS]:
                    images = distort(reference, one, severity, generator=generator_for(reference, draw))
                    distance = loss_fn.relate(images, known).distance[any_visible(reference, images)]
                    rows[one.name].scene_distance += distance.tolist()
                    rows[one.name].scene_severity += [severity] * len(distance)
            done += len(reference)
            if progress is not None:
                progress(f"scenes: {done}/{len(pictures)} photographs")
