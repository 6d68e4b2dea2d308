"""`Verdict`: how one checkpoint compares with another, how sure that is, and in what they differ."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..relation import AXES
from ..words import RELEVANT, change_in_words
from .image_scores import ImageScores
from .inference import RESAMPLES, benjamini_hochberg, mean_interval, sign_flip, win_rate

BETTER, WORSE, UNDECIDED, FIRST = "better", "worse", "undecided", "first"


@dataclass(frozen=True)
class Reason:
    """One axis on which two checkpoints differ alike over the images.

    Attributes:
        axis: one of ``AXES``.
        change: mean change of its part of the distance, candidate minus incumbent; negative = improved.
        confidence: in [0, 1], that the sign of ``change`` is no accident: sign-flip test over images, corrected for
            the number of axes (Benjamini & Hochberg), so that of the reasons named at ``level`` a share of at most
            ``1 - level`` is expected to be false.
        turn: mean change of the axis's signed map, positive where the candidate shows more of it; 0 where its sign is
            not as sure.
        words: the same in words, e.g. ``"sharper"``.
    """

    axis: str
    change: float
    confidence: float
    turn: float
    words: str


@dataclass(frozen=True)
class Verdict:
    """How one candidate compares with another checkpoint, the incumbent.

    Attributes:
        tag: the candidate.
        against: what it was compared with; None for the first candidate.
        decision: ``"better"``, ``"worse"`` or ``"undecided"``; ``"first"`` where there was nothing to compare with.
        level: confidence that a decision takes.
        confidence: in [0, 1], that the sign of ``score`` is no accident of which images were looked at: 1 - p of a
            two-sided sign-flip test over images, at most ``1 - 2 ** (1 - N)`` for N images. In a ranking it is
            corrected for the number of comparisons. nan for the first.
        images: N.
        score: mean anchored score, ``relate(candidate, incumbent, ref=reference).score``; positive = the candidate is
            nearer to the references. nan for the first.
        interval: of ``score`` at ``level``, from the same test, this comparison alone; infinite where N images are too
            few for ``level``. (nan, nan) for the first.
        win_rate: share of images on which the candidate is better, ties counted half; nan for the first.
        win_interval: bootstrap interval of ``win_rate`` at ``level``; (nan, nan) for the first.
        distance: mean distance of the candidate to the references, >= 0, lower is better.
        changes: axis -> mean change of its part of the distance, candidate minus incumbent; positive = the axis got
            worse. Empty for the first.
        reasons: the axes whose change is consistent over images, largest first; often none.
    """

    tag: str
    against: str | None
    decision: str
    level: float
    confidence: float
    images: int
    score: float
    interval: tuple[float, float]
    win_rate: float
    win_interval: tuple[float, float]
    distance: float
    changes: dict[str, float]
    reasons: tuple[Reason, ...]

    @property
    def promoted(self) -> bool:
        """Whether the candidate is the incumbent from now on: it is better, or the first."""
        return self.decision in (FIRST, BETTER)

    def why(self, count: int = 4) -> str:
        """The largest reasons in a line, what improved before what got worse: ``"sharper, but more ringing"``.

        Args:
            count: how many reasons at most.
        """
        named = self.reasons[:count]
        gains = ", ".join(reason.words for reason in named if reason.change < 0)
        losses = ", ".join(reason.words for reason in named if reason.change > 0)
        return f"{gains}, but {losses}" if gains and losses else gains or losses


def first(tag: str, scores: ImageScores, level: float) -> Verdict:
    """The verdict on a candidate without an incumbent."""
    nan = math.nan
    return Verdict(
        tag=tag,
        against=None,
        decision=FIRST,
        level=level,
        confidence=nan,
        images=len(scores),
        score=nan,
        interval=(nan, nan),
        win_rate=nan,
        win_interval=(nan, nan),
        distance=float(scores.distances.mean()),
        changes={},
        reasons=(),
    )


def compare(
    candidate: ImageScores,
    incumbent: ImageScores,
    *,
    tag: str,
    against: str,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float | None = None,
) -> Verdict:
    """Compare two checkpoints by their scores of the same images.

    Args:
        candidate: scores of the candidate.
        incumbent: scores of what it is compared with.
        tag: name of the candidate.
        against: name of the incumbent.
        level: confidence that a decision takes, in (0, 1).
        resamples: random subsets of the sign-flip test, and bootstrap resamples.
        seed: of both.
        confidence: in place of that of this comparison alone, e.g. corrected for several.

    Raises:
        ValueError: scores of different images.
    """
    check_same_images(candidate, incumbent, tag, against)
    scores = (incumbent.distances - candidate.distances).numpy()
    if confidence is None:
        confidence = 1.0 - float(sign_flip(scores[:, None], resamples, seed)[0])
    mean = float(scores.mean())
    decision = UNDECIDED
    if confidence >= level:
        decision = BETTER if mean > 0 else WORSE
    rate, win_interval = win_rate(scores, level, resamples, seed)
    changes = (candidate.parts - incumbent.parts).mean(dim=0).tolist()
    return Verdict(
        tag=tag,
        against=against,
        decision=decision,
        level=level,
        confidence=confidence,
        images=len(candidate),
        score=mean,
        interval=mean_interval(scores, level, resamples, seed),
        win_rate=rate,
        win_interval=win_interval,
        distance=float(candidate.distances.mean()),
        changes=dict(zip(AXES, changes, strict=True)),
        reasons=_reasons(candidate, incumbent, level, resamples, seed),
    )


def _reasons(
    candidate: ImageScores, incumbent: ImageScores, level: float, resamples: int, seed: int
) -> tuple[Reason, ...]:
    parts = (candidate.parts - incumbent.parts).numpy()
    turns = (candidate.tilts - incumbent.tilts).numpy()
    p_values = sign_flip(np.concatenate([parts, np.nan_to_num(turns)], axis=1), resamples, seed)
    sure = 1.0 - benjamini_hochberg(p_values[: len(AXES)])
    one_way = 1.0 - p_values[len(AXES) :] >= level
    change, turn = parts.mean(axis=0), np.where(one_way, turns.mean(axis=0), 0.0)
    least = RELEVANT * np.abs(change).max()
    chosen = [k for k in np.argsort(-np.abs(change), kind="stable") if sure[k] >= level and abs(change[k]) >= least]
    return tuple(
        Reason(
            AXES[k],
            float(change[k]),
            float(sure[k]),
            float(turn[k]),
            change_in_words(AXES[k], float(change[k]), float(turn[k])),
        )
        for k in chosen
    )


def check_same_images(candidate: ImageScores, incumbent: ImageScores, tag: str, against: str) -> None:
    """ValueError unless two checkpoints were scored on the same images with the same references."""
    if (candidate.keys, candidate.references) == (incumbent.keys, incumbent.references):
        return
    known = set(zip(incumbent.keys, incumbent.references, strict=True))
    new = sum(pair not in known for pair in zip(candidate.keys, candidate.references, strict=True))
    raise ValueError(
        f"{tag!r} was scored on {len(candidate)} images and {against!r} on {len(incumbent)}, {new} of the former not "
        "among the latter: checkpoints are compared on the same images (no random crops, no other selection)"
    )
