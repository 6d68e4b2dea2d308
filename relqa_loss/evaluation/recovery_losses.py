"""What is descended beside the loss: plain L1, losses of other packages, and the loss with one axis at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..losses import RelationalLoss
from ..relation import AXES, axis_index
from ..validation import unknown_name
from .peer_metrics import PeerMetric, load_metrics

Loss = Callable[[Tensor, Tensor], Tensor]
"""(estimate, reference), both (B, 3, H, W) -> (B,), lower is better, differentiable in the first."""

_PEERS = {"ms-ssim": ("MS-SSIM", "ms_ssim"), "st-lpips": ("ST-LPIPS", "st_lpips")}
"""Name on the command line -> title, name of the metric."""

ALL_AXES = "axes"

CHOICES: tuple[str, ...] = ("l1", *_PEERS, ALL_AXES, *AXES)
"""What :func:`losses_beside` knows; ``axes`` stands for every axis, each alone."""


def absolute_error(pred: Tensor, ref: Tensor) -> Tensor:
    """Plain L1, one value per image: (B,)."""
    return (pred - ref).abs().mean(dim=(1, 2, 3))


def losses_beside(loss_fn: RelationalLoss, names: Sequence[str], side: int) -> tuple[dict[str, Loss], dict[str, str]]:
    """The losses of these names.

    Args:
        loss_fn: whose axes are meant.
        names: of ``CHOICES``.
        side: of the pictures, in pixels.

    Returns:
        Title -> loss, in the order of ``names``, and title -> one line for each that is missing, with the package to
        install.

    Raises:
        ValueError: an unknown name (nearest match offered), or a loss that is not defined for pictures so small.
    """
    for name in names:
        if name not in CHOICES:
            raise ValueError(unknown_name("loss", name, CHOICES))
    losses: dict[str, Loss] = {}
    missing: dict[str, str] = {}
    for name in names:
        if name == "l1":
            losses["L1"] = absolute_error
        elif name in _PEERS:
            title, metric = _PEERS[name]
            found, reasons = load_metrics([metric])
            if metric in found:
                losses[title] = _descendable(title, found[metric], side)
            else:
                missing[title] = reasons[metric]
        else:
            losses |= {f"{axis} alone": _alone(loss_fn, axis) for axis in (AXES if name == ALL_AXES else [name])}
    return losses, missing


def _alone(loss_fn: RelationalLoss, axis: str) -> Loss:
    """The distance of ``axis_weights`` with 1 for this axis and 0 for all others; the floor stays."""
    channel = axis_index(axis)

    def measure(pred: Tensor, ref: Tensor) -> Tensor:
        relation = loss_fn.relate(pred, ref)
        return relation.parts[:, channel] + relation.floor

    return measure


def _descendable(title: str, metric: PeerMetric, side: int) -> Loss:
    if side < metric.min_side:
        raise ValueError(f"crop must be at least {metric.min_side} pixels for {title}, got {side}")

    def measure(pred: Tensor, ref: Tensor) -> Tensor:
        # These metrics refuse values outside [0, 1], where a descent overshoots. The second term is exactly 0: the
        # gradient at the clamped value passes as if nothing had been clamped, so that a pixel outside finds back.
        inside = pred.clamp(0, 1).detach() + (pred - pred.detach())
        return metric.function(inside, ref.clamp(0, 1)).reshape(-1)

    return measure
