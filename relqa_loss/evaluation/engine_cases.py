"""What all engine-based figures have in common: whom they ask, what counts as visible, and how pictures are cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from ..distortions.visibility import visibility
from ..losses import RelationalLoss
from ..relation import Relation

LADDER = tuple(k / 10 for k in range(1, 11))
"""Severities of a ladder: steps of 0.1."""

VISIBLE = 0.5
"""A pixel counts as visibly changed from this visibility on: a local change of two 8-bit steps."""

SEED_STRIDE = 1_000_003
"""Between the draws of one seed and those of the next."""


class Comparer(Protocol):
    """What is measured: anything with the ``relate`` of :class:`relqa_loss.RelationalLoss`."""

    def relate(self, a: Tensor, b: Any, ref: Any = None) -> Relation:
        """How a compares with b; b may be what :func:`prepared` makes of pictures."""
        ...


def prepared(loss_fn: Comparer, reference: Tensor) -> Any:
    """A reference that many pictures are compared with: prepared where the measured loss can do that, same values."""
    return loss_fn.prepare(reference) if isinstance(loss_fn, RelationalLoss) else reference


def of_weights(loss_fn: Comparer) -> dict[str, Any]:
    """Which weights were measured, and their size: nothing for what has no weights.

    Returns:
        ``weights_sha256`` (file name -> digest), ``distance_sha256`` (digest of what distances depend on),
        ``trained_without`` (names of the operators that their training is known not to have seen), ``parameters`` (a
        number) and ``weight_bytes`` (of all tensors of the networks, as they are stored: float32).
    """
    if not isinstance(loss_fn, RelationalLoss):
        return {}
    info = loss_fn.info()
    tensors = [*loss_fn.predictor.state_dict().values(), *loss_fn.scorer.state_dict().values()]
    return {
        "weights_sha256": info["files"],
        "distance_sha256": info["distance"],
        "trained_without": list(trained_without(info["provenance"])),
        "parameters": sum(parameter.numel() for parameter in loss_fn.parameters()),
        "weight_bytes": sum(tensor.numel() for tensor in tensors) * torch.finfo(torch.float32).bits // 8,
    }


def trained_without(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Operators that weights of this provenance are known not to have been trained on, nor what they started from."""
    if "trained_without" in provenance:
        return tuple(provenance["trained_without"])
    # Earlier provenances tell what the recipe held out, but nothing of what the start had seen.
    if provenance.get("start_sha256") is not None:
        return ()
    return tuple(provenance.get("recipe", {}).get("data", {}).get("held_out", ()))


def crop_of(photo: Tensor, crop: int | None, seed: int) -> Tensor:
    """Seeded crop (1, 3, h, w) of a photograph (3, H, W); sides shorter than ``crop`` stay whole."""
    if crop is None:
        return photo[None]
    random = np.random.default_rng(seed)
    top, left = (int(random.integers(max(0, side - crop) + 1)) for side in photo.shape[1:])
    return photo[None, :, top : top + crop, left : left + crop]


def check_cases(photographs: Sequence[Tensor], severities: Sequence[float], share: int) -> tuple[float, ...]:
    """The severities as numbers; ValueError unless these photographs can be degraded so.

    Args:
        photographs: images (3, H, W), at least one.
        severities: rising, in (0, 1].
        share: photographs for each operator, at least 1.
    """
    if len(photographs) == 0:
        raise ValueError("photographs must hold at least one image, got none")
    for index, photo in enumerate(photographs):
        if photo.ndim != 3 or photo.shape[0] != 3:
            raise ValueError(f"photographs[{index}] must have shape (3, H, W), got {tuple(photo.shape)}")
    steps = tuple(float(s) for s in severities)
    if not steps or any(not 0 < s <= 1 for s in steps) or any(b <= a for a, b in pairwise(steps)):
        raise ValueError(f"severities must rise within (0, 1], got {severities}")
    if share < 1:
        raise ValueError(f"photographs_per_operator must be at least 1, got {share}")
    return steps


def dealt(pictures: Sequence[Tensor], index: int, share: int) -> list[Tensor]:
    """The pictures of the operator with this index: so many, round-robin."""
    return [pictures[(index * share + k) % len(pictures)] for k in range(share)]


def batches(pictures: Sequence[Tensor], most: int | None = None) -> Iterator[Tensor]:
    """The pictures (1, 3, H, W) in batches of equal size, at most so many at a time."""
    by_size: dict[tuple[int, ...], list[Tensor]] = {}
    for picture in pictures:
        by_size.setdefault(tuple(picture.shape), []).append(picture)
    for group in by_size.values():
        for start in range(0, len(group), most or len(group)):
            yield torch.cat(group[start : start + (most or len(group))])


def generator_for(like: Tensor, seed: int) -> Generator:
    """A generator on the device of ``like``."""
    return Generator(device=like.device).manual_seed(seed)


def weighted_mean(maps: Tensor, weight: Tensor) -> Tensor:
    """Mean over pixels (B, K) of maps (B, K, H, W) with weights (B, H, W)."""
    total = weight.sum(dim=(1, 2)).clamp_min(1e-12)
    return (maps * weight[:, None]).sum(dim=(2, 3)) / total[:, None]


def any_visible(before: Tensor, after: Tensor) -> Tensor:
    """Whether a pixel of each pair has changed visibly: (B,), bool, for pictures (B, 3, H, W)."""
    return visibility(before, after).amax(dim=(1, 2)) >= VISIBLE


def differ(a: Tensor, b: Tensor) -> Tensor:
    """Whether the pictures (B, 3, H, W) of each pair differ in any bit: (B,), bool."""
    return (a != b).flatten(1).any(dim=1)
