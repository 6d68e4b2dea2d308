"""What the opinion score datasets call their distortions, and how their folders are named after them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

TID2013_TYPES = (
    "additive Gaussian noise",
    "noise, stronger in colour",
    "spatially correlated noise",
    "masked noise",
    "high frequency noise",
    "impulse noise",
    "quantization noise",
    "Gaussian blur",
    "image denoising",
    "JPEG compression",
    "JPEG2000 compression",
    "JPEG transmission errors",
    "JPEG2000 transmission errors",
    "non-eccentricity pattern noise",
    "local block-wise distortions",
    "mean shift",
    "contrast change",
    "change of colour saturation",
    "multiplicative Gaussian noise",
    "comfort noise",
    "lossy compression of noisy images",
    "colour quantization with dither",
    "chromatic aberrations",
    "sparse sampling and reconstruction",
)
"""Types 1 to 24, in the order of table I of the database's readme (names shortened)."""

KADID10K_TYPES = (
    "Gaussian blur",
    "lens blur",
    "motion blur",
    "colour diffusion",
    "colour shift",
    "colour quantization",
    "colour saturation 1",
    "colour saturation 2",
    "JPEG2000",
    "JPEG",
    "white noise",
    "white noise in colour component",
    "impulse noise",
    "multiplicative noise",
    "denoise",
    "brighten",
    "darken",
    "mean shift",
    "jitter",
    "non-eccentricity patch",
    "pixelate",
    "quantization",
    "colour block",
    "high sharpen",
    "contrast change",
)
"""Types 1 to 25 as public loaders of the database (Lin, Hosu and Saupe, QoMEX 2019) number them."""

CSIQ_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "noise": "AWGN",
        "blur": "BLUR",
        "contrast": "contrast",
        "fnoise": "fnoise",
        "jpeg": "JPEG",
        "jpeg2000": "jpeg2000",
    }
)
"""``dst_type`` of CSIQ's table, without its blank in ``jpeg 2000`` -> the middle part of the file names."""

LIVE_FOLDERS: tuple[tuple[str, int], ...] = (
    ("jp2k", 227),
    ("jpeg", 233),
    ("wn", 174),
    ("gblur", 174),
    ("fastfading", 174),
)
"""Folders of LIVE release 2 and their numbers of images, in the order of the 982 values in its MATLAB files."""
