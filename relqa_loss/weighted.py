"""`SpatiallyWeightedLoss`: any per-pixel loss, re-weighted by distortion maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from .layers import at_least_float32
from .losses import RelationalLoss
from .prepared import PreparedReference
from .settings import Reduction, check_reduction, reduce
from .spatial_weights import DEFAULT_LIMIT, axis_channels, check_emphasis
from .validation import check_pair


class SpatiallyWeightedLoss(nn.Module):
    """Any per-pixel loss, re-weighted towards the places where the distortion maps say that something is wrong.

    The weights are those of :meth:`RelationalLoss.weights`: detached, mean 1 per image, bounded, all 1 where the images
    are equal. So the gradient is that of the base loss, pixel by pixel times a number.

    *Schedule.* ``focus`` says which places count: the hard ones at 1, all alike at 0, the easy ones at -1. With
    ``warmup=0`` it is 1. With ``warmup=N`` it rises in a straight line, from 0 at the first training step to 1 at step
    N, and stays there. With ``easy_first=True`` it starts from -1 instead: a curriculum that looks first at the places
    where little is wrong, half-way at all places alike, and from step N on at those where most is wrong.

    A training step is a call in training mode whose result asks for gradients, one a micro-batch where gradients are
    accumulated. The count is the buffer ``step``: it is in the state dict, so a resumed run goes on where it was.

    *Cost.* Maps have to be decoded, which the distance does without: forward and backward take about 2.8 times as long
    as those of :class:`RelationalLoss` (4x3x256x256, float32, one CPU thread, L1 as the base).

    Args:
        base: per-pixel loss, ``base(pred, ref)`` of shape (B, C, H, W), (B, 1, H, W) or (B, H, W): a module, e.g.
            ``nn.L1Loss(reduction="none")``, or a function.
        relational_loss: where the maps come from; the default weights if None.
        axes: name or names of the axes to follow; all if None.
        strength: >= 0, a pixel with the image's mean of the maps counts ``1 + strength`` times one with 0; 0 gives back
            the plain mean of the base loss.
        limit: >= 1, the most that one pixel of an image counts in terms of another.
        warmup: training steps until the weights have their full effect; 0 for from the first.
        easy_first: whether the warm-up begins with the easy places instead of with all alike.
        reduction: ``"mean"`` or ``"sum"`` over the batch of per-image means, or ``"none"`` for (B,).

    Raises:
        TypeError: ``base`` cannot be called, or ``warmup`` is not an int.
        ValueError: unknown axis or reduction (nearest match offered), no axis, a number out of its range, or
            ``easy_first`` without a warm-up.
    """

    step: Tensor

    def __init__(
        self,
        base: Callable[[Tensor, Tensor], Tensor],
        relational_loss: RelationalLoss | None = None,
        *,
        axes: str | Iterable[str] | None = None,
        strength: float = 1.0,
        limit: float = DEFAULT_LIMIT,
        warmup: int = 0,
        easy_first: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        check_emphasis(strength, limit)
        if not callable(base):
            raise TypeError(f"base must be a module or a function, e.g. nn.L1Loss(reduction='none'), got {base!r}")
        if isinstance(warmup, bool) or not isinstance(warmup, int):
            raise TypeError(f"warmup must be an int, a number of training steps, got {warmup!r}")
        if warmup < 0:
            raise ValueError(f"warmup must be >= 0, got {warmup}")
        if easy_first and not warmup:
            raise ValueError("easy_first needs a warm-up to move through, got warmup=0")
        self.axes = None if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
        axis_channels(self.axes)
        self.base = base
        self.relational_loss = RelationalLoss() if relational_loss is None else relational_loss
        self.strength = strength
        self.limit = limit
        self.warmup = warmup
        self.easy_first = easy_first
        self.reduction: Reduction = reduction
        self.register_buffer("step", torch.zeros((), dtype=torch.long, device="cpu"))

    def extra_repr(self) -> str:
        """Settings, for ``print(loss)``."""
        return (
            f"axes={self.axes}, strength={self.strength}, limit={self.limit}, warmup={self.warmup}, "
            f"easy_first={self.easy_first}, reduction={self.reduction!r}"
        )

    def focus(self) -> float | Tensor:
        """Where the schedule stands, in [-1, 1]: 1, or a tensor of one number while there is a warm-up."""
        if not self.warmup:
            return 1.0
        # Not a Python number: reading the count would wait for the device and break a compiled graph.
        progress = (self.step.float() / self.warmup).clamp(max=1.0)
        return 2 * progress - 1 if self.easy_first else progress

    def weights(
        self,
        pred: Tensor,
        ref: Tensor | PreparedReference,
        *,
        weight: Tensor | None = None,
        tile: int | None = None,
    ) -> Tensor:
        """What the next call weighs each pixel with, as :meth:`RelationalLoss.weights` returns it; counts no step."""
        return self.relational_loss.weights(
            pred,
            ref,
            axes=self.axes,
            strength=self.strength,
            limit=self.limit,
            focus=self.focus(),
            weight=weight,
            tile=tile,
        )

    def forward(self, pred: Tensor, ref: Tensor, *, weight: Tensor | None = None, tile: int | None = None) -> Tensor:
        """Weighted mean of the base loss, in float32 at least.

        Args:
            pred: (B, 3, H, W) in the relational loss's ``data_range``; H and W at least 16.
            ref: same shape and device.
            weight: (B, 1, H, W) or (B, H, W), >= 0, how much each pixel counts to begin with; normalised to mean 1 per
                image.
            tile: as in :meth:`RelationalLoss.relate`, for the maps.

        Returns:
            A scalar, or (B,) with ``reduction="none"``.

        Raises:
            TypeError: not float tensors, or the base loss returns something else.
            ValueError: wrong rank, channels or size, different shapes or devices, or the base loss does not return one
                value per pixel.
        """
        check_pair("pred", pred, "ref", ref)
        values = self.base(pred, ref)
        if not isinstance(values, Tensor):
            raise TypeError(f"base must return a torch.Tensor, got {type(values).__name__}")
        if values.ndim not in (3, 4) or values.shape[0] != pred.shape[0] or values.shape[-2:] != pred.shape[-2:]:
            raise ValueError(
                "base must return one value per pixel, (B, C, H, W) or (B, H, W), "
                f"for pred of shape {tuple(pred.shape)}, got {tuple(values.shape)}; build it with reduction='none'"
            )
        if values.ndim == 3:
            values = values.unsqueeze(1)
        weighted = at_least_float32(values) * self.weights(pred, ref, weight=weight, tile=tile)
        if self.training and values.requires_grad:
            self.step += 1
        return reduce(weighted.mean(dim=(1, 2, 3)), self.reduction)
