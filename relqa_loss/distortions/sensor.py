"""Faults of the sensor: grain, speckle, rows and columns, hot and flipped pixels, and the colour mosaic."""

from __future__ import annotations

import torch
from torch import Tensor

from . import filters
from .draws import Randomness
from .record import Distortion


def luma_noise(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """White Gaussian noise, equal in the three channels; sigma in units of the full range."""
    batch, _, height, width = images.shape
    draw = filters.normal((batch, 1, height, width), images, generator)
    return (images + filters.column(sigma, images) * draw).clamp(0, 1)


_READ_SHARE = 0.1


def shot_noise(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """Photon and read noise, independent per channel in linear light; sigma = deviation of a white pixel.

    The Poisson-Gaussian model in its heteroscedastic normal form: variance = a * light + b, with a = sigma^2 and
    sqrt(b) = 0.1 sigma (Foi et al., "Practical Poissonian-Gaussian noise modeling", 2008, for the form).
    """
    light = filters.to_linear(images)
    deviation = filters.column(sigma, images) * torch.sqrt(light + _READ_SHARE**2)
    return filters.to_encoded(light + deviation * filters.normal(tuple(images.shape), images, generator))


def _grain(shape: tuple[int, ...], images: Tensor, generator: Randomness, size: float) -> Tensor:
    """Correlated noise of unit deviation: white noise through a Gaussian of ``size`` pixels."""
    draw = filters.fixed_gaussian(filters.normal(shape, images, generator), size)
    return draw / draw.std((2, 3), keepdim=True)


def chroma_noise(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """Colour speckle of about two pixels at constant luma; sigma of B - Y and R - Y in units of the full range."""
    batch, _, height, width = images.shape
    y, chroma = filters.split_chroma(images)
    draw = _grain((batch, 2, height, width), images, generator, 0.8)
    return filters.join_chroma(y, chroma + filters.column(sigma, images) * draw).clamp(0, 1)


def film_grain(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """Soft luminance grain, strongest in the midtones; sigma at mid grey in units of the full range."""
    batch, _, height, width = images.shape
    y = filters.luma(images)
    midtone = 0.3 + 0.7 * (4 * y * (1 - y))
    draw = _grain((batch, 1, height, width), images, generator, 1.0)
    return (images + filters.column(sigma, images) * midtone * draw).clamp(0, 1)


def row_noise(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """One Gaussian offset for each row, as from unequal read-out amplifiers; sigma in units of the full range."""
    draw = filters.normal((images.shape[0], 1, images.shape[2], 1), images, generator)
    return (images + filters.column(sigma, images) * draw).clamp(0, 1)


def _struck(images: Tensor, share: Tensor, generator: Randomness) -> Tensor:
    """Mask (B, 1, H, W) of ``share`` of the pixels, nested in it; at least one of each picture."""
    draw = filters.uniform((images.shape[0], 1, *images.shape[-2:]), images, generator)
    return (draw < filters.column(share, images)) | (draw == draw.amin((2, 3), keepdim=True))


def hot_pixels(images: Tensor, share: Tensor, generator: Randomness) -> Tensor:
    """Pixels stuck at a saturated colour (one or two channels full, the rest empty); share of all pixels."""
    batch, _, height, width = images.shape
    struck = _struck(images, share, generator)
    hue = filters.uniform((batch, 1, height, width), images, generator)
    code = (hue * 6).floor() + 1
    # the binary digits of 1..6: every saturated colour, neither black nor white
    colour = torch.cat([torch.remainder(torch.div(code, 2**k, rounding_mode="floor"), 2) for k in range(3)], dim=1)
    return torch.where(struck, colour, images).clamp(0, 1)


def impulse_noise(images: Tensor, share: Tensor, generator: Randomness) -> Tensor:
    """Salt and pepper: pixels flipped to black or white; share of all pixels."""
    batch, _, height, width = images.shape
    struck = _struck(images, share, generator)
    value = filters.uniform((batch, 1, height, width), images, generator).round()
    return torch.where(struck, value, images).clamp(0, 1)


def rgb_noise(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """White Gaussian noise, independent in the three channels; sigma in units of the full range."""
    draw = filters.normal(tuple(images.shape), images, generator)
    return (images + filters.column(sigma, images) * draw).clamp(0, 1)


def speckle_noise(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """Multiplicative Gaussian noise, independent in the three channels; sigma as a share of the value."""
    draw = filters.normal(tuple(images.shape), images, generator)
    return (images * (1 + filters.column(sigma, images) * draw)).clamp(0, 1)


def _speckle_pattern(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """The brighter, the noisier."""
    amount = filters.luma(before)[:, 0]
    return {"noise": amount, "chroma_noise": amount}


_BLOTCH = 2.5


def correlated_noise(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """Luminance noise in blotches: a Gaussian of 2.5 pixels over white noise; sigma in units of the full range."""
    batch, _, height, width = images.shape
    draw = _grain((batch, 1, height, width), images, generator, _BLOTCH)
    return (images + filters.column(sigma, images) * draw).clamp(0, 1)


_BUSY = 0.06


def _masking(images: Tensor) -> Tensor:
    """Where texture hides noise, (B, 1, H, W) in [0, 1): 0 on flat ground, 1/2 where luma deviates by 0.06 locally."""
    y = filters.luma(images)
    variance = filters.fixed_gaussian((y - filters.fixed_gaussian(y, 2.0)) ** 2, 2.0)
    return variance / (variance + _BUSY**2)


def masked_noise(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """White luminance noise where texture hides it, none on flat ground; sigma where it is strongest."""
    batch, _, height, width = images.shape
    draw = filters.normal((batch, 1, height, width), images, generator)
    return (images + filters.column(sigma, images) * _masking(images) * draw).clamp(0, 1)


def _masked_pattern(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    return {"noise": _masking(before)[:, 0]}


def high_frequency_noise(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """Luminance noise without its low frequencies: white noise less its Gaussian of 0.8 pixels, of deviation sigma."""
    batch, _, height, width = images.shape
    draw = filters.normal((batch, 1, height, width), images, generator)
    fine = draw - filters.fixed_gaussian(draw, 0.8)
    fine = fine / fine.std((2, 3), keepdim=True)
    return (images + filters.column(sigma, images) * fine).clamp(0, 1)


def _response_pattern(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """A gain in linear light moves encoded values by about as much as the values are high."""
    return {"noise": filters.luma(before)[:, 0]}


_COLUMN_SHARE = 0.35


def prnu(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """Photo response non-uniformity: each photosite, and fainter each column, has its own gain in linear light.

    The gains' deviation is sigma, that of the columns 0.35 sigma. The same pattern for all channels.
    """
    batch, _, height, width = images.shape
    sites = filters.normal((batch, 1, height, width), images, generator)
    columns = filters.normal((batch, 1, 1, width), images, generator)
    gain = 1 + filters.column(sigma, images) * (sites + _COLUMN_SHARE * columns)
    return filters.to_encoded(filters.to_linear(images) * gain)


def _sites(size: int, pitch: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One axis of a lattice of photosites two pitches apart that starts ``first`` pitches from the border.

    Returns:
        For each pixel (B, size), on the CPU: the pixels that the sites before and after it look at, the place between
        them in [0, 1), and how near the closer one is: 1 on it, 0 halfway.
    """
    spacing = 2 * pitch[:, None]
    start = first * pitch[:, None]
    place = (torch.arange(size, dtype=torch.float64) - start) / spacing
    before = place.floor()
    between = place - before
    period = 2 * (size - 1)
    pixels = []
    for site in (before, before + 1):
        folded = torch.round(start + site * spacing).abs() % period
        pixels.append(torch.where(folded > size - 1, period - folded, folded).long())
    return pixels[0], pixels[1], between, torch.cos(torch.pi * between) ** 2


def _from_sites(plane: Tensor, rows: tuple[Tensor, ...], columns: tuple[Tensor, ...]) -> Tensor:
    """Bilinear picture (B, 1, H, W) of what one lattice of photosites sees."""
    batch, _, height, width = plane.shape
    above, below, down = (one.view(batch, 1, height, 1) for one in rows[:3])
    left, right, across = (one.view(batch, 1, 1, width) for one in columns[:3])
    lines = torch.lerp(
        plane.gather(2, above.expand_as(plane)), plane.gather(2, below.expand_as(plane)), down.expand_as(plane)
    )
    return torch.lerp(
        lines.gather(3, left.expand_as(plane)), lines.gather(3, right.expand_as(plane)), across.expand_as(plane)
    )


def demosaicing(images: Tensor, pitch: Tensor, generator: Randomness) -> Tensor:
    """Bilinear reconstruction from a Bayer mosaic (RGGB): zipper edges and false colour.

    Each photosite looks at one point of the picture, without a low-pass in front of it.

    Args:
        images: (B, 3, H, W).
        pitch: distance between photosites in pixels, above 1 for a sensor coarser than the picture; below 1 the pitch
            is 1 and this is the share of the reconstruction, the rest being the picture.
        generator: not used.
    """
    height, width = images.shape[-2:]
    share = filters.column(pitch.clamp(max=1), images)
    coarse = pitch.double().clamp(min=1)

    def lattice(size: int, first: int) -> tuple[Tensor, ...]:
        before, after, between, near = _sites(size, coarse, first)
        return (
            before.to(images.device, non_blocking=True),
            after.to(images.device, non_blocking=True),
            between.to(images, non_blocking=True),
            near.to(images, non_blocking=True),
        )

    rows = [lattice(height, first) for first in (0, 1)]
    columns = [lattice(width, first) for first in (0, 1)]
    red = _from_sites(images[:, 0:1], rows[0], columns[0])
    blue = _from_sites(images[:, 2:3], rows[1], columns[1])
    # the two lattices of green: the nearer one counts more, so that each site keeps its own value
    nearness = [rows[k][3][:, None, :, None] * columns[1 - k][3][:, None, None, :] + 1e-4 for k in (0, 1)]
    greens = [_from_sites(images[:, 1:2], rows[k], columns[1 - k]) for k in (0, 1)]
    green = torch.lerp(greens[0], greens[1], nearness[1] / (nearness[0] + nearness[1]))
    return torch.lerp(images, torch.cat((red, green, blue), dim=1), share.expand_as(images)).clamp(0, 1)


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        "luma_noise",
        "sensor",
        {"noise": 1.0},
        (0.008, 0.28),
        luma_noise,
        geometric=True,
        source="additive white Gaussian noise, one draw for all channels; own range, from just visible to severe",
    ),
    Distortion(
        "shot_noise",
        "sensor",
        {"noise": 1.0, "chroma_noise": 1.0},
        (0.018, 0.4),
        shot_noise,
        geometric=True,
        source="Foi et al. 2008, Poisson-Gaussian model",
    ),
    Distortion(
        "chroma_noise",
        "sensor",
        {"chroma_noise": 1.0},
        (0.012, 0.3),
        chroma_noise,
        geometric=True,
        source="own construction: speckle of two pixels, as raw converters leave it; own range",
    ),
    Distortion(
        "film_grain",
        "sensor",
        {"noise": 1.0},
        (0.005, 0.2),
        film_grain,
        geometric=True,
        source="own construction: soft grain, densest in the midtones; own range",
    ),
    Distortion(
        "row_noise",
        "sensor",
        {"noise": 1.0},
        (0.004, 0.2),
        row_noise,
        geometric=True,
        source="own construction: one Gaussian offset a row; own range, from just visible to severe",
    ),
    Distortion(
        "hot_pixels",
        "sensor",
        {"impulse": 1.0},
        (8e-5, 0.06),
        hot_pixels,
        geometric=True,
        source="own construction: from a handful of stuck pixels in a crop of 256 to one in 17",
    ),
    Distortion(
        "impulse_noise",
        "sensor",
        {"impulse": 1.0},
        (3e-05, 0.15),
        impulse_noise,
        geometric=True,
        source="salt and pepper, the impulse noise of TID2013 (6) and KADID-10k (13); own range",
    ),
    Distortion(
        "rgb_noise",
        "sensor",
        {"noise": 1.0, "chroma_noise": 1.0},
        (0.0115, 0.3),
        rgb_noise,
        geometric=True,
        source="additive white Gaussian noise of TID2013 (1) and KADID-10k (11); own range",
    ),
    Distortion(
        "speckle_noise",
        "sensor",
        {"noise": 1.0, "chroma_noise": 1.0},
        (0.028, 0.9),
        speckle_noise,
        geometric=True,
        source="multiplicative Gaussian noise of TID2013 (19) and KADID-10k (14); own range",
        profile=_speckle_pattern,
    ),
    Distortion(
        "correlated_noise",
        "sensor",
        {"noise": 1.0},
        (0.004, 0.16),
        correlated_noise,
        geometric=True,
        source="spatially correlated noise of TID2013 (3); own correlation length and range",
    ),
    Distortion(
        "masked_noise",
        "sensor",
        {"noise": 1.0},
        (0.03, 1.0),
        masked_noise,
        geometric=True,
        source="masked noise of TID2013 (4); own construction of the mask, from local deviation; own range",
        profile=_masked_pattern,
    ),
    Distortion(
        "high_frequency_noise",
        "sensor",
        {"noise": 1.0},
        (0.013, 0.4),
        high_frequency_noise,
        geometric=True,
        source="high frequency noise of TID2013 (5); own filter and range",
    ),
    Distortion(
        "prnu",
        "sensor",
        {"noise": 1.0},
        (0.04, 1.2),
        prnu,
        geometric=True,
        source="multiplicative model of Lukas, Fridrich and Goljan 2006, with column gains; own range",
        profile=_response_pattern,
    ),
    Distortion(
        "demosaicing",
        "sensor",
        {"fringing": 1.0, "aliasing": 1.0},
        (0.39, 3.4),
        demosaicing,
        geometric=True,
        source="Bayer 1976 (US 3971065), bilinear interpolation; own range of the pitch",
    ),
)
