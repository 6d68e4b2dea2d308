"""What one checkpoint made of each validation image, in numbers: gathered image by image, also over processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..relation import AXES, Relation
from ..validation import check_images

SAME = 0.02
"""Relative difference of two distances of one image that rounding in half precision may explain."""

Value = TypeVar("Value")


class Judge(Protocol):
    """What is asked of a loss here: ``RelationalLoss``, or any module that relates pictures.

    ``score`` with ``ref`` has to be ``distance(b, ref) - distance(a, ref)``, as in ``RelationalLoss``: it is what
    checkpoints are compared by, and it is taken from the distances.
    """

    def relate(self, a: Tensor, b: Tensor, ref: Tensor | None = None, *, tile: int | None = None) -> Relation:
        """A compared with b, see ``RelationalLoss.relate``."""

    def parameters(self) -> Iterator[Tensor]:
        """Its tensors, as of any ``nn.Module``."""

    def buffers(self) -> Iterator[Tensor]:
        """Further tensors, as of any ``nn.Module``."""


@dataclass(frozen=True)
class ImageScore:
    """One output beside its reference.

    Attributes:
        reference: sha256 of the reference.
        distance: >= 0, lower is better.
        parts: the distance by axis, in the order of ``AXES``.
        tilts: mean of each signed map, positive where the output shows more of the axis; nan where not looked at.
    """

    reference: str
    distance: float
    parts: tuple[float, ...]
    tilts: tuple[float, ...]


@dataclass(frozen=True)
class ImageScores:
    """All images of one checkpoint, sorted by their keys.

    Attributes:
        keys: N names that tell the images apart.
        references: sha256 of each reference.
        distances: (N,) float64.
        parts: (N, len(AXES)) float64.
        tilts: (N, len(AXES)) float64, see :class:`ImageScore`.
    """

    keys: tuple[str, ...]
    references: tuple[str, ...]
    distances: Tensor
    parts: Tensor
    tilts: Tensor

    def __len__(self) -> int:
        return len(self.keys)


@torch.no_grad()
def score_image(
    loss_fn: Judge,
    output: Tensor,
    reference: Tensor,
    *,
    directions: bool = True,
    name: str = "output",
    tile: int | None = None,
) -> ImageScore:
    """Compare one output with its reference, on the device of the loss.

    Args:
        loss_fn: what compares.
        output: (3, H, W), in the range of the loss.
        reference: (3, H, W).
        directions: also decode the maps, which takes two to three times as long.
        name: of the output, for messages.
        tile: None, or the side in pixels of the tiles to compare in, for pictures that do not fit into memory at
            once; for a loss whose ``relate`` takes it, see ``RelationalLoss.relate``.

    Raises:
        TypeError: not float tensors.
        ValueError: unusable or unequal shapes, or values that are not finite.
    """
    device = device_of(loss_fn)
    # Validation under autocast is about the model's precision, not about that of its judge.
    with torch.autocast(device.type, enabled=False):
        pair = output[None].to(device), reference[None].to(device)
        # A judge that knows no tiles still judges whole pictures.
        relation = loss_fn.relate(*pair) if tile is None else loss_fn.relate(*pair, tile=tile)
        maps = relation.maps if directions else None
    distance = float(relation.distance)
    if not distance < float("inf"):
        raise ValueError(f"{name} is at distance {distance} from its reference: one of them holds NaN or infinity")
    tilts = [float("nan")] * len(AXES) if maps is None else maps[0].double().mean(dim=(1, 2)).tolist()
    if len(tilts) != len(AXES):
        raise ValueError(f"loss_fn must give {len(AXES)} maps, one for each axis, got {len(tilts)}")
    return ImageScore(_digest(reference), distance, tuple(relation.parts[0].double().tolist()), tuple(tilts))


class Tally:
    """Collects the scores of one checkpoint, one image on the loss's device at a time; no picture is kept.

    Args:
        loss_fn: what compares.
        directions: also look at the direction of each difference ("sharper"), see :func:`score_image`.
        sharded: :meth:`scores` are those of all processes.
    """

    def __init__(self, loss_fn: Judge, *, directions: bool = True, sharded: bool = False) -> None:
        self.loss_fn = loss_fn
        self.directions = directions
        self.sharded = sharded
        self._named: dict[str, ImageScore] = {}
        self._unnamed: dict[str, ImageScore] = {}
        self._seen: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._named) + len(self._unnamed)

    def add(self, outputs: Tensor, references: Tensor, ids: Iterable[str | int] | None = None) -> None:
        """Score one batch.

        Args:
            outputs: (B, 3, H, W), or one image (3, H, W).
            references: the same shape.
            ids: a name for each image, the same for every checkpoint, e.g. its index in the dataset. An image whose id
                came before, as ``DistributedSampler`` repeats some, is left out. Without ids an image is known by its
                reference: one that comes back in this process is another image (several inputs of one original, in the
                same order every time), one in another process the same.

        Raises:
            TypeError, ValueError: unusable images, not one id for each, or one id for two references. The images before
                the faulty one have been added.
        """
        if isinstance(outputs, Tensor) and isinstance(references, Tensor) and outputs.ndim == references.ndim == 3:
            outputs, references = outputs[None], references[None]
        check_images("outputs", outputs)
        check_images("references", references)
        if outputs.shape != references.shape:
            raise ValueError(
                f"outputs must have the references' shape {tuple(references.shape)}, got {tuple(outputs.shape)}"
            )
        names = [None] * len(outputs) if ids is None else names_of(ids)
        if len(names) != len(outputs):
            raise ValueError(f"ids must name each of {len(outputs)} images, got {len(names)}")
        for index, (name, output, reference) in enumerate(zip(names, outputs, references, strict=True)):
            label = f"outputs[{index}]"
            self.put(score_image(self.loss_fn, output, reference, directions=self.directions, name=label), name)

    def put(self, one: ImageScore, name: str | None = None) -> None:
        """Add what :func:`score_image` gave.

        Raises:
            ValueError: another reference came under this name.
        """
        if name is None:
            times = self._seen[one.reference] = self._seen.get(one.reference, 0) + 1
            self._unnamed[f"{one.reference}:{times}"] = one
        else:
            _put_once(self._named, name, one)

    def scores(self) -> ImageScores:
        """The scores so far.

        Where the tally is sharded, every process of the default group calls this with its own share of the images,
        however large, and all get the scores of all; without a process group, those of this process.

        Raises:
            ValueError: one id for two references, or, without ids, two outputs for one reference.
        """
        shares = shared((self._named, self._unnamed)) if self.sharded else [(self._named, self._unnamed)]
        merged: dict[str, ImageScore] = {}
        for named, _ in shares:
            for name, one in named.items():
                _put_once(merged, name, one)
        for _, unnamed in shares:
            for key, one in unnamed.items():
                known = merged.setdefault(key, one)
                if abs(known.distance - one.distance) > SAME * max(known.distance, one.distance):
                    raise ValueError(
                        f"two processes hold different outputs for one reference (distances {known.distance:.4g} and "
                        f"{one.distance:.4g}): pass ids, e.g. the images' indices in the dataset"
                    )
        keys = tuple(sorted(merged))
        rows = [merged[key] for key in keys]
        return ImageScores(
            keys,
            tuple(one.reference for one in rows),
            torch.tensor([one.distance for one in rows], dtype=torch.float64),
            torch.tensor([one.parts for one in rows], dtype=torch.float64).reshape(-1, len(AXES)),
            torch.tensor([one.tilts for one in rows], dtype=torch.float64).reshape(-1, len(AXES)),
        )


def _put_once(known: dict[str, ImageScore], name: str, one: ImageScore) -> None:
    if known.setdefault(name, one).reference != one.reference:
        raise ValueError(f"id {name!r} stands for two different references: ids must tell all images apart")


def names_of(ids: Iterable[str | int]) -> list[str]:
    """Ids as text; a data loader collates numbers into a tensor."""
    return [str(one) for one in (ids.tolist() if isinstance(ids, Tensor) else ids)]


def shared(value: Value | None, failure: Exception | None = None) -> list[Value]:
    """The values of all processes, by rank; where one failed, all raise and none is left waiting.

    Args:
        value: of this process; anything that can be pickled. None where it failed.
        failure: what went wrong here.

    Raises:
        Exception: ``failure``.
        ValueError: another process failed; the message says which, and how.
    """
    told = None if failure is None else f"{type(failure).__name__}: {failure}"
    gathered: list[tuple[Value | None, str | None]] = [(value, told)]
    if dist.is_available() and dist.is_initialized():
        gathered = [(None, None)] * dist.get_world_size()
        dist.all_gather_object(gathered, (value, told))
    if failure is not None:
        raise failure
    for rank, (_, message) in enumerate(gathered):
        if message is not None:
            raise ValueError(f"process {rank} failed: {message}")
    return [one for one, _ in gathered if one is not None]


def _digest(image: Tensor) -> str:
    digest = hashlib.sha256(str(tuple(image.shape)).encode())
    digest.update(image.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def fingerprint_of(loss_fn: Judge) -> str:
    """sha256 of what a loss's distances depend on: those of two losses are not to be compared."""
    digest = hashlib.sha256(str(getattr(loss_fn, "data_range", "")).encode())
    for tensor in (*loss_fn.parameters(), *loss_fn.buffers()):
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def device_of(loss_fn: Judge) -> torch.device:
    """Where a loss computes: that of its first tensor."""
    for tensor in (*loss_fn.parameters(), *loss_fn.buffers()):
        return tensor.device
    return torch.device("cpu")
