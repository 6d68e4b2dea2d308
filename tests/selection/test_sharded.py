"""Two processes that hold a share of the validation images each, on the CPU: one verdict, as of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DistributedSampler, Subset

from relqa_loss import CheckpointSelector
from relqa_loss.relation import AXES, Relation

RANKS = 2
SIGMAS = {"a": 0.1, "b": 0.05, "c": 0.2}


class PlainLoss(nn.Module):
    """All difference is `noise`."""

    def relate(self, a: Tensor, b: Tensor, ref: Tensor | None = None) -> Relation:
        parts = torch.zeros(len(a), len(AXES), dtype=a.dtype)
        parts[:, AXES.index("noise")] = (a - b).square().mean(dim=(1, 2, 3))
        zero = torch.zeros(len(a))
        return Relation(parts.sum(1), parts, zero, lambda: torch.zeros(len(a), len(AXES), 1, 1), lambda: zero)


def references() -> Tensor:
    return torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def outputs(tag: str) -> Tensor:
    return references() + SIGMAS[tag] * torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def compared(selector: CheckpointSelector, indices: list[int]) -> dict[str, Any]:
    """Verdicts and ranking of the three checkpoints on some of the images."""
    verdicts = [asdict(selector.update(outputs(tag)[indices], tag)) for tag in SIGMAS]
    ranking = selector.rank((tag, outputs(tag)[indices]) for tag in SIGMAS)
    # The first verdict holds nan, which is not equal to itself.
    return {"verdicts": verdicts[1:], "distance": verdicts[0]["distance"], "ranking": asdict(ranking)}


def padded(rank: int) -> tuple[list[int], dict[str, Any]]:
    """Seven images on two processes: `DistributedSampler` repeats one, so that both have four."""
    indices = list(DistributedSampler(range(7), RANKS, rank, shuffle=False))
    return indices, compared(sharded(indices, ids=indices), indices)


def padded_without_ids(rank: int) -> tuple[list[int], dict[str, Any]]:
    indices = list(DistributedSampler(range(7), RANKS, rank, shuffle=False))
    return indices, compared(sharded(indices), indices)


def uneven(rank: int) -> tuple[list[int], dict[str, Any]]:
    indices = [[2, 0, 5, 1, 3, 6], [4]][rank]
    return indices, compared(sharded(indices), indices)


def idle(rank: int) -> tuple[list[int], dict[str, Any]]:
    indices = [[], list(range(7))][rank]
    return indices, compared(sharded(indices, ids=indices), indices)


def sharded(indices: list[int], **settings: Any) -> CheckpointSelector:
    return CheckpointSelector(Subset(list(references()), indices), PlainLoss(), sharded=True, **settings)


def one_fails(rank: int) -> str:
    def failing() -> Iterator[Tensor]:
        yield outputs("a")[0]
        raise RuntimeError("the model ran out of memory")

    return told(lambda: sharded([0, 1]).update(failing() if rank == 0 else outputs("a")[:2], "a"))


def two_outputs(rank: int) -> str:
    """Both processes see one reference, each with another input."""
    return told(lambda: sharded([0]).update(outputs("ab"[rank])[:1], "a"))


def clashing_ids(rank: int) -> str:
    """Ids that count from 0 in each process."""
    mine = [[0, 1], [2, 3]][rank]
    return told(lambda: sharded(mine, ids=[0, 1]).update(outputs("a")[mine], "a"))


def told(act: Callable[[], object]) -> str:
    try:
        act()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


SHARES = (padded, padded_without_ids, uneven, idle)
FAULTS = (one_fails, two_outputs, clashing_ids)


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=RANKS)
    try:
        found = {case.__name__: case(rank) for case in (*SHARES, *FAULTS)}
        torch.save(found, folder / f"rank{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch.distributed: this build of torch has no gloo backend")
    folder = tmp_path_factory.mktemp("sharded")
    torch.multiprocessing.spawn(run_rank, args=(folder,), nprocs=RANKS)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("case", [case.__name__ for case in SHARES])
def test_all_processes_get_the_verdict_of_one_that_holds_every_image(case: str, ranks: list[dict[str, Any]]) -> None:
    (some, first), (others, second) = (rank[case] for rank in ranks)
    assert sorted({*some, *others}) == list(range(7)) and first == second
    by_contents = CheckpointSelector(references(), PlainLoss())
    numbered = CheckpointSelector(references(), PlainLoss(), ids=range(7))
    selector = numbered if case in ("padded", "idle") else by_contents
    assert first == compared(selector, list(range(7)))
    assert [verdict["decision"] for verdict in first["verdicts"]] == ["better", "worse"]
    assert first["ranking"]["images"] == 7


def test_padding_did_repeat_an_image(ranks: list[dict[str, Any]]) -> None:
    assert sum(len(rank["padded"][0]) for rank in ranks) == 8


def test_a_failure_reaches_all_and_none_waits(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["one_fails"] == "RuntimeError: the model ran out of memory"
    assert ranks[1]["one_fails"] == "ValueError: process 0 failed: RuntimeError: the model ran out of memory"
    for rank in ranks:
        assert "different outputs for one reference" in rank["two_outputs"] and "pass ids" in rank["two_outputs"]
        assert "id '0' stands for two different references" in rank["clashing_ids"]


def test_without_a_process_group_a_sharded_selector_works_alone() -> None:
    assert compared(sharded(list(range(7))), list(range(7)))["ranking"]["images"] == 7
