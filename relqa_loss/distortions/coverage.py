"""Which operators of the bank stand for the distortion types of two public image quality databases."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DistortionType:
    """One distortion type of a database.

    Attributes:
        number: as the database counts it, from 1.
        title: what the database calls it.
        operators: names of operators of the bank that make the same kind of damage, nearest first.
        note: where the operators differ from the type, or "".
    """

    number: int
    title: str
    operators: tuple[str, ...]
    note: str = ""


def _types(*rows: tuple[str, tuple[str, ...], str]) -> tuple[DistortionType, ...]:
    return tuple(DistortionType(number, *row) for number, row in enumerate(rows, start=1))


TID2013: tuple[DistortionType, ...] = _types(
    ("additive Gaussian noise", ("rgb_noise", "luma_noise"), ""),
    ("additive noise, stronger in colour than in luminance", ("chroma_noise",), "all of it is in the colour"),
    ("spatially correlated noise", ("correlated_noise", "film_grain"), ""),
    ("masked noise", ("masked_noise",), ""),
    ("high-frequency noise", ("high_frequency_noise",), ""),
    ("impulse noise", ("impulse_noise", "hot_pixels"), ""),
    ("quantisation noise", ("posterize",), ""),
    ("Gaussian blur", ("gaussian_blur",), ""),
    ("image denoising", ("denoised", "smooth_smear", "median_smear"), "another denoiser than the database's"),
    ("JPEG", ("jpeg", "block_dct"), ""),
    ("JPEG 2000", ("jpeg2000",), ""),
    ("JPEG transmission errors", ("jpeg_errors",), ""),
    ("JPEG 2000 transmission errors", ("jpeg2000_errors",), ""),
    ("non-eccentricity pattern noise", ("pattern_patches", "local_swap"), ""),
    ("block-wise distortions of different intensity", ("block_intensity", "missing_blocks"), ""),
    ("mean shift", ("brighten", "darken"), "a uniform offset that clips at the ends of the range"),
    ("contrast change", ("contrast_up", "contrast_down"), ""),
    ("change of colour saturation", ("saturate", "desaturate"), ""),
    ("multiplicative Gaussian noise", ("speckle_noise", "shot_noise"), ""),
    ("comfort noise", ("comfort_noise",), "noise in place of texture, without the database's codec around it"),
    ("lossy compression of noisy images", ("noisy_jpeg",), "JPEG takes the place of the database's DCT coder"),
    ("colour quantisation with dither", ("dither",), ""),
    ("chromatic aberrations", ("chromatic_aberration", "channel_shift"), ""),
    ("sparse sampling and reconstruction", ("sparse_sampling",), "another reconstruction than the database's"),
)
"""The 24 types of TID2013.

Ponomarenko et al., "Image database TID2013: Peculiarities, results and perspectives", Signal Processing: Image
Communication 30, 2015.
"""

KADID10K: tuple[DistortionType, ...] = _types(
    ("Gaussian blur", ("gaussian_blur",), ""),
    ("lens blur", ("defocus_blur",), ""),
    ("motion blur", ("motion_blur",), ""),
    ("colour diffusion", ("chroma_bleeding",), "chroma in YCbCr instead of CIELAB"),
    ("colour shift", ("channel_shift", "chromatic_aberration"), ""),
    ("colour quantisation", ("palette", "dither", "posterize"), ""),
    ("colour saturation, in HSV", ("desaturate", "saturate"), "saturation about luma at constant luma instead of HSV"),
    ("colour saturation, in CIELAB", ("saturate", "desaturate"), "saturation about luma instead of CIELAB"),
    ("JPEG 2000", ("jpeg2000",), ""),
    ("JPEG", ("jpeg", "block_dct"), ""),
    ("white noise", ("rgb_noise", "luma_noise"), ""),
    ("white noise in the colour components", ("chroma_noise",), "speckle of two pixels at constant luma"),
    ("impulse noise", ("impulse_noise", "hot_pixels"), ""),
    ("multiplicative noise", ("speckle_noise", "shot_noise"), ""),
    ("denoising of a noisy picture", ("denoised", "smooth_smear"), "another denoiser than the database's"),
    ("brighten", ("gamma_lighten", "brighten"), ""),
    ("darken", ("gamma_darken", "darken"), ""),
    ("mean shift", ("brighten", "darken"), "a uniform offset that clips at the ends of the range"),
    ("jitter", ("jitter",), ""),
    ("non-eccentricity patches", ("pattern_patches", "local_swap", "copied_patch"), ""),
    ("pixelation", ("pixelate", "downup_nearest"), ""),
    ("quantisation", ("posterize", "contour_banding"), "even levels instead of levels fitted to the picture"),
    ("colour blocks", ("colour_blocks", "missing_blocks"), ""),
    ("strong sharpening", ("oversharpen",), ""),
    ("contrast change", ("contrast_up", "contrast_down"), ""),
)
"""The 25 types of KADID-10k.

Lin, Hosu and Saupe, "KADID-10k: A large-scale artificially distorted IQA database", QoMEX 2019.
"""

DATABASES: dict[str, tuple[DistortionType, ...]] = {"TID2013": TID2013, "KADID-10k": KADID10K}
"""Database -> its distortion types, in the order of their numbers."""

NOT_SIMULATED = (
    "Every type of both databases has an operator that makes the same kind of damage; none makes the same pictures. "
    "The databases' own levels, seeds and coders (the DCT coder for noisy pictures, the denoisers, the reconstruction "
    "from sparse samples) are not rebuilt, so opinion scores of a database do not carry over to a severity here."
)
"""What the mapping does not claim."""
