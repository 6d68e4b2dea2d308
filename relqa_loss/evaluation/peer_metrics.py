"""Other people's full-reference metrics, as they come from the package registry: no download, nothing to train.

Every metric is called as its package's defaults say, on pictures in [0, 1], and turned so that higher is worse. What is
not installed is named and left out. Some packages print, warn or log while they load; they are kept quiet, their
exceptions are not.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata

import torch
from torch import Tensor, nn

from ..distortions.panel import PANEL
from ..images import pillow, to_bytes
from ..validation import MIN_SIDE, check_pair, unknown_name

Function = Callable[[Tensor, Tensor], Tensor]
"""(distorted, reference), both (B, 3, H, W) float32 in [0, 1] -> (B,), higher = worse."""

DISPLAY = "standard_fhd"
"""CVVDP's display: 24 inches, 1920x1080, 200 cd/m2, 250 lux office light, seen from 0.6 m."""

PIXELS_PER_DEGREE = 37.84
"""Of that display, and so of FLIP, which looks from the same place."""


@dataclass(frozen=True)
class PeerMetric:
    """One metric of another package.

    Attributes:
        name: unique name, ``snake_case``.
        package: the distribution that brings it.
        version: of what is installed.
        trained_on: what its weights, or constants that its authors fitted or picked, owe to people's judgements; ""
            for a closed form without.
        protocol: scaling, colour, display, and how its direction was turned.
        function: the metric itself, on float32 pictures.
        min_side: smallest height and width that it is defined for, in pixels.
    """

    name: str
    package: str
    version: str
    trained_on: str
    protocol: str
    function: Function = field(repr=False)
    min_side: int = MIN_SIDE

    @torch.no_grad()
    def __call__(self, distorted: Tensor, reference: Tensor) -> Tensor:
        """How much worse ``distorted`` is: (B,) float32 on the device of the pictures, higher = worse, no gradients.

        Args:
            distorted: (B, 3, H, W), RGB, sRGB-encoded, in [0, 1]; values outside are clamped.
            reference: the same shape.

        Raises:
            ValueError: shapes that differ, pictures smaller than ``min_side``, a metric that returned another shape.
        """
        check_pair("distorted", distorted, "reference", reference)
        height, width = distorted.shape[2:]
        if min(height, width) < self.min_side:
            raise ValueError(
                f"distorted must be at least {self.min_side}x{self.min_side} pixels for {self.name}, "
                f"got {height}x{width}"
            )
        values = self.function(distorted.detach().float().clamp(0, 1), reference.detach().float().clamp(0, 1))
        if values.numel() != distorted.shape[0]:
            raise ValueError(f"{self.name} must give {distorted.shape[0]} values, got shape {tuple(values.shape)}")
        return values.reshape(-1).to(distorted.device, torch.float32)


@dataclass(frozen=True)
class _Source:
    """Where a metric comes from, before anything is imported."""

    package: str
    module: str
    trained_on: str
    protocol: str
    build: Callable[[], Function]
    min_side: int = MIN_SIDE


def load_metrics(names: Sequence[str] | None = None) -> tuple[dict[str, PeerMetric], dict[str, str]]:
    """The metrics that are installed.

    Args:
        names: of ``METRIC_NAMES``; None for all.

    Returns:
        Name -> metric, in the order of ``names``, and name -> one line for each that is missing, with the package to
        install.

    Raises:
        ValueError: an unknown name.
    """
    found: dict[str, PeerMetric] = {}
    missing: dict[str, str] = {}
    wanted = list(METRIC_NAMES if names is None else names)
    for name in wanted:
        if name not in _SOURCES:
            raise ValueError(unknown_name("metric", name, METRIC_NAMES))
    for name in wanted:
        source = _SOURCES[name]
        try:
            with _quiet():
                importlib.import_module(source.module)
                function = source.build()
        except ImportError as error:
            top = source.module.partition(".")[0]
            absent = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == top
            reason = "not installed" if absent else f"does not import ({str(error).splitlines()[0]})"
            missing[name] = f"{reason}: pip install {source.package}"
            continue
        version = metadata.version(source.package)
        found[name] = PeerMetric(
            name, source.package, version, source.trained_on, source.protocol, function, source.min_side
        )
    return found, missing


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing printed, warned or logged below an error, and ``sys.path`` as it was; exceptions pass."""
    path, level = list(sys.path), logging.root.manager.disable
    logging.disable(max(level, logging.WARNING))
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(level)
        # One package puts its own folder on the path, where its "utils" would shadow anyone's.
        sys.path[:] = path


def _piq(function: str, turn: Callable[[Tensor], Tensor]) -> Callable[[], Function]:
    def build() -> Function:
        measure = getattr(importlib.import_module("piq"), function)
        return lambda distorted, reference: turn(measure(distorted, reference, data_range=1.0, reduction="none"))

    return build


def _complement(values: Tensor) -> Tensor:
    return 1 - values


def _as_it_is(values: Tensor) -> Tensor:
    return values


def _stlpips() -> Function:
    package = importlib.import_module("stlpips_pytorch.stlpips")
    # This variant builds its trunk by itself, and the file in the wheel holds all of it: nothing to download.
    network = package.LPIPS(net="alex", variant="shift_tolerant", verbose=False).eval().requires_grad_(False)
    # Both make it faster on a CPU and change nothing but the rounding.
    network.net = _OnceForEqual(network.net)
    network.to(memory_format=torch.channels_last)

    def measure(distorted: Tensor, reference: Tensor) -> Tensor:
        pair = [images.cpu().contiguous(memory_format=torch.channels_last) for images in (distorted, reference)]
        values: Tensor = network(*pair, normalize=True)
        return values

    return measure


class _OnceForEqual(nn.Module):
    """A trunk that looks once at a batch of one picture repeated: pictures of one reference cost half.

    Not where gradients are wanted: the first picture would get those of all.

    Args:
        trunk: pictures (B, 3, H, W) -> features, several (B, ...).
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of the batch."""
        if not images.requires_grad and bool((images[1:] == images[:1]).all()):
            return [one.expand(len(images), *one.shape[1:]) for one in self.trunk(images[:1])]
        return list(self.trunk(images))


def _cvvdp() -> Function:
    package = importlib.import_module("pycvvdp")
    metric = package.cvvdp(display_name=DISPLAY, quiet=True, device=torch.device("cpu"))

    def measure(distorted: Tensor, reference: Tensor) -> Tensor:
        values: Tensor = metric.predict(distorted.cpu(), reference.cpu(), dim_order="BCHW")[0]
        return 10 - values

    return measure


def _ssimulacra2() -> Function:
    package = importlib.import_module("ssimulacra2")
    image_module = pillow()

    def coded(image: Tensor) -> io.BytesIO:
        file = io.BytesIO()
        image_module.fromarray(to_bytes(image)).save(file, "BMP")
        file.seek(0)
        return file

    def measure(distorted: Tensor, reference: Tensor) -> Tensor:
        scores = [
            float(package.compute_ssimulacra2(coded(original), coded(one)))
            for one, original in zip(distorted, reference, strict=True)
        ]
        return 100 - torch.tensor(scores)

    return measure


def _flip() -> Function:
    package = importlib.import_module("flip_evaluator")

    def measure(distorted: Tensor, reference: Tensor) -> Tensor:
        means = []
        for one, original in zip(distorted.cpu(), reference.cpu(), strict=True):
            pair = [image.permute(1, 2, 0).contiguous().numpy() for image in (original, one)]
            _, mean, _ = package.evaluate(*pair, "LDR", applyMagma=False, parameters={"ppd": PIXELS_PER_DEGREE})
            means.append(float(mean))
        return torch.tensor(means)

    return measure


_CONSTANTS = {member.name: member.opinion_constants for member in PANEL}
_HALVED = "sides divided by round(shorter side / 256) first"


def _from_piq(
    function: str,
    turn: Callable[[Tensor], Tensor],
    protocol: str,
    trained_on: str = "",
    min_side: int = MIN_SIDE,
) -> _Source:
    return _Source("piq", "piq", trained_on, protocol, _piq(function, turn), min_side)


_SOURCES: dict[str, _Source] = {
    "psnr": _from_piq("psnr", torch.neg, "RGB as encoded; negated, in dB"),
    "ssim": _from_piq("ssim", _complement, f"mean over the channels of RGB, {_HALVED}; 1 - value"),
    "ms_ssim": _from_piq(
        "multi_scale_ssim",
        _complement,
        "mean over the channels of RGB, full size, five scales; 1 - value",
        "the weights of the five scales: people matched errors of different scales (Wang et al. 2003)",
        min_side=161,
    ),
    "fsim": _from_piq(
        "fsim",
        _complement,
        f"luminance and chrominance (FSIMc), {_HALVED}; 1 - value",
        "the constants of the similarities: picked on a part of TID2008 (Zhang et al. 2011)",
    ),
    "vsi": _from_piq("vsi", _complement, f"colour, {_HALVED}; 1 - value", _CONSTANTS["vsi"]),
    "gmsd": _from_piq("gmsd", _as_it_is, "luminance, halved", _CONSTANTS["gmsd"]),
    "mdsi": _from_piq("mdsi", _as_it_is, f"colour, {_HALVED}", _CONSTANTS["mdsi"]),
    "haarpsi": _from_piq("haarpsi", _complement, "luminance and chrominance, halved; 1 - value", _CONSTANTS["haarpsi"]),
    "vif": _from_piq(
        "vif_p",
        _complement,
        "pixel domain, luminance, full size; 1 - value",
        "the variance of the visual noise: picked by hand among a few values (Sheikh and Bovik 2006)",
        min_side=41,
    ),
    "st_lpips": _Source(
        "stlpips_pytorch",
        "stlpips_pytorch.stlpips",
        "weights: choices of people between pairs of patches, BAPPS (Ghildyal and Liu 2022)",
        "RGB in [-1, 1], full size; AlexNet, shift-tolerant variant",
        _stlpips,
        min_side=32,
    ),
    "cvvdp": _Source(
        "cvvdp",
        "pycvvdp",
        "parameters of masking and pooling: people's scores of videos and images, XR-DAVID among them (Mantiuk et al. "
        "2024)",
        f"still picture on display {DISPLAY}, {PIXELS_PER_DEGREE} pixels a degree; 10 - JOD",
        _cvvdp,
        min_side=32,
    ),
    # With fewer than six scales the port (as the original) pairs weights with the wrong terms.
    "ssimulacra2": _Source(
        "ssimulacra2",
        "ssimulacra2",
        "its 108 weights: people's scores of CID22, TID2013, KADID-10k and KonFiG-IQA (its authors' README of version "
        "2.1)",
        "8-bit RGB, full size, weights of version 2.1; 100 - score",
        _ssimulacra2,
        min_side=225,
    ),
    "flip": _Source(
        "flip-evaluator",
        "flip_evaluator",
        "",
        f"mean of the LDR error map at {PIXELS_PER_DEGREE} pixels a degree",
        _flip,
    ),
}

METRIC_NAMES: tuple[str, ...] = tuple(_SOURCES)
"""All metrics that are known here, installed or not."""
