"""SIGTERM, which schedulers send before they take a machine away, becomes a wish to stop at the next step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Stopped(RuntimeError):
    """A run ended before its time because it was asked to; its checkpoint is written."""


@dataclass
class Stop:
    """Whether the run was asked to stop."""

    asked: bool = False


@contextmanager
def on_sigterm() -> Iterator[Stop]:
    """Note the first SIGTERM instead of dying from it; a second one does what it did before.

    Only the main thread can receive signals: in another one nothing is ever noted.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
