"""Distances of many pairs of files by many metrics, in one pass that can be stopped and taken up again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__
from ..images import read_image
from ..losses import RelationalLoss
from .distance_cache import DistanceCache
from .label_files import check_sizes
from .peer_metrics import PeerMetric

OURS = "RelationalLoss"
"""Name of this package's metric among the others."""

REPORT_EVERY = 15.0
"""Seconds between two remarks on the progress."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""(distorted, reference), both (1, 3, H, W) in [0, 1] -> (1,), higher = worse."""


@dataclass(frozen=True)
class Judge:
    """A metric on trial.

    Attributes:
        name: unique name.
        version: of the package or the weights that it comes from.
        trained_on: what it owes to people's judgements; "" for nothing.
        protocol: what it does to the images before it compares them.
        distance: the metric.
        device: where it wants its images.
        required: whether its failure ends the run; other metrics are left out and named instead.
    """

    name: str
    version: str
    trained_on: str
    protocol: str
    distance: Distance = field(repr=False)
    device: str = "cpu"
    required: bool = False

    @property
    def identity(self) -> str:
        """Name, version and a digest of the protocol: what a cached distance belongs to."""
        return f"{self.name} {self.version} {hashlib.sha256(self.protocol.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Comparison:
    """Two files to be compared.

    Attributes:
        distorted: the file in question.
        reference: what it is compared with.
        side: side in pixels that both are brought to, or None for their own size.
    """

    distorted: Path
    reference: Path
    side: int | None = None

    def key(self, root: Path) -> str:
        """Paths below ``root``, with sizes and times of change: a replaced file is another pair."""
        parts = []
        for path in (self.distorted, self.reference):
            state = path.stat()
            parts.append(f"{path.relative_to(root).as_posix()}:{state.st_size}:{state.st_mtime_ns}")
        return "|".join([*parts, *([] if self.side is None else [f"{self.side}px"])])


def our_judge(loss: RelationalLoss) -> Judge:
    """The distance of a loss; the sha256 of what it depends on is its version."""
    digest = loss.info()["distance"][:12]

    def distance(distorted: Tensor, reference: Tensor) -> Tensor:
        return loss.relate(distorted, reference).distance

    return Judge(
        name=OURS,
        version=f"{__version__} {loss.weights_name} {digest}",
        trained_on="",
        protocol="full size, RGB",
        distance=distance,
        device=str(loss.axis_weights.device),
        required=True,
    )


def peer_judge(peer: PeerMetric) -> Judge:
    """A metric of another package, on the CPU."""
    return Judge(peer.name, f"{peer.package} {peer.version}", peer.trained_on, peer.protocol, peer)


@torch.no_grad()
def measure(
    comparisons: Sequence[Comparison],
    judges: Sequence[Judge],
    *,
    root: Path,
    cache: DistanceCache,
    progress: Callable[[str], None] | None = None,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
    """Distances of all pairs by all metrics.

    Args:
        comparisons: the pairs; neighbours that share a reference spare reading it again.
        judges: the metrics.
        root: folder below which all files lie.
        cache: what is known already; new distances are added.
        progress: gets a line now and then, with the time left.

    Returns:
        Name -> distances in the order of ``comparisons``, and name -> reason for each metric that failed on a pair or
        gave a distance that is not finite: such a metric has no distances at all.

    Raises:
        ValueError: an image cannot be read or two sizes differ (the files are named), or a required metric refused a
            pair or gave a distance that is not finite.
    """
    distances = {judge.name: np.full(len(comparisons), np.nan) for judge in judges}
    failed: dict[str, str] = {}
    reader = _Reader()
    clock = _Clock(len(comparisons), progress)
    for k, comparison in enumerate(comparisons):
        key = comparison.key(root)
        images = None
        for judge in judges:
            if judge.name in failed:
                continue
            known = cache.get(judge.identity, key)
            if known is None:
                images = reader.read(comparison) if images is None else images
                try:
                    known = _distance(judge, *images)
                except (ValueError, TypeError, RuntimeError, AssertionError, ArithmeticError, LookupError) as error:
                    reason = f"{comparison.distorted.relative_to(root)}: {str(error) or repr(error)}"
                    if not judge.required:
                        failed[judge.name] = reason
                        continue
                    if isinstance(error, ValueError):
                        raise ValueError(reason) from error
                    raise
                cache.put(judge.identity, key, known)
            distances[judge.name][k] = known
        clock.done(k + 1, computed=images is not None)
    return {name: values for name, values in distances.items() if name not in failed}, failed


def _distance(judge: Judge, distorted: Tensor, reference: Tensor) -> float:
    value = float(judge.distance(distorted.to(judge.device), reference.to(judge.device)).reshape(()))
    if not np.isfinite(value):
        raise ValueError(f"{judge.name} gave {value}")
    return value


class _Reader:
    """Reads pairs; keeps the last reference."""

    def __init__(self) -> None:
        self._kept: tuple[Path, int | None, Tensor] | None = None

    def read(self, comparison: Comparison) -> tuple[Tensor, Tensor]:
        distorted = _image(comparison.distorted, comparison.side)
        if self._kept is None or self._kept[:2] != (comparison.reference, comparison.side):
            reference = _image(comparison.reference, comparison.side)
            self._kept = (comparison.reference, comparison.side, reference)
        reference = self._kept[2]
        check_sizes(comparison.distorted, distorted, comparison.reference, reference)
        return distorted, reference


def _image(path: Path, side: int | None) -> Tensor:
    image = read_image(path)[None]
    if side is None or tuple(image.shape[2:]) == (side, side):
        return image
    # The filter of Pillow's bilinear resize, without its rounding to 8 bits.
    return F.interpolate(image, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


class _Clock:
    """Says how far a run is and how long the rest will take; pairs out of the cache cost nothing and teach nothing."""

    def __init__(self, total: int, progress: Callable[[str], None] | None) -> None:
        self.total, self.progress = total, progress
        self.computed, self.spent = 0, 0.0
        self.last_pair = self.last_report = time.monotonic()

    def done(self, count: int, computed: bool) -> None:
        now = time.monotonic()
        if computed:
            self.computed, self.spent = self.computed + 1, self.spent + now - self.last_pair
        self.last_pair = now
        if self.progress is None or (now - self.last_report < REPORT_EVERY and count < self.total):
            return
        self.last_report = now
        rate = self.spent / self.computed if self.computed else 0.0
        left = f", about {_duration(rate * (self.total - count))} left" if count < self.total else ""
        remembered = f", {count - self.computed} of them known" if count > self.computed else ""
        self.progress(f"{count} of {self.total} pairs{remembered}, {rate:.2f} s each{left}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
