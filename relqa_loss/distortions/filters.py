"""What the operators share: draws, colour transforms, per-image filtering and resampling.

Images are (B, 3, H, W) sRGB-encoded in [0, 1], float32 or float64; every per-image parameter is a (B,) tensor on
the CPU.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import draws
from .draws import Randomness
from .warp import warp

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in luma: ITU-R BT.601, those of JPEG (JFIF)."""


def column(parameter: Tensor, images: Tensor) -> Tensor:
    """Parameter (B,) as (B, 1, 1, 1) with the dtype and device of the images, without waiting for the device."""
    return parameter.to(images, non_blocking=True).view(-1, 1, 1, 1)


def below(values: Tensor, bound: float) -> Tensor:
    """Values >= 0 as they are up to half the bound; from there on they approach it, so that more is always more."""
    return torch.where(values > bound / 2, bound - bound**2 / (4 * values), values)


def uniform(shape: tuple[int, ...], like: Tensor, generator: Randomness) -> Tensor:
    """Uniform draws in [0, 1) of ``shape`` (B, ...), the same numbers whatever the dtype of ``like``."""
    return draws.uniform(shape, generator).to(like)


def normal(shape: tuple[int, ...], like: Tensor, generator: Randomness) -> Tensor:
    """Standard normal draws of ``shape`` (B, ...), the same numbers whatever the dtype of ``like``."""
    return draws.normal(shape, generator).to(like)


def luma(images: Tensor) -> Tensor:
    """BT.601 luma (B, 1, H, W) of encoded RGB."""
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def split_chroma(images: Tensor) -> tuple[Tensor, Tensor]:
    """Luma (B, 1, H, W) and chroma (B, 2, H, W) = (B - Y, R - Y); inverse of :func:`join_chroma`."""
    y = luma(images)
    return y, torch.cat((images[:, 2:3] - y, images[:, 0:1] - y), dim=1)


def join_chroma(y: Tensor, chroma: Tensor) -> Tensor:
    """RGB of luma (B, 1, H, W) and chroma (B, 2, H, W), not clamped."""
    red, green, blue = LUMA
    green_difference = -(red * chroma[:, 1:2] + blue * chroma[:, 0:1]) / green
    return torch.cat((y + chroma[:, 1:2], y + green_difference, y + chroma[:, 0:1]), dim=1)


def to_linear(images: Tensor) -> Tensor:
    """Linear light of sRGB-encoded values (IEC 61966-2-1)."""
    return torch.where(images <= 0.04045, images / 12.92, ((images.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def to_encoded(light: Tensor) -> Tensor:
    """sRGB-encoded values in [0, 1] of linear light (IEC 61966-2-1); light outside [0, 1] clips."""
    light = light.clamp(0, 1)
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def _reflected(size: int, radius: int, device: torch.device) -> Tensor:
    """Indices -radius .. size + radius - 1 folded back into 0 .. size - 1, however large the radius."""
    period = max(2 * (size - 1), 1)
    place = torch.arange(-radius, size + radius, device=device).abs() % period
    return torch.where(place >= size, period - place, place)


def pad_reflect(images: Tensor, radius_y: int, radius_x: int) -> Tensor:
    """Mirror the borders without repeating the edge pixel; a radius may exceed the picture."""
    height, width = images.shape[-2:]
    if radius_y < height and radius_x < width:
        return F.pad(images, (radius_x, radius_x, radius_y, radius_y), mode="reflect")
    rows = _reflected(height, radius_y, images.device)
    columns = _reflected(width, radius_x, images.device)
    return images[..., rows, :][..., columns]


def separable(images: Tensor, kernels: Tensor) -> Tensor:
    """Filter rows and columns of each image with its own kernel, borders mirrored.

    Args:
        images: (B, C, H, W).
        kernels: (B, 2r + 1), symmetric, on the CPU.
    """
    if images.device.type == "cpu":
        rows = [_shifted_sums(image, kernel) for image, kernel in zip(images.split(1), kernels.tolist(), strict=True)]
        return torch.cat(rows)
    batch, channels = images.shape[:2]
    taps = kernels.shape[1]
    planes = pad_reflect(images, taps // 2, taps // 2)
    planes = planes.reshape(1, batch * channels, *planes.shape[-2:])
    weight = kernels.to(images, non_blocking=True).repeat_interleave(channels, dim=0).view(batch * channels, 1, taps, 1)
    planes = F.conv2d(planes, weight, groups=batch * channels)
    planes = F.conv2d(planes, weight.transpose(2, 3), groups=batch * channels)
    return planes.view(images.shape)


def _shifted_sums(image: Tensor, kernel: list[float]) -> Tensor:
    """Rows and columns of (1, C, H, W) filtered by adding shifted copies.

    On the CPU this takes a fifth of the time of a grouped convolution, whatever the radius.
    """
    radius = len(kernel) // 2
    while radius > 0 and kernel[0] == 0:  # the batch was given room for a wider kernel
        kernel = kernel[1:-1]
        radius -= 1
    for dim, radius_y, radius_x in ((3, 0, radius), (2, radius, 0)):
        size = image.shape[dim]
        padded = pad_reflect(image, radius_y, radius_x)
        image = padded.narrow(dim, radius, size) * kernel[radius]
        for offset in range(1, radius + 1):
            image.add_(padded.narrow(dim, radius - offset, size), alpha=kernel[radius + offset])
            image.add_(padded.narrow(dim, radius + offset, size), alpha=kernel[radius + offset])
    return image


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (B, C, H, W) with sigma (B,) in pixels, on the CPU; cut at 3 sigma of each image."""
    sigma = sigma.double().clamp(min=1e-3)[:, None]
    radius = torch.ceil(3 * sigma)
    longest = int(radius.max())
    x = torch.arange(-longest, longest + 1, dtype=sigma.dtype)
    kernels = torch.exp(-0.5 * (x / sigma) ** 2) * (x.abs() <= radius)
    # A running sum: the zeros around a narrow kernel must not change the order of the additions.
    return separable(images, kernels / kernels.cumsum(1)[:, -1:])


def fixed_gaussian(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, C, H, W) with one sigma in pixels for the whole batch."""
    return gaussian_blur(images, torch.full((images.shape[0],), sigma))


def box_mean(images: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1)^2 pixels, borders mirrored."""
    taps = 2 * radius + 1
    return separable(images, torch.full((images.shape[0], taps), 1 / taps, dtype=torch.float64))


def _quick_size(size: int) -> int:
    """The next size without prime factors above 5, for which the FFT is quick."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def spectral_filter(images: Tensor, kernels: Tensor) -> Tensor:
    """Correlate each image (C, H, W) with its own point-symmetric kernel through the FFT: any size costs the same.

    Args:
        images: (B, C, H, W).
        kernels: (B, 2r + 1, 2r + 1), centred, point-symmetric, dtype and device of the images.
    """
    height, width = images.shape[-2:]
    radius = kernels.shape[-1] // 2
    padded = pad_reflect(images, radius, radius)
    size = (_quick_size(padded.shape[-2]), _quick_size(padded.shape[-1]))
    # the kernel's centre at the origin makes its spectrum real and leaves the picture where it is
    centred = F.pad(kernels, (0, size[1] - kernels.shape[-1], 0, size[0] - kernels.shape[-2])).roll(
        (-radius, -radius), dims=(1, 2)
    )
    response = torch.fft.rfft2(centred).real[:, None]
    filtered = torch.fft.irfft2(torch.fft.rfft2(padded, s=size) * response, s=size)
    return filtered[..., radius : radius + height, radius : radius + width]


def displaced(images: Tensor, flow: Tensor) -> Tensor:
    """:func:`warp.warp` with a flow (B, 2, H, W) that may be broadcastable."""
    return warp(images, flow.expand(images.shape[0], 2, *images.shape[-2:]))


def centred_coordinates(images: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates x (1, 1, W) and y (1, H, 1) from the centre, 1 at the corner's distance."""
    height, width = images.shape[-2:]
    half = math.hypot(height - 1, width - 1) / 2
    x = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2
    y = torch.arange(height, dtype=images.dtype, device=images.device) - (height - 1) / 2
    return x.view(1, 1, width) / half, y.view(1, height, 1) / half
