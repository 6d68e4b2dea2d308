"""Photographs, crops and batches: each row of a batch is a function of (seed, step, row) alone.

So neither the number of workers nor that of the training processes, each of which makes its own rows, changes the data.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from ..distortions.dataset import FLAT, MOST_CROPS
from ..images import list_images, read_each, too_small

Batch = TypeVar("Batch")

WORKER_GRACE = 20
"""Seconds that a worker lives on after SIGTERM."""


@dataclass(frozen=True)
class Photographs:
    """Photographs of one folder, split by source image.

    Attributes:
        training: uint8 (3, H, W) each.
        validation: uint8 (3, H, W) each; none where none falls into its share.
        digest: sha256 over names and contents of all of them: the data manifest's hash.
        skipped: (file, reason) of those that were left out.
    """

    training: list[Tensor]
    validation: list[Tensor]
    digest: str
    skipped: tuple[tuple[str, str], ...]


def load_photographs(folder: str | Path, validation_share: float, smallest_side: int) -> Photographs:
    """Read every photograph below ``folder`` into memory (3 bytes a pixel) and split them by a hash of their names.

    Raises:
        ValueError: an empty or unreadable folder, or no photograph with both sides of at least ``smallest_side``.
        MissingExtra: as for :func:`relqa_loss.images.read_each`.
    """
    training: list[Tensor] = []
    validation: list[Tensor] = []
    skipped: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    for path, image in read_each(list_images(folder, recursive=True)):
        if isinstance(image, str):
            skipped.append((path.name, image))
            continue
        pixels = (image * 255).round().to(torch.uint8)
        digest.update(path.name.encode())
        digest.update(pixels.numpy().tobytes())
        if reason := too_small(image, smallest_side):
            skipped.append((path.name, reason))
            continue
        share = int(hashlib.sha256(path.name.encode()).hexdigest()[:8], 16) / 2**32
        (validation if share < validation_share else training).append(pixels)
    if not training:
        reason = f" ({len(skipped)} left out, the first: {': '.join(skipped[0])})" if skipped else ""
        raise ValueError(f"data folder {folder} has no photograph to train on{reason}")
    return Photographs(training, validation, digest.hexdigest(), tuple(skipped))


def seeded(*numbers: int) -> Generator:
    """CPU generator whose seed is a hash of the numbers, so that neighbouring steps share nothing."""
    text = ",".join(str(number) for number in numbers)
    return Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


def random_crops(
    photographs: Sequence[Tensor], count: int, side: int, smallest_scale: float, generator: Generator
) -> Tensor:
    """Crops (count, 3, side, side) in [0, 1]: random photograph, scale, place and mirroring."""

    def uniform() -> float:
        return float(torch.rand((), generator=generator))

    crops = []
    for _ in range(count):
        # Another photograph each time and all pixels asked, unlike there: seeds must go on drawing what they drew.
        for _attempt in range(MOST_CROPS):
            photo = photographs[int(torch.randint(len(photographs), (), generator=generator))]
            limit = min(photo.shape[1:]) / side
            scale = max(smallest_scale + (1 - smallest_scale) * uniform(), min(1.0, 1 / limit))
            source = min(round(side / scale), *photo.shape[1:])
            top = int(uniform() * (photo.shape[1] - source + 1))
            left = int(uniform() * (photo.shape[2] - source + 1))
            crop = photo[None, :, top : top + source, left : left + source].float() / 255
            if source != side:
                crop = F.interpolate(crop, (side, side), mode="bilinear", antialias=True, align_corners=False)
            if crop.std() > FLAT:
                break
        crops.append(crop.flip(3) if uniform() < 0.5 else crop)
    return torch.cat(crops).clamp(0, 1)


def row_crops(
    photographs: Sequence[Tensor], side: int, smallest_scale: float, generators: Sequence[Generator]
) -> Tensor:
    """One of :func:`random_crops` from each generator: (len(generators), 3, side, side)."""
    return torch.cat([random_crops(photographs, 1, side, smallest_scale, generator) for generator in generators])


class StepDataset(Dataset[Batch], Generic[Batch]):
    """Item number n is the batch of step n, made by ``make(n)``."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Batch:
        return self.make(step)


def outlive_sigterm(worker: int) -> None:
    """Let a worker go on for a while after SIGTERM.

    Schedulers send it to every process of a job; without its workers the training process could not finish its step.
    """
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(WORKER_GRACE))


def batches(make: Callable[[int], Batch], steps: Sequence[int], workers: int, ahead: int = 4) -> Iterator[Batch]:
    """Batches of these steps, in order, made by ``workers`` processes, or here if there are none.

    Args:
        make: step -> batch.
        steps: which.
        workers: each makes ``ahead`` batches before they are asked for.
        ahead: as large batches need much shared memory, fewer of them will do.
    """
    loader: DataLoader[Any] = DataLoader(
        StepDataset(make),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        worker_init_fn=outlive_sigterm,
        prefetch_factor=ahead if workers else None,
        generator=Generator(),  # else the loader draws a seed for its workers from torch's own random state
    )
    return iter(loader)
