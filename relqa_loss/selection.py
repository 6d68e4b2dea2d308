"""`CheckpointSelector`: is this checkpoint better than the best one so far, and in what?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .relation import AXES, Relation
from .validation import check_images

BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"
RESAMPLES = 4000
"""Bootstrap resamples: the ends of a 95% interval then move by less than a tenth of its width from seed to seed."""


class Judge(Protocol):
    """What is asked of a loss here: ``RelationalLoss``, or any module that relates pictures.

    ``score`` with ``ref`` has to be ``distance(b, ref) - distance(a, ref)``, as in ``RelationalLoss``: it is what the
    selector takes from distances.
    """

    def relate(self, a: Tensor, b: Tensor, ref: Tensor | None = None) -> Relation:
        """A compared with b, see ``RelationalLoss.relate``."""

    def parameters(self) -> Iterator[Tensor]:
        """Its tensors, as of any ``nn.Module``."""

    def buffers(self) -> Iterator[Tensor]:
        """Further tensors, as of any ``nn.Module``."""


@dataclass(frozen=True)
class Verdict:
    """How one candidate compares with the incumbent.

    Attributes:
        tag: the candidate.
        against: the incumbent it was compared with; None for the first candidate, which becomes incumbent unopposed.
        decision: ``"better"``, ``"worse"`` or ``"undecided"``; the first candidate is ``"better"``.
        confidence: in [0, 1], that the sign of ``score`` is no accident of which references were chosen: two-sided
            bootstrap, and never above ``1 - 2 ** (1 - N)``, what N images that all agree can show. 0 for the first
            candidate.
        win_rate: share of references on which the candidate is better, ties counted half; nan for the first.
        score: mean anchored score; positive = the candidate is nearer to the references. nan for the first.
        interval: bootstrap interval of ``score`` at the selector's ``level``; (nan, nan) for the first.
        distance: mean distance of the candidate to the references, >= 0, lower is better.
        changes: axis -> mean change of its part of the distance (candidate minus incumbent); positive = the axis got
            worse. Empty for the first.
    """

    tag: str
    against: str | None
    decision: str
    confidence: float
    win_rate: float
    score: float
    interval: tuple[float, float]
    distance: float
    changes: dict[str, float]

    def reasons(self, count: int = 3) -> list[tuple[str, float]]:
        """The axes that changed most, as (axis, change); a negative change is an improvement."""
        ranked = sorted(self.changes.items(), key=lambda item: -abs(item[1]))
        return [(axis, change) for axis, change in ranked[:count] if change != 0.0]


class CheckpointSelector:
    """Compares candidates with the incumbent on fixed references, image by image, and keeps the better one.

    The decision rests on the anchored score of each reference, ``loss_fn.relate(candidate, incumbent, ref=ref).score``,
    and a paired bootstrap over references (Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, ch. 13:
    percentile interval). That score is the incumbent's distance to the reference minus the candidate's, so of the
    incumbent only its distances are kept, and no output outlives :meth:`update`. One reference and its output are on
    the loss's device at a time.

    Args:
        references: the originals: (N, 3, H, W), or N images (3, H, W) whose sizes may differ.
        loss_fn: a ``RelationalLoss``; None makes one with the bundled weights.
        level: confidence asked for, in (0, 1). At 0.95 fewer than six references can never decide, see
            :func:`highest_confidence`.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap; the same inputs give the same verdict.

    Raises:
        TypeError, ValueError: unusable references or settings.
    """

    def __init__(
        self,
        references: Tensor | Sequence[Tensor],
        loss_fn: Judge | None = None,
        *,
        level: float = 0.95,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        if not 0.0 < level < 1.0:
            raise ValueError(f"level must be between 0 and 1, got {level}")
        if resamples < 1:
            raise ValueError(f"resamples must be at least 1, got {resamples}")
        self.references = [_copied(_checked("references", k, image)) for k, image in enumerate(references)]
        if not self.references:
            raise ValueError("references must hold at least one image, got none")
        if loss_fn is None:
            from .losses import RelationalLoss

            loss_fn = RelationalLoss()
        self.loss_fn: Judge = loss_fn
        self.level = level
        self.resamples = resamples
        self.seed = seed
        self.incumbent: str | None = None
        self._distances, self._parts = _nothing()

    @torch.no_grad()
    def update(self, outputs: Tensor | Iterable[Tensor], tag: str | int) -> Verdict:
        """Compare a candidate with the incumbent; on ``"better"`` it becomes the incumbent.

        Args:
            outputs: the candidate's outputs for the references, in their order: (N, 3, H, W) or N images (3, H, W).
            tag: a name for the candidate, e.g. a step or a path.

        Raises:
            TypeError, ValueError: not images, or not one for each reference of its size.
        """
        candidate = self._check_outputs(outputs)
        device = _device_of(self.loss_fn)
        distances, parts = [], []
        for image, reference in zip(candidate, self.references, strict=True):
            relation = self.loss_fn.relate(image[None].to(device), reference[None].to(device))
            distances.append(relation.distance.double().cpu())
            parts.append(relation.parts.double().cpu())
        distance, part = torch.cat(distances), torch.cat(parts)
        verdict = self._judge(str(tag), distance, part)
        if verdict.decision == BETTER:
            self.incumbent, self._distances, self._parts = verdict.tag, distance, part
        return verdict

    def _judge(self, tag: str, distances: Tensor, parts: Tensor) -> Verdict:
        """Verdict from the candidate's distances (N,) and parts (N, axes)."""
        mean_distance = float(distances.mean())
        if not bool(torch.isfinite(distances).all()):
            raise ValueError(f"the outputs of {tag!r} give distances that are not finite: they hold NaN or infinity")
        if self.incumbent is None:
            nan = float("nan")
            return Verdict(tag, None, BETTER, 0.0, nan, nan, (nan, nan), mean_distance, {})
        scores = self._distances - distances
        low, high, confidence = bootstrap(scores, self.level, self.resamples, self.seed)
        decision = UNDECIDED
        if confidence >= self.level:
            decision = BETTER if low > 0 else WORSE if high < 0 else UNDECIDED
        wins = float((scores > 0).double().mean() + 0.5 * (scores == 0).double().mean())
        changes = dict(zip(AXES, (parts - self._parts).mean(dim=0).tolist(), strict=True))
        return Verdict(
            tag, self.incumbent, decision, confidence, wins, float(scores.mean()), (low, high), mean_distance, changes
        )

    def _check_outputs(self, outputs: Tensor | Iterable[Tensor]) -> list[Tensor]:
        candidate = [_checked("outputs", k, image).detach() for k, image in enumerate(outputs)]
        if len(candidate) != len(self.references):
            raise ValueError(
                f"outputs must hold one image for each of {len(self.references)} references, got {len(candidate)}"
            )
        for k, (image, reference) in enumerate(zip(candidate, self.references, strict=True)):
            if image.shape != reference.shape:
                raise ValueError(
                    f"outputs[{k}] must have its reference's shape {tuple(reference.shape)}, got {tuple(image.shape)}"
                )
        return candidate

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for image in self.references:
            digest.update(str(tuple(image.shape)).encode())
            digest.update(image.float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """The incumbent's numbers: tensors, booleans and strings only (``torch.load(weights_only=True)`` reads it)."""
        return {
            "incumbent": self.incumbent or "",
            "has_incumbent": self.incumbent is not None,
            "distances": self._distances,
            "parts": self._parts,
            "references": self._fingerprint(),
            "loss": _fingerprint_of(self.loss_fn),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the incumbent of :meth:`state_dict`.

        Raises:
            ValueError: the state lacks an entry, or belongs to other references or to a loss with other weights.
        """
        own = self.state_dict()
        missing = [key for key in own if key not in state]
        if missing:
            raise ValueError(f"state lacks {', '.join(missing)}: it is not from CheckpointSelector.state_dict()")
        if state["references"] != own["references"]:
            raise ValueError("state belongs to other references: its incumbent cannot be compared on these")
        if state["loss"] != own["loss"]:
            raise ValueError("state belongs to a loss with other weights: its distances cannot be compared with these")
        if not state["has_incumbent"]:
            self.incumbent, (self._distances, self._parts) = None, _nothing()
            return
        count = len(self.references)
        shapes = tuple(state["distances"].shape), tuple(state["parts"].shape)
        if shapes != ((count,), (count, len(AXES))):
            raise ValueError(f"state must hold distances ({count},) and parts ({count}, {len(AXES)}), got {shapes}")
        self.incumbent = str(state["incumbent"])
        self._distances = state["distances"].detach().double().cpu()
        self._parts = state["parts"].detach().double().cpu()


def highest_confidence(count: int) -> float:
    """Confidence that ``count`` references can show at best, all agreeing: ``1 - 2 ** (1 - count)``.

    That of a two-sided sign test: resampling a handful of images says nothing about the ones not seen.
    """
    return 1.0 - 2.0 ** (1 - count)


def bootstrap(scores: Tensor, level: float, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float, float]:
    """Percentile interval of the mean of paired scores, and the confidence in its sign.

    Args:
        scores: (N,) one signed score for each reference.
        level: of the interval, in (0, 1).
        resamples: number of resamples.
        seed: of the draws.

    Returns:
        (low, high, confidence): confidence is two-sided, in [0, 1], and at most :func:`highest_confidence` of N.
    """
    count = scores.numel()
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(count, (resamples, count), generator=generator)
    means = scores.double().cpu()[draws].mean(dim=1)
    ends = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
    # A resample that is exactly 0 argues for neither side, so it counts against both.
    against = min(float((means <= 0).double().mean()), float((means >= 0).double().mean()))
    confidence = min(max(1.0 - 2.0 * against, 0.0), highest_confidence(count))
    return float(ends[0]), float(ends[1]), confidence


def _checked(name: str, index: int, image: Tensor) -> Tensor:
    label = f"{name}[{index}]"
    if not isinstance(image, Tensor):
        raise TypeError(f"{label} must be a torch.Tensor of shape (3, H, W), got {type(image).__name__}")
    if image.ndim != 3:
        raise ValueError(f"{label} must have shape (3, H, W), got {tuple(image.shape)}")
    check_images(label, image[None])
    return image


def _copied(image: Tensor) -> Tensor:
    """A detached copy on the CPU: what is kept must not change under the trainer's hands."""
    return image.detach().to("cpu", copy=True)


def _nothing() -> tuple[Tensor, Tensor]:
    """Distances and parts of no incumbent."""
    return torch.zeros(0, dtype=torch.float64), torch.zeros(0, len(AXES), dtype=torch.float64)


def _fingerprint_of(module: Judge) -> str:
    """sha256 of the tensors of a loss: the distances of two losses are not to be compared."""
    digest = hashlib.sha256()
    for tensor in (*module.parameters(), *module.buffers()):
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _device_of(module: Judge) -> torch.device:
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
