"""What a loss trains: small restorers, fine-tuned from one start with one loss each.

For each task and seed a network is first trained with L1 alone. Copies of it then go on for the same steps on the same
crops, each with L1 plus one other term. So that no term wins by its scale, each is multiplied once, at the start, so
that its gradient at the restorer's output has ``share`` times the norm of L1's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..distortions.filters import fixed_gaussian
from ..evaluation.recovery_losses import losses_beside
from ..files import write_atomically
from ..losses import RelationalLoss
from ..training.data import batches, row_crops, seeded
from ..training.loop import read_checkpoint
from ..validation import unknown_name
from ..weighted import SpatiallyWeightedLoss

NOISE = 25 / 255
BLUR = 1.6
BLUR_NOISE = 2 / 255
STEERED = 4.0
"""Factor on the axis that a steered loss cares more for."""

MAP_SHARE = 0.5
"""Norm, at the start, of the gradient of what a loss adds for more of one axis than the reference has; L1's is 1."""

BALANCE_BATCHES = 4
GRADIENT_NORM = 1.0

Term = Callable[[Tensor, Tensor], Tensor]
"""(restored, reference), both (B, 3, H, W) -> a scalar."""


@dataclass(frozen=True)
class Task:
    """One way a picture was spoilt, which a restorer undoes.

    Attributes:
        scale: how many times smaller the input's sides are.
        spoil: reference (B, 3, H, W) and a generator -> input (B, 3, H / scale, W / scale), not clamped.
    """

    scale: int
    spoil: Callable[[Tensor, Generator], Tensor]


def _noisy(reference: Tensor, generator: Generator) -> Tensor:
    return reference + NOISE * torch.randn(reference.shape, generator=generator)


def _blurred(reference: Tensor, generator: Generator) -> Tensor:
    return fixed_gaussian(reference, BLUR) + BLUR_NOISE * torch.randn(reference.shape, generator=generator)


def _smaller(reference: Tensor, generator: Generator) -> Tensor:
    return F.interpolate(reference, scale_factor=0.5, mode="bicubic", antialias=True, align_corners=False)


TASKS: dict[str, Task] = {"denoise": Task(1, _noisy), "deblur": Task(1, _blurred), "x2": Task(2, _smaller)}
"""Denoising (sigma 25 of 255), deblurring (Gaussian of 1.6 pixels, noise of 2 of 255) and super-resolution by two."""


def check_tasks(names: Sequence[str]) -> list[str]:
    """ValueError for a name that is not among ``TASKS``."""
    for name in names:
        if name not in TASKS:
            raise ValueError(unknown_name("task", name, TASKS))
    return list(names)


class Restorer(nn.Module):
    """Residual network at half the output's resolution; it starts as the identity (bicubic enlargement for x2).

    Args:
        scale: 1, or 2 for super-resolution.
        width: channels.
        blocks: residual blocks of two 3x3 convolutions.
    """

    def __init__(self, scale: int, width: int = 48, blocks: int = 5) -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Conv2d(3 if scale == 2 else 12, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, padding=1)
            )
            for _ in range(blocks)
        )
        self.tail = nn.Conv2d(width, 12, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def forward(self, spoilt: Tensor) -> Tensor:
        """Input (B, 3, h, w), sides even unless ``scale`` is 2 -> (B, 3, h * scale, w * scale), not clamped."""
        if self.scale == 2:
            base, x = F.interpolate(spoilt, scale_factor=2.0, mode="bicubic", align_corners=False), spoilt
        else:
            base, x = spoilt, F.pixel_unshuffle(spoilt, 2)
        x = self.head(x)
        for block in self.blocks:
            x = x + block(x)
        return base + F.pixel_shuffle(self.tail(x), 2)


START = "start"
L1 = "L1"
OURS = "L1 + RelationalLoss"
_PEERS = {"L1 + MS-SSIM": "ms-ssim", "L1 + ST-LPIPS": "st-lpips"}
_STEERED = {f"{OURS}, {axis} x{STEERED:g}": axis for axis in ("blur", "noise")}
_BY_ONE_MAP = {f"{OURS}, less {axis}": axis for axis in ("blur", "noise")}
_FROM_OURS = (*_STEERED, *_BY_ONE_MAP)
BY_MAPS = "L1 by maps"
RIVALS: tuple[str, ...] = (L1, *_PEERS)
"""What L1 + RelationalLoss has to hold its own against."""

_OF_MAPS = (BY_MAPS, *_BY_ONE_MAP)
_WITH_WEIGHTS = (OURS, BY_MAPS, *_FROM_OURS)
LOSSES: tuple[str, ...] = (*RIVALS, *_WITH_WEIGHTS)
"""What restorers are trained with: L1 beside one term, L1 re-weighted by the distortion maps, and losses steered by the
weight of an axis or by a term on its map."""


def terms(
    names: Sequence[str], weights: str, crop: int, device: str | torch.device = "cpu"
) -> tuple[dict[str, Term | None], dict[str, str]]:
    """What is added to L1 under each name; None for nothing.

    Args:
        names: of ``LOSSES``.
        weights: of :class:`RelationalLoss`.
        crop: side of the training crops, in pixels.
        device: where restorers are trained.

    Returns:
        The terms, and one line for each whose package is missing.

    Raises:
        ValueError: an unknown name, or a term that is not defined for crops so small.
    """
    for name in names:
        if name not in LOSSES:
            raise ValueError(unknown_name("loss", name, LOSSES))
    loss_fn = RelationalLoss(weights).to(device)
    found: dict[str, Term | None] = {}
    missing: dict[str, str] = {}
    for name in names:
        if name in _PEERS:
            peers, absent = losses_beside(loss_fn, [_PEERS[name]], crop)
            found.update((name, _mean_of(peer)) for peer in peers.values())
            missing.update((name, reason) for reason in absent.values())
        elif name in _STEERED:
            found[name] = RelationalLoss(weights, axis_weights={_STEERED[name]: STEERED}).to(device)
        elif name in _BY_ONE_MAP:
            found[name] = partial(_more_of, loss_fn, _BY_ONE_MAP[name])
        else:
            found[name] = {L1: None, OURS: loss_fn, BY_MAPS: _by_maps(loss_fn)}[name]
    return found, missing


def _more_of(loss_fn: RelationalLoss, axis: str, restored: Tensor, reference: Tensor) -> Tensor:
    """How much more of an axis there is than in the reference; less of it counts nothing."""
    return loss_fn.relate(restored, reference)[axis].clamp(min=0).mean()


def _mean_of(loss: Term) -> Term:
    return lambda restored, reference: loss(restored, reference).mean()


def _by_maps(loss_fn: RelationalLoss) -> Term:
    return SpatiallyWeightedLoss(nn.L1Loss(reduction="none"), loss_fn)


@dataclass(frozen=True)
class Plan:
    """How restorers are trained.

    Attributes:
        start_steps: of Adam with L1 alone, from which all losses go on.
        steps: with each loss.
        batch: crops a step.
        crop: their side in pixels, even; MS-SSIM needs at least 161.
        learning_rate: where the half cosine of the start begins; that of every loss after it begins at half of it.
        share: norm of a term's gradient beside that of L1, at the start; :func:`train` takes another for single losses.
            Steered losses are multiplied by what ``L1 + RelationalLoss`` is: what they differ by is the axis weight, or
            a term more, of ``MAP_SHARE``.
    """

    start_steps: int = 1500
    steps: int = 500
    batch: int = 4
    crop: int = 176
    learning_rate: float = 1e-3
    share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("start_steps", "steps", "batch", "crop"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.crop < 16 or self.crop % 2:
            raise ValueError(f"crop must be even and at least 16, got {self.crop}")
        for name in ("learning_rate", "share"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and > 0, got {getattr(self, name)}")


class _Crops:
    """Step -> (input, reference); a function of (seed, step) alone, so that all losses see the same."""

    def __init__(self, photographs: Sequence[Tensor], task: Task, plan: Plan, seed: int, first: int) -> None:
        self.photographs, self.task, self.plan, self.seed, self.first = photographs, task, plan, seed, first

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        streams = [seeded(self.seed, 7, self.first + step, row) for row in range(self.plan.batch)]
        reference = row_crops(self.photographs, self.plan.crop, 0.6, streams)
        return self.task.spoil(reference, streams[0]), reference


def _descend(
    model: Restorer,
    batches_of: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    rate: float,
    loss: Term,
    along: Sequence[int] = (),
) -> dict[int, Restorer]:
    """Train in place: number of steps -> the model after them, a copy for each of ``along``, itself for all.

    Raises:
        ValueError: the model diverged.
    """
    found: dict[int, Restorer] = {}
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    device = next(model.parameters()).device
    for step, (spoilt, reference) in enumerate(batches_of, start=1):
        optimiser.zero_grad(set_to_none=True)
        loss(model(spoilt.to(device)), reference.to(device)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimiser.step()
        schedule.step()
        if step in along and step < steps:
            found[step] = copy.deepcopy(model)
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise ValueError(f"the restorer is no longer finite after {steps} steps; lower the learning rate or the share")
    return {**found, steps: model}


def factor_of(term: Term, model: Restorer, some: Sequence[tuple[Tensor, Tensor]], share: float) -> float:
    """What to multiply a term by, so that its gradient at the output is ``share`` times as long as L1's."""
    device = next(model.parameters()).device
    lengths = torch.zeros(2, dtype=torch.float64)
    for spoilt, reference in some:
        with torch.no_grad():
            restored = model(spoilt.to(device))
        for k, one in enumerate((F.l1_loss, term)):
            leaf = restored.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(one(leaf, reference.to(device)), leaf)
            lengths[k] += gradient.double().norm().cpu()
    if not bool(lengths.isfinite().all()) or lengths[1] == 0:
        raise ValueError(f"the term has a gradient of length {float(lengths[1])} at the start: it cannot be balanced")
    return float(share * lengths[0] / lengths[1])


@dataclass(frozen=True)
class Trained:
    """A restorer that one loss has trained.

    Attributes:
        model: in evaluation mode.
        factor: on the term beside L1; 0 where there is none.
        map_factor: on the term on one map beside that; 0 where there is none.
    """

    model: Restorer
    factor: float
    map_factor: float = 0.0


def train(
    task: str,
    seed: int,
    losses: Mapping[str, Term | None],
    photographs: Sequence[Tensor],
    plan: Plan,
    out: Path,
    *,
    digest: str,
    weights: Mapping[str, str],
    distance: str,
    shares: Mapping[str, float] | None = None,
    along: Sequence[int] = (),
    device: str | torch.device = "cpu",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Trained]:
    """Train the start and each loss's restorer; what lies finished in ``out`` is not trained again.

    Args:
        task: of ``TASKS``.
        seed: of the network, the crops and the noise.
        losses: name -> term beside L1, as :func:`terms` returns them.
        photographs: uint8 (3, H, W) each, to train on.
        plan: how.
        out: a file for each restorer goes here.
        digest: of the photographs; files made with others are refused.
        weights: digests of our weights' files; restorers made by other maps are refused.
        distance: digest of what our distance depends on; restorers made with another distance are refused.
        shares: name of a loss with a second term, but for steered ones -> what stands for the plan's ``share`` there.
        along: steps of the start and of each loss after which the restorer, as it is then, is kept and returned too.
        device: where to train.
        progress: called with a line of text after each restorer.

    Returns:
        Name of the loss -> restorer. With ``along`` also ``"start"``, and ``"NAME after STEP steps"`` of the start and
        of every loss.

    Raises:
        ValueError: an unknown task, steered losses without the one that they are steered from, a file in ``out`` that
            is damaged or was made otherwise, a restorer that diverged.
    """
    check_tasks([task])
    spoil = TASKS[task]
    for name in losses:
        if name in _FROM_OURS and OURS not in losses:
            raise ValueError(f"losses must name {OURS!r} beside {name!r}, which takes its factor, got {list(losses)}")
    balanced = [name for name, term in losses.items() if term is not None and name not in (BY_MAPS, *_FROM_OURS)]
    for name in shares or {}:
        if name not in balanced:
            raise ValueError(f"shares must name losses with a second term, one of {', '.join(balanced)}, got {name!r}")
    plans = {name: replace(plan, share=share) for name, share in (shares or {}).items()}

    def crops(first: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(_Crops(photographs, spoil, plan, seed, first), range(steps), 0)

    def plan_of(name: str) -> Plan:
        return plans.get(OURS if name in _FROM_OURS else name, plan)

    def kept(name: str, steps: int, build: Callable[[], dict[int, Trained]]) -> dict[str, Trained]:
        wanted = {_after(name, step): step for step in along if step < steps} | {name: steps}
        paths = {one: out / f"{task}-{seed}-{_slug(one)}.pt" for one in wanted}
        settings = {"task": task, "seed": seed, "plan": asdict(plan_of(name)), "photographs": digest}
        if name in _WITH_WEIGHTS:
            settings["weights"] = dict(weights) if name in _OF_MAPS else distance
        # All that are there are read, since what was made otherwise must not be written over either.
        there = {
            one: _read(path, {**settings, "loss": one}, spoil.scale, device)
            for one, path in paths.items()
            if path.exists()
        }
        if len(there) == len(paths):
            return there
        made = build()
        for one, path in paths.items():
            _write(path, {**settings, "loss": one}, made[wanted[one]])
        if progress is not None:
            progress(f"{task}, seed {seed}: trained with {name}")
        return {one: made[step] for one, step in wanted.items()}

    def start() -> dict[int, Trained]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Restorer(spoil.scale).to(device)
        batches_of = crops(0, plan.start_steps)
        models = _descend(model, batches_of, plan.start_steps, plan.learning_rate, F.l1_loss, along)
        return {step: Trained(one.eval(), 0.0) for step, one in models.items()}

    common = kept(START, plan.start_steps, start)

    def go_on(name: str, term: Term | None) -> dict[int, Trained]:
        model, factor, map_factor = copy.deepcopy(common[START].model), 0.0, 0.0
        loss: Term = F.l1_loss
        if name == BY_MAPS and term is not None:
            loss = term  # of L1's own scale: its weights have mean 1
        elif term is not None:
            some = list(islice(crops(plan.start_steps, BALANCE_BATCHES), BALANCE_BATCHES))
            ours = losses[OURS] if name in _FROM_OURS else None
            factor = factor_of(ours or term, model, some, plan_of(name).share)
            loss = _l1_and((factor, term))
            if ours is not None and name in _BY_ONE_MAP:
                map_factor = factor_of(term, model, some, MAP_SHARE)
                loss = _l1_and((factor, ours), (map_factor, term))
        batches_of = crops(plan.start_steps, plan.steps)
        models = _descend(model.train(), batches_of, plan.steps, plan.learning_rate / 2, loss, along)
        return {step: Trained(one.eval(), factor, map_factor) for step, one in models.items()}

    found = dict(common) if along else {}
    for name, term in losses.items():
        found |= kept(name, plan.steps, partial(go_on, name, term))
    return found


def _after(name: str, step: int) -> str:
    return f"{name} after {step} steps"


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")


def _read(path: Path, settings: Mapping[str, object], scale: int, device: str | torch.device) -> Trained:
    state = read_checkpoint(path, ("settings", "model", "factor"))
    # Those of before the factor of a map was kept are as good as ever where there is none.
    if state.get("settings") != settings or (settings["loss"] in _BY_ONE_MAP and "map_factor" not in state):
        raise ValueError(f"{path} was trained with other settings: choose another folder, or remove it")
    model = Restorer(scale)
    model.load_state_dict(state["model"])
    return Trained(model.to(device).eval(), state["factor"], state.get("map_factor", 0.0))


def _write(path: Path, settings: Mapping[str, object], made: Trained) -> None:
    state = {
        "settings": settings,
        "model": made.model.state_dict(),
        "factor": made.factor,
        "map_factor": made.map_factor,
    }
    write_atomically(path, lambda unfinished: torch.save(state, unfinished))


def _l1_and(*weighted: tuple[float, Term]) -> Term:
    """L1 and these terms, each times its factor."""
    return lambda a, b: F.l1_loss(a, b) + torch.stack([factor * term(a, b) for factor, term in weighted]).sum()
