"""The training loop both stages share: schedule, averaging, atomic checkpoints, metrics log, resuming."""

from __future__ import annotations

import errno
import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import write_atomically
from ..weights import load_strictly
from .data import batches
from .distributed import any_rank, average_gradients, current, extremes, mean_over_ranks, start_equal
from .recipe import StageConfig
from .stopping import Stopped, on_sigterm

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Progress:
    """Where a run stands: for progress bars. ``loss`` is None where nothing is learnt yet."""

    stage: str
    step: int
    steps: int
    loss: float | None
    steps_per_second: float
    seconds_left: float


ProgressCallback = Callable[[Progress], None]


def schedule(step: int, config: StageConfig) -> float:
    """Learning rate at a step: linear warm-up, then half a cosine down to 1 % of the peak."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    along = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(along, 1.0))))


class _Log:
    """Metrics as JSON lines; after an interruption, lines beyond the checkpoint are dropped. Only the first rank's."""

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        self._writes = current().first
        if not self._writes:
            return
        kept = []
        if start and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                # The last line can be cut in two by the interruption.
                if line.endswith("}") and json.loads(line)["step"] <= start:
                    kept.append(line + "\n")
        write_atomically(path, lambda temporary: temporary.write_text("".join(kept), encoding="utf-8"))

    def write(self, values: Mapping[str, float]) -> None:
        if not self._writes:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def run(
    stage: str,
    model: nn.Module,
    config: StageConfig,
    make_batch: Callable[[int], Any],
    loss_of: Callable[[Any], tuple[Tensor, dict[str, Tensor]]],
    validate: Callable[[nn.Module], dict[str, float]],
    out: Path,
    *,
    fingerprint: str,
    record: Mapping[str, Any],
    resume: bool,
    device: torch.device,
    progress: ProgressCallback | None,
) -> nn.Module:
    """Train ``model`` and leave the moving average of its weights in it.

    In a process group every process calls this with its share of the batches: gradients and logged values are means
    over the processes, and the first one alone writes, validates and reports progress, while the others wait. All must
    see the same ``out``. The number of processes may change from one resumption to the next.

    Args:
        stage: name for messages and logs.
        model: on ``device``.
        config: the stage's configuration.
        make_batch: step -> batch; runs in worker processes.
        loss_of: batch -> (loss, further values for the log); runs under the stage's precision.
        validate: averaged model -> figures for the log; none where there is nothing to validate on.
        out: folder for ``checkpoint.pt`` and ``metrics.jsonl`` (a line holds means since the last one; seconds count
            over resumptions).
        fingerprint: of recipe and data; a checkpoint with another one is refused.
        record: what else the checkpoint shall say of the run, as JSON can hold it.
        resume: go on from the checkpoint in ``out`` if there is one.
        device: where the model is.
        progress: called after every logged step.

    Raises:
        ValueError: a checkpoint of another recipe or other data; a run is there and ``resume`` is False; processes see
            different checkpoints; the loss or the weights are no longer finite.
        Stopped: SIGTERM arrived (in any process); the checkpoint of the step then under way is written. In the last
            step too: what would come after the run is not wanted any more.
    """
    ranks = current()
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / CHECKPOINT
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.average)
    )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
    start, spent = 0, 0.0
    sums: dict[str, Tensor] = {}
    summed = 0
    if checkpoint.exists():
        if not resume:
            raise ValueError(f"{out} already holds a run; resume it or choose another folder")
        state = read_checkpoint(checkpoint, ("model", "average", "optimiser", "step", "seconds"), fingerprint)
        load_strictly(model, state["model"], str(checkpoint))  # an earlier state of the package had other networks
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        start, spent = state["step"], state["seconds"]
        sums = {name: value.to(device) for name, value in state.get("sums", {}).items()}
        summed = state.get("summed", 0)
    low, high = extremes(start, device)
    if low != high:
        raise ValueError(
            f"out must be one folder for all processes, got {out}, where some find a checkpoint of step {high} and "
            + (f"others one of step {low}" if low else "others none")
        )
    start_equal(model)
    start_equal(average.module)

    began = last_save = time.monotonic()

    def save(step: int) -> None:
        # Between two log lines nothing else looks: a checkpoint must stay something to go back to. All processes look,
        # and since they have the same weights, none is left waiting for one that has raised.
        if not all(bool(parameter.isfinite().all()) for parameter in trainable):
            raise ValueError(f"the {stage}'s weights are no longer finite at step {step}; lower the learning rate")
        if not ranks.first:
            return
        state = {
            "fingerprint": fingerprint,
            "record": dict(record),
            "step": step,
            "seconds": spent + time.monotonic() - began,
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "sums": sums,
            "summed": summed,
        }
        write_atomically(checkpoint, lambda path: torch.save(state, path))

    log = _Log(out / METRICS, start)
    amp = torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16")
    with on_sigterm() as stop:
        for step, batch in enumerate(batches(make_batch, range(start, config.steps), config.workers), start=start):
            for group in optimiser.param_groups:
                group["lr"] = schedule(step, config)
            with amp:
                loss, extra = loss_of(batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            average_gradients(trainable)
            nn.utils.clip_grad_norm_(trainable, GRADIENT_NORM)
            optimiser.step()
            average.update_parameters(model)
            values = {"loss": loss, **extra}
            shared = mean_over_ranks(torch.stack([value.detach().float() for value in values.values()]))
            for name, value in zip(values, shared, strict=True):
                sums[name] = sums.get(name, torch.zeros((), device=device)) + value
            done = step + 1
            summed += 1
            finished = done == config.steps
            validation_due = done % config.validate_every == 0 or finished
            if validation_due or done % config.log_every == 0:
                means = {name: float(value) / summed for name, value in sums.items()}
                sums, summed = {}, 0
                if not math.isfinite(means["loss"]):
                    raise ValueError(f"the {stage}'s loss is no longer finite at step {done}; lower the learning rate")
                seconds = time.monotonic() - began
                rate = (done - start) / seconds
                line = {"step": done, "seconds": spent + seconds, "learning_rate": schedule(step, config), **means}
                if validation_due and ranks.first:
                    line |= validate(average.module)
                log.write(line)
                if progress is not None and ranks.first:
                    progress(Progress(stage, done, config.steps, means["loss"], rate, (config.steps - done) / rate))
            overdue = time.monotonic() - last_save > config.checkpoint_seconds
            stopping, due = any_rank([stop.asked, finished or overdue], device)
            if stopping or due:
                save(done)
                last_save = time.monotonic()
            if stopping:
                raise Stopped(
                    f"stopped by SIGTERM at step {done} of {config.steps}, checkpoint written: resume to go on"
                )
    model.load_state_dict(average.module.state_dict())
    return model


OTHER_RUN = (
    "was made with another recipe, other photographs, other operators of your own or another severity table: "
    "repeat the --recipe, --start-from, --scorer-from, --further and every --set of that run, or choose another folder"
)
"""What is wrong with a checkpoint of another fingerprint, and what to do about it."""


def read_checkpoint(
    path: Path, keys: Collection[str], fingerprint: str | None = None, other: str = OTHER_RUN, *, mapped: bool = False
) -> dict[str, Any]:
    """What a run has saved, on the CPU: loading it into modules and optimisers puts it where each of them wants it.

    Args:
        path: of the file.
        keys: what the caller needs of it.
        fingerprint: of what the run must have depended on, or None.
        other: what the error says of a file of another fingerprint.
        mapped: leave the tensors in the file, to be read where they are asked for.

    Raises:
        ValueError: a damaged file, one of another kind, or a run that depended on something else than the fingerprint
            says.
    """
    wrong = f"{path} is damaged or not a checkpoint of this package"
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        if error.errno != errno.EINVAL:  # which is what a file that was cut off can give
            raise
        raise ValueError(wrong) from error
    except Exception as error:  # the unpickler fails in as many ways as a file can be damaged
        if "unable to mmap" in str(error):  # no room for the map, or too many of them: the file is not to blame
            raise
        raise ValueError(wrong) from error
    missing = [key for key in keys if key not in state] if isinstance(state, dict) else list(keys)
    if missing:
        raise ValueError(f"{wrong}: it lacks {', '.join(missing)}")
    if fingerprint is not None and state.get("fingerprint") != fingerprint:
        raise ValueError(f"{path} {other}")
    return dict(state)


def load_average(model: nn.Module, folder: str | Path, steps: int, fingerprint: str) -> float:
    """Fill ``model`` with the averaged weights of a finished run.

    Args:
        model: of the run's architecture.
        folder: where the run's ``checkpoint.pt`` lies.
        steps: what the recipe asks for.
        fingerprint: of what the run must have depended on.

    Returns:
        Seconds the run took.

    Raises:
        ValueError: no checkpoint there, a damaged or unfinished one, or one of another recipe or other data.
    """
    path = Path(folder) / CHECKPOINT
    if not path.is_file():
        raise ValueError(f"{folder} holds no finished run: no {CHECKPOINT} in it")
    state = read_checkpoint(path, ("average", "step", "seconds"), fingerprint)
    if state["step"] < steps:
        raise ValueError(f"the run in {folder} is not finished ({state['step']} of {steps} steps); resume it first")
    load_strictly(model, average_in(state), str(path))
    return float(state["seconds"])


def average_in(state: dict[str, Any]) -> dict[str, Tensor]:
    """The averaged weights in a checkpoint, by the model's own names."""
    prefix = "module."
    return {name.removeprefix(prefix): t for name, t in state["average"].items() if name.startswith(prefix)}
