"""Pairs kept as what the competition of the axes reads of them, so that it can go over many of them many times.

Making a pair and running the networks on it takes tens of times as long as the competition does. Where nothing before
it learns, that is done once for each pair. Files of pairs are mapped, not read: memory holds them once for all of a
run's processes, as far as there is room, and there may be more of them than fit. So they must stay as they are while a
run goes on. Runs may share a folder of pairs, one after the other: two that make pairs in it at once would write the
same files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..competition import MEASURED_WIDTH, Cells, bounded, presence_gates
from ..files import write_atomically
from ..predictor import DistortionPredictor
from .data import batches, seeded
from .distributed import any_rank, current
from .loop import CHECKPOINT, Progress, ProgressCallback, read_checkpoint
from .pairs import PairBatch
from .recipe import PredictorConfig
from .stopping import Stopped, on_sigterm

FOLDER = "pairs"
"""Of the kept pairs, in the run's folder: 130 kB a pair of 256 pixels."""

CONTENT = 2
"""Version of what a kept pair is: raised with every change of :class:`CellBatch`, of how it is made or of what of the
engine or the networks goes into it."""

AT_ONCE = 8
"""Pairs in one pass of the networks."""


class CellBatch(NamedTuple):
    """Pairs in cells of 16 pixels, (B, ..., h, w) each.

    ``heights``, ``statistics``, ``counts``: as in :class:`relqa_loss.competition.Cells`. ``even``: the pair network's
    even stream. ``maps``: signed maps before competition, confined to visible differences, and ``target``: the
    engine's, both averaged by the sum of ``weight`` and ``unsigned``, which are those of :class:`PairBatch`: opposite
    signs inside a cell cancel.
    """

    heights: Tensor
    statistics: Tensor
    counts: Tensor
    even: Tensor
    maps: Tensor
    target: Tensor
    weight: Tensor
    unsigned: Tensor

    def settled(self, predictor: DistortionPredictor, gains: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps as the competition leaves them, with these ``gains`` inside it, and its logits of presence."""
        cells = Cells(self.heights, self.statistics, self.counts)
        factors, presence = predictor.competition(cells, self.even, gains)
        # What is shown is bounded by the mean magnitude instead, which is larger where signs differ within a cell.
        return self.maps * bounded(factors, self.maps.abs()) * presence_gates(presence.detach()), presence


@torch.no_grad()
def cells_of_pairs(predictor: DistortionPredictor, batch: PairBatch, device: torch.device) -> CellBatch:
    """What is kept of a batch of pairs, on the CPU in half precision: heights and counts lie far inside its range."""
    parts = []
    tensors = (batch.a, batch.b, batch.maps, batch.weight, batch.unsigned)
    for rows in zip(*(tensor.split(AT_ONCE) for tensor in tensors), strict=True):
        a, b, target, weight, unsigned = (tensor.to(device) for tensor in rows)
        pair = predictor.relate(a, b, predictor.encode(a), predictor.encode(b))
        maps, cells = predictor.before_competition(pair, a, b)
        both = weight + unsigned
        seen = F.avg_pool2d(both, 8).clamp_min(1e-6)
        means = (F.avg_pool2d(one * both, 8) / seen for one in (predictor.confine(maps, a, b), target))
        known = (F.avg_pool2d(one, 8) for one in (weight, unsigned))
        parts.append([one.cpu().half() for one in (*cells, pair.even[2], *means, *known)])
    return CellBatch(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@dataclass(frozen=True)
class KeptCells:
    """Step -> ``rows`` of its batch, and what dropout leaves of the competition's hidden values for each of them.

    Each pass over the kept pairs has an order of its own. All that is drawn follows from seed, step and row, so that a
    resumed run, and one of more processes, draws the same.
    """

    shards: Sequence[CellBatch]
    batch: int
    seed: int
    rows: range
    dropout: float

    @property
    def count(self) -> int:
        """Pairs in all: as many in each shard."""
        return len(self.shards) * len(self.shards[0].maps) if self.shards else 0

    def chosen(self, places: Sequence[int]) -> CellBatch:
        """The pairs at these places of all, in float32."""
        size = len(self.shards[0].maps)
        rows = ([tensor[place % size] for tensor in self.shards[place // size]] for place in places)
        return CellBatch(*(torch.stack(tensors).float() for tensors in zip(*rows, strict=True)))

    def __call__(self, step: int) -> tuple[CellBatch, Tensor | None]:
        """The step's rows, in float32, and the gains (len(rows), 2, MEASURED_WIDTH, h, w) of their hidden values.

        None for the gains where nothing is dropped.
        """
        count = self.count
        places = [step * self.batch + row for row in self.rows]
        orders = {
            turn: torch.randperm(count, generator=seeded(self.seed, 3, turn))
            for turn in {place // count for place in places}
        }
        batch = self.chosen([int(orders[place // count][place % count]) for place in places])
        if not self.dropout:
            return batch, None
        hidden = (2, MEASURED_WIDTH, *batch.maps.shape[-2:])
        drawn = torch.stack([torch.rand(hidden, generator=seeded(self.seed, 4, step, row)) for row in self.rows])
        return batch, (drawn >= self.dropout) / (1 - self.dropout)


def keep(
    make: Callable[[int], PairBatch],
    predictor: DistortionPredictor,
    config: PredictorConfig,
    out: Path,
    *,
    fingerprint: str,
    of_pairs: str,
    resume: bool,
    device: torch.device,
    progress: ProgressCallback | None,
) -> list[CellBatch]:
    """All pairs of a run, by shards: those that lie in ``out`` already are taken, the others made and written there.

    An empty list where a checkpoint says that the run is finished: no step will ask for pairs. In a process group each
    process makes its share; all must see the same folder.

    Args:
        make: number of a shard -> its pairs, of the whole batch.
        predictor: whose maps they are, in evaluation mode.
        config: ``steps * batch`` rows are looked at, each pair about ``passes`` times; made by ``workers`` processes.
        out: folder of the run.
        fingerprint: of what the run depends on.
        of_pairs: of what the pairs depend on; others are refused. It leaves out how the competition learns, so that
            pairs of one run, copied or linked to another's folder, serve both.
        resume: take pairs that are there.
        device: where to compute.
        progress: called after each shard.

    Raises:
        Stopped: SIGTERM arrived (in any process); what is finished is kept.
        ValueError: pairs or a checkpoint are there and ``resume`` is False; the pairs depend on something else, the
            checkpoint is another run's, or one of them is damaged; processes see different folders.
    """
    folder, ranks = out / FOLDER, current()
    paths = [folder / f"{shard:05d}.pt" for shard in range(-(-config.steps // config.passes))]
    missing = [shard for shard, path in enumerate(paths) if not path.exists()]
    checkpoint = out / CHECKPOINT
    # All processes have looked before one of them writes.
    (taken,) = any_rank([checkpoint.exists() or len(missing) < len(paths)], device)
    if taken and not resume:
        raise ValueError(f"{out} already holds a run; resume it or choose another folder")
    if checkpoint.exists() and read_checkpoint(checkpoint, ("step",), fingerprint)["step"] >= config.steps:
        return []
    there = [path for path in paths if path.exists()]
    if there:
        # Before any is made: among pairs of another kind, and through a link, ours would spoil them for their own run.
        _read_shard(there[0], of_pairs)
    folder.mkdir(parents=True, exist_ok=True)
    began, mine, stopped = time.monotonic(), missing[ranks.rank :: ranks.size], False
    with on_sigterm() as stop:
        made_of_mine = batches(make, mine, config.workers, ahead=1)
        # Processes meet after every shard: one that waited hours for a slower one would run into the group's timeout.
        for turn in range(-(-len(missing) // ranks.size)):
            if turn < len(mine):
                state = {"fingerprint": of_pairs, "pairs": tuple(cells_of_pairs(predictor, next(made_of_mine), device))}
                write_atomically(paths[mine[turn]], partial(torch.save, state))
                if progress is not None and ranks.first:
                    rate = (turn + 1) / (time.monotonic() - began)
                    progress(Progress("pairs", turn + 1, len(mine), None, rate, (len(mine) - turn - 1) / rate))
            (stopped,) = any_rank([stop.asked], device)
            if stopped:
                break
    if stopped:
        raise Stopped("stopped by SIGTERM while pairs were made, those that are finished are kept: resume to go on")
    return _read(paths, out, of_pairs)


def _read(paths: Sequence[Path], out: Path, fingerprint: str) -> list[CellBatch]:
    """All shards, which this run or another process has written."""
    for path in paths:
        if not path.exists():
            raise ValueError(f"out must be one folder for all processes, got {out}, where some find no {path.name}")
    return [_read_shard(path, fingerprint) for path in paths]


def _read_shard(path: Path, fingerprint: str) -> CellBatch:
    """One shard, whose file must stay while it is in use.

    Raises:
        ValueError: it is damaged, or holds pairs that depend on something else.
    """
    other = (
        "holds pairs of another recipe (its seed, [data], batch, crop, two_operators or both_distorted), other "
        "photographs, other weights to start from or another state of this package: choose another folder"
    )
    return CellBatch(*read_checkpoint(path, ("pairs",), fingerprint, other, mapped=True)["pairs"])
