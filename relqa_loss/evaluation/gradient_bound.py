"""How steep the loss can get: the largest gradient found by random search, and by ascending it from there.

A loss with a bounded slope cannot throw a training run off with one bad batch. The search finds a lower bound of the
largest slope, no proof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..relation import Relation

Change = Callable[[Tensor, Generator], Tensor]


class Relates(Protocol):
    """What is searched: a loss with ``relate``."""

    def relate(self, a: Tensor, b: Tensor) -> Relation:
        """As :meth:`RelationalLoss.relate`."""


@dataclass(frozen=True)
class GradientBound:
    """The steepest places found, and how they were sought.

    A slope is the L2 norm of the distance's gradient to ``pred`` times ``sqrt(3 * side^2)``: how much the distance
    changes per unit of root-mean-square change of ``pred``, whatever the size of the picture. Changing all values by
    one 8-bit step is 1 / 255 of that unit.

    Attributes:
        random: largest slope of the random pairs.
        random_by_kind: the same for each kind of pair.
        ascended: largest slope after ascending it in ``pred`` and ``ref`` together.
        ascended_pixel: largest share of one value of ``pred`` there, ``|gradient| * 3 * side^2``.
        finite: whether all gradients were.
        value_range: what the values of both pictures were kept in.
        side: of the pictures, in pixels.
        samples: random pairs.
        starts: steepest pairs that were ascended from.
        steps: Adam steps of the ascent.
        seed: of the pairs.
    """

    random: float
    random_by_kind: dict[str, float]
    ascended: float
    ascended_pixel: float
    finite: bool
    value_range: tuple[float, float]
    side: int
    samples: int
    starts: int
    steps: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def search(
    loss_fn: Relates,
    *,
    side: int = 48,
    samples: int = 192,
    starts: int = 6,
    steps: int = 80,
    step_size: float = 0.02,
    value_range: tuple[float, float] = (0.0, 1.0),
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> GradientBound:
    """Seek the steepest pair of pictures.

    Args:
        loss_fn: of pictures in [0, 1].
        side: of the pictures, at least 16.
        samples: random pairs, spread over the kinds of :data:`CHANGES`.
        starts: how many of the steepest, each kind's first, to ascend from.
        steps: Adam steps (Kingma and Ba, 2015) that make the slope larger.
        step_size: of Adam, in units of the pictures' values.
        value_range: pictures are clamped to it.
        device: where the loss is.
        seed: of the pairs.

    Raises:
        ValueError: no sample, start or step.
    """
    if min(samples, starts, steps) < 1:
        raise ValueError(f"samples, starts and steps must be at least 1, got {samples}, {starts} and {steps}")
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[float, str, Tensor, Tensor]] = []
    each = -(-samples // len(CHANGES))
    finite = True
    for kind, change in CHANGES.items():
        ref = _pictures(each, side, generator)
        pred = change(ref, generator).clamp(*value_range).to(device)
        ref = ref.clamp(*value_range).to(device)
        values = _slopes(loss_fn, pred.requires_grad_(), ref, create_graph=False)[0]
        finite = finite and bool(values.isfinite().all())
        found += [(float(v), kind, a.detach(), b) for v, a, b in zip(values, pred, ref, strict=True)]
    by_kind = {kind: max(v for v, k, _, _ in found if k == kind) for kind in CHANGES}
    # The steepest of each kind before the second steepest of any: ascents from like places end alike.
    ranked = sorted(found, key=lambda row: (row[0] != by_kind[row[1]], -row[0]))[:starts]
    pred, ref = (torch.stack([row[k] for row in ranked]).requires_grad_() for k in (2, 3))  # type: ignore[misc]
    optimiser = torch.optim.Adam([pred, ref], lr=step_size, maximize=True)
    best, pixel = 0.0, 0.0
    for step in range(steps + 1):
        values, gradient = _slopes(loss_fn, pred, ref, create_graph=True)
        seen = values.detach()
        finite = finite and bool(seen.isfinite().all())
        if float(seen.max()) > best:
            best = float(seen.max())
            pixel = float(gradient[seen.argmax()].detach().abs().max()) * 3 * side**2
        if step < steps:
            pred.grad, ref.grad = torch.autograd.grad(values.sum(), (pred, ref))
            optimiser.step()
            with torch.no_grad():
                pred.clamp_(*value_range)
                ref.clamp_(*value_range)
    return GradientBound(
        random=max(by_kind.values()),
        random_by_kind=by_kind,
        ascended=best,
        ascended_pixel=pixel,
        finite=finite,
        value_range=value_range,
        side=side,
        samples=len(found),
        starts=len(ranked),
        steps=steps,
        seed=seed,
    )


def _slopes(loss_fn: Relates, pred: Tensor, ref: Tensor, *, create_graph: bool) -> tuple[Tensor, Tensor]:
    """Slope of each pair (B,), and the gradient to ``pred``."""
    (gradient,) = torch.autograd.grad(loss_fn.relate(pred, ref).distance.sum(), pred, create_graph=create_graph)
    values = gradient[0].numel() * gradient.square().sum(dim=(1, 2, 3))
    # Equal pictures have no gradient, and the root no slope there.
    return values.clamp_min(torch.finfo(values.dtype).tiny).sqrt(), gradient


def _field(count: int, side: int, coarseness: int, generator: Generator) -> Tensor:
    """Random field (count, 3, side, side) of unit variance with features of about ``coarseness`` pixels."""
    cells = max(1, side // coarseness)
    field = torch.randn(count, 3, cells, cells, generator=generator)
    return F.interpolate(field, size=(side, side), mode="bicubic", align_corners=False)


def _pictures(count: int, side: int, generator: Generator) -> Tensor:
    """Random fields of several coarsenesses and contrasts around random levels."""
    contrast = torch.rand(4, count, 1, 1, 1, generator=generator) * 0.3
    level = torch.rand(count, 3, 1, 1, generator=generator)
    fields = [_field(count, side, coarseness, generator) for coarseness in (1, 3, 8, 24)]
    return level + sum(c * f for c, f in zip(contrast, fields, strict=True))


def _amount(ref: Tensor, generator: Generator) -> Tensor:
    """Strengths (B, 1, 1, 1) from half an 8-bit step to half the range, evenly in the logarithm."""
    return 0.5 * (1 / 255) ** torch.rand(ref.shape[0], 1, 1, 1, generator=generator)


def _noisy(ref: Tensor, generator: Generator) -> Tensor:
    return ref + _amount(ref, generator) * _field(ref.shape[0], ref.shape[-1], 1, generator)


def _uneven(ref: Tensor, generator: Generator) -> Tensor:
    return ref + _amount(ref, generator) * _field(ref.shape[0], ref.shape[-1], 12, generator)


def _offset(ref: Tensor, generator: Generator) -> Tensor:
    return ref + _amount(ref, generator) * torch.randn(ref.shape[0], 3, 1, 1, generator=generator)


def _blurred(ref: Tensor, generator: Generator) -> Tensor:
    return ref + 2 * _amount(ref, generator) * (F.avg_pool2d(F.pad(ref, (2, 2, 2, 2), mode="replicate"), 5, 1) - ref)


def _one_spot(ref: Tensor, generator: Generator) -> Tensor:
    pred = ref.clone()
    middle = ref.shape[-1] // 2
    pred[..., middle : middle + 2, middle : middle + 2] += _amount(ref, generator)
    return pred


def _unrelated(ref: Tensor, generator: Generator) -> Tensor:
    return _pictures(ref.shape[0], ref.shape[-1], generator)


CHANGES: dict[str, Change] = {
    "noise": _noisy,
    "uneven tone": _uneven,
    "offset": _offset,
    "blur": _blurred,
    "one spot": _one_spot,
    "unrelated": _unrelated,
}
"""Kinds of pairs: what makes ``pred`` of ``ref``."""
