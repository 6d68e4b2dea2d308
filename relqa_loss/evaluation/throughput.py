"""How fast the engine is: each operator beside a plain JPEG round trip, the default mix, and other packages.

Everything is timed in one run on the same crops, in turns, so that all see the same load of the machine.
"""

from __future__ import annotations

import io
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from .. import __version__
from ..distortions import BANK, Distortion, DistortionEngine, distort
from ..distortions.availability import can_run
from ..distortions.dataset import TripletDataset, collate_triplets
from ..distortions.draws import Draws
from ..distortions.threads import Progress
from ..images import pillow
from .clock import seconds_of
from .peers import COMMON, Peer, load_peers

JPEG_QUALITY = 75
"""Of the round trip that everything is compared with."""

BATCH = {"cpu": 8, "cuda": 256}
"""Images in one call of an operator."""

ENGINE_BATCH = {"cpu": 32, "cuda": 256}
"""Images in one call of the engine."""

TIER_SIZE = 5
LOADER_BATCH = 16


def draw_crops(photographs: Sequence[Tensor], count: int, size: int, seed: int = 0) -> Tensor:
    """Seeded crops (count, 3, size, size) in [0, 1] of photographs (3, H, W) that take turns.

    Raises:
        ValueError: no photograph is large enough.
    """
    usable = [photo for photo in photographs if min(photo.shape[1:]) >= size]
    if not usable:
        raise ValueError(f"size must not exceed the photographs, got {size} for {len(photographs)} smaller ones")
    draws = Draws(seed)
    crops = []
    for k in range(count):
        photo = usable[k % len(usable)]
        top, left = (draws.below(side - size + 1) for side in photo.shape[1:])
        crops.append(photo[:, top : top + size, left : left + size])
    return torch.stack(crops)


def measure_throughput(
    photographs: Sequence[Tensor],
    *,
    size: int = 256,
    device: torch.device | str = "cpu",
    seconds: float = 8.0,
    repeats: int = 3,
    workers: int = 2,
    distortions: Sequence[Distortion] | None = None,
    peers: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time the bank, the engine and other packages.

    Args:
        photographs: (3, H, W) in [0, 1] each; those smaller than ``size`` are left out, and not counted.
        size: side of the crops, in pixels.
        device: where to measure. On an accelerator the engine is timed with and without real codecs, which run on the
            CPU.
        seconds: time spent on each figure of the engine.
        repeats: timed passes over the operators and the other packages; the median counts.
        workers: processes of the data loader, with one thread each; 0 leaves the loader out.
        distortions: the operators; None for all of the bank that can run here.
        peers: whether to time other packages.
        progress: called with a line of text before each part.

    Returns:
        JSON-able: ``setup``; ``jpeg_ms`` of the plain round trip, an image; ``operators``, each with ``ms`` an image
        and ``ratio`` to the round trip; ``engine``, in triplets or tiers a second; ``peers`` and ``peers_missing``.

    Raises:
        ValueError: no photograph is large enough, ``repeats`` under 1, ``seconds`` not above 0, negative ``workers``.
        MissingExtra: Pillow is not installed.
    """
    if repeats < 1 or not seconds > 0 or workers < 0:
        raise ValueError(
            f"repeats must be at least 1, seconds above 0 and workers at least 0, got {repeats}, {seconds}, {workers}"
        )
    device = torch.device(device)
    say = progress or (lambda text: None)
    chosen = [one for one in (BANK if distortions is None else distortions) if can_run(one)]
    crops = draw_crops(photographs, BATCH.get(device.type, 256), size)
    usable = [photo for photo in photographs if min(photo.shape[1:]) >= size]
    found: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    with torch.no_grad():
        say("engine")
        engine = _time_engine(chosen, usable, size, device, seconds, workers, say)
        threads = torch.get_num_threads()
        # One thread for each operator, for the round trip and for other packages: Pillow and most of them have no more,
        # and ratios should not depend on the cores.
        torch.set_num_threads(1)
        try:
            say(f"{len(chosen)} operators")
            jpeg_ms, operators = _time_operators(chosen, crops, device, repeats)
            if peers:
                say("other packages")
                packages, missing = load_peers(crops.to(device), 1)
                found = _time_peers(packages, crops.shape[0], device, repeats)
        finally:
            torch.set_num_threads(threads)
    return {
        "setup": _setup(device, size, crops.shape[0], len(usable), workers),
        "jpeg_ms": jpeg_ms,
        "operators": operators,
        "engine": engine,
        "peers": found,
        "peers_missing": missing,
    }


def _setup(device: torch.device, size: int, batch: int, photographs: int, workers: int) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "size": size,
        "batch": batch,
        "photographs": photographs,
        "workers": workers,
        "relqa_loss": __version__,
        "torch": str(torch.__version__),
        "pillow": pillow().__version__,
    }


def _round_trip(crops: Tensor) -> Callable[[], object]:
    """Writing and reading each crop as JPEG with Pillow, from and to Pillow images, and nothing else."""
    image_module = pillow()
    pixels = (crops * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    pictures = [image_module.fromarray(one) for one in pixels]

    def trip() -> None:
        for picture in pictures:
            stream = io.BytesIO()
            picture.save(stream, format="JPEG", quality=JPEG_QUALITY)
            with image_module.open(stream) as opened:
                opened.load()

    return trip


def _time_operators(
    distortions: Sequence[Distortion], crops: Tensor, device: torch.device, repeats: int
) -> tuple[float, list[dict[str, Any]]]:
    # The round trip is a few images' worth on any device: a large batch of it says nothing more.
    plain = crops[: BATCH["cpu"]]
    trip = _round_trip(plain)
    images = crops.to(device)
    severity = torch.linspace(0.1, 1, images.shape[0])
    generator = Generator(device=device)

    def task(one: Distortion) -> Callable[[], object]:
        return lambda: distort(images, one, severity, generator=generator.manual_seed(0))

    tasks = [task(one) for one in distortions]
    trips: list[float] = []
    times: list[list[float]] = [[] for _ in tasks]
    for turn in range(repeats + 1):
        base = seconds_of(trip, torch.device("cpu")) / plain.shape[0]
        taken = [seconds_of(one, device) / images.shape[0] for one in tasks]
        # The first turn fills caches.
        if turn:
            trips.append(base)
            for row, value in zip(times, taken, strict=True):
                row.append(value)
    table = []
    for one, row in zip(distortions, times, strict=True):
        ratio = statistics.median(value / base for value, base in zip(row, trips, strict=True))
        ms = statistics.median(row) * 1e3
        table.append({"name": one.name, "family": one.family, "codec": one.codec, "ms": ms, "ratio": ratio})
    return statistics.median(trips) * 1e3, table


def _time_engine(
    distortions: Sequence[Distortion],
    photographs: Sequence[Tensor],
    size: int,
    device: torch.device,
    seconds: float,
    workers: int,
    say: Progress,
) -> dict[str, float]:
    batch = ENGINE_BATCH.get(device.type, 256)
    images = draw_crops(photographs, batch, size, seed=1).to(device)
    generator = Generator(device=device).manual_seed(0)
    engine = DistortionEngine(list(distortions))
    rates = {"triplets": _rate(lambda: engine(images, generator=generator), batch, device, seconds)}
    resident = [one for one in distortions if one.codec is None]
    if resident and len(resident) < len(distortions):
        say("engine without real codecs")
        without = DistortionEngine(resident)
        rates["triplets_without_codecs"] = _rate(lambda: without(images, generator=generator), batch, device, seconds)
    say("tiers")
    few = images[: max(2, batch // 8)]
    rates[f"tiers_of_{TIER_SIZE}"] = _rate(
        lambda: engine.tier(few, TIER_SIZE, generator=generator), few.shape[0], device, seconds
    )
    if workers and device.type == "cpu":
        say(f"data loader, {workers} workers")
        rates["triplets_loader"] = _loader_rate(photographs, engine, size, seconds, workers)
    return rates


def _rate(task: Callable[[], object], images: int, device: torch.device, seconds: float) -> float:
    """Images a second of a task that makes ``images`` a call, after one call to warm up."""
    seconds_of(task, device)
    calls, spent = 0, 0.0
    while spent < seconds:
        spent += seconds_of(task, device)
        calls += 1
    return calls * images / spent


def _loader_rate(
    photographs: Sequence[Tensor], engine: DistortionEngine, size: int, seconds: float, workers: int
) -> float:
    """Triplets a second from worker processes, once each of them has delivered twice."""
    pixels = [(photo * 255).round().to(torch.uint8) for photo in photographs]
    dataset = TripletDataset(pixels, engine, crop=size, length=2**20)
    loader = DataLoader(dataset, LOADER_BATCH, num_workers=workers, collate_fn=collate_triplets)
    batches = iter(loader)
    for _ in range(2 * workers):
        next(batches)
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += 1
    rate = count * LOADER_BATCH / (time.perf_counter() - start)
    # Ends the workers now, not whenever the iterator is collected.
    del batches
    return rate


def _time_peers(packages: Sequence[Peer], batch: int, device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """Median ms an image of each common distortion and images a second of the even mix of those that work."""
    failed: list[dict[str, str]] = [{} for _ in packages]
    times: list[dict[str, list[float]]] = [{name: [] for name in COMMON} for _ in packages]
    for turn in range(repeats + 1):
        for package, reasons, row in zip(packages, failed, times, strict=True):
            for name in COMMON:
                if name in reasons:
                    continue
                try:
                    taken = seconds_of(package.tasks[name], device)
                # Packages that are older than what they build on fail in many ways; the reason is reported.
                except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:
                    reasons[name] = (str(error).splitlines() or [type(error).__name__])[0]
                    continue
                if turn:
                    row[name].append(taken / batch)
    table = []
    for package, reasons, row in zip(packages, failed, times, strict=True):
        medians = {name: statistics.median(row[name]) for name in COMMON if name not in reasons}
        table.append(
            {
                "name": package.name,
                "version": package.version,
                "operators": package.operators,
                "counted": package.counted,
                "facts": dict(package.facts),
                "ms": {name: value * 1e3 for name, value in medians.items()},
                "failed": reasons,
                "images_a_second": len(medians) / sum(medians.values()) if medians else None,
            }
        )
    return table
