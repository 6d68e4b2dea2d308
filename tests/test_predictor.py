"""`DistortionPredictor`: anti-symmetric, aligned, local. What holds for any weights is tested on fresh ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from relqa_loss import AXES, DistortionPredictor, RelationalLoss
from relqa_loss.competition import (
    COMPETITION_WIDTH,
    COVERED_CELLS,
    HIGHEST,
    LARGEST_LOG_FACTOR,
    MEASURED_WIDTH,
    START_PRESENCE,
    WHITENING_FLOOR,
    AxisCompetition,
    Cells,
    WhitenedConv,
    at_stride_2,
    bounded,
    cells_of,
    presence_gates,
)
from relqa_loss.displacement import displacement
from relqa_loss.distortions.visibility import visibility
from relqa_loss.local_statistics import EVEN_CHANNELS, ODD_CHANNELS, local_statistics
from relqa_loss.predictor import VISIBLE_STEP, confining_gates, seen_at_stride_2
from relqa_loss.relation import SHIFT_AXES

PairMaker = Callable[..., tuple[Tensor, Tensor]]

PLACES = [
    ((64, 64), (30, 30)),
    ((64, 64), (17, 44)),
    ((64, 64), (1, 1)),
    ((64, 64), (62, 62)),
    ((64, 64), (1, 33)),
    ((50, 70), (25, 35)),
    ((50, 70), (48, 68)),
    ((17, 23), (8, 11)),
    ((17, 23), (15, 1)),
]
"""Picture size, and centre of a 3x3 defect in it."""


@pytest.fixture
def predictor() -> DistortionPredictor:
    fresh = DistortionPredictor().eval().requires_grad_(False)
    # At the start the axes do not compete yet.
    torch.nn.init.normal_(fresh.competition.factors.weight, std=0.3)
    torch.nn.init.normal_(fresh.competition.presence.weight, std=0.3)
    return fresh


def with_defect(size: tuple[int, int], centre: tuple[int, int], strength: float) -> tuple[Tensor, Tensor]:
    reference = torch.full((1, 3, *size), 0.5)
    y, x = centre
    damaged = reference.clone()
    damaged[..., y - 1 : y + 2, x - 1 : x + 2] += strength
    return damaged, reference


def peak(image: Tensor) -> tuple[int, int]:
    return divmod(int(image.flatten().argmax()), image.shape[-1])


# --- the displacement field in the shift maps


def test_shift_maps_say_what_the_field_says_as_far_as_it_is_trusted(
    predictor: DistortionPredictor, make_pair: PairMaker
) -> None:
    a, b = make_pair(1, 64, 96)
    pair = predictor.relate(a, b, predictor.encode(a), predictor.encode(b))
    flow, fit = displacement(a, b)
    decoder = predictor.decoder
    decoder.trust.weight.zero_()

    def maps(trust: float) -> Tensor:
        decoder.trust.bias.fill_(trust)
        streams = pair.difference, pair.total, pair.energy, pair.odd, pair.even
        return decoder(*streams, local_statistics(a, b), flow, fit, predictor.hints(pair))

    never, half, always = maps(-50.0), maps(0.0), maps(50.0)
    shifts = [AXES.index(axis) for axis in SHIFT_AXES]
    others = [index for index in range(len(AXES)) if index not in shifts]
    field = torch.nn.functional.interpolate(flow[:, -2:], scale_factor=2.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(always[:, shifts], field)
    torch.testing.assert_close(half[:, shifts], (never + always)[:, shifts] / 2)
    assert (never - always)[:, shifts].abs().mean() > 1e-3
    assert torch.equal(never[:, others], always[:, others])


# --- competition of the axes


def of_nothing(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Statistics at stride 8 in which nothing is to be seen."""
    return torch.zeros(1, ODD_CHANNELS, rows, columns), torch.zeros(1, EVEN_CHANNELS, rows, columns)


def test_axes_do_not_compete_before_training() -> None:
    maps, weight, even = torch.randn(1, len(AXES), 32, 48), torch.rand(1, 1, 32, 48) + 0.1, torch.randn(1, 80, 4, 6)
    factors, presence = AxisCompetition(80)(cells_of(maps, weight, of_nothing(8, 12)), even)
    assert torch.equal(factors, torch.ones(1, len(AXES), 4, 6))
    assert torch.equal(presence, torch.full((1, len(AXES), 4, 6), START_PRESENCE))
    assert (presence_gates(presence) > 0.95).all()


def nearly_alike(count: int = 4000) -> Tensor:
    """Values (count, 3) far from 0: two channels that differ by a hundredth, and one on its own."""
    first, apart, third = torch.randn(3, count, generator=torch.Generator().manual_seed(1))
    return torch.stack((first - 30, first + 0.01 * apart - 29, 0.1 * third), dim=1)


def test_channels_that_are_read_are_whitened_by_what_was_shown() -> None:
    values, reading = nearly_alike(), WhitenedConv(3, 3)
    torch.nn.init.dirac_(reading.weight)
    torch.nn.init.zeros_(reading.bias)
    as_maps = values.T.view(1, 3, 40, 100)
    as_they_are = as_maps + torch.tensor([30.0, 29.0, 0.0]).view(1, 3, 1, 1)
    assert torch.equal(reading(as_they_are), as_they_are) and not reading.fitted
    reading.fit(values)
    white = reading(as_maps).detach()[0].flatten(1)
    assert reading.fitted
    torch.testing.assert_close(white.mean(dim=1), torch.zeros(3), atol=1e-3, rtol=0)
    covariance = white @ white.T / white.shape[1]
    # Only as far as the floor allows: the difference of the two has a variance of 0.00005 of theirs.
    directions = (
        torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 1.0]]) / torch.tensor([[2.0], [2.0], [1.0]]).sqrt()
    )
    wanted = torch.tensor([2 / (2 + WHITENING_FLOOR), 5e-5 / (5e-5 + WHITENING_FLOOR), 1 / (1 + WHITENING_FLOOR)])
    torch.testing.assert_close((directions @ covariance @ directions.T), wanted.diag(), atol=2e-3, rtol=0.02)


def test_what_is_far_from_all_that_was_shown_is_cut_off() -> None:
    reading = WhitenedConv(3, 2)
    reading.fit(nearly_alike())
    odd_ones = torch.full((1, 3, 1, 2), 1e6)
    odd_ones[..., 1] = 1e12
    near, far = reading(odd_ones).unbind(-1)
    assert torch.equal(near, far) and bool(near.isfinite().all())


def test_whitened_reading_holds_in_half_precision() -> None:
    reading, values = WhitenedConv(3, 8), nearly_alike()
    reading.fit(values)
    as_maps = values.T.reshape(1, 3, 40, 100)
    with torch.no_grad():
        exact = reading(as_maps)
        with torch.autocast("cpu", torch.bfloat16):
            half = reading(as_maps)
        # What it would be if means were taken off after rounding.
        rounded = reading(as_maps.bfloat16())
    error, naive = ((one - exact).square().mean().sqrt() / exact.std() for one in (half, rounded))
    assert error < 0.02 and naive > 3 * error


def test_a_competition_of_whitened_values_is_fitted_where_something_is_seen() -> None:
    competition = AxisCompetition(4)
    generator = torch.Generator().manual_seed(2)
    shapes = (len(AXES), ODD_CHANNELS + EVEN_CHANNELS, 1)
    cells = Cells(*(torch.rand(6, channels, 5, 5, generator=generator) + 0.1 for channels in shapes))
    even = torch.randn(6, 4, 5, 5, generator=generator)
    unseen = torch.ones(6, 1, 5, 5, dtype=torch.bool)
    unseen[..., 0] = False
    competition.fit_whitening(cells, even, unseen)
    assert competition.read.fitted and competition.measure.fitted
    even[..., 0] = 100.0
    again = AxisCompetition(4)
    again.fit_whitening(cells, even, unseen)
    assert torch.equal(again.read.mean, competition.read.mean)
    again.fit_whitening(cells, even, ~unseen)
    assert (again.read.mean[-4:] == 100).all()


def test_one_axis_holds_another_down_near_it_and_not_far_away() -> None:
    competition = AxisCompetition(4)
    noise, contrast = AXES.index("noise"), AXES.index("contrast")
    with torch.no_grad():
        for parameter in competition.parameters():
            parameter.zero_()
        competition.read.weight[0, noise] = 1.0
        competition.factors.weight[contrast, 0] = -5.0
        competition.presence.weight[contrast, 0] = -5.0
    maps = torch.zeros(1, len(AXES), 8, 256)
    maps[:, noise, :, 64:128] = -0.5  # whichever image has it
    cells = cells_of(maps, torch.ones(1, 1, 8, 256), of_nothing(2, 64))
    (factors,), (presence,) = competition(cells, torch.zeros(1, 4, 1, 32))
    assert (factors[contrast, 0, 8:16] < 0.2).all()
    assert (factors[contrast, 0, 20:] == factors[contrast, 0, -1]).all()
    assert factors[contrast, 0, -1] > 2
    others = [index for index in range(len(AXES)) if index != contrast]
    assert (factors[others] == 1).all()
    assert (presence[contrast, 0, 8:16] < -2).all() and (presence[contrast, 0, 20:] > 1).all()
    assert (presence[others] == 0).all()


def test_what_share_of_the_surroundings_differs_is_read_as_far_as_a_crop_of_training() -> None:
    competition = AxisCompetition(4)
    occlusion = AXES.index("occlusion")
    with torch.no_grad():
        for parameter in competition.parameters():
            parameter.zero_()
        competition.read.weight[0, 2 * len(AXES) + len(COVERED_CELLS)] = 1.0  # the widest
        competition.read.bias[0] = 5.0
        competition.factors.weight[occlusion, 0] = 1.0

    def factors(*blocks: int) -> Tensor:
        weight = torch.full((1, 1, 8, 400), 1.6e-4)
        for block in blocks:
            weight[..., 8 * block : 8 * block + 8] = 100.0
        cells = cells_of(torch.zeros(1, len(AXES), 8, 400), weight, of_nothing(2, 100))
        found: Tensor = competition(cells, torch.zeros(1, 4, 1, 50))[0][0, occlusion, 0]
        return found.detach()

    one, two, ten = factors(25), factors(25, 30), factors(*range(20, 30))
    assert one[25] < two[25] < ten[25]
    assert one[25 - 15] > one[25 - 16] and one[25 + 15] > one[25 + 16] and one[25 - 16] == one[0]


def test_pixels_that_differ_are_counted_where_cells_that_do_tell_nothing(make_photos: Callable[..., Tensor]) -> None:
    reference = make_photos(1, 96, 128) * 0.5
    competition = AxisCompetition(4)

    def told(side: int) -> Tensor:
        other = reference.clone()
        other[..., 48 : 48 + side, 64 : 64 + side] = 1.0
        weight = torch.full((1, 1, 48, 64), 1.6e-4)
        weight[..., 24 : 24 + side // 2, 32 : 32 + side // 2] = 1e4
        cells = cells_of(torch.zeros(1, len(AXES), 48, 64), weight, local_statistics(reference, other))
        return competition._told(cells, torch.zeros(1, 4, 6, 8))[0]

    places = 2 * len(AXES) + 1, len(COVERED_CELLS)
    cells_4, pixels_4 = told(4)[:, places[0] :].split((places[1], 4 + places[1]), dim=1)
    cells_16, pixels_16 = told(16)[:, places[0] :].split((places[1], 4 + places[1]), dim=1)
    torch.testing.assert_close(cells_4, cells_16, atol=0.01, rtol=0)
    # Sixteen times the pixels, next to all of the logarithm, which is halved, over more than the cell itself.
    wide = slice(2, places[1])
    assert (pixels_16[:, wide] - pixels_4[:, wide])[..., 3, 4].min() > 0.9


def test_whether_an_axis_is_there_is_read_from_the_cell_itself_too() -> None:
    competition = AxisCompetition(4)
    noise = AXES.index("noise")
    with torch.no_grad():
        for parameter in competition.parameters():
            parameter.zero_()
        competition.read.weight[0, len(AXES) + noise] = 1.0
        competition.presence.weight[noise, 0] = 5.0
    maps = torch.zeros(1, len(AXES), 8, 64)
    maps[:, noise, :, 24:32] = 0.5
    cells = cells_of(maps, torch.ones(1, 1, 8, 64), of_nothing(2, 16))
    presence = competition(cells, torch.zeros(1, 4, 1, 8))[1][0, noise, 0]
    assert presence[3] > 2
    assert (presence[[2, 4]] == presence[0]).all() and presence[0] < 0


def test_statistics_count_where_the_pair_differs_whatever_their_sign() -> None:
    competition = AxisCompetition(4)
    blur = AXES.index("blur")
    with torch.no_grad():
        for parameter in competition.parameters():
            parameter.zero_()
        competition.measure.weight[0, 5] = 1.0  # the cell's own mean of the sixth odd one
        competition.meet.weight[1, COMPETITION_WIDTH] = 1.0  # what was measured follows what was read of the axes
        competition.factors.weight[blur, COMPETITION_WIDTH + 1] = 1.0
    maps, even = torch.zeros(1, len(AXES), 16, 16), torch.zeros(1, 4, 2, 2)
    odd, rest = of_nothing(4, 4)
    odd[0, 5, 0, 0] = -3.0
    weight = torch.full((1, 1, 16, 16), 1e-6)
    weight[..., :4, :4] = 1.0
    (told,), _ = competition(cells_of(maps, weight, (odd, rest)), even)
    (turned,), _ = competition(cells_of(maps, weight, (-odd, rest)), even)
    assert torch.equal(told, turned)
    assert told[blur, 0, 0] > 3 and told[blur, -1, -1] == 1
    (elsewhere,), _ = competition(cells_of(maps, weight.flip(3), (odd, rest)), even)
    assert elsewhere[blur, 0, 0] < 1.5


def test_dropout_takes_values_of_single_pairs() -> None:
    torch.manual_seed(0)
    competition = AxisCompetition(4)
    for head in (competition.factors, competition.presence):
        torch.nn.init.normal_(head.weight, std=0.1)
    maps, weight, even = torch.randn(2, len(AXES), 16, 16), torch.rand(2, 1, 16, 16) + 0.1, torch.randn(2, 4, 2, 2)
    statistics = torch.randn(2, ODD_CHANNELS, 4, 4), torch.rand(2, EVEN_CHANNELS, 4, 4)
    cells, gains = cells_of(maps, weight, statistics), torch.ones(2, 2, MEASURED_WIDTH, 2, 2)
    plain = competition(cells, even)
    for one, other in zip(competition(cells, even, gains), plain, strict=True):
        assert torch.equal(one, other)
    for layer in range(2):
        dropped = gains.clone()
        dropped[1, layer, ::2] = 0
        for one, other in zip(competition(cells, even, dropped), plain, strict=True):
            assert torch.equal(one[0], other[0])
            assert (one[1] != other[1]).float().mean() > 0.9


def test_the_likeliest_axis_keeps_its_map_and_those_far_below_it_go() -> None:
    logits = torch.full((1, len(AXES), 2, 2), -6.0)
    logits[:, 3] = -4.0
    gates = presence_gates(logits)
    assert gates.shape == logits.shape
    others = [index for index in range(len(AXES)) if index != 3]
    assert (gates[:, 3] > 0.98).all() and (gates[:, others] < 0.02).all()
    torch.testing.assert_close(presence_gates(logits + 4.5), gates)  # 0.5: still not sure
    sure = torch.full((1, len(AXES), 2, 2), -3.0)
    sure[:, 3], sure[:, 5] = 1.2, 7.0
    assert (presence_gates(sure)[:, [3, 5]] > 0.98).all()  # two that are there leave each other whole


def test_what_is_not_there_is_not_shown(predictor: DistortionPredictor, make_pair: PairMaker) -> None:
    a, b = make_pair(1, 48, 64)
    blur, noise = AXES.index("blur"), AXES.index("noise")
    torch.nn.init.zeros_(predictor.competition.presence.weight)
    before = predictor(a, b)
    predictor.competition.presence.bias[blur] = -3.0
    after = predictor(a, b)
    assert before[:, blur].abs().max() > 0
    assert after[:, blur].abs().max() < 1e-4 * before[:, blur].abs().max()
    assert torch.equal(after[:, noise], before[:, noise])


@pytest.mark.parametrize("weight", [-1e4, 1e4])
def test_no_factor_holds_down_or_lifts_without_bound(weight: float) -> None:
    competition = AxisCompetition(4)
    torch.nn.init.constant_(competition.factors.weight, weight)
    maps, even = torch.randn(1, len(AXES), 16, 16), torch.randn(1, 4, 2, 2)
    factors, _ = competition(cells_of(maps, torch.ones(1, 1, 16, 16), of_nothing(4, 4)), even)
    assert (factors.log().abs() <= LARGEST_LOG_FACTOR + 1e-5).all()
    assert (factors.log().abs() > LARGEST_LOG_FACTOR - 1e-2).any()


def test_no_cell_is_lifted_higher_than_severity_goes_and_any_is_held_down_freely() -> None:
    heights = torch.tensor([0.5, 2.0, 0.1, 0.0]).expand(1, len(AXES), 1, 4)
    shift, noise = AXES.index("shift_x"), AXES.index("noise")
    up, down = (bounded(torch.full_like(heights, factor), heights)[0] for factor in (4.0, 0.5))
    assert up[noise, 0].tolist() == pytest.approx([HIGHEST / 0.5, 1.0, 4.0, 4.0])
    assert up[shift, 0].tolist() == pytest.approx([4.0, 4.0, 4.0, 4.0])
    assert down.unique().tolist() == [0.5]


def test_a_cell_of_which_nothing_is_seen_says_nothing_beside_one_that_shows() -> None:
    cells = torch.tensor([1.0, 5.0, 3.0]).view(1, 1, 1, 3)
    seen = torch.tensor([0.9, 0.0, 0.0]).view(1, 1, 1, 3)
    plain, weighted = at_stride_2(cells)[0, 0, 0], at_stride_2(cells, seen)[0, 0, 0]
    assert weighted[:8].max() < 1.1 < plain[:8].max()
    assert weighted[8] < 1.2 and weighted[19] == pytest.approx(float(plain[19]))
    torch.testing.assert_close(at_stride_2(cells, torch.full_like(cells, 0.3))[0, 0, 0], plain)


@pytest.mark.parametrize("strength", [0.004, 0.02, 0.5])
def test_what_is_seen_is_what_places_weigh_by_in_training(make_pair: PairMaker, strength: float) -> None:
    reference = make_pair()[1]
    spoilt = reference.clone()
    noise = torch.randn(spoilt[..., 20:34, 8:40].shape, generator=torch.Generator().manual_seed(0))
    spoilt[..., 20:34, 8:40] += strength * noise
    wanted = torch.nn.functional.avg_pool2d(visibility(reference, spoilt)[:, None], 2)
    cells = torch.nn.functional.pixel_unshuffle(spoilt - reference, 2)
    off = (seen_at_stride_2(cells) - wanted).abs()
    # Less exact where a window of few pixels ends.
    assert off.mean() < 0.01 and off.amax() < 0.3
    assert seen_at_stride_2(cells - cells).count_nonzero() == 0


# --- the gate


@pytest.mark.parametrize("strength", [2 / 255, 0.4, -0.4], ids=["subtle", "bright", "dark"])
@pytest.mark.parametrize(("size", "centre"), PLACES, ids=str)
def test_a_defect_is_most_visible_inside_its_footprint(
    size: tuple[int, int], centre: tuple[int, int], strength: float
) -> None:
    y, x = peak(confining_gates(*with_defect(size, centre, strength))[:, 0])
    assert abs(y - centre[0]) <= 1
    assert abs(x - centre[1]) <= 1


def test_an_isolated_pixel_peaks_at_itself() -> None:
    a = torch.zeros(1, 3, 20, 20)
    b = a.clone()
    b[..., 7, 12] = 0.1
    assert peak(confining_gates(a, b)[:, 0]) == (7, 12)


def test_visibility_is_zero_exactly_where_a_5x5_neighbourhood_is_equal() -> None:
    a = torch.rand(1, 3, 32, 32)
    b = a.clone()
    b[..., 10, 20] += 0.1
    visible = confining_gates(a, b)[0] > 0
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[8:13, 18:23] = True
    assert torch.equal(visible, expected.expand(2, 32, 32))


def test_visibility_is_even_and_between_zero_and_two(make_pair: PairMaker) -> None:
    a, b = make_pair()
    visible = confining_gates(a, b)
    assert visible.shape == (2, 2, 48, 64)
    assert torch.equal(visible, confining_gates(b, a))
    assert (visible >= 0).all()
    assert (visible < torch.tensor([2.0, 1.0]).view(1, 2, 1, 1)).all()


def test_an_even_difference_of_the_visible_step_counts_two_thirds_and_a_half() -> None:
    a = torch.full((1, 3, 16, 16), 0.5, dtype=torch.float64)
    expected = torch.tensor([2 / 3, 1 / 2], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    torch.testing.assert_close(confining_gates(a, a + VISIBLE_STEP), expected)


# --- the maps


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (50, 70), (32, 96)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_swap_negates_the_maps_bit_for_bit(
    predictor: DistortionPredictor, make_pair: PairMaker, size: tuple[int, int], dtype: torch.dtype
) -> None:
    predictor.to(dtype)
    a, b = make_pair(2, *size, dtype=dtype)
    maps = predictor(a, b)
    assert maps.shape == (2, len(AXES), *size)
    assert torch.equal(maps, -predictor(b, a))
    assert maps.abs().max() > 0
    assert (predictor(a, a.clone()) == 0).all()


@pytest.mark.parametrize(("size", "centre"), PLACES, ids=str)
def test_maps_are_confined_to_the_surroundings_of_a_defect(
    predictor: DistortionPredictor, size: tuple[int, int], centre: tuple[int, int]
) -> None:
    strength = predictor(*with_defect(size, centre, 0.4)).abs().sum(dim=1)[0]
    rows, columns = strength.nonzero().unbind(dim=1)
    assert len(rows) > 0
    assert (rows - centre[0]).abs().max() <= 3
    assert (columns - centre[1]).abs().max() <= 3


@pytest.mark.parametrize("strength", [3 / 255, 0.4], ids=["faint", "strong"])
@pytest.mark.parametrize(("size", "centre"), PLACES, ids=str)
def test_learned_maps_peak_inside_the_footprint_of_a_defect(
    loss_fn: RelationalLoss, size: tuple[int, int], centre: tuple[int, int], strength: float
) -> None:
    y, x = peak(loss_fn.relate(*with_defect(size, centre, strength)).maps.abs().sum(dim=1))
    assert abs(y - centre[0]) <= 1
    assert abs(x - centre[1]) <= 1


def test_maps_move_with_the_picture(predictor: DistortionPredictor, make_pair: PairMaker) -> None:
    # By the coarsest stride, so that the cells fall on the same pixels; compared where neither border reaches.
    a, b = make_pair(1, 576, 576)
    here = predictor(a, b)[..., 280:296, 280:296]
    there = predictor(a.roll((16, -16), (2, 3)), b.roll((16, -16), (2, 3)))[..., 296:312, 264:280]
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-6)


def test_a_picture_cut_out_of_a_larger_one_has_the_same_maps_away_from_the_cut(
    predictor: DistortionPredictor, make_pair: PairMaker
) -> None:
    a, b = make_pair(1, 64, 640)
    whole = predictor(a, b)[..., 240:272]
    part = predictor(a[..., :544], b[..., :544])[..., 240:272]
    torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-6)


def test_wrong_input_is_named(predictor: DistortionPredictor) -> None:
    good = torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match="b must be at least 16x16"):
        predictor(good, torch.rand(1, 3, 15, 16))
    with pytest.raises(TypeError, match="a must be float16"):
        predictor((good * 255).to(torch.uint8), good)


def test_config_builds_the_same_network() -> None:
    predictor = DistortionPredictor((4, 6, 8, 10), (5, 6, 7, 8), (3, 4, 5))
    twin = DistortionPredictor(**predictor.config)
    twin.load_state_dict(predictor.state_dict())
    a, b = torch.rand(2, 1, 3, 32, 32)
    assert torch.equal(twin(a, b), predictor(a, b))


def test_shipped_networks_are_small(loss_fn: RelationalLoss) -> None:
    assert sum(parameter.numel() for parameter in loss_fn.parameters()) <= 4_000_000


def test_half_and_mixed_inputs_are_promoted(predictor: DistortionPredictor, make_pair: PairMaker) -> None:
    a, b = make_pair()
    expected = predictor(a.half().float(), b)
    assert torch.equal(predictor(a.half(), b), expected)
