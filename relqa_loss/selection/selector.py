"""`CheckpointSelector`: is this checkpoint better than the best one so far, and in what?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..relation import AXES
from ..validation import check_images
from .image_scores import ImageScores, Judge, Tally, fingerprint_of, names_of, score_image, shared
from .inference import RESAMPLES, check_level
from .ranking import Ranking, rank
from .verdict import Verdict, compare, first


class CheckpointSelector:
    """Compares candidates with the incumbent on fixed references, image by image, and keeps the better one.

    The decision rests on the anchored score of each image, ``loss_fn.relate(candidate, incumbent, ref=ref).score``, and
    a sign-flip test of their mean, exact for any number of images (:mod:`relqa_loss.selection.inference`). That score
    is the incumbent's distance to the reference minus the candidate's, so of a checkpoint only numbers are kept, and no
    picture outlives its turn. Images count as independent: several crops of one photograph are not. Confidence is that
    of one comparison; over a long training with no progress, one in ``2 / (1 - level)`` candidates still wins.

    With references, call :meth:`update` for each candidate, or :meth:`rank` for many. Inside a validation loop, fill a
    :meth:`tally` batch by batch and pass its scores to :meth:`judge`.

    Args:
        references: the originals: (N, 3, H, W), or anything that can be gone through again and again and gives images
            (3, H, W) or batches of them: a list, a dataset, a data loader. Sizes may differ. Read one by one at each
            update; None for :meth:`tally` alone.
        loss_fn: a ``RelationalLoss``; None makes one with the bundled weights.
        ids: a name for each reference, see :meth:`Tally.add`; None knows images by their contents.
        level: confidence asked for, in (0, 1). At 0.95 fewer than six images can never decide, see
            :func:`relqa_loss.selection.highest_confidence`.
        directions: also decode the maps, so that reasons tell "sharper" from "blurrier"; takes two to three times as
            long.
        sharded: every process of ``torch.distributed``'s default group holds a share of the images, calls the same
            methods, and gets the verdict on all images. Shares may be uneven, or none; an image that two processes
            hold, as with a ``DistributedSampler``, counts once.
        resamples: random subsets where there are more than 13 images, and bootstrap resamples.
        seed: of both; the same inputs give the same verdict, however they are sharded.

    Attributes:
        incumbent: tag of the best checkpoint so far, None before the first.

    Raises:
        TypeError, ValueError: unusable references or settings.
    """

    def __init__(
        self,
        references: Iterable[Tensor] | None = None,
        loss_fn: Judge | None = None,
        *,
        ids: Iterable[str | int] | None = None,
        level: float = 0.95,
        directions: bool = True,
        sharded: bool = False,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        if resamples < 1:
            raise ValueError(f"resamples must be at least 1, got {resamples}")
        if isinstance(references, Iterator):
            raise TypeError(
                f"references must be something to go through for each candidate, e.g. a list or a dataset, got "
                f"{type(references).__name__}, which ends after the first"
            )
        if _length(references) == 0 and not sharded:
            raise ValueError("references must hold at least one image, got none")
        if loss_fn is None:
            from ..losses import RelationalLoss

            loss_fn = RelationalLoss()
        self.references = references
        self.loss_fn: Judge = loss_fn
        self.ids = None if ids is None else names_of(ids)
        self.level = check_level(level)
        self.directions = directions
        self.sharded = sharded
        self.resamples = resamples
        self.seed = seed
        self.incumbent: str | None = None
        self._scores: ImageScores | None = None

    def update(self, outputs: Iterable[Tensor], tag: str | int) -> Verdict:
        """Compare a candidate with the incumbent; if it is better, or the first, it becomes the incumbent.

        Args:
            outputs: the candidate's outputs for the references, in their order: images (3, H, W) or batches, read one
                by one, so that a generator that runs the model keeps memory small.
            tag: a name for the candidate, e.g. a step or a path.

        Raises:
            TypeError, ValueError: not images, not one for each reference of its size, or references that are not those
                the incumbent was scored on. The incumbent stays.
        """
        return self.judge(self._score(outputs), tag)

    def rank(self, candidates: Iterable[tuple[str | int, Iterable[Tensor]]]) -> Ranking:
        """Rank any number of checkpoints; the incumbent has no part in it and stays.

        Args:
            candidates: (tag, outputs as in :meth:`update`) each; a generator may load one checkpoint after another.

        Raises:
            TypeError, ValueError: as in :meth:`update`, no candidate, or one tag twice.
        """
        scores: dict[str, ImageScores] = {}
        for tag, outputs in candidates:
            if str(tag) in scores:
                raise ValueError(f"candidates must have different tags, got {str(tag)!r} twice")
            scores[str(tag)] = self._score(outputs)
        return rank(scores, level=self.level, resamples=self.resamples, seed=self.seed)

    def tally(self) -> Tally:
        """An empty collector for one candidate's outputs and references."""
        return Tally(self.loss_fn, directions=self.directions, sharded=self.sharded)

    def judge(self, scores: ImageScores, tag: str | int) -> Verdict:
        """:meth:`update` with the scores that a :meth:`tally` has collected: ``judge(tally.scores(), tag)``.

        Raises:
            ValueError: no image, or not the images that the incumbent was scored on. The incumbent stays.
        """
        tag = str(tag)
        if len(scores) == 0:
            raise ValueError(f"{tag!r} cannot be judged: not one image has been scored")
        if self.incumbent is None or self._scores is None:
            verdict = first(tag, scores, self.level)
        else:
            verdict = compare(
                scores, self._scores,
                tag=tag, against=self.incumbent, level=self.level, resamples=self.resamples, seed=self.seed,
            )  # fmt: skip
        if verdict.promoted:
            self.incumbent, self._scores = tag, scores
        return verdict

    def _score(self, outputs: Iterable[Tensor]) -> ImageScores:
        tally = self.tally()
        failure: Exception | None = None
        try:
            self._fill(tally, outputs)
        except Exception as error:
            failure = error
        if self.sharded:
            shared(None, failure)
        elif failure is not None:
            raise failure
        return tally.scores()

    def _fill(self, tally: Tally, outputs: Iterable[Tensor]) -> None:
        if self.references is None:
            raise ValueError("this selector was made without references: collect with tally(), compare with judge()")
        candidate, count = _images("outputs", outputs), 0
        for count, reference in enumerate(_images("references", self.references), start=1):
            output = next(candidate, None)
            if output is None:
                raise ValueError(f"outputs must hold one image for each reference, got only {count - 1}")
            if output.shape != reference.shape:
                raise ValueError(
                    f"outputs[{count - 1}] must have its reference's shape {tuple(reference.shape)}, "
                    f"got {tuple(output.shape)}"
                )
            if self.ids is not None and count > len(self.ids):
                break
            label = f"outputs[{count - 1}]"
            one = score_image(self.loss_fn, output, reference, directions=self.directions, name=label)
            tally.put(one, None if self.ids is None else self.ids[count - 1])
        if self.ids is not None and count != len(self.ids):
            raise ValueError(f"ids must name each reference, got {len(self.ids)} ids")
        if next(candidate, None) is not None:
            raise ValueError(f"outputs must hold one image for each of {count} references, got more")

    def state_dict(self) -> dict[str, Any]:
        """The incumbent's numbers: tensors, booleans and strings only (``torch.load(weights_only=True)`` reads it)."""
        scores = self._scores or _nothing()
        return {
            "incumbent": self.incumbent or "",
            "has_incumbent": self.incumbent is not None,
            "keys": list(scores.keys),
            "references": list(scores.references),
            "distances": scores.distances,
            "parts": scores.parts,
            "tilts": scores.tilts,
            "loss": fingerprint_of(self.loss_fn),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the incumbent of :meth:`state_dict`; its images are checked at the next comparison.

        Raises:
            ValueError: an entry is missing, unknown or damaged, or belongs to a loss with other weights or settings.
                The incumbent stays.
        """
        own = self.state_dict()
        missing, unknown = [key for key in own if key not in state], [key for key in state if key not in own]
        if missing or unknown:
            what = f"lacks {', '.join(missing)}" if missing else f"has unknown entries {', '.join(unknown)}"
            raise ValueError(f"state {what}: it is not from CheckpointSelector.state_dict() of this version")
        if state["loss"] != own["loss"]:
            raise ValueError(
                "state belongs to a loss with other weights or settings: its distances cannot be compared with these"
            )
        if not state["has_incumbent"]:
            self.incumbent = self._scores = None
            return
        keys, references = tuple(state["keys"]), tuple(state["references"])
        wanted = {"distances": (len(keys),), "parts": (len(keys), len(AXES)), "tilts": (len(keys), len(AXES))}
        shapes = {name: tuple(state[name].shape) for name in wanted}
        if shapes != wanted or len(references) != len(keys) or not keys:
            raise ValueError(f"state must hold numbers of {len(keys)} images, {wanted}, got {shapes}")
        if not all(bool(torch.isfinite(state[name]).all()) for name in ("distances", "parts")):
            raise ValueError("state holds distances or parts that are not finite")
        numbers = (state[name].detach().to("cpu", torch.float64, copy=True) for name in wanted)
        self.incumbent, self._scores = str(state["incumbent"]), ImageScores(keys, references, *numbers)


def _nothing() -> ImageScores:
    parts = torch.zeros(0, len(AXES), dtype=torch.float64)
    return ImageScores((), (), torch.zeros(0, dtype=torch.float64), parts, parts)


def _length(images: object) -> int | None:
    try:
        return len(images)  # type: ignore[arg-type]
    except TypeError:
        return None


def _images(name: str, source: Iterable[Tensor]) -> Iterator[Tensor]:
    """Images (3, H, W) one by one, checked, out of images and batches."""
    index = 0
    length = _length(source)
    # Map-style datasets need not raise IndexError at their end, which is what iter() would wait for.
    by_index = length is not None and not hasattr(source, "__iter__")
    items = (source[k] for k in range(length)) if by_index else source  # type: ignore[arg-type, index]
    for item in items:
        if not isinstance(item, Tensor):
            raise TypeError(f"{name}[{index}] must be a torch.Tensor of shape (3, H, W), got {type(item).__name__}")
        if item.ndim not in (3, 4):
            raise ValueError(f"{name}[{index}] must have shape (3, H, W), got {tuple(item.shape)}")
        for image in item if item.ndim == 4 else item[None]:
            check_images(f"{name}[{index}]", image[None])
            yield image
            index += 1
