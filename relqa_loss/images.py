"""Photo files to tensors and back; Pillow is imported when a file is first touched (extra ``images``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .files import write_atomically
from .pixels import decode
from .validation import MIN_SIDE, MissingExtra

SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff")
"""File endings that are taken for photographs, in lower case."""

JPEG_QUALITY = 95
"""Of JPEG and AVIF files written by :func:`write_image`: high enough not to add visible artefacts of its own."""


@dataclass(frozen=True)
class Folder:
    """Photographs of one folder.

    Attributes:
        names: file names, sorted; one for each image.
        images: (3, H, W) float32 in [0, 1] each; sizes may differ.
        skipped: names of files that look like photographs and could not be read, with the reason.
    """

    names: tuple[str, ...]
    images: tuple[Tensor, ...]
    skipped: tuple[tuple[str, str], ...] = ()


def pillow() -> ModuleType:
    """``PIL.Image``, or :class:`MissingExtra`."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("Pillow", "images") from error
    return Image


def read_image(path: str | Path) -> Tensor:
    """Read one photograph as sRGB.

    EXIF rotation is applied. Grey becomes three equal channels. Transparent pixels are laid over white. An embedded
    colour profile is converted to sRGB (relative colorimetric), and CMYK is read if it has one; without a profile
    colours are taken for sRGB. PNG and TIFF of 9 to 16 bits keep them all; JPEG, WebP and AVIF are read with 8.

    Args:
        path: a PNG, JPEG, WebP, AVIF or TIFF file; of several pages or frames the first.

    Returns:
        (3, H, W) float32, RGB, in [0, 1].

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable photograph, a pixel format without a defined range or colours (32-bit, float, CMYK
            without a profile), or a profile that cannot be applied.
        MissingExtra: Pillow, or for colour of more than 8 bits the extra ``deep``, is not installed.
    """
    image_module = pillow()
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such photograph: {path}")
    if path.is_dir():
        raise ValueError(f"expected one photograph, got a folder: {path}")
    try:
        # Not by its path: Pillow would map uncompressed TIFF into memory, with rows of a turned picture's width.
        with path.open("rb") as file, image_module.open(file) as opened:
            pixels = decode(opened, path)
    except image_module.UnidentifiedImageError as error:
        raise ValueError(f"cannot read {path}: {_unidentified(path)}") from error
    except (OSError, SyntaxError, ValueError, RuntimeError, image_module.DecompressionBombError) as error:
        reason = str(error).replace(str(path), path.name)
        raise ValueError(f"cannot read {path}: {reason}") from error
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _unidentified(path: Path) -> str:
    """Why Pillow may not know a file; it says no more of colour TIFF in floats than of a text."""
    with path.open("rb") as file:
        begin = file.read(4)
    if not begin:
        return "the file is empty"
    if begin in (b"II*\0", b"MM\0*"):
        return "TIFF pixels of a kind that has no defined range here; convert them to RGB or grey of 8 or 16 bits first"
    return f"cannot identify image file {path.name!r}"


def to_bytes(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(3, H, W), any floating dtype and device, clamped to [0, 1] -> (H, W, 3) uint8, to the nearest step."""
    steps = (image.detach().to("cpu", torch.float32).clamp(0, 1) * 255.0).round().to(torch.uint8)
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = steps.permute(1, 2, 0).contiguous().numpy()
    return pixels


def write_image(path: str | Path, image: Tensor) -> Path:
    """Write one image as 8-bit RGB; values outside [0, 1] are clamped, folders are made.

    Args:
        path: the file; its ending picks the format (see ``SUFFIXES``). WebP and TIFF are written without loss.
        image: (3, H, W) or (1, 3, H, W), any floating dtype and device.

    Returns:
        The path written.

    Raises:
        TypeError: not a floating dtype: integers have no range here.
        ValueError: unknown ending, or an image of another shape.
        MissingExtra: Pillow is not installed.
    """
    image_module = pillow()
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot write {path.name!r}: the ending must be one of {', '.join(SUFFIXES)}")
    if not image.is_floating_point():
        raise TypeError(f"image must be of a floating dtype, in [0, 1], got {image.dtype}")
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image must have shape (3, H, W), got {tuple(image.shape)}")
    picture = image_module.fromarray(to_bytes(image))
    suffix = path.suffix.lower()
    kind = image_module.registered_extensions().get(suffix)
    if kind is None:
        raise ValueError(f"cannot write {path.name!r}: this Pillow has no codec for {suffix}")
    options: dict[str, Any] = {}
    if suffix in (".jpg", ".jpeg"):
        options = {"quality": JPEG_QUALITY, "subsampling": 0}
    elif suffix == ".avif":
        options = {"quality": JPEG_QUALITY, "subsampling": "4:4:4"}
    elif suffix == ".webp":
        options = {"lossless": True}
    write_atomically(path, lambda temporary: picture.save(temporary, kind, **options))
    return path


def list_images(folder: str | Path, recursive: bool = False) -> list[Path]:
    """Photographs directly inside a folder, or anywhere below it, sorted by path; none that is hidden.

    Raises:
        ValueError: not a folder, not readable, or without any photograph.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"expected a folder of photographs, got {folder}" + ("" if folder.exists() else " (not there)")
        )
    try:
        entries = folder.rglob("*") if recursive else folder.iterdir()
        found = sorted(p for p in entries if p.suffix.lower() in SUFFIXES and not _is_hidden(p.relative_to(folder)))
    except OSError as error:
        raise ValueError(f"cannot read folder {folder}: {error.strerror or error}") from error
    if not found:
        raise ValueError(f"no photograph in folder {folder} (looked for {', '.join(SUFFIXES)})")
    return found


def _is_hidden(path: Path) -> bool:
    """Whether a file, or a folder on the way to it, is hidden: thumbnails, checkpoints of notebooks, waste bins."""
    return any(part.startswith(".") for part in path.parts)


def readable(name: str) -> str:
    r"""A file name that any text can hold: bytes that are not UTF-8 are written as ``\udc80`` to ``\udcff``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def central_crop(image: Tensor, side: int) -> Tensor:
    """Central square (3, side, side) of an image (3, H, W).

    Raises:
        ValueError: the image is smaller than ``side``, or ``side`` is below 16.
    """
    height, width = image.shape[1:]
    if not MIN_SIDE <= side <= min(height, width):
        raise ValueError(f"crop must be {MIN_SIDE} to {min(height, width)} pixels for this image, got {side}")
    top, left = (height - side) // 2, (width - side) // 2
    return image[:, top : top + side, left : left + side]


def read_each(paths: Iterable[Path], smallest_side: int = MIN_SIDE) -> Iterator[tuple[Path, Tensor | str]]:
    """Read photographs one by one: each path with its image (3, H, W), or with the reason why it cannot be used.

    Args:
        paths: of the files.
        smallest_side: in pixels; a photograph of which a side is smaller, or under 16, cannot be used.

    Raises:
        MissingExtra: Pillow is not installed, or what a 16-bit photograph needs beside it.
    """
    for path in paths:
        try:
            image = read_image(path)
        except (ValueError, OSError) as error:
            yield path, str(error)
            continue
        yield path, too_small(image, max(smallest_side, MIN_SIDE)) or image


def too_small(image: Tensor, side: int) -> str:
    """Why an image (3, H, W) holds no square of ``side`` pixels; empty where it does."""
    height, width = image.shape[1:]
    return f"smaller than {side}x{side} pixels: {height}x{width}" if min(height, width) < side else ""


def read_folder(folder: str | Path, limit: int | None = None, smallest_side: int = MIN_SIDE) -> Folder:
    """Read the photographs of a folder; files that cannot be used are named and left out.

    Args:
        folder: the folder (not searched recursively).
        limit: read at most this many good photographs, in order of their names; None reads all.
        smallest_side: as for :func:`read_each`.

    Raises:
        ValueError: no such folder, no photograph in it, or not one that can be used.
        MissingExtra: as for :func:`read_each`.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 or None, got {limit}")
    names: list[str] = []
    images: list[Tensor] = []
    skipped: list[tuple[str, str]] = []
    for path, image in read_each(list_images(folder), smallest_side):
        if isinstance(image, str):
            skipped.append((path.name, image))
            continue
        names.append(path.name)
        images.append(image)
        if len(images) == limit:
            break
    if not images:
        first = f"; first reason: {skipped[0][1]}" if skipped else ""
        raise ValueError(f"none of the {len(skipped)} photographs in {folder} can be used{first}")
    return Folder(tuple(names), tuple(images), tuple(skipped))
