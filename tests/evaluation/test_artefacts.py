import pytest
import torch

from relqa_loss.evaluation.artefacts import checkerboard, grain

STEP = 1 / 255
SIDE = 96


def pattern(kind):
    sign = 1 - 2 * (torch.arange(SIDE) % 2).float()
    flat = torch.ones(SIDE)
    rows, columns = {"x": (flat, sign), "y": (sign, flat), "both": (sign, sign)}[kind]
    return torch.outer(rows, columns)


def noise(seed=0):
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def reference(make_photos):
    return make_photos(2, SIDE, SIDE)


@pytest.mark.parametrize("kind", ["x", "y", "both"])
def test_a_checkerboard_of_three_steps_is_one_of_three_steps(reference, kind):
    found = checkerboard(reference + 3 * STEP * pattern(kind), reference)
    assert found.steps.tolist() == pytest.approx([3, 3], rel=0.01)
    assert (found.relative > 15).all()


def test_white_noise_is_one_and_smooth_residuals_are_nothing(reference):
    assert checkerboard(reference + 5 * STEP * noise(), reference).relative.tolist() == pytest.approx([1, 1], abs=0.1)
    slope = torch.linspace(-0.1, 0.1, SIDE)
    for residual in (torch.zeros(SIDE), slope, slope[:, None], 0.1 * torch.cos(20 * slope)):
        found = checkerboard(reference + residual, reference)
        assert (found.relative < 0.01).all() and (found.steps < 0.05).all()
    # Once a cast is taken off, nothing but rounding is left.
    assert (checkerboard(reference + 0.1, reference).steps < 1e-4).all()


def test_a_checkerboard_shows_beside_noise_and_whatever_its_phase(reference):
    quiet = checkerboard(reference + 5 * STEP * noise(), reference)
    turned = pattern("both") * torch.where(torch.arange(SIDE) < SIDE // 2, 1.0, -1.0)
    for board in (pattern("both"), turned):
        found = checkerboard(reference + STEP * (5 * noise() + 3 * board), reference)
        assert (found.relative > 4 * quiet.relative).all() and (found.steps > 2 * quiet.steps).all()


def test_grain_of_white_noise_is_its_deviation_and_nothing_that_is_smooth_counts(reference):
    assert grain(reference + 5 * STEP * noise(), reference).tolist() == pytest.approx([5, 5], rel=0.05)
    slope = torch.linspace(-0.1, 0.1, SIDE)
    assert grain(reference, reference).tolist() == [0, 0]
    for residual in (slope, torch.tensor(0.1)):
        assert (grain(reference + residual, reference) < 0.01).all()


def test_grain_is_looked_for_where_the_reference_is_flat():
    busy = torch.zeros(1, 3, SIDE, SIDE)
    busy[..., SIDE // 2 :] = 0.5 + 0.2 * noise()[:1, :, :, SIDE // 2 :]
    left, right = (torch.zeros(SIDE), torch.zeros(SIDE))
    left[: SIDE // 2 - 8], right[SIDE // 2 + 8 :] = 1, 1
    residual = 5 * STEP * noise(1)[:1]
    assert float(grain(busy + residual * right, busy)) < 0.01
    assert float(grain(busy + residual * left, busy)) > 4


def test_each_picture_is_measured_alone(reference):
    distorted = reference + STEP * (noise() + torch.tensor([0.0, 4.0])[:, None, None, None] * pattern("x"))
    for measure in (grain, lambda a, b: checkerboard(a, b).relative, lambda a, b: checkerboard(a, b).steps):
        alone = torch.cat([measure(distorted[k : k + 1], reference[k : k + 1]) for k in range(2)])
        torch.testing.assert_close(measure(distorted, reference), alone)
        assert alone[1] > alone[0]


@pytest.mark.parametrize("measure", [grain, checkerboard])
def test_the_smallest_and_odd_sizes_work_and_unequal_ones_are_named(measure, make_photos):
    for height, width in ((16, 16), (17, 35)):
        image = make_photos(1, height, width)
        assert all(torch.isfinite(value) for value in measure(image + 0.01, image))
    with pytest.raises(ValueError, match="pred and ref must have one shape"):
        measure(image, image[..., 1:])
