"""Cost of the loss in time and memory beside other losses, measured in one run."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .. import __version__
from ..distortions.threads import Progress
from ..images import MissingExtra
from ..losses import RelationalLoss
from ..prepared import PreparedReference
from ..validation import unknown_name
from .clock import seconds_of
from .memory import METHODS, MIB, check_countable, peak_memory
from .speed_peers import LEAST_SIDE, MS_SSIM_SIDE, lpips_alexnet, lpips_vgg16, ms_ssim_loss
from .targets import Figure, Target

Precision = Literal["float32", "bfloat16"]
"""What forward passes compute in: bfloat16 by autocast."""

Loss = Callable[[Tensor], Tensor]
"""``pred`` -> a scalar; what it is compared with is bound already."""

OURS = "relational_loss"

ENOUGH_SECONDS = 30.0
ENOUGH_PASSES = 3
"""A contender that has taken so many timed passes and so many seconds sits the remaining repeats out."""

TARGETS: tuple[Target, ...] = tuple(
    Target(Figure(title, path, "coefficient"), goal, lower_is_better=True)
    for title, path, goal in (
        ("Time beside LPIPS-AlexNet", ("lpips_alexnet", "ratio"), 1.0),
        ("Time beside LPIPS-VGG16", ("lpips_vgg16", "ratio"), 0.05),
        ("Time beside MS-SSIM", ("ms_ssim", "ratio"), 1.5),
        ("Peak memory beside LPIPS-VGG16", ("lpips_vgg16", "memory_ratio"), 0.5),
    )
)
"""Asked of the loss at 8x3x256x256 float32 on two CPU threads; paths lead through ``SpeedReport.contenders``."""


@dataclass(frozen=True)
class Contender:
    """A loss to be measured.

    Attributes:
        key: unique name, ``snake_case``.
        title: for people.
        loss: the loss against the run's reference.
        held: bytes that it keeps between passes, counted into its peak.
    """

    key: str
    title: str
    loss: Loss = field(repr=False)
    held: int = 0


@dataclass(frozen=True)
class Cost:
    """Forward and backward pass to ``pred`` of one contender.

    Attributes:
        title: for people.
        ms: median time of a pass, in milliseconds.
        best_ms: smallest time: nearer to the true cost on a busy machine.
        ratio: our median time divided by this one's over the repeats that both took part in; 1 for ourselves.
        ratio_spread: smallest and largest ratio of one interleaved repeat.
        repeats: timed passes.
        peak_mib: memory at the peak of a pass beyond weights and pictures, in MiB; see ``memory.METHODS``.
        memory_ratio: our peak divided by this one's.
    """

    title: str
    ms: float
    best_ms: float
    ratio: float
    ratio_spread: tuple[float, float]
    repeats: int
    peak_mib: float
    memory_ratio: float


@dataclass(frozen=True)
class SpeedReport:
    """Costs measured in one run, and what they were taken on.

    Attributes:
        contenders: key -> cost, ours first.
        left_out: title -> why it was not measured.
        setup: shape, device, threads, precision, compilation and versions.
        memory_method: how peaks were counted.
    """

    contenders: dict[str, Cost]
    left_out: dict[str, str]
    setup: dict[str, Any]
    memory_method: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def measure(
    loss_fn: RelationalLoss,
    *,
    shape: tuple[int, int, int, int] = (8, 3, 256, 256),
    repeats: int = 7,
    warmup: int = 2,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    compiled: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> SpeedReport:
    """Time and peak memory of forward plus backward to ``pred``, of the loss and its peers with frozen weights.

    All take turns, so that all see the same load of the machine; slow ones leave after ``ENOUGH_SECONDS``. Memory is
    counted in a pass of its own afterwards.

    Args:
        loss_fn: on ``device``, with a reduction to a scalar.
        shape: (B, 3, H, W) of the random images, float32; sides at least ``LEAST_SIDE``.
        repeats: timed passes of each.
        warmup: passes of each before the clock starts.
        device: the CPU or a CUDA device.
        precision: of forward passes, the peers' too.
        compiled: whether the loss runs through ``torch.compile``; the peers never do.
        seed: of the images and the peers' weights.
        progress: called with a line of text before each part.

    Raises:
        ValueError: a shape too small, ``repeats`` under 1 or ``warmup`` under 0, an unknown precision, a device without
            a count of memory, a loss that returns one value per pair.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats must be at least 1 and warmup at least 0, got {repeats} and {warmup}")
    if shape[0] < 1 or min(shape[2:]) < LEAST_SIDE:
        raise ValueError(f"shape must be at least (1, 3, {LEAST_SIDE}, {LEAST_SIDE}), got {shape}")
    device = torch.device(device)
    check_countable(device)
    check_scalar(loss_fn)
    check_precision(precision)
    say = progress or (lambda text: None)
    pred, ref = random_pair(shape, device, seed)
    contenders, left_out = _contenders(loss_fn, ref, precision, compiled, seed)
    times: dict[str, list[float]] = {one.key: [] for one in contenders}
    for turn in range(warmup + repeats):
        say(f"turn {turn + 1} of {warmup + repeats}")
        for one in contenders:
            taken = times[one.key]
            if len(taken) >= ENOUGH_PASSES and sum(taken) >= ENOUGH_SECONDS * 1e3:
                continue
            ms = pass_ms(one.loss, pred, precision)
            if turn >= warmup:
                taken.append(ms)
    peaks = {}
    for one in contenders:
        say(f"memory of {one.title}")
        peaks[one.key] = one.held + pass_peak(one.loss, pred, precision)
    return SpeedReport(
        contenders={one.key: _cost(one.title, one.key, times, peaks) for one in contenders},
        left_out=left_out,
        setup={"shape": shape, "repeats": repeats, "compiled": compiled, **machine(device, precision)},
        memory_method=METHODS[device.type],
    )


def _contenders(
    loss_fn: RelationalLoss, ref: Tensor, precision: Precision, compiled: bool, seed: int
) -> tuple[list[Contender], dict[str, str]]:
    """What can be measured on such a reference, ours first, and title -> reason for what cannot."""
    ours: Callable[[Tensor, Tensor | PreparedReference], Tensor] = torch.compile(loss_fn) if compiled else loss_fn
    with autocast(ref.device, precision):
        prepared = loss_fn.prepare(ref)
    held = sum(x.numel() * x.element_size() for x in (prepared.images, *prepared.features))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        alexnet, vgg16 = lpips_alexnet().to(ref.device), lpips_vgg16().to(ref.device)
    contenders = [
        Contender(OURS, "RelationalLoss", lambda pred: ours(pred, ref)),
        Contender("prepared", "RelationalLoss, prepared reference", lambda pred: ours(pred, prepared), held),
        Contender("lpips_alexnet", "LPIPS-AlexNet architecture", lambda pred: alexnet(pred, ref)),
        Contender("lpips_vgg16", "LPIPS-VGG16 architecture", lambda pred: vgg16(pred, ref)),
    ]
    title = "MS-SSIM of pytorch-msssim"
    if min(ref.shape[2:]) < MS_SSIM_SIDE:
        return contenders, {title: f"needs pictures of at least {MS_SSIM_SIDE} pixels a side"}
    try:
        ms_ssim, version = ms_ssim_loss()
    except MissingExtra as error:
        return contenders, {title: str(error)}
    return [*contenders, Contender("ms_ssim", f"{title} {version}", lambda pred: ms_ssim(pred, ref))], {}


def _cost(title: str, key: str, times: dict[str, list[float]], peaks: dict[str, int]) -> Cost:
    taken = times[key]
    # One that leaves early is compared with the passes of ours beside its own.
    ours = times[OURS][: len(taken)]
    theirs = taken[: len(ours)]
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Cost(
        title=title,
        ms=statistics.median(taken),
        best_ms=min(taken),
        ratio=statistics.median(ours) / statistics.median(theirs),
        ratio_spread=(min(ratios), max(ratios)),
        repeats=len(taken),
        peak_mib=peaks[key] / MIB,
        memory_ratio=peaks[OURS] / peaks[key],
    )


def check_scalar(loss_fn: RelationalLoss) -> None:
    """ValueError unless the loss reduces a batch to a scalar, which a backward pass starts from."""
    if loss_fn.reduction == "none":
        raise ValueError("loss_fn must have reduction 'mean' or 'sum', got 'none'")


def check_precision(precision: str) -> None:
    """ValueError, with the nearest name, unless ``precision`` is a :data:`Precision`."""
    if precision not in get_args(Precision):
        raise ValueError(unknown_name("precision", precision, get_args(Precision)))


def random_pair(shape: tuple[int, int, int, int], device: torch.device, seed: int) -> tuple[Tensor, Tensor]:
    """``pred`` and ``ref`` (B, 3, H, W) in [0, 1]: noise, and the same with a little more. Drawn on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ref = torch.rand(shape)
        pred = (ref + 0.05 * torch.randn(shape)).clamp(0, 1)
    return pred.to(device), ref.to(device)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Context of a forward pass in this precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _pass(loss: Loss, pred: Tensor, precision: Precision) -> Callable[[], None]:
    """One forward and backward pass, ready to run, to a ``pred`` of its own."""
    image = pred.clone().requires_grad_(True)

    def task() -> None:
        with autocast(pred.device, precision):
            value = loss(image)
        value.backward()

    return task


def pass_ms(loss: Loss, pred: Tensor, precision: Precision = "float32") -> float:
    """Milliseconds of one forward and backward pass to ``pred`` (B, 3, H, W)."""
    return seconds_of(_pass(loss, pred, precision), pred.device) * 1e3


def pass_peak(loss: Loss, pred: Tensor, precision: Precision = "float32") -> int:
    """Bytes at the peak of such a pass, the gradient of ``pred`` included; see :func:`.memory.peak_memory`."""
    return peak_memory(_pass(loss, pred, precision), pred.device)


def machine(device: torch.device, precision: Precision) -> dict[str, Any]:
    """What a cost was measured on, for JSON."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "allocator": " ".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if _allocates(name)),
        "torch": str(torch.__version__),
        "relqa_loss": __version__,
    }


def _allocates(variable: str) -> bool:
    """Whether an environment variable changes how the C library hands out memory, and so what big buffers cost."""
    return variable.startswith("MALLOC_") or variable in ("GLIBC_TUNABLES", "LD_PRELOAD")
