"""What is special to the operators of the processing, geometry and loss families."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from relqa_loss.distortions import filters
from relqa_loss.distortions.bank import by_name
from relqa_loss.distortions.draws import Streams
from relqa_loss.distortions.warp import warp

CELLS = ("missing_blocks", "line_dropout", "copied_patch", "colour_blocks", "pattern_patches", "local_swap")
WARPS = ("rotation", "zoom", "barrel")
DRAWING = (*CELLS, "block_intensity", "denoised", "jitter", "mosquito_noise", *WARPS)
SIZES = [(16, 16), (17, 50), (61, 33)]


def scene(batch: int = 1, height: int = 96, width: int = 96) -> Tensor:
    """Smooth colour under fine texture, with a disc."""
    g = torch.Generator().manual_seed(3)
    soft = torch.nn.functional.interpolate(torch.rand(batch, 3, 4, 4, generator=g), (height, width), mode="bilinear")
    y = torch.linspace(-1, 1, height).view(1, 1, height, 1)
    x = torch.linspace(-1, 1, width).view(1, 1, 1, width)
    disc = ((x * x + y * y) < 0.3).float() * 0.3
    return (0.2 + 0.4 * soft + disc + 0.04 * torch.randn(batch, 1, height, width, generator=g)).clamp(0, 1)


def step_edge(height: int = 64, width: int = 64) -> Tensor:
    """Dark on the left, light on the right."""
    image = torch.full((1, 3, height, width), 0.3)
    image[..., width // 2 :] = 0.7
    return image


def act(name: str, images: Tensor, parameter: float, seed: int = 0) -> Tensor:
    operator = by_name(name)
    generator = torch.Generator().manual_seed(seed)
    amount = torch.full((images.shape[0],), parameter)
    if operator.flow is not None:
        return operator.flow(images, amount, generator)
    assert operator.apply is not None
    return operator.apply(images, amount, generator)


def roughness(images: Tensor) -> float:
    return (images[..., 1:] - images[..., :-1]).abs().mean().item()


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("size", SIZES)
def test_weakest_damage_is_a_speck_and_always_there(name: str, size: tuple[int, int]) -> None:
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    weakest = by_name(name).span[0]
    for seed in range(20):
        hit = (act(name, images, weakest, seed) != images).any(1)
        assert hit.any(), seed
        assert hit.float().mean() < 0.05


@pytest.mark.parametrize("name", CELLS)
def test_damage_only_adds_up(name: str) -> None:
    images = torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    low, high = by_name(name).span
    before = torch.zeros(1, 64, 80, dtype=torch.bool)
    for step in range(12):
        damaged = act(name, images, low * (high / low) ** (step / 11))
        hit = (damaged != images).any(1)
        assert not (before & ~hit).any()
        before = hit
    assert 0.1 < before.float().mean() < 0.9


@pytest.mark.parametrize("name", ["missing_blocks", "line_dropout", "copied_patch"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.2])
def test_share_is_the_share_of_the_picture(name: str, share: float) -> None:
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    hit = (act(name, images, share) != images).any(1).float().mean().item()
    assert hit == pytest.approx(share, rel=0.15)


def test_lines_are_lost_as_runs_of_rows() -> None:
    images = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(1))
    for share in (0.01, 0.125):
        rows = (act("line_dropout", images, share) != images).any(1)[0].sum(1)
        assert (rows == 50).sum() == int(share * 40)
        assert ((rows > 0) & (rows < 50)).sum() <= 1


def test_swapped_blocks_keep_every_pixel() -> None:
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    swapped = act("local_swap", images, 1.0)
    assert torch.equal(swapped.flatten(2).sort(dim=2).values, images.flatten(2).sort(dim=2).values)
    assert (swapped != images).any(1).all()


def test_patterns_come_from_nearby() -> None:
    place = torch.stack(torch.meshgrid(torch.arange(75.0), torch.arange(90.0), indexing="ij")) / 90
    images = torch.cat((place, place[:1]))[None]
    moved = (act("pattern_patches", images, 1.0) - images)[0, :2, 15:-15, 15:-15] * 90
    distance = moved.square().sum(0).sqrt()
    assert distance.min() >= 3
    assert distance.max() <= 11
    assert len(distance.round(decimals=2).unique()) > 3


def test_colour_blocks_differ_in_colour_and_let_some_picture_through() -> None:
    images = scene(1, 128, 128)
    covered = act("colour_blocks", images, 0.4)
    change = covered - images
    hit = (change != 0).any(1)[0]
    hues = covered[0][:, hit].sub(covered[0][:, hit].mean(0)).std(1)
    assert hues.min() > 0.05
    kept = torch.corrcoef(torch.stack(((covered - change)[0][:, hit].mean(0), covered[0][:, hit].mean(0))))[0, 1]
    assert 0.02 < kept < 0.98


def test_block_intensity_offsets_whole_blocks_both_ways() -> None:
    images = torch.full((1, 3, 128, 128), 0.5)
    change = act("block_intensity", images, 0.2)[0, 0] - 0.5
    cells = change.view(16, 8, 16, 8).transpose(1, 2).flatten(2)
    assert (cells == cells[..., :1]).all()
    levels = cells[..., 0]
    assert 0.2 < (levels != 0).float().mean() < 0.4
    assert levels.max() > 0.06
    assert levels.min() < -0.06
    assert levels.abs().max() <= 0.2 + 1e-6


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("size", [(16, 16), (40, 61)])
def test_reach_is_the_displacement_of_the_corners(name: str, size: tuple[int, int]) -> None:
    images = scene(1, *size)
    # 16x16 corners lie 10.6 pixels from the centre: 8 pixels would fold the picture.
    wanted = {(16, 16): {8.0: 2.86557}, (40, 61): {8.0: 7.1335}}[size]
    for parameter in by_name(name).span:
        length = act(name, images, parameter).square().sum(1).sqrt()
        reach = wanted.get(parameter, parameter)
        for corner in (length[0, 0, 0], length[0, 0, -1], length[0, -1, 0], length[0, -1, -1]):
            assert corner.item() == pytest.approx(reach, rel=1e-4)
        assert length.max().item() == pytest.approx(reach, rel=1e-4)
        assert length[0, size[0] // 2, size[1] // 2] < 0.1 * reach + 0.2


@pytest.mark.parametrize("name", WARPS)
def test_both_directions_occur(name: str) -> None:
    flows = [act(name, scene(1, 24, 24), 4.0, seed) for seed in range(12)]
    signs = {bool(flow[0, 1, 0, 0] > 0) for flow in flows}
    assert signs == {True, False}


def test_rotation_keeps_lengths_and_zoom_keeps_directions() -> None:
    images = scene(1, 41, 51)
    y, x = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(51.0) - 25, indexing="ij")
    turn, scale = (act(name, images, 6.0, seed=1) for name in ("rotation", "zoom"))
    start = torch.hypot(x - turn[0, 0], y - turn[0, 1])
    torch.testing.assert_close(start, torch.hypot(x, y), atol=1e-4, rtol=0)
    torch.testing.assert_close(x * scale[0, 1], y * scale[0, 0], atol=1e-3, rtol=0)


def test_barrel_bends_lines_more_outside() -> None:
    flow = act("barrel", scene(1, 65, 65), 8.0)[0]
    along = flow[0, 32, 33:].abs()  # outwards from the centre
    growth = along[1:] - along[:-1]
    assert (growth[1:] > growth[:-1]).all()


@pytest.mark.parametrize("name", WARPS)
def test_content_follows_the_displacement(name: str) -> None:
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    images = torch.stack((x, y, x + y))[None] / 112
    flow = act(name, images, 3.0)
    moved = warp(images, flow)
    expected = torch.stack((x - flow[0, 0], y - flow[0, 1]))[None] / 112
    torch.testing.assert_close(moved[..., 8:-8, 8:-8][:, :2], expected[..., 8:-8, 8:-8], atol=1e-3, rtol=0)


def test_denoised_melts_texture_and_leaves_less_noise_than_it_was_given() -> None:
    flat = torch.full((1, 3, 96, 96), 0.5)
    left = act("denoised", flat, 0.1) - flat
    assert 0.0005 < left.std() < 0.04
    images = scene()
    smooth = act("denoised", images, 0.1)
    assert roughness(smooth) < 0.6 * roughness(images)


def test_dct_threshold_of_nothing_gives_the_picture_back() -> None:
    images = scene(1, 50, 37)
    torch.testing.assert_close(filters.luma(act("denoised", images, 1e-6)), filters.luma(images), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["bilateral_smear", "smooth_smear"])
def test_edge_preserving_smears_melt_texture_not_edges(name: str) -> None:
    texture = 0.02 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    images = step_edge() + texture
    smeared = act(name, images, 0.1)
    inside = (..., slice(12, 20), slice(8, 20))
    assert smeared[inside].std() < 0.4 * images[inside].std()
    across = smeared[..., 32] - smeared[..., 31]
    assert across.mean() > 0.25


def test_bilateral_filter_leaves_what_differs_by_more_than_the_tolerance() -> None:
    images = step_edge()
    torch.testing.assert_close(act("bilateral_smear", images, 0.3), images)
    assert roughness(act("bilateral_smear", images, 3.0)[..., 28:36]) < 0.8 * roughness(images[..., 28:36])


def test_local_tone_map_makes_halos_and_keeps_colour_differences() -> None:
    images = step_edge(64, 96)
    mapped = act("local_tone_map", images, 0.5)
    row = mapped[0, 0, 32]
    assert row[47] < row[24] - 0.03
    assert row[48] > row[72] + 0.03
    images = 0.4 + 0.2 * scene()
    change = act("local_tone_map", images, 0.2) - images
    torch.testing.assert_close(change[:, 0], change[:, 2], atol=1e-5, rtol=0)


def test_jitter_frays_edges_and_leaves_flat_areas() -> None:
    images = step_edge()
    moved = act("jitter", images, 1.0)
    assert torch.allclose(moved[..., :24], images[..., :24])
    near = moved[0, 0, :, 30:34]
    assert near.std(0).min() > 0.02


def test_mosquitoes_keep_to_edges() -> None:
    change = (act("mosquito_noise", step_edge(), 0.5) - step_edge()).abs()
    assert change[..., :16].max() < 1e-3
    assert change[..., 28:36].mean() > 0.01


@pytest.mark.parametrize("name", DRAWING)
def test_an_image_has_its_own_stream(name: str) -> None:
    operator = by_name(name)
    function = operator.apply or operator.flow
    assert function is not None
    images = scene(3, 40, 48)
    parameter = operator.parameter_at(torch.tensor([0.4, 0.9, 0.6]))
    device = torch.device("cpu")
    together = function(images, parameter, Streams([5, 6, 7], device))
    for k in range(3):
        alone = function(images[k : k + 1], parameter[k : k + 1], Streams([5 + k], device))
        torch.testing.assert_close(together[k : k + 1], alone, atol=1e-5, rtol=0)
