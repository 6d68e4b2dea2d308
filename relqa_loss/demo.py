"""The package's main job on one real photograph: say what is wrong, where and how much, and repair it by descent."""

from __future__ import annotations

import importlib.resources
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from .evaluation.psnr import psnr
from .figures import check_ending, comparison_panel
from .images import central_crop, read_image
from .losses import DEFAULT_WEIGHTS, RelationalLoss
from .relation import AXES
from .words import strongest

PHOTOGRAPHS = ("city", "dog", "foliage")
PHOTOGRAPH = "dog"
CROP = 192
STEPS = 120
MILD = (60, 0.01)
STRONG = (12, 0.07)
"""(JPEG quality on the left, sigma of the noise on the right) of the mild and the strong degradation."""


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration found.

    Attributes:
        photograph: which of ``PHOTOGRAPHS``.
        distance: of the strongly degraded photograph to its original.
        floor: the part of ``distance`` that belongs to no axis.
        mild_distance: of the mildly degraded one.
        score: of the mild against the strong one, anchored at the original; positive = the mild one is better.
        axes: (axis, part, direction in [-1, 1]), strongest first; every axis with a part.
        psnr_before: of the crop of the degraded photograph, in dB.
        psnr_after: of the same crop after descent.
        crop_distance: of the crop before and after descent.
        figure: where the figure is.
        seconds: step of the demonstration -> wall time.
    """

    photograph: str
    distance: float
    floor: float
    mild_distance: float
    score: float
    axes: list[tuple[str, float, float]]
    psnr_before: float
    psnr_after: float
    crop_distance: tuple[float, float]
    figure: Path
    seconds: dict[str, float]


def photograph(name: str) -> Tensor:
    """One of the shipped photographs, (3, 384, 384) float32 in [0, 1]."""
    root = importlib.resources.files(__package__) / "assets" / "photographs" / f"{name}.png"
    with importlib.resources.as_file(root) as path:
        return read_image(path)


def degrade(image: Tensor, quality: int, sigma: float, generator: Generator) -> Tensor:
    """JPEG coding in the left half, sensor noise in the right half.

    Args:
        image: (3, H, W) in [0, 1].
        quality: of the JPEG coding, 1 to 95.
        sigma: standard deviation of the noise, independent for each channel.
        generator: of the noise, on the CPU.
    """
    from .distortions import by_name

    jpeg = by_name("jpeg").apply
    assert jpeg is not None
    coded = jpeg(image[None], torch.tensor([float(quality)]), generator)[0]
    noisy = (image + sigma * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    return torch.where(torch.arange(image.shape[2]) < image.shape[2] // 2, coded, noisy)


def run_demo(
    out: str | Path,
    name: str = PHOTOGRAPH,
    weights: str = DEFAULT_WEIGHTS,
    *,
    steps: int = STEPS,
    crop: int = CROP,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> DemoResult:
    """Run the demonstration and write its figure.

    Args:
        out: folder, made if needed, of ``relqa-demo.png``; or a name with the ending of a figure, e.g. ``demo.webp``.
        name: one of ``PHOTOGRAPHS``.
        weights: what ``RelationalLoss`` accepts.
        steps: of Adam, at least 1.
        crop: side of the square that is repaired, in pixels, around the middle.
        seed: of the noise.
        progress: called with (done, all) after each step of the descent.

    Raises:
        ValueError: unknown photograph, a crop that does not fit, fewer than one step, or an ending that no figure has.
        MissingExtra: Pillow or matplotlib is not installed.
    """
    # The engine comes along with the recovery, and `relqa --help` reads the names above: it has no use for an engine.
    from .evaluation.recovery import check_steps, recover

    check_steps(steps)
    # A folder may have a dot in its name, as of a version; the endings of figures begin with a letter.
    named = Path(out).suffix[1:2].isalpha() and not Path(out).is_dir()
    figure = Path(out) if named else Path(out) / "relqa-demo.png"
    check_ending(figure)
    if name not in PHOTOGRAPHS:
        raise ValueError(f"photograph must be one of {', '.join(PHOTOGRAPHS)}, got {name!r}")
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[step], clock = now - clock, now

    original = photograph(name)
    target = central_crop(original, crop)[None]
    strong = degrade(original, *STRONG, Generator().manual_seed(seed))[None]
    mild = degrade(original, *MILD, Generator().manual_seed(seed))[None]
    ref = original[None]
    lap("read and degrade")
    loss_fn = RelationalLoss(weights)
    lap("load the loss")
    with torch.no_grad():
        relation = loss_fn.relate(strong, ref)
        score = float(loss_fn.relate(mild, strong, ref=ref).score)
        mild_distance = float(loss_fn(mild, ref))
        axes = strongest(relation, len(AXES))
    lap("compare")
    before = central_crop(strong[0], crop)[None]
    after = recover(loss_fn, before, target, steps, progress=progress)
    with torch.no_grad():
        crop_distance = float(loss_fn(before, target)), float(loss_fn(after, target))
    gained = psnr(before, target), psnr(after, target)
    lap("repair by descent")
    extra = [
        (f"crop, degraded: {gained[0]:.1f} dB", before[0]),
        (f"after {steps} steps down the loss: {gained[1]:.1f} dB", after[0]),
        ("crop of the reference", target[0]),
    ]
    title = f"{name}: JPEG quality {STRONG[0]} on the left, noise on the right; distance {float(relation.distance):.3g}"
    comparison_panel(original, strong[0], relation, extra, figure, title=title)
    lap("draw the figure")
    return DemoResult(
        photograph=name,
        distance=float(relation.distance),
        floor=float(relation.floor),
        mild_distance=mild_distance,
        score=score,
        axes=axes,
        psnr_before=gained[0],
        psnr_after=gained[1],
        crop_distance=crop_distance,
        figure=figure,
        seconds=seconds,
    )
