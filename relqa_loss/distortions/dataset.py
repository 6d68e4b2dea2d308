"""`TripletDataset`: triplets for a ``DataLoader``, the same whatever the number of workers, ranks or threads."""

from __future__ import annotations

import hashlib
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset, default_collate

from ..images import list_images, pillow, read_image, too_small
from ..validation import FLOAT_DTYPES, MIN_SIDE
from .draws import Draws
from .engine import DistortionEngine, Triplet

FLAT = 0.02
"""A crop whose standard deviation is below this shows nothing a distortion could act on; another one is drawn."""

MOST_CROPS = 5
"""So many crops are tried before a flat one is taken as it is."""

ARENA = 2**28
"""Bytes of one block of the cache."""


class TripletDataset(Dataset[Triplet]):
    """Distorted crops of photographs, with their targets, as a map-style dataset.

    Item ``i`` is a function of the photographs, the engine, ``seed``, the epoch and ``i``, bit for bit on one machine:
    not of workers, ranks, threads or the order of calls. It shows photograph ``epoch * length + i``, counted round and
    round, so that an epoch shows each photograph equally often, and epochs shorter than the folder go through all of
    it::

        dataset = TripletDataset("photographs", crop=192, seed=1)
        sampler = DistributedSampler(dataset)  # or shuffle=True below
        loader = DataLoader(dataset, 16, sampler=sampler, num_workers=4, collate_fn=collate_triplets)
        for epoch in range(epochs):
            dataset.set_epoch(epoch)
            sampler.set_epoch(epoch)
            for triplets in loader: ...

    A photograph that cannot be read, or is smaller than the crop, does not end the epoch: another one, drawn from the
    item's own seed, takes its place, and a warning names it, once in each process.

    Args:
        photographs: a folder, searched recursively; files; or tensors (3, H, W), uint8 or of a float dtype in [0, 1],
            in any sequence. Files are read when they are needed, as :func:`relqa_loss.images.read_image` does, and
            taken with 8 bits.
        engine: makes the triplets; None for the default one.
        crop: side of the square crops, in pixels, at least 16. Crops are taken at the photograph's own scale and
            mirrored half of the time.
        seed: of everything random.
        length: items of an epoch; None for one a photograph.
        cache: read all files now and keep them, 3 bytes a pixel, one copy for all workers of a process. Data are the
            same with and without. Tensors are never copied.

    Raises:
        ValueError: no photographs, bad crop or length; from items, if no photograph can be used.
        TypeError: photographs of another kind.
        MissingExtra: files without Pillow, or a codec of the default engine is missing; from items (with ``cache`` at
            once), a 16-bit photograph without what reads it.
    """

    def __init__(
        self,
        photographs: str | Path | Sequence[str | Path] | Sequence[Tensor],
        engine: DistortionEngine | None = None,
        *,
        crop: int = 256,
        seed: int = 0,
        length: int | None = None,
        cache: bool = False,
    ) -> None:
        if crop < MIN_SIDE:
            raise ValueError(f"crop must be at least {MIN_SIDE} pixels, got {crop}")
        if length is not None and length < 1:
            raise ValueError(f"length must be at least 1 or None, got {length}")
        self.engine = DistortionEngine() if engine is None else engine
        self.crop = crop
        self.seed = seed
        self._photographs = _photographs(photographs)
        self._length = len(self._photographs) if length is None else length
        # Shared memory: workers that are already running see a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._unusable: dict[int, str] = {}
        self._cached: dict[int, Tensor] | None = None
        if cache and isinstance(self._photographs, _Files):
            self._cached = dict(self._fill_cache())
            if not self._cached:
                raise self._none_left()

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return (
            f"TripletDataset({self._length} triplets of {len(self._photographs)} photographs, crop={self.crop}, "
            f"seed={self.seed}, epoch={self.epoch}, {self.engine!r})"
        )

    @property
    def epoch(self) -> int:
        """The epoch whose items are made."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, before iterating over the loader; reaches workers that persist between epochs too.

        Raises:
            ValueError: a negative number.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        self._epoch.fill_(epoch)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(photograph, reason) of those that could not be used, as far as this process has met them.

        Workers keep lists of their own; with ``cache`` all files have been met.
        """
        return tuple((self._photographs.name(one), reason) for one, reason in sorted(self._unusable.items()))

    def __getitem__(self, index: int) -> Triplet:
        """Triplet number ``index``, with a batch of one.

        Raises:
            IndexError: beyond the length.
            ValueError: no photograph can be used.
        """
        index = operator.index(index)
        if not -self._length <= index < self._length:
            raise IndexError(f"index {index} is out of range for {self._length} triplets")
        index %= self._length
        epoch = self.epoch
        draws = Draws(_item_seed(self.seed, epoch, index))
        crop_seed, engine_seed = draws.new_seed(), draws.new_seed()
        photograph = (epoch * self._length + index) % len(self._photographs)
        crop = self._draw_crop(photograph, Draws(crop_seed))
        while crop is None:
            if len(self._unusable) == len(self._photographs):
                raise self._none_left()
            crop = self._draw_crop(draws.below(len(self._photographs)), Draws(crop_seed))
        return self.engine(crop, generator=Generator().manual_seed(engine_seed))

    def _draw_crop(self, photograph: int, draws: Draws) -> Tensor | None:
        """Crop (1, 3, crop, crop), a float dtype in [0, 1]; None if the photograph cannot be used."""
        picture = self._read(photograph)
        if picture is None:
            return None
        height, width = picture.shape[1:]
        for _ in range(MOST_CROPS):
            top = int(draws.uniform() * (height - self.crop + 1))
            left = int(draws.uniform() * (width - self.crop + 1))
            part = picture[None, :, top : top + self.crop, left : left + self.crop]
            crop = part.float() / 255 if part.dtype == torch.uint8 else part.clamp(0, 1)
            # Every fourth pixel tells a sky from a scene.
            if crop[..., ::4, ::4].std() > FLAT:
                break
        return crop.flip(3) if draws.uniform() < 0.5 else crop.contiguous()

    def _read(self, photograph: int) -> Tensor | None:
        """The photograph (3, H, W), uint8 or float; None if it cannot be used."""
        if photograph in self._unusable:
            return None
        if self._cached is not None:
            return self._cached[photograph]
        try:
            picture = self._photographs.read(photograph)
        except (ValueError, OSError) as error:
            self._leave_out(photograph, str(error))
            return None
        if reason := too_small(picture, self.crop):
            self._leave_out(photograph, reason)
            return None
        return picture

    def _leave_out(self, photograph: int, reason: str) -> None:
        self._unusable[photograph] = reason
        name = self._photographs.name(photograph)
        warnings.warn(f"left out, another takes its place: {name}: {reason}", RuntimeWarning, stacklevel=2)

    def _none_left(self) -> ValueError:
        name, reason = self.skipped[0]
        return ValueError(f"none of the {len(self._photographs)} photographs can be used; {name}: {reason}")

    def _fill_cache(self) -> Iterator[tuple[int, Tensor]]:
        # Blocks instead of a tensor a photograph: spawned workers get each as one file descriptor.
        block, used = torch.empty(0, dtype=torch.uint8), 0
        for photograph in range(len(self._photographs)):
            picture = self._read(photograph)
            if picture is None:
                continue
            if used + picture.numel() > block.numel():
                block, used = torch.empty(max(ARENA, picture.numel()), dtype=torch.uint8), 0
            place = block[used : used + picture.numel()].view(picture.shape)
            used += picture.numel()
            yield photograph, place.copy_(picture)


def collate_triplets(triplets: Sequence[Triplet]) -> Triplet:
    """Join triplets of one size to one batch: the ``collate_fn`` for a ``DataLoader`` over a :class:`TripletDataset`.

    Raises:
        ValueError: none at all.
    """
    if not triplets:
        raise ValueError("triplets must hold at least one triplet, got none")

    def joined(field: Callable[[Triplet], Tensor]) -> Tensor:
        # In a worker this collates straight into shared memory.
        batch: Tensor = default_collate([row for one in triplets for row in field(one)])
        return batch

    return Triplet(
        joined(lambda one: one.reference),
        joined(lambda one: one.distorted),
        joined(lambda one: one.maps),
        joined(lambda one: one.weight),
        tuple(recipe for one in triplets for recipe in one.recipe),
    )


class _Files:
    """Photographs that are read when asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        pillow()
        self._paths = tuple(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return str(self._paths[index])

    def read(self, index: int) -> Tensor:
        return (read_image(self._paths[index]) * 255).round().to(torch.uint8)


class _Tensors:
    """Photographs that are tensors already."""

    def __init__(self, pictures: Sequence[object]) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def name(self, index: int) -> str:
        return f"photographs[{index}]"

    def read(self, index: int) -> Tensor:
        picture = self._pictures[index]
        if not isinstance(picture, Tensor) or picture.dtype not in (torch.uint8, *FLOAT_DTYPES):
            got = str(picture.dtype) if isinstance(picture, Tensor) else type(picture).__name__
            raise TypeError(f"{self.name(index)} must be a tensor (3, H, W) of uint8 or a float dtype, got {got}")
        if picture.ndim != 3 or picture.shape[0] != 3:
            raise TypeError(f"{self.name(index)} must have shape (3, H, W), got {tuple(picture.shape)}")
        return picture


def _photographs(photographs: str | Path | Sequence[str | Path] | Sequence[Tensor]) -> _Files | _Tensors:
    if isinstance(photographs, str | Path):
        return _Files(list_images(photographs, recursive=True))
    if not hasattr(photographs, "__len__") or not hasattr(photographs, "__getitem__"):
        raise TypeError(
            f"photographs must be a folder or a sequence of files or tensors, got {type(photographs).__name__}"
        )
    if len(photographs) == 0:
        raise ValueError("photographs must hold at least one photograph, got none")
    if not isinstance(photographs[0], str | Path):
        # Not looked through: it may be a data set that makes each tensor when asked.
        return _Tensors(photographs)
    for one in photographs:
        if not isinstance(one, str | Path):
            raise TypeError(f"photographs must hold files or tensors (3, H, W), not both, got {type(one).__name__}")
    return _Files([Path(str(one)) for one in photographs])


def _item_seed(seed: int, epoch: int, index: int) -> int:
    # A hash, so that neighbouring items and seeds share nothing.
    return int.from_bytes(hashlib.sha256(f"triplet,{seed},{epoch},{index}".encode()).digest()[:7], "big")
