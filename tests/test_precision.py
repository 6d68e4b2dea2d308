"""Every precision beside float64, from an error nobody sees to the end of the severity scale, and far out of range."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from relqa_loss import DistortionEngine, RelationalLoss
from relqa_loss.distortions.recipe import Component

OPERATORS = (
    "gaussian_blur", "rgb_noise", "jpeg", "brighten", "shift_left", "oversharpen", "saturate", "missing_blocks",
    "impulse_noise", "posterize",
)  # fmt: skip
SEVERITIES = (0.01, 0.1, 0.3, 0.6, 1.0)
LARGEST_SCALE = 2.0**16
"""Where GradScaler begins."""

# Largest relative error of a distance over all those pairs, which README states, and mean error of the direction of the
# gradient (1 - cosine). Both several times what the bundled weights have, since they depend on the weights.
STATED = {
    "float32": (1e-5, 1e-8),
    "autocast to float16": (3e-3, 1e-3),
    "autocast to bfloat16": (3e-2, 3e-2),
    "cast to float16": (2e-2, 1e-2),
    "cast to bfloat16": (1.5e-1, 1e-1),
}


@pytest.fixture(scope="module")
def pairs(make_photos) -> tuple[Tensor, Tensor]:
    recipes = [(Component(name, severity, "whole", 3),) for name in OPERATORS for severity in SEVERITIES]
    reference = make_photos(1, 64, 96).expand(len(recipes), -1, -1, -1).contiguous()
    return DistortionEngine(OPERATORS).render(reference, recipes).distorted, reference


def value_and_gradient(loss_fn: RelationalLoss, pred: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    pred = pred.clone().requires_grad_()
    values = loss_fn(pred, ref)
    (gradient,) = torch.autograd.grad(values.sum(), pred)
    return values.detach().double(), gradient.double().flatten(1)


@pytest.fixture(scope="module")
def exact(loss_fn: RelationalLoss, pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return value_and_gradient(for_each(copy.deepcopy(loss_fn).double()), pairs[0].double(), pairs[1].double())


def for_each(loss_fn: RelationalLoss) -> RelationalLoss:
    loss_fn.reduction = "none"
    return loss_fn


@contextmanager
def of_mode(mode: str, loss_fn: RelationalLoss) -> Iterator[tuple[RelationalLoss, torch.dtype]]:
    """The loss in a mode, and the dtype of the pictures it gets."""
    how, _, name = mode.rpartition(" to ")
    dtype = getattr(torch, name)
    cast = dtype if how == "cast" else torch.float32
    with torch.autocast("cpu", dtype) if how == "autocast" else nullcontext():
        yield for_each(copy.deepcopy(loss_fn).to(cast)), cast


@pytest.mark.parametrize("mode", STATED)
def test_every_precision_stays_near_float64_over_the_whole_range_of_severity(
    loss_fn: RelationalLoss, pairs: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], mode: str
) -> None:
    with of_mode(mode, loss_fn) as (cast, dtype):
        values, gradient = value_and_gradient(cast, *(one.to(dtype) for one in pairs))
    allowed, turned = STATED[mode]
    assert ((values - exact[0]).abs() / exact[0]).max() < allowed
    assert (1 - F.cosine_similarity(gradient, exact[1])).mean() < turned


@pytest.mark.parametrize("mode", STATED)
def test_nothing_overflows_far_out_of_range(loss_fn: RelationalLoss, pairs: tuple[Tensor, Tensor], mode: str) -> None:
    with of_mode(mode, loss_fn) as (cast, dtype):
        far, ref = ((one[::7] * 5 - 2).to(dtype) for one in pairs)
        relation = cast.relate(far, ref)
        for what in (relation.distance, relation.maps, relation.score):
            assert what.isfinite().all()
        assert value_and_gradient(cast, far, ref)[1].isfinite().all()


def test_float16_gradients_survive_the_scale_that_a_scaler_begins_with(
    loss_fn: RelationalLoss, pairs: tuple[Tensor, Tensor]
) -> None:
    pred, ref = (one[::7].half() for one in pairs)
    pred.requires_grad_()
    with torch.autocast("cpu", torch.float16):
        value = loss_fn(pred, ref)
    scaler = torch.amp.GradScaler("cpu", init_scale=LARGEST_SCALE)
    scaler.scale(value).backward()
    assert pred.grad is not None and pred.grad.isfinite().all() and pred.grad.any()


def test_a_model_trains_under_float16_autocast_with_a_scaler(
    loss_fn: RelationalLoss, pairs: tuple[Tensor, Tensor]
) -> None:
    spoilt, ref = (one[:5] for one in pairs)
    model = torch.nn.Conv2d(3, 3, 3, padding=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=LARGEST_SCALE)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.float16):
            value = loss_fn(model(spoilt), ref)
        scaler.scale(value).backward()
        scaler.step(optimiser)
        scaler.update()
        losses.append(value.item())
    # A model that starts far off overflows by itself at the largest scale; the scaler finds one that it can go on with.
    assert scaler.get_scale() >= 1024
    assert losses[-1] < 0.9 * losses[0]
