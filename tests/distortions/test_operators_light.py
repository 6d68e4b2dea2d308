"""What the operators of optics, sensor and tone are, one by one; and the filters they stand on."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from relqa_loss.distortions import draws, filters
from relqa_loss.distortions.bank import BANK, by_name
from relqa_loss.distortions.draws import Streams
from relqa_loss.distortions.record import Distortion
from relqa_loss.distortions.warp import warp

LIGHT = [one for one in BANK if one.family in ("optics", "sensor", "tone")]
NOISES = ("rgb_noise", "speckle_noise", "correlated_noise", "masked_noise", "high_frequency_noise", "prnu")


def scene(batch: int = 1, height: int = 64, width: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    """Soft colours with a bright disk, well inside the range."""
    g = torch.Generator().manual_seed(3)
    soft = torch.nn.functional.interpolate(torch.rand(batch, 3, 4, 4, generator=g), (height, width), mode="bicubic")
    y = torch.linspace(-1, 1, height).view(1, 1, height, 1)
    x = torch.linspace(-1, 1, width).view(1, 1, 1, width)
    disk = ((x + 0.3) ** 2 + (y - 0.2) ** 2 < 0.15).float()
    return (0.2 + 0.35 * soft + 0.25 * disk).clamp(0.05, 0.9).to(dtype)


def apply(name: str, images: Tensor, parameter: float, seed: int = 0) -> Tensor:
    operator = by_name(name)
    assert operator.apply is not None
    column = torch.full((images.shape[0],), parameter)
    return operator.apply(images, column, torch.Generator().manual_seed(seed))


def end_of(name: str) -> float:
    return by_name(name).span[1]


def spectrum(plane: Tensor) -> tuple[float, float]:
    """Power of (H, W) below and above a quarter of the sampling rate."""
    power = torch.fft.fft2(plane - plane.mean()).abs().square()
    fy = torch.fft.fftfreq(plane.shape[0]).view(-1, 1)
    fx = torch.fft.fftfreq(plane.shape[1]).view(1, -1)
    low = (fy * fy + fx * fx).sqrt() < 0.25
    return power[low].mean().item(), power[~low].mean().item()


@pytest.mark.parametrize("operator", LIGHT, ids=lambda one: one.name)
def test_every_record_names_its_source(operator: Distortion) -> None:
    assert len(operator.source) > 20


@pytest.mark.parametrize("operator", [one for one in LIGHT if one.profile is not None], ids=lambda one: one.name)
def test_profiles_are_patterns_of_declared_axes(operator: Distortion) -> None:
    assert operator.profile is not None
    before = torch.cat((scene(2), torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)))
    pattern = operator.profile(before, apply(operator.name, before, end_of(operator.name)))
    assert set(pattern) <= set(operator.effects)
    assert pattern
    for axis, values in pattern.items():
        assert values.shape == (4, 64, 64), axis
        assert values.isfinite().all()
        assert values.abs().max() <= 1 + 1e-5
        assert values[0].abs().max() > 0.3, axis
        assert (values[0].max() - values[0].min()) > 0.2, axis


@pytest.mark.parametrize("name", NOISES)
def test_noise_is_one_draw_at_every_strength(name: str) -> None:
    images = 0.4 + 0.2 * scene()
    images = images + 0.03 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    low = by_name(name).span[0]
    weak, strong = apply(name, images, low) - images, apply(name, images, 2 * low) - images
    together = torch.stack((weak.flatten(), strong.flatten()))
    assert torch.corrcoef(together)[0, 1] > 0.99
    assert strong.std() > 1.8 * weak.std()


def test_rgb_noise_is_independent_in_the_channels() -> None:
    images = torch.full((1, 3, 128, 128), 0.5)
    change = (apply("rgb_noise", images, 0.1) - images)[0].flatten(1)
    assert change.std().item() == pytest.approx(0.1, rel=0.03)
    assert (torch.corrcoef(change) - torch.eye(3)).abs().max() < 0.03


def test_speckle_grows_with_the_value_and_spares_black() -> None:
    images = torch.zeros(1, 3, 64, 96)
    images[..., 32:64], images[..., 64:] = 0.25, 0.5
    deviation = (apply("speckle_noise", images, 0.1) - images).unflatten(-1, (3, 32)).std((0, 1, 2, 4))
    assert deviation[0] == 0
    torch.testing.assert_close(deviation[1:], torch.tensor([0.025, 0.05]), rtol=0.05, atol=0)


def test_spectra_of_the_noises_differ_as_their_names_say() -> None:
    images = torch.full((1, 3, 128, 128), 0.5)
    low, high = spectrum((apply("correlated_noise", images, 0.05) - images)[0, 0])
    assert low > 100 * high
    low, high = spectrum((apply("high_frequency_noise", images, 0.05) - images)[0, 0])
    assert high > 3 * low
    low, high = spectrum((apply("rgb_noise", images, 0.05) - images)[0, 0])
    assert high == pytest.approx(low, rel=0.15)


def test_masked_noise_falls_on_texture_only() -> None:
    images = torch.full((1, 3, 64, 128), 0.5)
    images[..., 64:] += 0.2 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    change = (apply("masked_noise", images.clamp(0, 1), 0.3) - images.clamp(0, 1)).abs()
    assert change[..., :50].max() < 1e-9
    assert change[..., 72:].mean() > 0.1


def test_prnu_is_a_gain_with_columns() -> None:
    images = torch.full((1, 3, 256, 64), 0.5)
    gain = filters.to_linear(apply("prnu", images, 0.1)) / filters.to_linear(images)
    assert gain[0, 0].std().item() == pytest.approx(0.1 * math.hypot(1, 0.35), rel=0.05)
    assert gain[0, 0].mean(0).std() > 2 * gain[0, 0].mean(1).std()
    torch.testing.assert_close(apply("prnu", torch.zeros(1, 3, 16, 16), 1.0), torch.zeros(1, 3, 16, 16))


def test_demosaicing_at_pitch_one_keeps_what_each_photosite_saw() -> None:
    images = scene(dtype=torch.float64)
    result = apply("demosaicing", images, 1.0)

    def close(one: Tensor, other: Tensor) -> None:
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)

    close(result[:, 0, ::2, ::2], images[:, 0, ::2, ::2])
    close(result[:, 2, 1::2, 1::2], images[:, 2, 1::2, 1::2])
    close(result[:, 1, ::2, 1::2], images[:, 1, ::2, 1::2])
    close(result[:, 1, 1::2, ::2], images[:, 1, 1::2, ::2])
    # the standard bilinear formulas at a red site
    green = (images[:, 1, 9, 10] + images[:, 1, 11, 10] + images[:, 1, 10, 9] + images[:, 1, 10, 11]) / 4
    blue = (images[:, 2, 9, 9] + images[:, 2, 9, 11] + images[:, 2, 11, 9] + images[:, 2, 11, 11]) / 4
    close(result[:, 1, 10, 10], green)
    close(result[:, 2, 10, 10], blue)


def test_demosaicing_leaves_flat_pictures_and_colours_edges() -> None:
    flat = torch.tensor([0.2, 0.5, 0.7]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    torch.testing.assert_close(apply("demosaicing", flat, 2.6), flat)
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 17:] = 1
    result = apply("demosaicing", edge, 1.0)
    assert (result[:, 0] - result[:, 2]).abs().max() > 0.3


def test_exposure_clips_highlights_and_doubles_light() -> None:
    images = scene(dtype=torch.float64)
    result = apply("clipping", images, 1.0)
    light = 2 * filters.to_linear(images)
    torch.testing.assert_close(filters.to_linear(result), light.clamp(max=1))
    assert (apply("clipping", images, end_of("clipping")) > 0.9999).float().mean() > 0.02


def test_white_balance_keeps_the_luminance_of_grey() -> None:
    grey = torch.full((1, 3, 8, 8), 0.4, dtype=torch.float64)
    weights = torch.tensor((0.2126, 0.7152, 0.0722), dtype=torch.float64).view(1, 3, 1, 1)
    before = (filters.to_linear(grey) * weights).sum(1)
    for name, sign in (("warm", 1), ("cool", -1)):
        result = apply(name, grey, end_of(name) / 2)
        torch.testing.assert_close((filters.to_linear(result) * weights).sum(1), before)
        assert ((result[:, 0] - result[:, 2]) * sign > 0.1).all()


def test_hue_turns_chroma_and_keeps_luma_and_grey() -> None:
    images = 0.4 + 0.2 * scene(dtype=torch.float64)
    y, chroma = filters.split_chroma(images)
    opposite, turned = filters.split_chroma(apply("hue", images, 180.0))
    torch.testing.assert_close(opposite, y)
    torch.testing.assert_close(turned, -chroma)
    torch.testing.assert_close(apply("hue", apply("hue", images, 120.0), 240.0), images)
    grey = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(apply("hue", grey, 90.0), grey)


def test_hue_profile_points_where_the_colour_went() -> None:
    images = torch.tensor([0.7, 0.3, 0.3]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    hue = by_name("hue")
    assert hue.profile is not None
    pattern = hue.profile(images, apply("hue", images, 180.0))
    assert (pattern["tint_red"] < -0.5).all()
    both = pattern["tint_red"].square() + pattern["tint_blue"].square()
    assert both.min() > 0.95
    same = hue.profile(images, images)
    assert max(values.abs().max() for values in same.values()) == 0


def test_dither_keeps_the_mean_black_and_white_and_uses_few_values() -> None:
    ramp = torch.linspace(0, 1, 128).view(1, 1, 1, 128).expand(1, 3, 128, 128)
    result = apply("dither", ramp, 4.0)
    assert len(result.unique()) == 4
    coarse = torch.nn.functional.avg_pool2d(result - ramp, 32)
    assert coarse.abs().max() < 0.03
    assert coarse.mean().abs() < 0.003
    for value in (0.0, 1.0):
        flat = torch.full((1, 3, 32, 32), value)
        assert torch.equal(apply("dither", flat, 5.7), flat)


def test_palette_is_small_and_its_error_grows() -> None:
    images = scene(2) + 0.02 * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images = images.clamp(0, 1)
    result = apply("palette", images, 2.0)
    assert len(result[0].flatten(1).unique(dim=1).T) <= 4 * 2 * 2
    torch.testing.assert_close(result.mean((2, 3)), images.mean((2, 3)), atol=1e-4, rtol=0)
    errors = [(apply("palette", images, bits) - images).square().mean().item() for bits in (4.8, 4.0, 3.3, 2.5, 1.8)]
    assert errors == sorted(errors)


@pytest.mark.parametrize("name", ["posterize", "contour_banding"])
def test_rounding_is_nested(name: str) -> None:
    images = scene(dtype=torch.float64)
    operator = by_name(name)
    errors = []
    for step in range(9):
        changed = apply(name, images, float(operator.parameter_at(torch.tensor(step / 8, dtype=torch.float64))))
        errors.append((changed - images).square().mean().item())
    assert errors[-1] > 50 * errors[0]
    assert sum(later < earlier for earlier, later in pairwise(errors)) <= 1


def test_halation_glows_red_beside_highlights_only() -> None:
    images = torch.full((1, 3, 96, 96), 0.1)
    images[..., 40:56, 40:56] = 1
    change = (apply("halation", images, 1.0) - images)[0]
    assert change[0, 48, 60] > 2 * change[1, 48, 60] > 4 * change[2, 48, 60] > 0
    assert change[:, :5, :5].abs().max() < 2e-3


def test_vignetting_profile_is_dark_in_the_corners() -> None:
    images = scene(height=96, width=96)
    vignetting = by_name("vignetting")
    assert vignetting.profile is not None
    for tangent in (0.4, 2.0):
        fall = vignetting.profile(images, apply("vignetting", images, tangent))["brightness"][0]
        corners = torch.stack((fall[0, 0], fall[0, -1], fall[-1, 0], fall[-1, -1]))
        assert corners.min() > 0.8
        assert fall[48, 48] < 0.1


def direct_gaussian(plane: Tensor, sigma: float) -> Tensor:
    """Value of a mirrored Gaussian at every pixel of (H, W), straight from the definition."""
    radius = math.ceil(3 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=plane.dtype) / sigma) ** 2)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    padded = torch.nn.functional.pad(plane[None, None], (radius,) * 4, mode="reflect")
    return torch.nn.functional.conv2d(padded, kernel[None, None])[0, 0]


def test_gaussian_blur_is_the_gaussian_of_each_image() -> None:
    images = torch.rand(3, 2, 40, 33, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = torch.tensor([0.6, 1.7, 4.0])
    result = filters.gaussian_blur(images, sigma)
    for k, one in enumerate(sigma.tolist()):
        torch.testing.assert_close(result[k, 1], direct_gaussian(images[k, 1], one))
        assert torch.equal(result[k : k + 1], filters.gaussian_blur(images[k : k + 1], sigma[k : k + 1]))


def test_box_mean_is_a_mean() -> None:
    images = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(images, (3,) * 4, mode="reflect"), 7, stride=1)
    torch.testing.assert_close(filters.box_mean(images, 3), expected)


@pytest.mark.parametrize("size", [(31, 37), (64, 64)])
def test_spectral_filter_is_the_convolution(size: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *size, generator=g, dtype=torch.float64)
    kernels = torch.rand(2, 9, 9, generator=g, dtype=torch.float64)
    kernels = kernels + kernels.flip(1, 2)
    padded = torch.nn.functional.pad(images, (4,) * 4, mode="reflect")
    for k in range(2):
        expected = torch.nn.functional.conv2d(padded[k][:, None], kernels[k][None, None])[:, 0]
        torch.testing.assert_close(filters.spectral_filter(images, kernels)[k], expected)


def test_warp_rests_bitwise_and_takes_a_broadcast_flow() -> None:
    images = scene(2, 24, 30)
    flow = torch.zeros(2, 2, 24, 30)
    flow[:, 0, 5:9] = 1.5
    moved = warp(images, flow)
    assert torch.equal(moved[..., :5, :], images[..., :5, :])
    assert not torch.equal(moved[..., 5:9, :], images[..., 5:9, :])


@pytest.mark.parametrize("operator", LIGHT, ids=lambda one: one.name)
def test_no_image_feels_its_batch_mates(operator: Distortion) -> None:
    assert operator.apply is not None
    images = scene(3, 40, 36)
    parameter = operator.parameter_at(torch.tensor([0.1, 0.9, 0.5]))
    together = operator.apply(images, parameter, Streams((4, 5, 6), images.device))
    for k, seed in enumerate((4, 5, 6)):
        alone = operator.apply(images[k : k + 1], parameter[k : k + 1], Streams((seed,), images.device))
        torch.testing.assert_close(together[k : k + 1], alone, atol=2e-6, rtol=0)


@pytest.mark.parametrize("operator", LIGHT, ids=lambda one: one.name)
def test_nothing_is_read_from_the_device_of_the_images(operator: Distortion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the meta device have no values: reading one raises where reading an accelerator would wait."""

    def draw(function: object, shape: tuple[int, ...], randomness: object) -> Tensor:
        return torch.empty(shape, device="meta")

    monkeypatch.setattr(draws, "_draw", draw)
    images = torch.empty(2, 3, 40, 36, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        images.max().item()
    assert operator.apply is not None
    result = operator.apply(images, operator.parameter_at(torch.tensor([0.1, 0.9])), torch.Generator())
    assert result.shape == images.shape
    assert result.device.type == "meta"
    if operator.profile is not None:
        for pattern in operator.profile(images, result).values():
            assert pattern.shape == (2, 40, 36)
