"""`PreparedReference`: a reference with its features, computed once and compared with many pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PreparedReference:
    """What ``loss_fn.prepare(ref)`` gives back; goes wherever ``ref`` does, for the same values bit for bit.

    Detached: the reference gets no gradient through it. It holds copies, so that the images it was made from may be
    overwritten, and about three times their memory.

    Attributes:
        images: (B, 3, H, W) in [0, 1], in the loss's dtype.
        features: the predictor's features of the images.
        data_range: (low, high) of the images it was made from.
        weights: sha256 of the predictor's weights.
    """

    images: Tensor = field(repr=False)
    features: tuple[Tensor, ...] = field(repr=False)
    data_range: tuple[float, float]
    weights: str

    def to(self, device: torch.device | str) -> PreparedReference:
        """The same on another device."""
        return PreparedReference(
            self.images.to(device), tuple(x.to(device) for x in self.features), self.data_range, self.weights
        )

    def check_fits(
        self,
        name: str,
        other_name: str,
        other: Tensor,
        dtype: torch.dtype,
        data_range: tuple[float, float],
        weights: str,
    ) -> None:
        """Raise unless it can be compared with ``other`` by a loss of this dtype, range and these weights.

        Args:
            name: the argument that holds the prepared reference, for the message.
            other_name: the argument it is compared with.
            other: (B, 3, H, W), already checked by itself.
            dtype: what the loss computes in.
            data_range: (low, high) of the loss.
            weights: sha256 of the loss's predictor weights.

        Raises:
            ValueError: one message with everything that does not fit.
        """
        had_and_wanted = (
            ("shape", tuple(self.images.shape), tuple(other.shape), f"{other_name} has"),
            ("device", self.images.device, other.device, f"{other_name} is on"),
            ("dtype", self.images.dtype, dtype, "the loss computes in"),
            ("data_range", self.data_range, data_range, "the loss has"),
            ("weights", self.weights[:12], weights[:12], "the loss has"),
        )
        wrong = [f"{what} {had}, but {where} {want}" for what, had, want, where in had_and_wanted if had != want]
        if wrong:
            raise ValueError(f"{name} was prepared for {'; '.join(wrong)}: prepare it again for this loss and picture")
