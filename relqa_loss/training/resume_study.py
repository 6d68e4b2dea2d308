"""Does a training run that is killed again and again end where an undisturbed one does? Real processes and SIGKILLs."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from .loop import CHECKPOINT, METRICS, read_checkpoint
from .recipe_toml import load_recipe

SMALL_RUN = {
    "predictor.steps": "72",
    "predictor.batch": "4",
    "predictor.crop": "64",
    "predictor.warmup": "5",
    "predictor.checkpoint_seconds": "0.1",
    "predictor.log_every": "3",
    "predictor.validate_every": "36",
}
"""Overrides that make a run of seconds: many checkpoints, several steps a log line, so that there is much to lose."""

PATIENCE = 900.0
"""Seconds after which a run that gets nowhere is given up."""

AIMED = 0.5
"""Share of kills that wait for a checkpoint to be under way; a blind moment would seldom meet one."""

DELAY = 0.3
"""Seconds, at most, between the step that a kill waits for and a kill that is not aimed."""

GAP = 3
"""Log lines before the end at which the last kill still comes."""


@dataclass(frozen=True)
class Kill:
    """One SIGKILL.

    Attributes:
        after_step: last step in the log when it came.
        checkpoint_step: step of the checkpoint found afterwards; None if there was none yet.
        torn: a checkpoint was being written: its unfinished file was there.
    """

    after_step: int
    checkpoint_step: int | None
    torn: bool


def resume_study(
    data: Path,
    folder: Path,
    *,
    recipe: str = "cpu-small",
    overrides: Mapping[str, str] = SMALL_RUN,
    kills: int = 10,
    seed: int = 0,
    threads: Sequence[int] = (1, 2),
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Compare a run that is killed and resumed with one that is left alone, and runs that are left alone with another.

    Args:
        data: folder of photographs.
        folder: empty; the runs go below it.
        recipe: of which the predictor stage is trained, in one part; name or path.
        overrides: dotted key -> value of the recipe, as ``--set`` takes them.
        kills: how often to kill; each time after another line of the log.
        seed: of the moments.
        threads: numbers of CPU threads with which an undisturbed run is repeated; the killed run has the first of them.
        progress: told a line of text after each run and kill.

    Returns:
        What the JSON of ``relqa benchmark resume`` holds.

    Raises:
        ValueError: fewer than one kill or more than the log has lines for, no number of threads, or a recipe of several
            parts.
        RuntimeError: a run failed by itself or hung, or a kill left a checkpoint that cannot be read.
    """
    if kills < 1 or not threads:
        raise ValueError(f"kills and the numbers of threads must be at least one, got {kills} and {list(threads)}")
    load_recipe(recipe, overrides)  # refuses what cannot be trained in one part
    options = [f"--set={key}={value}" for key, value in overrides.items()]
    base = ["train", "predictor", "--recipe", recipe, "--data", str(data), *options]
    repeats = []
    for count in threads:
        undisturbed = [folder / f"undisturbed-{count}-{copy}" for copy in "ab"]
        for out in undisturbed:
            _finish(_start(base, out, count), out)
            progress(f"undisturbed run with {count} threads: {out.name}")
            _check_kills(kills, out)
        repeats.append({"threads": count, **compare(*undisturbed)})
    killed, whole = folder / "killed", folder / f"undisturbed-{threads[0]}-a"
    done = _kill_and_resume(base, killed, threads[0], _moments(whole), kills, seed, progress)
    return {
        "setup": {
            "recipe": recipe,
            "overrides": dict(overrides),
            "kills": kills,
            "seed": seed,
            "threads": threads[0],
            "torch": torch.__version__,
            "relqa_loss": __version__,
        },
        "kills": [vars(kill) for kill in done],
        "kills_that_happened": len(done),
        "kills_during_a_checkpoint": sum(kill.torn for kill in done),
        "stray_files": sorted({entry.name for entry in killed.iterdir()} - {CHECKPOINT, METRICS}),
        "killed_and_undisturbed": compare(killed, whole),
        "undisturbed_repeated": repeats,
    }


def compare(some: Path, others: Path) -> dict[str, Any]:
    """Largest difference of the averaged weights of two finished runs, and whether their logs agree but for seconds."""
    a, b = (read_checkpoint(run / CHECKPOINT, ("average",))["average"] for run in (some, others))
    logs = [read_log(run) for run in (some, others)]
    last = [{name: line[name] for name in line if name.startswith("validation_")} for line in (log[-1] for log in logs)]
    return {
        "largest_weight_difference": max(_difference(a[name], b[name]) for name in a),
        "same_log_steps": [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]],
        "same_log_values": logs[0] == logs[1],
        "same_validation": last[0] == last[1],
    }


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def read_log(out: Path) -> list[dict[str, float]]:
    """Lines of a run's log without their seconds; one that a kill cut in two is left out."""
    try:
        texts = (out / METRICS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    lines = [json.loads(text) for text in texts if text.endswith("}")]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def log_steps(out: Path) -> list[int]:
    """Steps that a run's log has a line for."""
    return [int(line["step"]) for line in read_log(out)]


def _moments(out: Path) -> list[int]:
    """Steps after which a run like this one can be killed."""
    steps = log_steps(out)
    return steps[: max(1, len(steps) - GAP)]


def _check_kills(kills: int, out: Path) -> None:
    most = len(_moments(out))
    if kills > most:
        raise ValueError(f"kills must be at most {most}, one for each line of the log but the last {GAP}, got {kills}")


def _start(base: Sequence[str], out: Path, threads: int) -> subprocess.Popen[bytes]:
    """The command in a process of its own that runs this package and no other; what it says goes to a file."""
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    with out.with_name(f"{out.name}.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "relqa_loss.cli", *base, "--out", str(out), "--resume"],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
            stdout=said,
            stderr=said,
        )


def _finish(process: subprocess.Popen[bytes], out: Path) -> None:
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise RuntimeError(f"a run hung for {PATIENCE:.0f} s: {_last_words(out)}") from None
    if code != 0:
        raise RuntimeError(f"a run failed by itself: {_last_words(out)}")


def _last_words(out: Path) -> str:
    return out.with_name(f"{out.name}.txt").read_text(encoding="utf-8", errors="replace").strip()[-400:]


def _kill_and_resume(
    base: Sequence[str],
    out: Path,
    threads: int,
    possible: Sequence[int],
    kills: int,
    seed: int,
    progress: Callable[[str], None],
) -> list[Kill]:
    """Start, kill and resume a run, then let it end; the kills that came before it had ended by itself."""
    draws = random.Random(seed)
    moments = sorted(draws.sample(possible, kills))
    done: list[Kill] = []
    for moment in moments:
        aimed, delay = draws.random() < AIMED, draws.uniform(0, DELAY)
        # Up to here the log of the resumed process shows what an earlier one has trained.
        kept = _checkpoint_step(out) or 0
        log, leftover = _identity(out / METRICS), _identity(_unfinished(out))
        process = _start(base, out, threads)
        try:
            _wait_for(process, out, lambda: _trains_beyond(out, log, max(moment, kept + 1)))  # noqa: B023
            if aimed:
                _wait_for(process, out, lambda: _is_new(_unfinished(out), leftover))  # noqa: B023
            else:
                time.sleep(delay)
        finally:
            ended = process.poll() is not None
            process.kill()
            process.wait()
        if ended:
            continue
        done.append(_examine(out, leftover))
        progress(f"kill {len(done)} of {kills}: {done[-1]}")
    _finish(_start(base, out, threads), out)
    return done


def _unfinished(out: Path) -> Path:
    return out / f".{CHECKPOINT}.tmp"


Identity = tuple[int, int]


def _identity(path: Path) -> Identity | None:
    """What changes when a file is written or replaced: inode and time of the last change; None without a file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _is_new(path: Path, before: Identity | None) -> bool:
    """Whether there is a file, and it is not the one that was there before."""
    return _identity(path) not in (None, before)


def _trains_beyond(out: Path, before: Identity | None, step: int) -> bool:
    """Whether the new process has put its own log in place, and that has a line of at least ``step``."""
    if not _is_new(out / METRICS, before):
        return False
    steps = log_steps(out)
    return bool(steps) and steps[-1] >= step


def _wait_for(process: subprocess.Popen[bytes], out: Path, happens: Callable[[], bool]) -> None:
    """Until it happens or the process ends in peace."""
    began = time.monotonic()
    while process.poll() is None and not happens():
        if time.monotonic() - began > PATIENCE:
            raise RuntimeError(f"a run hung for {PATIENCE:.0f} s: {_last_words(out)}")
        time.sleep(0.0005)
    if process.poll() not in (None, 0):
        raise RuntimeError(f"a run failed by itself: {_last_words(out)}")


def _checkpoint_step(out: Path) -> int | None:
    """Step of the checkpoint; None without one, ValueError if it cannot be read."""
    path = out / CHECKPOINT
    return int(read_checkpoint(path, ("step",))["step"]) if path.exists() else None


def _examine(out: Path, leftover: Identity | None) -> Kill:
    """What a kill has left, ``leftover`` being the unfinished checkpoint that an earlier one had left before."""
    steps = log_steps(out)
    try:
        step = _checkpoint_step(out)
    except ValueError as error:
        raise RuntimeError(f"a kill left a checkpoint that cannot be read: {error}") from None
    return Kill(steps[-1] if steps else 0, step, _is_new(_unfinished(out), leftover))
