"""Progress bars: on stderr, only on a terminal, and only for what has taken two seconds already."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")

AFTER = 2.0
"""Seconds before a bar shows: what is done sooner needs none."""


class Bar:
    """Told how far something is, draws a bar; nothing where stderr is no terminal or tqdm is not installed.

    Args:
        label: what is being done.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: tqdm[object] | None = None

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Move to ``done`` of ``total``; ``text`` stands behind the bar."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            # A resumed run begins where it was left: what was done before says nothing of the speed now.
            self._bar = tqdm(
                total=total,
                desc=self._label,
                initial=max(0, done - 1),
                delay=AFTER,
                leave=False,
                dynamic_ncols=True,
                file=sys.stderr,
            )
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def tracked(items: Sequence[Item], label: str) -> Iterator[Item]:
    """The items, with a bar that counts those that are done."""
    bar = Bar(label)
    try:
        for done, item in enumerate(items, start=1):
            yield item
            bar(done, len(items))
    finally:
        bar.close()


def say(text: str) -> None:
    """A line on stderr, above a bar where one is drawn."""
    bars = sys.modules.get("tqdm")
    if bars is None or not sys.stderr.isatty():
        print(text, file=sys.stderr)
    else:
        bars.tqdm.write(text, file=sys.stderr)
