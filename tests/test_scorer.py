"""`RelationalScorer` on fresh weights: non-negative parts, a floor that never sleeps, an odd judgement."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from relqa_loss import AXES, DistortionPredictor, RelationalScorer
from relqa_loss.predictor import PairFeatures
from relqa_loss.scorer import _Gate, _local_contrasts, _padded_weight

PairMaker = Callable[..., tuple[Tensor, Tensor]]
WIDTHS, PAIR_WIDTHS, TEXTURE_WIDTHS = (4, 6, 8, 10), (5, 6, 7, 8), (3, 4, 5)


@pytest.fixture
def predictor() -> DistortionPredictor:
    return DistortionPredictor(WIDTHS, PAIR_WIDTHS, TEXTURE_WIDTHS).requires_grad_(False)


@pytest.fixture
def scorer() -> RelationalScorer:
    return RelationalScorer(PAIR_WIDTHS, TEXTURE_WIDTHS[0], channels=8).requires_grad_(False)


def features(predictor: DistortionPredictor, a: Tensor, b: Tensor) -> PairFeatures:
    return predictor.relate(a, b, predictor.encode(a), predictor.encode(b))


def judged(predictor: DistortionPredictor, scorer: RelationalScorer, a: Tensor, b: Tensor) -> Tensor:
    pair = features(predictor, a, b)
    return scorer.judge(pair, predictor.confine(predictor.gated_maps(pair, a, b), a, b))


def test_distance_is_parts_and_floor_added_up(
    predictor: DistortionPredictor, scorer: RelationalScorer, make_pair: PairMaker
) -> None:
    a, b = make_pair()
    pair = features(predictor, a, b)
    parts, floor = scorer.distance_terms(pair, a, b)
    assert parts.shape == (2, len(AXES))
    assert (parts > 0).all()
    assert (floor > 0).all()
    assert torch.equal(scorer(pair, a, b), parts.sum(dim=1) + floor)


def test_what_a_difference_is_called_changes_neither_distance_nor_gradient(
    predictor: DistortionPredictor, scorer: RelationalScorer, make_pair: PairMaker
) -> None:
    assert scorer.gain.shape == scorer.peak.shape == ()
    predictor.double()
    scorer.double()
    a, b = make_pair(dtype=torch.float64)
    a.requires_grad_()

    def told() -> tuple[Tensor, Tensor, Tensor]:
        pair = features(predictor, a, b)
        parts, floor = scorer.distance_terms(pair, a, b)
        (slope,) = torch.autograd.grad(parts.sum() + floor.sum(), a)
        return parts.detach(), parts.detach().sum(dim=1) + floor.detach(), slope

    parts, distance, slope = told()
    torch.nn.init.normal_(scorer.attribution.weight, std=3.0)
    other_parts, other_distance, other_slope = told()
    assert (parts - other_parts).abs().amax() > 0.1 * parts.amax()
    torch.testing.assert_close(other_distance, distance, rtol=1e-12, atol=0)
    torch.testing.assert_close(other_slope, slope, rtol=0, atol=float(slope.abs().amax()) * 1e-10)


def test_shares_add_up_to_one_everywhere(
    predictor: DistortionPredictor, scorer: RelationalScorer, make_pair: PairMaker
) -> None:
    density, share = scorer.densities(features(predictor, *make_pair()))
    assert density.shape == (2, 1, 12, 16) and share.shape == (2, len(AXES), 12, 16)
    assert (density >= 0).all() and (share > 0).all()
    torch.testing.assert_close(share.sum(dim=1), torch.ones(2, 12, 16))


def test_without_names_the_density_is_the_same_bit_for_bit_and_has_one_share(
    predictor: DistortionPredictor, scorer: RelationalScorer, make_pair: PairMaker
) -> None:
    a, b = make_pair()
    named = features(predictor, a, b)
    unnamed = predictor.relate(a, b, predictor.encode(a), predictor.encode(b), named=False)
    assert unnamed.odd == () and all(map(torch.equal, unnamed.even, named.even))
    density, share = scorer.densities(unnamed)
    assert torch.equal(density, scorer.densities(named).density) and torch.equal(share, torch.ones_like(density))


def test_judgement_is_odd_bit_for_bit_and_zero_for_equal_pictures(
    predictor: DistortionPredictor, scorer: RelationalScorer, make_pair: PairMaker
) -> None:
    a, b = make_pair()
    judgement = judged(predictor, scorer, a, b)
    assert judgement.shape == (2,)
    assert judgement.abs().max() > 0
    assert torch.equal(judgement, -judged(predictor, scorer, b, a))
    assert (judged(predictor, scorer, a, a) == 0).all()


def test_floor_counts_pixel_differences_with_its_weight(predictor: DistortionPredictor) -> None:
    a = torch.full((1, 3, 32, 32), 0.5)
    b = a + 0.25
    pair = features(predictor, a, b)
    for weight in (0.5, 2.0):
        scorer = RelationalScorer(PAIR_WIDTHS, TEXTURE_WIDTHS[0], floor_weight=weight)
        _, floor = scorer.distance_terms(pair, a, b)
        torch.testing.assert_close(floor, torch.tensor([weight * (0.25 - 2 / 255)]))


def test_a_lost_block_is_not_averaged_away_in_a_larger_picture(
    predictor: DistortionPredictor, scorer: RelationalScorer
) -> None:
    terms = []
    for side in (128, 256):
        b = torch.full((1, 3, side, side), 0.5)
        a = b.clone()
        a[..., 48:64, 48:64] += 0.4
        terms.append(scorer.distance_terms(features(predictor, a, b), a, b))
    # Four times the area divides a mean by 4, as it does the floor; a root mean square by 2.
    torch.testing.assert_close(terms[0].floor / terms[1].floor, torch.tensor([4.0]))
    assert terms[0].parts.sum() / terms[1].parts.sum() < 3.7


@pytest.mark.parametrize("size", [(48, 64), (17, 23)], ids=str)
def test_weight_of_ones_is_no_weight(
    predictor: DistortionPredictor, scorer: RelationalScorer, make_pair: PairMaker, size: tuple[int, int]
) -> None:
    a, b = make_pair(2, *size)
    pair = features(predictor, a, b)
    plain = scorer.distance_terms(pair, a, b)
    weighted = scorer.distance_terms(pair, a, b, torch.ones(2, 1, *size))
    torch.testing.assert_close(weighted.parts, plain.parts)
    torch.testing.assert_close(weighted.floor, plain.floor)


def test_padding_weighs_nothing_and_the_picture_keeps_its_mean() -> None:
    images, weight = torch.rand(2, 3, 17, 23), torch.rand(2, 1, 17, 23)
    for mask, picture in (
        (_padded_weight(images, None, (15, 9)), torch.ones(2, 1, 17, 23)),
        (_padded_weight(images, weight, (15, 9)), weight),
    ):
        assert mask is not None
        assert mask.shape == (2, 1, 32, 32)
        assert (mask[..., 17:, :] == 0).all()
        assert (mask[..., 23:] == 0).all()
        torch.testing.assert_close(mask.mean(dim=(1, 2, 3)), picture.mean(dim=(1, 2, 3)))
    assert _padded_weight(images, weight, (0, 0)) is weight
    assert _padded_weight(images, None, (0, 0)) is None


def test_config_builds_the_same_network(predictor: DistortionPredictor, make_pair: PairMaker) -> None:
    scorer = RelationalScorer(PAIR_WIDTHS, TEXTURE_WIDTHS[0], channels=6, floor_weight=0.7)
    twin = RelationalScorer(**scorer.config)
    twin.load_state_dict(scorer.state_dict())
    a, b = make_pair()
    pair = features(predictor, a, b)
    assert torch.equal(twin(pair, a, b), scorer(pair, a, b))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_floor_cannot_be_switched_off(weight: float) -> None:
    with pytest.raises(ValueError, match="floor_weight must be > 0"):
        RelationalScorer(floor_weight=weight)


@pytest.mark.parametrize(
    ("argument", "value", "wanted"),
    [
        ("masking_contrast", 0.0, "> 0 and finite, got 0.0"),
        ("masking_contrast", float("inf"), "> 0 and finite, got inf"),
        ("masking_contrast", float("nan"), "> 0 and finite, got nan"),
        ("least_open", 1.0, r"lie in \[0, 1\), got 1.0"),
        ("least_open", -0.1, r"lie in \[0, 1\), got -0.1"),
    ],
)
def test_masking_and_gates_out_of_range(argument: str, value: float, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must .*{wanted}"):
        RelationalScorer(**{argument: value})


def test_local_contrasts_are_standard_deviations_of_both_pictures() -> None:
    a, b = torch.rand(2, 2, 3, 64, 96, dtype=torch.float64)
    cells = [torch.nn.functional.pixel_unshuffle(one, 2) for one in (a, b)]
    found = _local_contrasts((cells[0], cells[1]))
    swapped = _local_contrasts((cells[1], cells[0]))
    assert all(torch.equal(one, other) for one, other in zip(found, swapped, strict=True))
    row, column = 1, 2
    for contrast, reduced, cell in zip(found, (1, 2, 4, 8), (4, 4, 8, 16), strict=True):
        assert contrast.shape == (2, 1, 64 // cell, 96 // cell)
        side = cell // reduced
        window = (..., *(slice(at * side - side // 2, at * side + side * 3 // 2) for at in (row, column)))
        pictures = [torch.nn.functional.avg_pool2d(x, reduced)[window] for x in (a, b)]
        variance = torch.stack([x.var(dim=(-2, -1), correction=0).mean(dim=1) for x in pictures]).mean(dim=0)
        torch.testing.assert_close(contrast[:, 0, row, column], (variance + 1e-6).sqrt())
    plain = torch.full_like(cells[0], 0.2)
    for contrast in _local_contrasts((plain, plain)):
        torch.testing.assert_close(contrast, torch.full_like(contrast, 1e-3))


def test_a_busy_place_hides_what_a_plain_one_shows(predictor: DistortionPredictor) -> None:
    generator = torch.Generator().manual_seed(3)
    texture = 0.15 * torch.randn(1, 3, 64, 64, generator=generator)
    damage = 0.02 * torch.randn(1, 3, 64, 64, generator=generator)
    parts = {}
    for name, b in {"plain": torch.full((1, 3, 64, 64), 0.5), "busy": 0.5 + texture}.items():
        pair = features(predictor, b + damage, b)
        for contrast in (0.03, 1e6):
            torch.manual_seed(0)  # the same gates
            scorer = RelationalScorer(PAIR_WIDTHS, TEXTURE_WIDTHS[0], channels=8, masking_contrast=contrast)
            with torch.no_grad():
                parts[name, contrast] = float(scorer.distance_terms(pair, b + damage, b).parts.sum())
    assert parts["busy", 0.03] < 0.4 * parts["plain", 0.03]
    assert parts["busy", 1e6] > 0.7 * parts["plain", 1e6]


def test_gates_never_close() -> None:
    gate = _Gate(4, 3, 0.1)
    with torch.no_grad():
        gate.read.bias.fill_(-100.0)
    even = torch.rand(2, 4, 5, 6)
    torch.testing.assert_close(gate(even), torch.full((2, 3, 5, 6), 0.1))
    with torch.no_grad():
        gate.read.bias.fill_(100.0)
    torch.testing.assert_close(gate(even), torch.ones(2, 3, 5, 6))
