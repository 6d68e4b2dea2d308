"""Does descending a loss bring a picture back? Degraded copies, Adam; PSNR and artefacts before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from ..distortions import by_name
from .artefacts import checkerboard, grain
from .psnr import psnr
from .recovery_losses import Loss

STEPS = 300
LEARNING_RATE = 0.02


START = "start"
"""Where a table has what a descent began with, beside the losses."""


@dataclass(frozen=True)
class Recovery:
    """What came of descending several losses.

    Attributes:
        table: JSON-able: ``steps``, ``learning_rate``, ``pictures`` (how many), ``size`` (height, width), and figures
            by start and loss, each with ``START`` as the first: ``psnr`` in dB and ``checkerboard``,
            ``checkerboard_steps``, ``grain`` of :mod:`.artefacts`, means over pictures, and ``lowest_psnr``, the
            picture that came back worst.
        pictures: start -> ``START`` or name of a loss -> (3, H, W) in [0, 1], of the first reference.
    """

    table: dict[str, Any]
    pictures: dict[str, dict[str, Tensor]]


def native(reference: Tensor, name: str, parameter: float, seed: int) -> Tensor:
    """Pictures (B, 3, H, W) after an operator at a parameter of its own instead of a severity: a sigma, a quality."""
    operator = by_name(name).apply
    assert operator is not None
    return operator(reference, torch.full((len(reference),), parameter).to(reference), Generator().manual_seed(seed))


def white_noise(reference: Tensor, seed: int) -> Tensor:
    """Standard normal values of the shape, device and dtype of ``reference``, drawn on the CPU."""
    return torch.randn(reference.shape, generator=Generator().manual_seed(seed), dtype=torch.float32).to(reference)


def starts(reference: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Degraded copies of (B, 3, H, W) in [0, 1] from which a loss has to find the way back.

    Drawn on the CPU, so that they are the same whatever the device and dtype of ``reference``, which they share.
    """
    noise = white_noise(reference, seed)
    mean = reference.mean(dim=(1, 2, 3), keepdim=True)
    cast = torch.tensor([0.1, 0.0, -0.1]).to(reference).view(1, 3, 1, 1)
    return {
        "noise, sigma 0.1": reference + 0.1 * noise,
        "blur, sigma 2": native(reference, "gaussian_blur", 2.0, seed),
        "JPEG, quality 10": native(reference, "jpeg", 10.0, seed),
        "grey field": torch.full_like(reference, 0.5),
        "contrast halved": mean + 0.5 * (reference - mean),
        "colour cast": reference + cast,
    }


def check_steps(steps: int) -> None:
    """ValueError for a descent without a step."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


def recover(
    loss_fn: Loss,
    start: Tensor,
    reference: Tensor,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Descend ``loss_fn(estimate, reference)`` with Adam under half a cosine; images (B, 3, H, W), clamped at the end.

    Args:
        loss_fn: differentiable in its first argument. One value per image, (B,), is added up, so that an image's steps
            do not depend on its batch mates; a scalar is descended as it is.
        start: where the estimate begins.
        reference: where it should end.
        steps: of Adam, at least 1.
        learning_rate: first step size, in units of the [0, 1] range.
        progress: called with (done, all) after each step.

    Raises:
        ValueError: fewer than one step.
    """
    check_steps(steps)
    estimate = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([estimate], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for done in range(1, steps + 1):
        optimiser.zero_grad(set_to_none=True)
        loss_fn(estimate, reference).sum().backward()
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress(done, steps)
    return estimate.detach().clamp(0, 1)


def recovery_table(
    losses: Mapping[str, Loss],
    references: Sequence[Tensor],
    *,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    progress: Callable[[str], None] | None = None,
) -> Recovery:
    """Descend each loss from each start.

    Args:
        losses: by name; with one value per image, see :func:`recover`.
        references: pictures (3, H, W) in [0, 1], all of one size.
        steps: of Adam.
        learning_rate: of Adam.
        progress: called with a line of text after each descent.

    Raises:
        ValueError: no picture, pictures of several sizes, or fewer than one step.
    """
    check_steps(steps)
    shapes = {tuple(one.shape) for one in references}
    if len(shapes) != 1:
        raise ValueError(f"references must be pictures (3, H, W) of one size, got {sorted(shapes) or 'none'}")
    reference = torch.stack(list(references))
    table: dict[str, Any] = {
        "steps": steps,
        "learning_rate": learning_rate,
        "pictures": len(reference),
        "size": list(reference.shape[2:]),
    }
    pictures: dict[str, dict[str, Tensor]] = {}
    for name, start in starts(reference).items():
        pictures[name] = {}
        for loss_name in (START, *losses):
            if loss_name == START:
                images = start.clamp(0, 1)
            else:
                images = recover(losses[loss_name], start, reference, steps, learning_rate)
            pictures[name][loss_name] = images[0]
            figures = _figures(images, reference)
            for figure, value in figures.items():
                table.setdefault(figure, {}).setdefault(name, {})[loss_name] = value
            if progress is not None:
                progress(f"{name}, {loss_name}: {figures['psnr']:.1f} dB")
    return Recovery(table, pictures)


def _figures(images: Tensor, reference: Tensor) -> dict[str, float]:
    values = [psnr(image, one) for image, one in zip(images, reference, strict=True)]
    board = checkerboard(images, reference)
    return {
        "psnr": sum(values) / len(values),
        "lowest_psnr": min(values),
        "checkerboard": float(board.relative.mean()),
        "checkerboard_steps": float(board.steps.mean()),
        "grain": float(grain(images, reference).mean()),
    }
