"""What a picture file holds, as sRGB floats: depth, colour profile, transparency (extras ``images`` and ``deep``)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .validation import MissingExtra

if TYPE_CHECKING:
    from PIL import Image

ORIENTATION = 0x0112
"""EXIF tag."""
BITS, PHOTOMETRIC, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 338, 339
"""TIFF tags."""
ASSOCIATED, UNASSOCIATED = 1, 2
"""What a fourth TIFF channel is: opacity that the colours are multiplied with already, or opacity."""

SAME = 2 / 255
"""A profile that moves no colour of a coarse cube by more than this is sRGB under another name: pixels stay as they
are, bit for bit."""

Pixels = np.ndarray[Any, np.dtype[Any]]


def decode(opened: Image.Image, path: Path) -> Pixels:
    """Pixels of an opened, not yet loaded file.

    8 bits are decoded by Pillow, and so is grey of 16; deeper colour by ``tifffile`` and ``imagecodecs``, which keep
    every bit. An embedded colour profile is converted to sRGB. EXIF rotation is applied. Of several pages the first
    counts. Transparent pixels lie over white.

    Args:
        opened: what ``PIL.Image.open`` gives.
        path: the file itself, read again where Pillow would drop bits.

    Returns:
        (H, W, 3) float32 in [0, 1].

    Raises:
        ValueError: a pixel format without a defined range or colours (float, 32 bits, CMYK without a profile), or a
            profile that cannot be applied.
        MissingExtra: deep colour, and what reads it is not installed.
    """
    profile: bytes | None = opened.info.get("icc_profile") or None
    bits = _bits(opened, path)
    if bits > 8 and "transparency" in opened.info:
        raise ValueError(f"one transparent colour in a picture of {bits} bits is not read; give it an alpha channel")
    if bits > 8 and not (opened.mode.startswith("I;16") and bits == 16 and _tag(opened, PHOTOMETRIC, 1) != 0):
        turn = opened.getexif().get(ORIENTATION, 1)
        colours, opacity = _deep(opened, path, bits)
        return _over_white(_turned(_deep_to_srgb(colours, profile, path), turn), _turned(opacity, turn))
    from PIL import ImageOps

    opened.load()
    picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture).astype(np.float32) / 65535.0)[..., None]
        return _deep_to_srgb(grey, profile, path)
    return _shallow(picture, profile)


def _tag(opened: Image.Image, tag: int, default: Any) -> Any:
    """A TIFF tag; the default for other formats and where it is missing."""
    tags = getattr(opened, "tag_v2", {})
    return tags.get(tag, default)


def _bits(opened: Image.Image, path: Path) -> int:
    """Bits of one channel, where more than 8 can be told apart; 8 else."""
    if opened.format == "PNG":
        with path.open("rb") as file:
            # Behind the signature (8 bytes), the length and name of the first chunk (8), width and height (8).
            return file.read(25)[24]
    bits = _tag(opened, BITS, 8)
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _deep(opened: Image.Image, path: Path, bits: int) -> tuple[Pixels, Pixels | None]:
    """(H, W, 1 or 3) and opacity (H, W, 1) or None, float32 in [0, 1], of a PNG or TIFF file of 9 to 16 bits."""
    if opened.format != "PNG":
        _check_tiff(opened, bits)
    try:
        import imagecodecs
        import tifffile
    except ImportError as error:
        raise MissingExtra(f"{error.name} to keep the {bits} bits of {path.name}", "deep") from error
    if opened.format == "PNG":
        values = imagecodecs.png_decode(path.read_bytes())
    else:
        try:
            with tifffile.TiffFile(path) as file:
                page = file.pages.first
                values = page.asarray()
                if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and values.ndim == 3:
                    values = np.moveaxis(values, 0, -1)
        except tifffile.TiffFileError as error:
            raise ValueError(str(error)) from error
    values = np.asarray(values).astype(np.float32) / (2.0**bits - 1.0)
    values = values[..., None] if values.ndim == 2 else values
    if _tag(opened, PHOTOMETRIC, 1) == 0:
        values = 1.0 - values
    colours = 3 if values.shape[-1] >= 3 else 1
    colour, rest = values[..., :colours], values[..., colours : colours + 1]
    extra = _tag(opened, EXTRA_SAMPLES, (UNASSOCIATED if opened.format == "PNG" else 0,))
    kind = extra[0] if isinstance(extra, tuple) else extra
    if rest.shape[-1] == 0 or kind not in (ASSOCIATED, UNASSOCIATED):
        return colour, None
    if kind == ASSOCIATED:
        colour = np.where(rest > 0, colour / np.maximum(rest, 1e-6), 0.0).clip(0.0, 1.0)
    return colour, rest


def _check_tiff(opened: Image.Image, bits: int) -> None:
    formats = _tag(opened, SAMPLE_FORMAT, (1,))
    kinds = set(formats if isinstance(formats, tuple) else (formats,))
    photometric = _tag(opened, PHOTOMETRIC, 1)
    if bits > 16 or kinds != {1} or photometric not in (0, 1, 2):
        kind = {1: "unsigned", 2: "signed", 3: "float"}.get(max(kinds), "other")
        raise ValueError(
            f"TIFF pixels of {bits} bits ({kind}, colour space {photometric}) have no defined range here; convert them "
            "to RGB or grey of 8 or 16 bits first"
        )


def _turned(values: Pixels | None, orientation: int) -> Any:
    """Rows and columns as EXIF's orientation, 1 to 8, wants them shown."""
    if values is None or orientation not in range(2, 9):
        return values
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    across = orientation in (2, 3, 6, 7)
    down = orientation in (3, 4, 7, 8)
    return values[:: -1 if down else 1, :: -1 if across else 1]


def _over_white(colours: Pixels, opacity: Pixels | None) -> Pixels:
    three = np.broadcast_to(colours, (*colours.shape[:2], 3))
    return np.ascontiguousarray(three if opacity is None else three * opacity + (1.0 - opacity))


def _shallow(picture: Image.Image, profile: bytes | None) -> Pixels:
    """A loaded Pillow image of 8 bits."""
    mode = picture.mode
    opacity = None
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        opacity = np.asarray(rgba.getchannel("A")).astype(np.float32)[..., None] / 255.0
        # A profile for grey wants grey, which such a picture is.
        picture = rgba.convert("L" if mode in ("L", "LA", "La") else "RGB")
    elif mode == "CMYK" and profile is None:
        raise ValueError("pixel format 'CMYK' without a colour profile has no defined colours; convert it to RGB first")
    elif mode not in ("1", "L", "P", "RGB", "YCbCr", "CMYK"):
        raise ValueError(f"pixel format {mode!r} has no defined range here; convert it to 8-bit RGB or 16-bit first")
    if profile is not None:
        picture = _shallow_to_srgb(picture, profile)
    return _over_white(np.asarray(picture.convert("RGB")).astype(np.float32) / 255.0, opacity)


def _shallow_to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    from PIL import Image, ImageCms

    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}.get(space)
        if mode is None or (picture.mode == "CMYK") != (mode == "CMYK"):
            raise ValueError(f"its colour profile is one for {space or 'nothing known'}, its pixels are {picture.mode}")
        if mode == "L" and picture.mode not in ("1", "L"):
            raise ValueError(f"its colour profile is one for grey, its pixels are {picture.mode}")
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=flags,
        )

        def convert(given: Image.Image) -> Image.Image:
            converted = ImageCms.applyTransform(given, transform)
            assert converted is not None
            return converted

        if mode != "CMYK":
            cube = (_cube(1 if mode == "L" else 3) * 255).round().astype(np.uint8)
            probe = Image.fromarray(cube[..., 0] if mode == "L" else cube)
            if _is_srgb(cube / 255.0, np.asarray(convert(probe)) / 255.0):
                return picture
        return convert(picture.convert(mode))
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(f"its colour profile cannot be applied: {error}") from error


def _deep_to_srgb(colours: Pixels, profile: bytes | None, path: Path) -> Pixels:
    """(H, W, 1 or 3) float32 in [0, 1] with its profile, as (H, W, 3) in sRGB: computed in 16 bits."""
    if profile is None:
        return _over_white(colours, None)
    try:
        import imagecodecs
    except ImportError as error:
        raise MissingExtra(f"imagecodecs to apply the colour profile of {path.name}, of 16 bits", "deep") from error
    space = profile[16:20].decode("ascii", "replace").strip()
    if space not in ("RGB", "GRAY") or (space == "GRAY" and colours.shape[-1] == 3):
        raise ValueError(f"its colour profile is one for {space!r}, its pixels are not")
    channels = 1 if space == "GRAY" else 3

    def convert(values: Pixels) -> Pixels:
        deep = (values * 65535.0).round().astype(np.uint16)
        deep = deep[..., 0] if channels == 1 else np.broadcast_to(deep, (*deep.shape[:2], 3))
        try:
            converted = imagecodecs.cms_transform(
                np.ascontiguousarray(deep),
                profile,
                imagecodecs.cms_profile("srgb"),
                colorspace="gray" if channels == 1 else "rgb",
                outcolorspace="rgb",
            )
        except (imagecodecs.CmsError, ValueError) as error:
            raise ValueError(f"its colour profile cannot be applied: {error}") from error
        return np.asarray(converted).astype(np.float32) / 65535.0

    cube = _cube(channels)
    if _is_srgb(cube, convert(cube)):
        return _over_white(colours, None)
    return convert(colours)


def _cube(channels: int) -> Pixels:
    """Colours that fill the space coarsely, as a picture (N, 9, channels) in [0, 1]."""
    steps = np.linspace(0.0, 1.0, 9, dtype=np.float32)
    grid = np.stack(np.meshgrid(*[steps] * channels, indexing="ij"), axis=-1)
    return grid.reshape(-1, 9, channels)


def _is_srgb(given: Pixels, converted: Pixels) -> bool:
    return bool(np.abs(given - converted).max() <= SAME)
