"""Lossy coding: the real codecs through Pillow, and their elementary artefacts in torch."""

from __future__ import annotations

import io
import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from . import filters
from .availability import pillow_with
from .record import Distortion


def _recode(images: Tensor, codec: str, options: list[dict[str, object]]) -> Tensor:
    """Write and read each image (8 bits a channel) with Pillow, on the CPU.

    Args:
        images: (B, 3, H, W) in [0, 1].
        codec: ``"JPEG"``, ``"WEBP"`` or ``"JPEG2000"``.
        options: what ``Image.save`` is to be told, one entry an image.

    Raises:
        MissingExtra: Pillow is not installed, or was built without the codec.
    """
    image_module = pillow_with(codec)
    pixels = (images.detach() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
    height, width = pixels.shape[1:3]
    decoded = []
    for picture, settings in zip(pixels, options, strict=True):
        stream = io.BytesIO()
        image_module.fromarray(picture.numpy()).save(stream, format=codec, **settings)
        with image_module.open(io.BytesIO(stream.getvalue())) as opened:
            raw = bytearray(opened.convert("RGB").tobytes())
        decoded.append(torch.frombuffer(raw, dtype=torch.uint8).view(height, width, 3))
    return torch.stack(decoded).permute(0, 3, 1, 2).to(images).contiguous() / 255


def _whole(parameter: Tensor) -> list[int]:
    return [round(value) for value in parameter.tolist()]


def jpeg(images: Tensor, quality: Tensor, generator: Generator) -> Tensor:
    """JPEG with 4:2:0 chroma; quality 1..95, rounded."""
    return _recode(images, "JPEG", [{"quality": q, "subsampling": 2} for q in _whole(quality)])


def webp(images: Tensor, quality: Tensor, generator: Generator) -> Tensor:
    """Lossy WebP; quality 0..100, rounded."""
    return _recode(images, "WEBP", [{"quality": q, "method": 0} for q in _whole(quality)])


def jpeg2000(images: Tensor, rate: Tensor, generator: Generator) -> Tensor:
    """JPEG 2000, irreversible wavelet; rate = how many times smaller than the raw picture."""
    # each resolution halves the picture: OpenJPEG refuses to go below one pixel
    resolutions = min(6, int(math.log2(min(images.shape[-2:]))) + 1)
    shared = {"quality_mode": "rates", "irreversible": True, "num_resolutions": resolutions, "no_jp2": True}
    return _recode(images, "JPEG2000", [{"quality_layers": [r], **shared} for r in rate.tolist()])


def chroma_bleeding(images: Tensor, sigma: Tensor, generator: Generator) -> Tensor:
    """Colour carried at low resolution: chroma blurred with sigma in pixels, luma kept."""
    y, chroma = filters.split_chroma(images)
    return filters.join_chroma(y, filters.gaussian_blur(chroma, sigma)).clamp(0, 1)


# Luminance table of ITU-T T.81 (JPEG), Annex K.1, for 8-bit samples.
_T81_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def _dct_matrix(size: int, like: Tensor) -> Tensor:
    """Orthonormal DCT-II (size, size): rows are frequencies."""
    n = torch.arange(size, dtype=like.dtype, device=like.device)
    basis = torch.cos(math.pi * (n + 0.5) * n[:, None] / size) * math.sqrt(2 / size)
    basis[0] = math.sqrt(1 / size)
    return basis


def block_dct(images: Tensor, scale: Tensor, generator: Generator) -> Tensor:
    """Quantise the 8x8 DCT of luma with ``scale`` times the JPEG luminance table; chroma kept."""
    batch, _, height, width = images.shape
    y = F.pad(filters.luma(images), (0, -width % 8, 0, -height % 8), mode="replicate")
    rows, columns = y.shape[-2] // 8, y.shape[-1] // 8
    blocks = y.view(batch, rows, 8, columns, 8).transpose(2, 3)
    basis = _dct_matrix(8, images)
    table = torch.tensor(_T81_LUMINANCE, dtype=images.dtype, device=images.device) / 255
    step = table * scale.to(images).view(-1, 1, 1, 1, 1)
    coded = torch.round(basis @ (blocks - 0.5) @ basis.T / step) * step
    decoded = (basis.T @ coded @ basis + 0.5).transpose(2, 3).reshape(y.shape)
    return (images + (decoded - y)[..., :height, :width]).clamp(0, 1)


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        "jpeg",
        "compression",
        {"blocking": 1.0, "ringing": 0.5},
        (92.0, 4.0),
        jpeg,
        geometric=True,
        codec="JPEG",
        dominance=False,
        smooths=True,
    ),
    Distortion(
        "webp",
        "compression",
        {"blocking": 1.0, "blur": 0.5, "ringing": 0.5},
        (92.0, 0.0),
        webp,
        codec="WEBP",
        dominance=False,
        smooths=True,
    ),
    Distortion(
        "jpeg2000",
        "compression",
        {"blur": 1.0, "ringing": 1.0},
        (8.0, 160.0),
        jpeg2000,
        geometric=True,
        codec="JPEG2000",
        dominance=False,
        smooths=True,
    ),
    Distortion(
        "chroma_bleeding",
        "compression",
        {"fringing": 1.0, "saturation": -0.5},
        (1.5, 16.0),
        chroma_bleeding,
        geometric=True,
        smooths=True,
    ),
    Distortion(
        "block_dct",
        "compression",
        {"blocking": 1.0, "ringing": 0.5},
        (0.4, 14.0),
        block_dct,
        geometric=True,
        source="ITU-T T.81, Annex K.1",
        dominance=False,
        smooths=True,
    ),
)
