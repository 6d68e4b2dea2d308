"""Recipes: everything a training run depends on besides its data, as frozen dataclasses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

from ..distortions.availability import CODEC_POLICIES
from ..distortions.bank import BANK
from ..distortions.draws import check_names, check_odds, check_probabilities
from ..distortions.panel import MIN_PANEL_SIDE
from ..distortions.tier_plans import KINDS, SIZES
from ..validation import unknown_name
from .ranking import RANKING_LOSSES

PRECISIONS = ("float32", "bfloat16")
PANELS = ("all", "no-opinion", "none")
TRAINED = ("all", "decoder", "competition")
TRAINED_OF_SCORER = ("all", "judgement")
NAMES = tuple(distortion.name for distortion in BANK)
WATCHING = ("workers", "checkpoint_seconds", "log_every", "validate_every")
"""Values that decide how a run is fed and watched, not what comes out of it."""
ARCHITECTURE = ("widths", "pair_widths", "texture_widths", "map_width")
"""Values of the predictor stage that decide which tensors it has, as the predictor's arguments are ordered."""
PAIRING = ("batch", "crop", "two_operators", "both_distorted")
"""Values of the predictor stage that decide which pairs it is taught on."""


def _check_at_least(config: object, low: int, *names: str) -> None:
    """ValueError for the first of these values that is below ``low`` or not finite."""
    for name in names:
        value = getattr(config, name)
        if not low <= value < math.inf:
            finite = " and finite" if isinstance(value, float) else ""
            raise ValueError(f"{name} must be >= {low}{finite}, got {value}")


def _check_positive(config: object, *names: str) -> None:
    """ValueError for the first of these values that is not above 0 or not finite."""
    for name in names:
        value = getattr(config, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be finite and > 0, got {value}")


def _check_widths(name: str, widths: tuple[int, ...], count: int) -> None:
    """ValueError unless these are numbers of channels at ``count`` places."""
    if len(widths) != count or min(widths) < 1:
        raise ValueError(f"{name} must be {count} numbers >= 1, got {list(widths)}")


@dataclass(frozen=True)
class DataConfig:
    """Photographs, how crops are taken, and which operators act on them.

    Attributes:
        validation_share: part of the photographs set aside, chosen by a hash of the file name, so that it does not
            depend on what else is in the folder.
        smallest_scale: crops are taken from photographs reduced by a random factor between this and 1.
        missing_codecs: ``"skip"`` to do without operators whose codec is missing here, ``"raise"`` to refuse.
        held_out: operators that training does not see, to measure generalisation by.
        odds: as for :class:`relqa_loss.distortions.DistortionEngine`, of the predictor's pairs; tiers do not ask.
        whole: likewise.
    """

    validation_share: float = 0.08
    smallest_scale: float = 0.6
    missing_codecs: str = "raise"
    held_out: tuple[str, ...] = ()
    odds: dict[str, int] = field(default_factory=dict)
    whole: tuple[str, ...] = ()

    def operators(self) -> list[str]:
        """Names of the operators to train on: the bank but for those held out."""
        return [name for name in NAMES if name not in self.held_out]

    def __post_init__(self) -> None:
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"validation_share must be in [0, 1), got {self.validation_share}")
        if not 0 < self.smallest_scale <= 1:
            raise ValueError(f"smallest_scale must be in (0, 1], got {self.smallest_scale}")
        if self.missing_codecs not in CODEC_POLICIES:
            raise ValueError(unknown_name("missing_codecs", self.missing_codecs, CODEC_POLICIES))
        check_names("held_out", self.held_out, NAMES)
        # One spelling of what means the same: recipes are told apart by a digest.
        odds = {name: times for name, times in sorted(check_odds(self.odds, NAMES).items()) if times > 1}
        object.__setattr__(self, "odds", odds)
        object.__setattr__(self, "whole", tuple(sorted(set(check_names("whole", self.whole, NAMES)))))
        for argument, names in (("odds", self.odds), ("whole", self.whole)):
            unseen = [name for name in names if name in self.held_out]
            if unseen:
                raise ValueError(f"{argument} must not name operators that are held out, got {', '.join(unseen)}")


@dataclass(frozen=True)
class StageConfig:
    """What both stages share.

    Attributes:
        steps: optimiser steps.
        batch: crops (predictor) or tiers (scorer) a step, over all training processes.
        crop: side of a crop in pixels, a multiple of 16.
        learning_rate: peak of the schedule: linear warm-up over ``warmup`` steps, then a half cosine to 1 % of the
            peak.
        warmup: steps.
        weight_decay: of AdamW.
        average: decay of the exponential moving average of the weights; the average is what is kept.
        precision: ``"bfloat16"`` (autocast) or ``"float32"``.
        workers: processes that make training data for each training process; 0 makes it there. The data does not
            depend on it.
        checkpoint_seconds: time between two checkpoints.
        log_every: steps between two lines of the metrics log.
        validate_every: steps between two looks at the validation photographs.
    """

    steps: int = 1000
    batch: int = 16
    crop: int = 128
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 1e-4
    average: float = 0.998
    precision: str = "bfloat16"
    workers: int = 1
    checkpoint_seconds: float = 120.0
    log_every: int = 20
    validate_every: int = 500

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(unknown_name("precision", self.precision, PRECISIONS))
        _check_at_least(self, 1, "steps", "batch", "log_every", "validate_every")
        _check_at_least(self, 0, "warmup", "workers", "weight_decay")
        # Infinity is a way to have no checkpoint but the last.
        if not self.checkpoint_seconds >= 0:
            raise ValueError(f"checkpoint_seconds must be >= 0, got {self.checkpoint_seconds}")
        _check_positive(self, "learning_rate")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must be in [0, 1), got {self.average}")
        if self.crop < 16 or self.crop % 16:
            raise ValueError(f"crop must be a multiple of 16 of at least 16, got {self.crop}")


@dataclass(frozen=True)
class PredictorConfig(StageConfig):
    """Predictor stage.

    Attributes:
        widths: encoder channels at strides 2, 4, 8, 16.
        pair_widths: pair network channels at strides 2, 4, 8, 16.
        texture_widths: filters on the difference at stride 2, and channels of its energies at strides 4 and 8.
        map_width: channels of the map decoder at stride 4.
        type_weight: weight of the cross-entropy on the share of each axis, beside the dense regression.
        height_weight: weight of the error of each picture's mean magnitude on each axis.
        order_weight: weight of the ranking loss on the order of a picture's axes.
        presence_weight: weight of the cross-entropy on which axes are there at all.
        kinds_first: steps at the start in which the shares are taken from magnitudes, whatever their sign.
        hint_weight: weight of the same loss, all its terms, on the maps read linearly from the pair network, which the
            scorer sees.
        two_operators: share of pictures that two operators act on, each in its own region.
        both_distorted: share of pairs in which neither image is the original.
        trained: what learns: ``"all"``, or ``"decoder"`` for only what reads the maps from the pair network's features.
            The rest then stays as it starts, and with it every distance; the score without ``ref`` reads the maps, and
            changes with them. ``"competition"`` for the last part of that alone, which settles heights and presence of
            the axes, on pairs that are made once and kept. Both need weights to start from.
        passes: how often each kept pair is gone over: ``steps * batch / passes`` pairs are made and kept on disk.
        dropout: share of the values between the competition's hidden layers that are zeroed, drawn anew at each step.
    """

    widths: tuple[int, ...] = (16, 48, 80, 112)
    pair_widths: tuple[int, ...] = (24, 32, 64, 80)
    texture_widths: tuple[int, ...] = (16, 32, 48)
    map_width: int = 48
    type_weight: float = 0.3
    height_weight: float = 1.0
    order_weight: float = 0.5
    presence_weight: float = 0.1
    kinds_first: int = 0
    hint_weight: float = 0.3
    two_operators: float = 0.25
    both_distorted: float = 0.15
    trained: str = "all"
    passes: int = 1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trained not in TRAINED:
            raise ValueError(unknown_name("trained", self.trained, TRAINED))
        _check_widths("widths", self.widths, 4)
        _check_widths("pair_widths", self.pair_widths, 4)
        _check_widths("texture_widths", self.texture_widths, 3)
        _check_at_least(self, 1, "map_width", "passes")
        if self.kinds_first and self.trained == "competition":
            raise ValueError(f"kinds_first must be 0 where trained is 'competition', got {self.kinds_first}")
        if self.passes > 1 and self.trained != "competition":
            raise ValueError(f"passes must be 1 unless trained is 'competition', got {self.passes}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.dropout and self.trained != "competition":
            raise ValueError(f"dropout must be 0 unless trained is 'competition', got {self.dropout}")
        _check_at_least(self, 0, "type_weight", "height_weight", "order_weight", "presence_weight")
        _check_at_least(self, 0, "hint_weight", "kinds_first")
        for name in ("two_operators", "both_distorted"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True)
class ScorerConfig(StageConfig):
    """Scorer stage.

    Attributes:
        tier: images in a tier, 2 to 10.
        kinds: probability of each kind of tier.
        channels: filters on the difference a level.
        floor_weight: weight of the full-resolution floor, > 0.
        ranking: loss on a tier's order: ``"pairwise"`` or ``"contrastive"``.
        temperature: of the ranking loss, on log-distances.
        panel: closed-form metrics that vote on pairs of different kinds and scenes: ``"all"`` of the panel,
            ``"no-opinion"`` for those without a constant that was chosen with the help of opinion scores, ``"none"``.
            Needs crops of at least 128 pixels and the extra ``benchmark``.
        panel_weight: weight of the loss on their votes.
        scale_weight: weight of the pull of log-distance towards log-severity (single-operator tiers).
        axis_weight: weight of the cross-entropy that ties the parts to the declared axes.
        judge_weight: weight of the loss of the unanchored judgement.
        descent_weight: weight of the angle between the distance's gradient and the way from the reference.
        trained: ``"all"``, or ``"judgement"`` to leave the distance of the scorer that the run starts from as it is, to
            the last bit: after a change of the predictor's maps, which the judgement reads and the distance does not.
    """

    tier: int = 5
    kinds: dict[str, float] = field(
        default_factory=lambda: {"ladder": 0.4, "dominance": 0.2, "inclusion": 0.1, "kinds": 0.3}
    )
    channels: int = 32
    floor_weight: float = 2.0
    ranking: str = "pairwise"
    temperature: float = 0.1
    panel: str = "all"
    panel_weight: float = 1.0
    scale_weight: float = 0.2
    axis_weight: float = 0.2
    judge_weight: float = 0.5
    descent_weight: float = 0.5
    trained: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (("ranking", RANKING_LOSSES), ("panel", PANELS), ("trained", TRAINED_OF_SCORER)):
            if getattr(self, name) not in allowed:
                raise ValueError(unknown_name(name, getattr(self, name), allowed))
        if self.tier not in SIZES:
            raise ValueError(f"tier must be in {SIZES.start}..{SIZES.stop - 1}, got {self.tier}")
        check_probabilities("kinds", self.kinds, KINDS)
        _check_at_least(self, 1, "channels")
        _check_at_least(self, 0, "panel_weight", "scale_weight", "axis_weight", "judge_weight", "descent_weight")
        _check_positive(self, "floor_weight", "temperature")
        if self.panel != "none" and self.crop < MIN_PANEL_SIDE:
            raise ValueError(f"crop must be at least {MIN_PANEL_SIDE} for the panel, got {self.crop}")


@dataclass(frozen=True)
class Recipe:
    """A whole training run: both stages, their data and their seed."""

    name: str
    seed: int
    data: DataConfig
    predictor: PredictorConfig
    scorer: ScorerConfig

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2^63), got {self.seed}")

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, as JSON can hold them."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    def digest(self, stage: str | None = None) -> str:
        """sha256 of the recipe's values (not of its comments); of what decides one stage's result if it is named.

        ``"pairs"``: of what decides the pairs that the predictor stage is taught on.
        """
        values = self.as_dict()
        for name in ("odds", "whole"):
            if not values["data"][name]:
                del values["data"][name]  # a recipe from before they were there means the same
        if stage == "pairs":
            pairing = {key: values["predictor"][key] for key in PAIRING}
            values = {"seed": values["seed"], "data": values["data"], "pairs": pairing}
        elif stage is not None:
            values = {key: values[key] for key in ("seed", "data", stage)}
            values[stage] = {key: value for key, value in values[stage].items() if key not in WATCHING}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
