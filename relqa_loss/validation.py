"""Checks of what users pass in: one clear error that names the argument, what it got and what it wants.

Only shapes, dtypes and devices are looked at, never values, so a check never waits for an accelerator.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import torch
from torch import Tensor

MIN_SIDE = 16
FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class MissingExtra(ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f'this needs {library}: pip install "relqa_loss[{extra}]"')


def check_images(name: str, images: Tensor, min_side: int = MIN_SIDE) -> None:
    """Raise unless ``images`` is a float tensor of shape (B, 3, H, W) with B >= 1 and H, W >= ``min_side``.

    Args:
        name: the argument's name, for the message.
        images: the value to look at.
        min_side: smallest accepted height and width, in pixels.

    Raises:
        TypeError: not a tensor, or not of a floating dtype.
        ValueError: wrong rank, batch, channels or size.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape (B, 3, H, W), got {type(images).__name__}")
    if images.ndim != 4:
        raise ValueError(f"{name} must have 4 dimensions (B, 3, H, W), got {images.ndim}: {tuple(images.shape)}")
    if images.shape[1] != 3:
        raise ValueError(f"{name} must have 3 channels (RGB), got {images.shape[1]}: {tuple(images.shape)}")
    if images.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {images.dtype}")
    if images.shape[0] < 1:
        raise ValueError(f"{name} must hold at least one image, got an empty batch: {tuple(images.shape)}")
    if images.shape[2] < min_side or images.shape[3] < min_side:
        raise ValueError(
            f"{name} must be at least {min_side}x{min_side} pixels, got {images.shape[2]}x{images.shape[3]}"
        )


def check_pair(a_name: str, a: Tensor, b_name: str, b: Tensor) -> None:
    """Raise unless both are valid images (see :func:`check_images`) of one shape on one device.

    Dtypes may differ: they are promoted.
    """
    check_images(a_name, a)
    check_images(b_name, b)
    if a.shape != b.shape:
        raise ValueError(f"{a_name} and {b_name} must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.device != b.device:
        raise ValueError(f"{a_name} and {b_name} must be on one device, got {a.device} and {b.device}")


def check_on(name: str, images: Tensor, owner: str, device: torch.device) -> None:
    """ValueError unless ``images`` are on the device that ``owner``, something with parameters, computes on."""
    if images.device != device:
        raise ValueError(
            f"{name} must be on {device}, where {owner} is, got {images.device}: move one of them, e.g. with "
            f".to({str(images.device)!r})"
        )


def check_device(name: str, device: str | torch.device) -> torch.device:
    """The device, if torch finds it here.

    Args:
        name: the argument's name, for the message.
        device: a device of torch, or its name.

    Raises:
        ValueError: not the name of a device, or of one that this machine or this build of torch lacks.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{name} must be a device of torch, e.g. cpu or cuda, got {device!r}") from error
    if wanted.type == "cpu":
        return wanted
    # Counting sets nothing up: a first tensor would cost memory on a device that another process may be meant to use.
    count = getattr(getattr(torch, wanted.type, None), "device_count", lambda: 0)()
    if (wanted.index or 0) >= count:
        raise ValueError(
            f"{name} must be a device that torch finds here, got {str(wanted)!r}: torch {torch.__version__} finds "
            f"{count or 'none'} of type {wanted.type!r}"
        )
    return wanted


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Message for a name that is not among ``known``, with the nearest match offered.

    Args:
        kind: what the name stands for, e.g. ``"axis"``.
        name: what was passed.
        known: the accepted names.
    """
    options = list(known)
    near = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(options)})"
