"""Where does the gradient of a loss point? Its angle to the way back to the reference, and how fine its detail is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .recovery import native, white_noise
from .recovery_losses import Loss

NOISE = 10 / 255
BLUR = 1.0
QUALITY = 30.0


def mildly_degraded(reference: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Copies of (B, 3, H, W) in [0, 1] as a restorer leaves them on its way: what a training loss sees most often."""
    noise = white_noise(reference, seed)
    blurred = native(reference, "gaussian_blur", BLUR, seed)
    return {
        "noise, sigma 10": reference + NOISE * noise,
        "blur, sigma 1": blurred,
        "blur and noise": blurred + NOISE / 2 * noise,
        "JPEG, quality 30": native(reference, "jpeg", QUALITY, seed),
    }


def finest_share(gradient: Tensor) -> Tensor:
    """Share (B,) of the squared gradient (B, 3, H, W), even sides, that averaging over 2x2 pixels takes away."""
    coarse = F.interpolate(F.avg_pool2d(gradient, 2), scale_factor=2.0, mode="nearest")
    fine = (gradient - coarse).square().flatten(1).sum(dim=1)
    return fine / gradient.square().flatten(1).sum(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)


def alignment_table(
    losses: Mapping[str, Loss], references: Sequence[Tensor], *, progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Angle and detail of gradients, beside each other.

    Args:
        losses: by name, differentiable in their first argument; values of images are added up.
        references: pictures (3, H, W) in [0, 1], all of one size with even sides.
        progress: called with a line of text after each degradation.

    Returns:
        JSON-able: ``pictures``, ``size`` and, by degradation and loss, means over pictures: ``cosine`` of the gradient
        and the difference from the reference (1 = straight downhill to it, 0 = across) and ``finest_share`` of
        :func:`finest_share` (3/4 for white noise).

    Raises:
        ValueError: no picture, pictures of several sizes, or an odd side.
    """
    shapes = {tuple(one.shape) for one in references}
    if len(shapes) != 1 or any(side % 2 for shape in shapes for side in shape[1:]):
        got = sorted(shapes) or "none"
        raise ValueError(f"references must be pictures (3, H, W) of one size, sides even, got {got}")
    reference = torch.stack(list(references))
    table: dict[str, dict[str, dict[str, float]]] = {}
    degraded = mildly_degraded(reference)
    for name, start in degraded.items():
        table[name] = {}
        for loss_name, loss in losses.items():
            image = start.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(loss(image, reference).sum(), image)
            cosine = F.cosine_similarity(slope.flatten(1), (start - reference).flatten(1), eps=1e-12)
            table[name][loss_name] = {
                "cosine": cosine.mean().item(),
                "finest_share": finest_share(slope).mean().item(),
            }
        if progress is not None:
            progress(f"{len(table)}/{len(degraded)} {name}")
    return {"pictures": len(reference), "size": list(reference.shape[2:]), "degraded": table}
