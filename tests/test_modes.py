"""Maps and scores that are asked for later: in the modes of the call that they belong to, each part made once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from relqa_loss import Relation, RelationalLoss

PairMaker = Callable[..., tuple[Tensor, Tensor]]
TILES = pytest.mark.parametrize("tile", [None, 32])


@TILES
def test_maps_and_scores_keep_the_mode_that_relate_was_called_in(
    loss_fn: RelationalLoss, make_pair: PairMaker, tile: int | None
) -> None:
    a, b = make_pair(1, 32, 48)
    a.requires_grad_()
    ref = (a.detach() + b) / 2

    def relate() -> tuple[Relation, Relation]:
        return loss_fn.relate(a, b, tile=tile), loss_fn.relate(a, b, ref, tile=tile)

    with torch.no_grad():
        without = relate()
    with torch.inference_mode():
        inferred = relate()
    for relation in (*without, *inferred):
        assert not relation.maps.requires_grad
        assert not relation.score.requires_grad
        assert not any(image.requires_grad for image in relation._images())
    for relation in relate():
        assert relation.maps.requires_grad and relation.score.requires_grad


@TILES
@pytest.mark.parametrize("anchored", [False, True], ids=["alone", "anchored"])
def test_maps_and_scores_keep_the_autocast_that_relate_was_called_in(
    loss_fn: RelationalLoss, make_pair: PairMaker, tile: int | None, anchored: bool
) -> None:
    a, b = make_pair(1, 32, 48)
    ref = (a + b) / 2 if anchored else None
    with torch.autocast("cpu", torch.bfloat16):
        within = loss_fn.relate(a, b, ref, tile=tile)
        wanted = within.maps, within.score
        later = loss_fn.relate(a, b, ref, tile=tile)
    assert torch.equal(later.maps, wanted[0])
    assert torch.equal(later.score, wanted[1])
    plain = loss_fn.relate(a, b, ref, tile=tile)
    assert not torch.equal(plain.maps, wanted[0])
    with torch.autocast("cpu", torch.bfloat16):
        exact = plain.score
    assert torch.equal(exact, loss_fn.relate(a, b, ref, tile=tile).score)


@pytest.mark.parametrize("glance", [torch.no_grad, torch.inference_mode])
def test_a_glance_without_gradients_takes_none_from_what_is_asked_next(
    loss_fn: RelationalLoss, make_pair: PairMaker, glance: Callable[[], AbstractContextManager[None]]
) -> None:
    a, b = make_pair(1, 32, 48)
    a.requires_grad_()

    def gradient(relation: Relation, first: str, then: str) -> Tensor:
        with glance():
            assert not getattr(relation, first).requires_grad
        return torch.autograd.grad(getattr(relation, then).square().sum(), a)[0]

    for first, then in (("score", "maps"), ("maps", "score")):
        relation = loss_fn.relate(a, b)
        wanted = torch.autograd.grad(getattr(loss_fn.relate(a, b), then).square().sum(), a)[0]
        assert torch.equal(gradient(relation, first, then), wanted)


def test_maps_and_the_score_without_reference_share_what_they_are_read_from(
    loss_fn: RelationalLoss, make_pair: PairMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    maps_if_present = loss_fn.predictor.maps_if_present
    monkeypatch.setattr(loss_fn.predictor, "maps_if_present", lambda *of: (calls.append(of), maps_if_present(*of))[1])
    relation = loss_fn.relate(*make_pair(1, 32, 48))
    assert relation.maps.shape[1] == 17 and relation.score.shape == (1,)
    assert len(calls) == 1


@TILES
def test_weight_maps_ask_for_no_distance(
    loss_fn: RelationalLoss, make_pair: PairMaker, monkeypatch: pytest.MonkeyPatch, tile: int | None
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a distance was computed")

    monkeypatch.setattr(loss_fn.scorer, "densities", refuse)
    assert loss_fn.weights(*make_pair(1, 32, 48), tile=tile).shape == (1, 1, 32, 48)
    with pytest.raises(AssertionError, match="a distance"):
        loss_fn.relate(*make_pair(1, 32, 48), tile=tile)
