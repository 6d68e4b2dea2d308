"""What the operators share: draws, colour transforms, per-image filtering and resampling.

Images are (B, 3, H, W) sRGB-encoded in [0, 1], float32 or float64; every per-image parameter is a (B,) tensor.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in luma: ITU-R BT.601, those of JPEG (JFIF)."""


def column(parameter: Tensor, images: Tensor) -> Tensor:
    """Parameter (B,) as (B, 1, 1, 1) with the dtype and device of the images."""
    return parameter.to(images).view(-1, 1, 1, 1)


def uniform(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    """Uniform draws in [0, 1), the same numbers whatever the dtype and device of ``like``."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32).to(like)


def normal(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    """Standard normal draws, the same numbers whatever the dtype and device of ``like``."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32).to(like)


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
    """Filter rows and columns of each image with its own kernel.

    Args:
        images: (B, C, H, W).
        kernels: (B, 2r + 1), symmetric, dtype of the images.
    """
    batch, channels, height, width = images.shape
    taps = kernels.shape[1]
    radius = taps // 2
    planes = pad_reflect(images, radius, radius).reshape(1, batch * channels, height + 2 * radius, width + 2 * radius)
    weight = kernels.repeat_interleave(channels, dim=0).view(batch * channels, 1, taps, 1)
    planes = F.conv2d(planes, weight, groups=batch * channels)
    planes = F.conv2d(planes, weight.transpose(2, 3), groups=batch * channels)
    return planes.view(batch, channels, height, width)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (B, C, H, W) with sigma (B,) in pixels, cut at 3 sigma of each image."""
    sigma = sigma.to(images).clamp(min=1e-3)
    radius = max(1, math.ceil(3 * float(sigma.max())))
    x = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernels = torch.exp(-0.5 * (x / sigma[:, None]) ** 2) * (x.abs() <= torch.ceil(3 * sigma)[:, None])
    return separable(images, kernels / kernels.sum(1, keepdim=True))


def fixed_gaussian(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, C, H, W) with one sigma in pixels for the whole batch."""
    return gaussian_blur(images, torch.full((images.shape[0],), sigma, dtype=images.dtype, device=images.device))


def box_mean(images: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1)^2 pixels, borders mirrored."""
    taps = 2 * radius + 1
    return separable(images, torch.full((images.shape[0], taps), 1 / taps, dtype=images.dtype, device=images.device))


def spectral_filter(images: Tensor, kernels: Tensor) -> Tensor:
    """Correlate each image (C, H, W) with its own point-symmetric kernel through the FFT: any size costs the same.

    Args:
        images: (B, C, H, W).
        kernels: (B, 2r + 1, 2r + 1), centred, point-symmetric, dtype of the images.
    """
    height, width = images.shape[-2:]
    radius = kernels.shape[-1] // 2
    padded = pad_reflect(images, radius, radius)
    size = (padded.shape[-2], padded.shape[-1])
    response = torch.fft.rfft2(kernels, s=size)[:, None]
    filtered = torch.fft.irfft2(torch.fft.rfft2(padded) * response, s=size)
    # a circular convolution with an uncentred kernel moves the result by its radius, on top of the padding
    return filtered[..., 2 * radius : 2 * radius + height, 2 * radius : 2 * radius + width]


def displaced(images: Tensor, flow: Tensor) -> Tensor:
    """Move content by ``flow`` pixels: the result at p is the input at p - flow(p), bicubic, borders mirrored.

    Mirrors at the centres of the border pixels, as all filters here do. ``warp.warp`` mirrors at their outer edges, so
    the two differ near the border and in the last bits elsewhere, and neither can stand in for the other.

    Args:
        images: (B, C, H, W).
        flow: (B, 2, H, W), (x, y), broadcastable.
    """
    height, width = images.shape[-2:]
    xs = torch.arange(width, dtype=images.dtype, device=images.device).view(1, 1, width) - flow[:, 0]
    ys = torch.arange(height, dtype=images.dtype, device=images.device).view(1, height, 1) - flow[:, 1]
    xs, ys = torch.broadcast_tensors(xs, ys)
    grid = torch.stack((2 * xs / (width - 1) - 1, 2 * ys / (height - 1) - 1), dim=-1)
    grid = grid.expand(images.shape[0], height, width, 2)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=True)


def centred_coordinates(images: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates x (1, 1, W) and y (1, H, 1) from the centre, 1 at the corner's distance."""
    height, width = images.shape[-2:]
    half = math.hypot(height - 1, width - 1) / 2
    x = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2
    y = torch.arange(height, dtype=images.dtype, device=images.device) - (height - 1) / 2
    return x.view(1, 1, width) / half, y.view(1, height, 1) / half
