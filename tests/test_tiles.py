"""Tiles give the values of one pass: how far the networks look, how tiles are cut, what adds up."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from relqa_loss import AXES, DistortionPredictor, RelationalLoss
from relqa_loss.evaluation.memory import peak_memory
from relqa_loss.predictor import MAP_REACH, REACH
from relqa_loss.tiles import Span, TiledPair, spans

LossMaker = Callable[..., RelationalLoss]
PairMaker = Callable[..., tuple[Tensor, Tensor]]

VALUES = ("distance", "parts", "floor", "maps", "score")
CASES = [((16, 16), 16), ((130, 33), 16), ((17, 300), 96), ((230, 260), 64), ((96, 96), 512)]


def spread(found: Tensor, wanted: Tensor) -> float:
    """Largest deviation, relative to the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


# --- the network's reach


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("what", ["features", "maps"])
def test_reach_is_as_far_as_the_networks_look_and_no_further(what: str, side: str) -> None:
    predictor = DistortionPredictor((4, 4, 4, 4), (4, 4, 4, 4), (3, 3, 3), 4).double()
    # Before training the axes do not compete.
    torch.nn.init.normal_(predictor.competition.factors.weight)
    torch.nn.init.normal_(predictor.competition.presence.weight)
    decoder = predictor.decoder
    for told in (decoder.odd_told4, decoder.even_told4, decoder.odd_told3, decoder.even_told3):
        torch.nn.init.normal_(told.weight)
    a, b = torch.rand(2, 1, 3, 16, 640, dtype=torch.float64).unbind(0)
    a.requires_grad_()
    # The first or the last column of a region whose corners divide by 16.
    column = 320 if side == "before" else 335
    pair = predictor.relate(a, b, predictor.encode(a), predictor.encode(b))
    if what == "maps":
        reach, margin = MAP_REACH, predictor.map_margin
        total = predictor.decode(predictor.gated_maps(pair, a, b), a, b)[..., column].sum()
    else:
        reach, margin = REACH, predictor.margin
        total = torch.cat([x[..., column // s].flatten() for s, x in zip((4, 8, 16), pair.odd, strict=True)]).sum()
    (slope,) = torch.autograd.grad(total, a)
    touched = slope.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    first, last = int(touched.min()), int(touched.max())
    assert 320 - reach <= first
    assert last < 336 + reach
    assert first == 320 - reach if side == "before" else last == 336 + reach - 1
    assert margin % predictor.stride == 0
    assert reach <= margin < reach + predictor.stride


def test_the_docstring_says_how_much_larger_windows_are() -> None:
    predictor = DistortionPredictor()
    told = RelationalLoss.relate.__doc__ or ""
    for margin in (predictor.margin, predictor.map_margin):
        assert f"(tile + 2 * {margin})^2" in told


# --- how pictures are cut


@pytest.mark.parametrize(("length", "tile"), [(16, 16), (17, 16), (1000, 256), (4320, 512), (513, 512), (300, 4096)])
def test_spans_cover_the_picture_once_in_aligned_windows(length: int, tile: int) -> None:
    found = spans(length, tile, 96)
    assert [span.start for span in found] == [0, *(span.stop for span in found[:-1])]
    assert found[-1].stop == length
    assert len(found) == -(-length // tile)
    for span in found:
        assert 0 < span.stop - span.start <= tile
        assert span.start % 16 == span.low % 16 == 0
        assert span.low == max(0, span.start - 96)
        assert span.high == length or (span.high == span.stop + 96 and span.high % 16 == 0)


def test_cells_reach_over_the_padding_of_the_last_tile() -> None:
    last = Span(start=96, stop=101, low=0, high=101)
    assert last.pixels == slice(96, 101)
    assert [last.cells(stride) for stride in (4, 8, 16)] == [slice(24, 28), slice(12, 14), slice(6, 7)]


# --- values


@pytest.mark.parametrize(("size", "tile"), CASES, ids=str)
def test_tiles_give_the_values_of_one_pass(
    loss_fn: RelationalLoss, make_pair: PairMaker, size: tuple[int, int], tile: int
) -> None:
    a, b = make_pair(2, *size)
    whole, tiled = loss_fn.relate(a, b), loss_fn.relate(a, b, tile=tile)
    for name in VALUES:
        assert getattr(tiled, name).shape == getattr(whole, name).shape
        assert getattr(tiled, name).dtype == getattr(whole, name).dtype
        assert spread(getattr(tiled, name), getattr(whole, name)) < 5e-6, name


def test_in_float64_only_the_order_of_the_sums_differs(loss_fn64: RelationalLoss, make_pair: PairMaker) -> None:
    a, b = make_pair(1, 200, 230, dtype=torch.float64)
    whole, tiled = loss_fn64.relate(a, b), loss_fn64.relate(a, b, tile=48)
    for name in VALUES:
        assert spread(getattr(tiled, name), getattr(whole, name)) < 1e-13, name


def test_a_lost_block_in_one_tile_counts_as_in_one_pass(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    # The peak term is a root mean square over the whole picture: not a mean of those of the tiles.
    ref = make_pair(1, 256, 256)[1]
    a = ref.clone()
    a[..., 100:116, 180:196] += 0.4
    whole, tiled = loss_fn.relate(a, ref), loss_fn.relate(a, ref, tile=64)
    torch.testing.assert_close(tiled.parts, whole.parts, rtol=1e-5, atol=1e-7)


def test_anchored_score_weights_range_and_axis_weights(make_loss: LossMaker, make_pair: PairMaker) -> None:
    loss = make_loss(data_range=(-1, 1), axis_weights={"noise": 3.0, "blur": 0.0}, reduction="none")
    a, ref = (2 * x - 1 for x in make_pair(2, 120, 90))
    b = ref + 0.5 * (a - ref)
    tiled = loss.relate(a, b, ref, tile=48)
    torch.testing.assert_close(tiled.score, loss.relate(a, b, ref).score, rtol=1e-5, atol=1e-6)
    assert (tiled.score < 0).all()
    assert tiled.parts[:, AXES.index("blur")].eq(0).all()
    weight = torch.rand(2, 120, 90)
    torch.testing.assert_close(loss(a, ref, weight=weight, tile=48), loss(a, ref, weight=weight), rtol=1e-5, atol=1e-7)


def test_identity_is_zero_and_a_swap_flips_signs_bit_for_bit(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    a, b = make_pair(1, 100, 130)
    same = loss_fn.relate(b, b.clone(), tile=64)
    for name in VALUES:
        assert (getattr(same, name) == 0).all(), name
    there, back = loss_fn.relate(a, b, tile=64), loss_fn.relate(b, a, tile=64)
    assert torch.equal(there.maps, -back.maps)
    assert torch.equal(there.score, -back.score)
    assert torch.equal(there.distance, back.distance)


def test_half_precision_pictures_and_autocast(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    a, b = make_pair(1, 80, 100, dtype=torch.float16)
    whole, tiled = loss_fn.relate(a, b), loss_fn.relate(a, b, tile=48)
    torch.testing.assert_close(tiled.distance, whole.distance, rtol=1e-5, atol=1e-7)
    with torch.autocast("cpu", torch.bfloat16):
        low = loss_fn.relate(a, b, tile=48)
        assert low.maps.shape == whole.maps.shape
    assert low.distance.dtype == torch.float32
    torch.testing.assert_close(low.distance, whole.distance, rtol=0.02, atol=0)


# --- gradients and memory


def test_gradients_are_those_of_one_pass(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    a, b = (image.requires_grad_() for image in make_pair(1, 112, 130))

    def slopes(tile: int | None) -> tuple[Tensor, ...]:
        rel = loss_fn.relate(a, b, tile=tile)
        value = loss_fn(a, b, tile=tile) + rel.maps.square().mean() + rel.score.sum()
        return torch.autograd.grad(value, (a, b))

    for found, wanted in zip(slopes(48), slopes(None), strict=True):
        assert wanted.abs().max() > 0
        assert spread(found, wanted) < 1e-5


def test_double_backward_runs_in_tiles(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    a, b = make_pair(1, 32, 48)
    a.requires_grad_()

    def curvature(tile: int | None) -> Tensor:
        (slope,) = torch.autograd.grad(loss_fn(a, b, tile=tile), a, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), a)[0]

    assert spread(curvature(16), curvature(None)) < 1e-4


def test_maps_are_decoded_only_when_asked_for(
    loss_fn: RelationalLoss, make_pair: PairMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()
    decode = TiledPair._maps

    def counted(self: TiledPair, *windows: object) -> Tensor:
        next(calls)
        return decode(self, *windows)  # type: ignore[arg-type]

    monkeypatch.setattr(TiledPair, "_maps", counted)
    rel = loss_fn.relate(*make_pair(1, 32, 48), tile=16)
    assert rel.distance > 0
    assert rel.score != 0
    assert next(calls) == 0
    assert rel.maps is rel.maps
    assert next(calls) == 1 + 2 * 3


def test_memory_is_that_of_a_tile(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    a, b = make_pair(1, 768, 768)

    @torch.no_grad()
    def peak(tile: int | None) -> int:
        return peak_memory(lambda: loss_fn.relate(a, b, tile=tile).distance, a.device)

    # The window of a tile in a corner has a seventh of the picture's pixels, one in the middle a quarter.
    assert peak(192) < 0.4 * peak(None)


# --- wrong values


@pytest.mark.parametrize(
    ("tile", "error", "message"),
    [
        (0, ValueError, "tile must be a positive multiple of 16 pixels, got 0; did you mean 16"),
        (-32, ValueError, "got -32; did you mean 16"),
        (500, ValueError, "got 500; did you mean 496"),
        (512.0, TypeError, "tile must be an int, the side of a tile in pixels, or None, got 512.0"),
        (True, TypeError, "tile must be an int"),
        ((64, 64), TypeError, "tile must be an int"),
    ],
)
def test_wrong_tiles_are_one_clear_error(
    loss_fn: RelationalLoss, make_pair: PairMaker, tile: object, error: type[Exception], message: str
) -> None:
    for call in (loss_fn, loss_fn.relate):
        with pytest.raises(error, match=message):
            call(*make_pair(), tile=tile)


def test_wrong_pictures_are_the_same_errors_as_without_tiles(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    a, b = make_pair()
    with pytest.raises(ValueError, match="a and b must have one shape"):
        loss_fn.relate(a, b[..., :32], tile=32)
    with pytest.raises(ValueError, match="a and ref must have one shape"):
        loss_fn.relate(a, b, b[..., :32], tile=32)
    with pytest.raises(ValueError, match="weight must have shape"):
        loss_fn(a, b, weight=torch.ones(2, 8, 8), tile=32)


def test_copies_of_the_loss_compute_in_tiles(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    a, b = make_pair()
    assert torch.equal(copy.deepcopy(loss_fn)(a, b, tile=32), loss_fn(a, b, tile=32))
