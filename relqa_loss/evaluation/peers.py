"""Other packages' distortions beside ours: what they offer, what they return, how fast they are on the same crops.

None of them is needed: what is not installed, or does not import, is named and left out. What each returns is stated
from its own documentation and source, for the versions kornia 0.9.0, torchvision 0.29, albumentations 2.0.8 and
imagecorruptions 1.1.2; versions and numbers of operators are read from what is installed.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from .. import __version__
from ..distortions import BANK, DistortionEngine, by_name, warp

COMMON = ("gaussian blur", "JPEG", "brightness", "contrast", "noise", "elastic")
"""What all of them have, at about one strength: the numbers below, where a package takes such numbers."""

SIGMA, QUALITY, OFFSET, FACTOR, DEVIATION, REACH = 2.0, 30, 0.15, 0.6, 0.08, 4.0

FACTS = ("ground truth", "strength", "randomness", "batch", "device")

Task = Callable[[], object]


@dataclass(frozen=True)
class Peer:
    """One package, ready to be timed.

    Attributes:
        name: of the package.
        version: of what is installed.
        operators: how many it has.
        counted: what was counted.
        facts: what it returns and how it is steered, by ``FACTS``.
        tasks: name in ``COMMON`` -> a call that distorts all crops once.
    """

    name: str
    version: str
    operators: int
    counted: str
    facts: Mapping[str, str]
    tasks: Mapping[str, Task] = field(repr=False)


def load_peers(crops: Tensor, threads: int) -> tuple[list[Peer], dict[str, str]]:
    """Ours and every package that is installed.

    Args:
        crops: (B, 3, H, W) in [0, 1], on the device to be measured.
        threads: CPU threads for packages that keep their own.

    Returns:
        The packages, ours first, and package -> reason for those left out.
    """
    found, missing = [_relqa(crops), _relqa_engine(crops)], {}
    for name, build in _BUILDERS.items():
        try:
            found.append(build(crops, threads))
        except ImportError as error:
            absent = isinstance(error, ModuleNotFoundError) and (error.name or "").startswith(name)
            missing[name] = "not installed" if absent else f"does not import: {error}"
    return found, missing


def _classes(module: ModuleType, base: type) -> int:
    """Public classes of a module derived from ``base``."""
    return sum(
        inspect.isclass(one) and issubclass(one, base) and one is not base and "Base" not in one.__name__
        for name, one in vars(module).items()
        if not name.startswith("_")
    )


def _pictures(crops: Tensor) -> list[np.ndarray[Any, Any]]:
    """(H, W, 3) uint8, one a crop: what the numpy packages take."""
    pixels = (crops.detach().cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return list(pixels)


def _each(function: Callable[[Any], object], pictures: list[Any]) -> Task:
    return lambda: [function(picture) for picture in pictures]


def _relqa(crops: Tensor) -> Peer:
    generator = Generator(device=crops.device).manual_seed(0)

    def task(name: str, native: float) -> Task:
        distortion = by_name(name)
        parameter = torch.full((crops.shape[0],), native)
        if distortion.flow is not None:
            flow = distortion.flow
            return lambda: warp(crops, flow(crops, parameter, generator)).clamp(0, 1)
        assert distortion.apply is not None
        apply = distortion.apply
        return lambda: apply(crops, parameter, generator)

    return Peer(
        "relqa_loss, pictures alone",
        __version__,
        len(BANK),
        "operators",
        {
            "ground truth": "none",
            "strength": "native parameter",
            "randomness": "generator passed in",
            "batch": "yes, a draw for each picture",
            "device": "that of the input; real codecs on the CPU",
        },
        {
            "gaussian blur": task("gaussian_blur", SIGMA),
            "JPEG": task("jpeg", QUALITY),
            "brightness": task("brighten", OFFSET),
            "contrast": task("contrast_down", FACTOR),
            "noise": task("rgb_noise", DEVIATION),
            "elastic": task("elastic_warp", REACH),
        },
    )


def _relqa_engine(crops: Tensor) -> Peer:
    generator = Generator(device=crops.device).manual_seed(0)

    def task(name: str) -> Task:
        engine = DistortionEngine([name], severity=(0.5, 0.5), components={1: 1.0})
        return lambda: engine(crops, generator=generator)

    return Peer(
        "relqa_loss, engine",
        __version__,
        len(BANK),
        "operators",
        {
            "ground truth": "signed map for each axis, weight, recipe",
            "strength": "calibrated, 0 to 1",
            "randomness": "generator passed in",
            "batch": "yes, a draw for each picture",
            "device": "that of the input; real codecs on the CPU",
        },
        {
            "gaussian blur": task("gaussian_blur"),
            "JPEG": task("jpeg"),
            "brightness": task("brighten"),
            "contrast": task("contrast_down"),
            "noise": task("rgb_noise"),
            "elastic": task("elastic_warp"),
        },
    )


def _kornia(crops: Tensor, threads: int) -> Peer:
    augment = importlib.import_module("kornia.augmentation")
    always = {"p": 1.0}
    transforms = {
        "gaussian blur": augment.RandomGaussianBlur((13, 13), (SIGMA, SIGMA), **always),
        "JPEG": augment.RandomJPEG((float(QUALITY), float(QUALITY)), **always),
        "brightness": augment.RandomBrightness((1 + OFFSET, 1 + OFFSET), **always),
        "contrast": augment.RandomContrast((FACTOR, FACTOR), **always),
        "noise": augment.RandomGaussianNoise(std=DEVIATION, **always),
        "elastic": augment.RandomElasticTransform((49, 49), (8.0, 8.0), (0.3, 0.3), **always),
    }
    return Peer(
        "kornia",
        metadata.version("kornia"),
        _classes(augment, augment.AugmentationBase2D),
        "2-D augmentations",
        {
            "ground truth": "none (matrices of geometric transforms)",
            "strength": "native range",
            "randomness": "torch's global state; drawn parameters can be replayed",
            "batch": "yes, a draw for each picture",
            "device": "that of the input; JPEG imitated in torch",
        },
        {name: _bound(transform, crops) for name, transform in transforms.items()},
    )


def _torchvision(crops: Tensor, threads: int) -> Peer:
    v2 = importlib.import_module("torchvision.transforms.v2")
    coded = (crops.detach().cpu() * 255).round().to(torch.uint8)
    transforms = {
        "gaussian blur": v2.GaussianBlur(13, (SIGMA, SIGMA)),
        "brightness": v2.ColorJitter(brightness=(1 + OFFSET, 1 + OFFSET)),
        "contrast": v2.ColorJitter(contrast=(FACTOR, FACTOR)),
        "noise": v2.GaussianNoise(sigma=DEVIATION),
        "elastic": v2.ElasticTransform(alpha=40.0, sigma=8.0),
    }
    tasks = {name: _bound(transform, crops) for name, transform in transforms.items()}
    return Peer(
        "torchvision",
        metadata.version("torchvision"),
        _classes(v2, v2.Transform),
        "v2 transforms, containers and conversions included",
        {
            "ground truth": "none (boxes and masks move along)",
            "strength": "native range",
            "randomness": "torch's global state",
            "batch": "yes, one draw of parameters for all",
            "device": "that of the input; JPEG takes uint8",
        },
        {**tasks, "JPEG": _bound(v2.JPEG(QUALITY), coded)},
    )


def _albumentations(crops: Tensor, threads: int) -> Peer:
    # Or it asks the network for a newer version of itself.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    package = importlib.import_module("albumentations")
    importlib.import_module("cv2").setNumThreads(threads)
    transforms = {
        "gaussian blur": package.GaussianBlur(blur_limit=(13, 13), sigma_limit=(SIGMA, SIGMA), p=1.0),
        "JPEG": package.ImageCompression(quality_range=(QUALITY, QUALITY), p=1.0),
        "brightness": package.RandomBrightnessContrast((OFFSET, OFFSET), (0.0, 0.0), p=1.0),
        "contrast": package.RandomBrightnessContrast((0.0, 0.0), (FACTOR - 1, FACTOR - 1), p=1.0),
        "noise": package.GaussNoise(std_range=(DEVIATION, DEVIATION), p=1.0),
        "elastic": package.ElasticTransform(alpha=40.0, sigma=8.0, p=1.0),
    }
    pictures = _pictures(crops)

    def applied(transform: Callable[..., object]) -> Callable[[Any], object]:
        return lambda picture: transform(image=picture)

    return Peer(
        "albumentations",
        metadata.version("albumentations"),
        _classes(package, package.ImageOnlyTransform) + _classes(package, package.DualTransform),
        "image-only and dual transforms, crops and flips included",
        {
            "ground truth": "none (boxes and masks move along)",
            "strength": "native range",
            "randomness": "seed of the pipeline; ReplayCompose replays",
            "batch": "one numpy picture, or several with one draw",
            "device": "CPU",
        },
        {name: _each(applied(transform), pictures) for name, transform in transforms.items()},
    )


def _imagecorruptions(crops: Tensor, threads: int) -> Peer:
    package = importlib.import_module("imagecorruptions")
    names = ("gaussian_blur", "jpeg_compression", "brightness", "contrast", "gaussian_noise", "elastic_transform")
    pictures = _pictures(crops)

    def applied(name: str) -> Callable[[Any], object]:
        return lambda picture: package.corrupt(picture, corruption_name=name, severity=2)

    return Peer(
        "imagecorruptions",
        metadata.version("imagecorruptions"),
        len(package.get_corruption_names("all")),
        "corruptions",
        {
            "ground truth": "none",
            "strength": "severity 1 to 5",
            "randomness": "numpy's global state",
            "batch": "one numpy picture",
            "device": "CPU",
        },
        {common: _each(applied(name), pictures) for common, name in zip(COMMON, names, strict=True)},
    )


def _bound(transform: Callable[[Tensor], object], images: Tensor) -> Task:
    return lambda: transform(images)


_BUILDERS: dict[str, Callable[[Tensor, int], Peer]] = {
    "kornia": _kornia,
    "torchvision": _torchvision,
    "albumentations": _albumentations,
    "imagecorruptions": _imagecorruptions,
}
