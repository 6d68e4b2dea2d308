"""Two processes that train a user's model with the loss under DistributedDataParallel or FSDP, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import fsdp

from relqa_loss import RelationalLoss, SpatiallyWeightedLoss

RANKS = 2
STEPS = 2
LEARNING_RATE = 0.5
PLACEMENTS = ("outside", "submodule", "weighted", *(("sharded",) if hasattr(fsdp, "fully_shard") else ()))
"""The loss is called on the wrapped model's output, or it is a part of the wrapped module, or a pixel loss with a
warm-up that it weighs is. Under DistributedDataParallel; *sharded* is the first of them with FSDP,
where torch has ``fully_shard`` (2.6)."""


class Restorer(nn.Module):
    """A user's model: two small convolutions that correct a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        correction: Tensor = self.last(F.gelu(self.first(images)))
        return images + correction


class WithLoss(nn.Module):
    """The same model with the loss inside, as some trainers want it: forward returns the value to be minimised."""

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, damaged: Tensor, clean: Tensor) -> Tensor:
        value: Tensor = self.loss(self.model(damaged), clean)
        return value


def train(placement: str, loss: RelationalLoss, damaged: Tensor, clean: Tensor, *, parallel: bool) -> dict[str, Any]:
    """Parameters after ``STEPS`` steps of gradient descent from a seeded start, the last gradients and values.

    In float64: another order of sums must not grow, step by step, into something that a tolerance has to allow.
    """
    torch.manual_seed(11)
    model = Restorer().double()
    weighted = SpatiallyWeightedLoss(nn.SmoothL1Loss(reduction="none", beta=0.01), loss, warmup=STEPS)
    module: nn.Module = {
        "outside": model,
        "sharded": model,
        "submodule": WithLoss(model, loss),
        "weighted": WithLoss(model, weighted),
    }[placement]
    if parallel and placement == "sharded":
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (RANKS,))
        for part in (model.first, model.last, model):
            fsdp.fully_shard(part, mesh=mesh)
    elif parallel:
        module = nn.parallel.DistributedDataParallel(module)
    module.train()
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=LEARNING_RATE)
    values = []
    outside = placement in ("outside", "sharded")
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss(module(damaged), clean) if outside else module(damaged, clean)
        value.backward()
        optimizer.step()
        values.append(value.item())
    return {
        "parameters": {name: _whole(parameter).clone() for name, parameter in model.named_parameters()},
        "gradients": {name: _whole(parameter.grad) for name, parameter in model.named_parameters()},
        "values": values,
        "counted": int(weighted.step),
        "loss_training": any(part.training for part in loss.modules()),
        "loss_gradients": [name for name, parameter in loss.named_parameters() if parameter.grad is not None],
        "loss_state": {name: tensor.clone() for name, tensor in loss.state_dict().items()},
    }


def _whole(tensor: Any) -> Tensor:
    """A tensor, put together where each process holds a part of it."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach()


def run_rank(rank: int, folder: Path) -> None:
    """One process: its share of the joint batch, all placements; writes what it got."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=RANKS)
    try:
        damaged, clean = torch.load(folder / "batch.pt", weights_only=True)
        loss = RelationalLoss(folder / "weights").double()
        share = slice(rank, None, RANKS)
        results = {one: train(one, loss, damaged[share], clean[share], parallel=True) for one in PLACEMENTS}
        torch.save(results, folder / f"rank{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    clean = F.interpolate(
        torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(5)), size=(48, 48), mode="bicubic"
    ).clamp(0, 1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(6))
    damaged = (F.avg_pool2d(clean, 3, stride=1, padding=1) + 0.05 * noise).clamp(0, 1)
    return damaged.double(), clean.double()


@pytest.fixture(scope="module")
def ranks(
    loss_fn: RelationalLoss, batch: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch.distributed: this build of torch has no gloo backend")
    folder = tmp_path_factory.mktemp("distributed")
    loss_fn.save_pretrained(folder / "weights")
    torch.save(batch, folder / "batch.pt")
    torch.multiprocessing.spawn(run_rank, args=(folder,), nprocs=RANKS)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_gradients_are_finite_and_ranks_stay_equal(placement: str, ranks: list[dict[str, Any]]) -> None:
    one, other = (rank[placement] for rank in ranks)
    # Each rank sees pictures of its own: equal parameters are the work of the averaged gradients.
    assert one["values"] != other["values"]
    for name, parameter in one["parameters"].items():
        assert torch.equal(parameter, other["parameters"][name]), name
        for rank in (one, other):
            gradient = rank["gradients"][name]
            assert gradient.isfinite().all() and gradient.abs().max() > 0, name


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_two_processes_do_what_one_does_on_the_joint_batch(
    placement: str, ranks: list[dict[str, Any]], loss_fn64: RelationalLoss, batch: tuple[Tensor, Tensor]
) -> None:
    alone = train(placement, loss_fn64, *batch, parallel=False)
    start = train(placement, loss_fn64, batch[0][:1], batch[1][:1], parallel=False)
    for name, parameter in alone["parameters"].items():
        torch.testing.assert_close(ranks[0][placement]["parameters"][name], parameter, rtol=1e-8, atol=1e-8)
    # The tolerance can tell another batch apart.
    assert any((start["parameters"][n] - p).abs().max() > 1e-3 for n, p in alone["parameters"].items())
    for step in range(STEPS):
        mean = sum(rank[placement]["values"][step] for rank in ranks) / RANKS
        assert mean == pytest.approx(alone["values"][step], rel=1e-8)


def test_every_rank_counts_the_steps_of_the_warm_up(ranks: list[dict[str, Any]]) -> None:
    assert [rank["weighted"]["counted"] for rank in ranks] == [STEPS] * RANKS


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_loss_stays_frozen_and_in_evaluation_mode(
    placement: str, ranks: list[dict[str, Any]], loss_fn: RelationalLoss
) -> None:
    state = loss_fn.state_dict()
    for rank in ranks:
        result = rank[placement]
        assert not result["loss_training"]
        assert result["loss_gradients"] == []
        assert result["loss_state"].keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in result["loss_state"].items())
