"""The jury: human-calibrated metrics, not people, as a stand-in where no labelled data is at hand.

Photographs are degraded by the engine. The jurors are metrics whose weights were fitted to people's judgements, and
that took no part in training; no member of the panel sits on the jury. The loss, the panel and other metrics are
compared with them in the same run, on the same pictures, which are rounded to 8 bits first.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..distortions import BANK, Component, DistortionEngine, Recipe
from ..distortions.availability import can_run
from ..distortions.calibration import stable_seed
from ..distortions.draws import Draws
from ..distortions.panel import MIN_PANEL_SIDE, PANEL, Prepared, panel_scores
from ..distortions.record import Distortion
from ..distortions.render import Renderer
from ..distortions.threads import Progress, for_each
from ..images import MissingExtra
from ..losses import RelationalLoss
from .jury_figures import JURORS, OBSERVERS, OURS, PANEL_CONSENSUS, jury_figures
from .jury_statistics import Cases
from .peer_metrics import PeerMetric

WHAT = "agreement with a jury of human-calibrated metrics, not with people"

SEVERITY = (0.1, 1.0)
PATTERN = ("alone", "alone", "alone", "composition", "region")
"""Kinds of pictures, in turn: one operator on the whole, two or three on the whole, one in a part."""

FEWEST, MOST = 15, 240
"""Pictures of one photograph, where their number follows from the time."""

CHUNK = 5
GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Picture:
    """One degraded picture to be made: its kind (of ``PATTERN``) and what to do."""

    kind: str
    recipe: Recipe

    @property
    def operator(self) -> str:
        """Its operator where that stands alone on the whole picture, else ""."""
        return self.recipe[0].name if self.kind == "alone" else ""


def plan_pictures(
    photograph: int, photographs: int, count: int, seed: int, bank: Sequence[Distortion] = BANK
) -> list[Picture]:
    """What becomes of one photograph: operators in turn, their severities spread evenly over the photographs.

    Displacements are left out: most of the jury compares pixel by pixel, and where a viewer sees nothing amiss in a
    picture that is moved by two pixels, they say nothing of use. A longer plan begins with the shorter one.

    Args:
        photograph: its index.
        photographs: how many there are.
        count: pictures to plan.
        seed: of all draws.
        bank: the operators, at least one of which works on pixels and can run here.
    """
    usable = [one for one in bank if one.apply is not None and can_run(one)]
    order = Draws(stable_seed("order", seed)).shuffled([one.name for one in usable])
    several = DistortionEngine(usable, severity=SEVERITY, regions={"whole": 1.0}, components={2: 0.75, 3: 0.25})
    parts = DistortionEngine(
        usable,
        severity=SEVERITY,
        regions={"soft": 0.5, "image": 0.2, "gradient": 0.15, "shape": 0.15},
        components={1: 1.0},
    )
    offset = photograph * len(order) // photographs
    pictures, alone = [], 0
    for index in range(count):
        kind = PATTERN[index % len(PATTERN)]
        if kind == "alone":
            turn, place = divmod(alone, len(order))
            name = order[(offset + place) % len(order)]
            pictures.append(Picture(kind, (_alone(name, photograph + turn * photographs, seed),)))
            alone += 1
        else:
            draws = Draws(stable_seed(f"{kind} {photograph} {index}", seed))
            pictures.append(Picture(kind, (several if kind == "composition" else parts).plan(draws)))
    return pictures


def _alone(name: str, occurrence: int, seed: int) -> Component:
    draws = Draws(stable_seed(f"{name} {occurrence}", seed))
    # Steps of the golden ratio from a start of the operator's own: even however many there are.
    place = (Draws(stable_seed(name, seed)).uniform() + GOLDEN * occurrence) % 1.0
    return Component(name, SEVERITY[0] + (SEVERITY[1] - SEVERITY[0]) * place, "whole", draws.new_seed())


class Cache:
    """Values of other people's metrics by the bytes of the pictures, in a file of JSON lines.

    A run that was stopped, and one with other weights of ours, goes on from there. Lines cut short are passed over.

    Args:
        path: the file, made when first written to; None keeps values in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._values: dict[str, dict[str, float]] = {}
        self.plans: dict[str, int] = {}
        if path is None or not path.exists():
            return
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if "plan" in entry:
                self.plans[entry["plan"]] = entry["pictures"]
            else:
                self._values.setdefault(entry["metric"], {}).update(entry["values"])
        if text and not text.endswith("\n"):
            self._write("")

    def get(self, metric: str, keys: Sequence[str]) -> list[float | None]:
        """Known values, None for the others."""
        known = self._values.get(metric, {})
        return [known.get(key) for key in keys]

    def put(self, metric: str, values: Mapping[str, float]) -> None:
        """Keep values."""
        with self._lock:
            self._values.setdefault(metric, {}).update(values)
            self._write(json.dumps({"metric": metric, "values": dict(values)}))

    def put_plan(self, plan: str, pictures: int) -> None:
        """Keep the number of pictures of a run, so that it is the same when the run goes on."""
        self.plans[plan] = pictures
        self._write(json.dumps({"plan": plan, "pictures": pictures}))

    def _write(self, line: str) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


class _Bench:
    """Renders pictures and scores them in every way."""

    def __init__(self, loss: RelationalLoss, metrics: Mapping[str, PeerMetric], cache: Cache) -> None:
        self._loss, self._metrics, self._cache = loss, metrics, cache
        self._table = {one.name: one for one in BANK}
        self._seconds: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def scores(self, reference: Tensor, pictures: Sequence[Picture]) -> dict[str, list[float]]:
        """Name -> one value a picture, higher = worse; ``reference`` (3, H, W) in [0, 1]."""
        reference = _eight_bits(reference[None])
        rendered, seconds = _timed(
            lambda: Renderer(reference, self._table).render([(0, one.recipe) for one in pictures])
        )
        self._note("rendering", seconds, len(pictures))
        distorted = _eight_bits(torch.cat(rendered))
        device = self._loss.axis_weights.device
        result = {OURS: self._timed(OURS, self._distance, distorted.to(device), reference.to(device))}
        prepared = Prepared(reference)
        panel = self._timed(
            "panel", lambda a, _: torch.cat([panel_scores(one[None], prepared) for one in a]), distorted
        )
        result |= {f"{PANEL_CONSENSUS}/{m.name}": panel[:, k] for k, m in enumerate(PANEL)}
        digest = hashlib.sha256(_bytes(reference)).hexdigest()
        keys = [hashlib.sha256(digest.encode() + _bytes(one)).hexdigest()[:24] for one in distorted]
        values = {name: column.tolist() for name, column in result.items()}
        return values | {name: self._peer(one, keys, distorted, reference) for name, one in self._metrics.items()}

    def cost(self) -> dict[str, float]:
        """Milliseconds a picture, by metric, of what was measured in this run."""
        return {name: round(1e3 * float(np.mean(each)), 1) for name, each in self._seconds.items()}

    def _distance(self, distorted: Tensor, reference: Tensor) -> Tensor:
        return self._loss.relate(distorted, reference.expand_as(distorted)).distance.detach().cpu()

    def _peer(self, metric: PeerMetric, keys: list[str], distorted: Tensor, reference: Tensor) -> list[float]:
        label = f"{metric.name} {metric.version}: {metric.protocol}"
        values = self._cache.get(label, keys)
        unknown = [k for k, value in enumerate(values) if value is None]
        if unknown:
            chosen = distorted[unknown]
            fresh = self._timed(metric.name, metric, chosen, reference.expand_as(chosen)).tolist()
            self._cache.put(label, {keys[k]: value for k, value in zip(unknown, fresh, strict=True)})
            values = self._cache.get(label, keys)
        return [float(value) for value in values if value is not None]

    def _timed(
        self,
        name: str,
        function: Callable[[Tensor, Tensor], Tensor],
        distorted: Tensor,
        reference: Tensor | None = None,
    ) -> Tensor:
        values, seconds = _timed(lambda: function(distorted, distorted if reference is None else reference))
        self._note(name, seconds, len(distorted))
        return values

    def _note(self, name: str, seconds: float, count: int) -> None:
        with self._lock:
            self._seconds.setdefault(name, []).extend([seconds / count] * count)


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started


def _eight_bits(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255


def _bytes(images: Tensor) -> bytes:
    return bytes((images * 255).round().to(torch.uint8).numpy().tobytes())


def hold_jury(
    loss: RelationalLoss,
    photographs: Mapping[str, Tensor],
    metrics: Mapping[str, PeerMetric],
    *,
    pictures: int | None = None,
    minutes: float = 8.0,
    seed: int = 0,
    workers: int | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Degrade photographs, score them in every way, and compare the ways with the jury.

    Args:
        loss: ours.
        photographs: name -> (3, H, W) in [0, 1], at least as large as every metric needs.
        metrics: name -> metric; those of ``JURORS`` among them are the jury, at least two.
        pictures: of each photograph; None takes as many as ``minutes`` allow by measured cost.
        minutes: for scoring, where ``pictures`` is None.
        seed: of plan and bootstrap.
        workers: threads; None for torch's number.
        cache: file of values that are known already; None for none.
        progress: called with a line of text now and then.

    Returns:
        JSON-able: ``what``, ``setup``, ``metrics`` (package, version, protocol, what it was trained on, role) and the
        figures of :func:`.jury_figures.jury_figures`.

    Raises:
        MissingExtra: fewer than two jurors.
        ValueError: fewer than two photographs, photographs that are too small, a bad number.
    """
    if sum(name in metrics for name in JURORS) < 2:
        raise MissingExtra(f"at least two jurors of {', '.join(JURORS)}", "jury")
    if len(photographs) < 2:
        raise ValueError(f"photographs must hold at least two pictures for intervals, got {len(photographs)}")
    if pictures is not None and pictures < len(PATTERN):
        raise ValueError(f"pictures must be at least {len(PATTERN)} or None, got {pictures}")
    if minutes <= 0:
        raise ValueError(f"minutes must be above 0, got {minutes}")
    _check_sizes(photographs, metrics)
    started = time.monotonic()
    known = Cache(cache)
    bench = _Bench(loss, metrics, known)
    references = list(photographs.values())
    count, how = pictures, "asked for"
    if count is None:
        plan = f"{__version__} {seed} {minutes:g} {' '.join(metrics)} {len(references)} {tuple(references[0].shape)}"
        count, how = known.plans.get(plan), "as in the run that goes on"
        if count is None:
            count, how = _affordable(bench, references, minutes, seed, workers)
            known.put_plan(plan, count)
    if progress is not None:
        progress(f"{len(references)} photographs, {count} pictures of each ({how})")
    plans = [plan_pictures(k, len(references), count, seed) for k in range(len(references))]
    tasks = {
        f"photograph {k + 1}, picture {start + 1}": partial(bench.scores, references[k], plan[start : start + CHUNK])
        for start in range(0, count, CHUNK)
        for k, plan in enumerate(plans)
    }
    parts = for_each(tasks, workers, _now_and_then(progress))
    names = list(next(iter(parts.values())))
    collected: dict[str, list[float]] = {name: [] for name in names}
    for k in range(len(references)):
        for start in range(0, count, CHUNK):
            for name, values in parts[f"photograph {k + 1}, picture {start + 1}"].items():
                collected[name] += values
    if progress is not None:
        progress(f"scored in {time.monotonic() - started:.0f} s, figures and intervals now")
    kinds = [one.kind for plan in plans for one in plan]
    info = loss.info()
    setup = {
        "photographs": list(photographs),
        "pictures_of_each": count,
        "pictures": len(kinds),
        "number_of_pictures": how,
        "kinds": {kind: kinds.count(kind) for kind in dict.fromkeys(PATTERN)},
        "size": list(references[0].shape[1:]),
        "severity": list(SEVERITY),
        "seed": seed,
        "ms_a_picture": bench.cost(),
        "left_out": {
            "displacements": [one.name for one in BANK if one.apply is None],
            "codec_missing": [one.name for one in BANK if not can_run(one)],
        },
        "relqa_loss": __version__,
        "torch": torch.__version__,
        "weights": loss.weights_name,
        "weights_sha256": info["files"],
        "distance_sha256": info["distance"],
    }
    cases = Cases(
        np.repeat(np.arange(len(references)), count), np.array([one.operator for plan in plans for one in plan])
    )
    scores = {name: np.asarray(values, dtype=np.float64) for name, values in collected.items()}
    figures = jury_figures(scores, cases, seed=seed)
    setup["seconds"] = round(time.monotonic() - started, 1)
    return {"what": WHAT, "setup": setup, "metrics": _facts(metrics), **figures}


def _check_sizes(photographs: Mapping[str, Tensor], metrics: Mapping[str, PeerMetric]) -> None:
    needs = {"panel": MIN_PANEL_SIDE, **{name: one.min_side for name, one in metrics.items()}}
    largest = max(needs, key=lambda name: needs[name])
    for name, image in photographs.items():
        if min(image.shape[1:]) < needs[largest]:
            raise ValueError(
                f"photographs must be at least {needs[largest]}x{needs[largest]} pixels for {largest}, "
                f"got {image.shape[1]}x{image.shape[2]} ({name})"
            )


def _affordable(
    bench: _Bench, references: Sequence[Tensor], minutes: float, seed: int, workers: int | None
) -> tuple[int, str]:
    """Pictures of each photograph that the time allows, and how that was found."""
    sample = plan_pictures(0, len(references), 5 * CHUNK, seed + 1)
    threads = torch.get_num_threads() if workers is None else workers
    # What is only done once (kernels, tables) is not part of the cost.
    bench.scores(references[0], sample[: len(PATTERN)])
    tasks = {
        str(k): partial(bench.scores, references[0], sample[CHUNK * (k % 4 + 1) :][:CHUNK]) for k in range(threads)
    }
    started = time.monotonic()
    for_each(tasks, workers)
    seconds = (time.monotonic() - started) / (threads * CHUNK)
    count = int(60 * minutes / (seconds * len(references))) // len(PATTERN) * len(PATTERN)
    count = min(max(count, FEWEST), MOST)
    return count, f"{seconds:.2f} s a picture with {threads} threads, {minutes:g} minutes"


def _now_and_then(progress: Progress | None, seconds: float = 10.0) -> Progress | None:
    if progress is None:
        return None
    said = time.monotonic()

    def say(line: str) -> None:
        nonlocal said
        if time.monotonic() - said >= seconds:
            said = time.monotonic()
            progress(line)

    return say


def _facts(metrics: Mapping[str, PeerMetric]) -> dict[str, Any]:
    return {
        name: {
            "package": one.package,
            "version": one.version,
            "trained_on": one.trained_on,
            "protocol": one.protocol,
            "role": "juror" if name in JURORS else "observer" if name in OBSERVERS else "candidate",
        }
        for name, one in metrics.items()
    }
