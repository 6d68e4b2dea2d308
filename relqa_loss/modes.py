"""What is computed later than it was asked for is computed as it would have been then."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor


class _Modes(NamedTuple):
    """Whether gradients are recorded, and what autocast does on one kind of device; None where it does nothing."""

    gradients: bool
    autocast: torch.dtype | None


def _current(device_type: str) -> _Modes:
    # Asked first: of a device without autocast, such as meta, nothing else may be asked.
    on = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    return _Modes(torch.is_grad_enabled(), torch.get_autocast_dtype(device_type) if on else None)


def as_called(compute: Callable[[], Tensor], device_type: str) -> Callable[[], Tensor]:
    """``compute``, to be called whenever, under the autocast of now, and without gradients if there are none now.

    Args:
        compute: reads what was computed under the modes of now.
        device_type: of the device that it computes on, e.g. ``"cuda"``.
    """
    then = _current(device_type)

    def later() -> Tensor:
        now = _current(device_type)
        if now == then:  # no contexts in graphs that torch.compile or torch.export trace
            return compute()
        with ExitStack() as contexts:
            if now.gradients and not then.gradients:
                contexts.enter_context(torch.no_grad())
            if now.autocast != then.autocast:
                on = then.autocast is not None
                contexts.enter_context(torch.autocast(device_type, dtype=then.autocast, enabled=on))
            return compute()

    return later
