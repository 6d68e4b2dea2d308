"""Tiers against the panel: how often every metric that sees a difference contradicts an order true by construction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from ..distortions import BANK, Distortion, Tier, dominance, inclusion, ladder
from ..distortions.calibration import stable_seed
from ..distortions.panel import PANEL, Prepared, panel_scores
from ..distortions.threads import Progress, for_each
from ..distortions.tier_plans import dominance_conflict, may_include
from .severity import panel_subjects

LADDER = (0.1, 0.28, 0.46, 0.64, 0.82, 1.0)
"""Severities of a ladder: 15 ordered pairs a photograph."""

EXTENTS = (0.15, 0.35, 0.55, 0.75, 0.97)
"""Shares of the picture of an inclusion tier."""

INCLUSION_SEVERITY = 0.7

STRENGTHS = ((0.2, 0.2), (0.2, 0.6), (0.6, 0.2), (0.6, 0.6), (0.6, 1.0), (1.0, 0.6), (1.0, 1.0))
"""Severities of the two operators of a dominance tier."""

PARTNERS = 3
"""Every operator that may stand in dominance tiers meets about twice this number of others."""

NOTICED = 0.01
"""A member sees a difference of two scores above this share of the larger (or of its threshold, if that is more)."""

LIMIT = 0.01
"""Largest share of unanimous contradictions that an operator's rule survives."""


@dataclass(frozen=True)
class Verdict:
    """What the panel says of one tier.

    Attributes:
        order: (B, T, T) bool, what the construction claims.
        against: (B, T, T) bool, where it is claimed and every member that sees a difference says the opposite.
        strength: for each of T, what was done in numbers.
    """

    order: Tensor
    against: Tensor
    strength: tuple[tuple[float, ...], ...]


def contradictions(scores: Tensor, order: Tensor) -> Tensor:
    """Ordered pairs where every member that sees a difference says the opposite.

    Args:
        scores: (B, T, members), higher = worse.
        order: (B, T, T) bool, True where the row is claimed to be better than the column.

    Returns:
        (B, T, T) bool, a part of ``order``.
    """
    threshold = scores.new_tensor([member.threshold for member in PANEL])
    row, column = scores.unsqueeze(2), scores.unsqueeze(1)
    noticed = NOTICED * torch.maximum(torch.maximum(row, column), threshold)
    worse, better = (row - column > noticed).any(-1), (column - row > noticed).any(-1)
    return order & worse & ~better


def judge(tier: Tier, reference: Prepared, strength: Sequence[Sequence[float]]) -> Verdict:
    """Ask the panel about every ordered pair of a tier."""
    scores = torch.stack([panel_scores(picture, reference) for picture in tier.images.unbind(1)], dim=1)
    return Verdict(tier.order, contradictions(scores, tier.order), tuple(tuple(one) for one in strength))


def dominance_pairs(distortions: Sequence[Distortion], seed: int) -> list[tuple[Distortion, Distortion]]:
    """Pairs that may stand together, in random order: each operator with ``PARTNERS`` others or more, if there are."""
    random = np.random.default_rng(seed)
    allowed = [pair for pair in combinations(distortions, 2) if dominance_conflict(pair) is None]
    partners = dict.fromkeys((one.name for one in distortions), 0)
    chosen = []
    for index in random.permutation(len(allowed)):
        one, other = allowed[index]
        if min(partners[one.name], partners[other.name]) < PARTNERS:
            chosen.append((one, other) if random.random() < 0.5 else (other, one))
            partners[one.name] += 1
            partners[other.name] += 1
    return chosen


def check_tiers(
    photographs: Mapping[str, Tensor],
    *,
    distortions: Sequence[Distortion] = BANK,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Tiers of each kind that is true by construction, of every operator, against the panel.

    Args:
        photographs: name -> (3, H, W) in [0, 1], all of one size, at least 128 px.
        distortions: the operators. Displacements have no tiers here: no member of the panel follows displaced
            content. Operators without codec are left out.
        seed: of operators, regions and the choice of pairs.
        workers: threads; None for torch's number. Results do not depend on it.
        progress: called with a line of text after each tier.

    Returns:
        JSON-able: ``per_operator`` (operator -> kind -> pairs, disagreements, share; a dominance tier counts for both
        of its operators), ``per_pair`` (the same for each pair of operators in dominance tiers), ``above_limit``
        (operator, kind and share where the share exceeds ``LIMIT``), ``disagreements`` (each with photograph and
        strengths), ``not_asked`` (operators left out), ``photographs``, ``panel``, ``limit``, ``seed``.

    Raises:
        ValueError: no photograph, or no operator to ask about.
        MissingExtra: piq is not installed.
    """
    names, crops, bank = panel_subjects(photographs, distortions)
    reference = Prepared(crops)
    # What the panel derives of the photographs, worked out before several threads ask for it.
    for_each({"photographs": partial(panel_scores, crops, reference)}, 1)
    tasks: dict[str, Callable[[], Verdict]] = {}
    parts: dict[str, tuple[str, tuple[str, ...]]] = {}

    def add(kind: str, members: tuple[Distortion, ...]) -> None:
        label = f"{kind} {' + '.join(one.name for one in members)}"
        tasks[label] = partial(_tier_verdict, kind, members, crops, reference, seed)
        parts[label] = (kind, tuple(one.name for one in members))

    for one in bank:
        add("ladder", (one,))
        if may_include(one):
            add("inclusion", (one,))
    for pair in dominance_pairs([one for one in bank if one.dominance], seed):
        add("dominance", pair)
    verdicts = for_each(tasks, workers, progress)
    return _summary(parts, verdicts, names) | {
        "not_asked": [one.name for one in distortions if one not in bank],
        "photographs": names,
        "panel": [member.name for member in PANEL],
        "limit": LIMIT,
        "seed": seed,
    }


def _tier_verdict(kind: str, members: tuple[Distortion, ...], crops: Tensor, reference: Prepared, seed: int) -> Verdict:
    generator = Generator().manual_seed(stable_seed(" ".join(one.name for one in members), seed))
    if kind == "ladder":
        return judge(ladder(crops, members[0], LADDER, generator=generator), reference, [(s,) for s in LADDER])
    if kind == "inclusion":
        tier = inclusion(crops, members[0], INCLUSION_SEVERITY, EXTENTS, generator=generator)
        return judge(tier, reference, [(extent,) for extent in EXTENTS])
    # Everywhere for half of the pairs, the second in a region of its own for the others.
    regions = ["whole", "soft" if stable_seed(members[0].name, seed) % 2 else "whole"]
    return judge(dominance(crops, members, STRENGTHS, regions=regions, generator=generator), reference, STRENGTHS)


def _summary(
    parts: Mapping[str, tuple[str, tuple[str, ...]]], verdicts: Mapping[str, Verdict], photographs: Sequence[str]
) -> dict[str, Any]:
    per_operator: dict[str, dict[str, list[int]]] = {}
    per_pair: dict[str, list[int]] = {}
    wrong = []
    for label, (kind, members) in parts.items():
        verdict = verdicts[label]
        counts = [int(verdict.order.sum()), int(verdict.against.sum())]
        totals = [per_operator.setdefault(name, {}).setdefault(kind, [0, 0]) for name in members]
        if kind == "dominance":
            totals.append(per_pair.setdefault(" + ".join(members), [0, 0]))
        for total in totals:
            total[0] += counts[0]
            total[1] += counts[1]
        for photograph, better, worse in verdict.against.nonzero().tolist():
            wrong.append(
                {
                    "kind": kind,
                    "operators": list(members),
                    "photograph": photographs[photograph],
                    "better": list(verdict.strength[better]),
                    "worse": list(verdict.strength[worse]),
                }
            )
    entries = {name: {kind: _entry(total) for kind, total in kinds.items()} for name, kinds in per_operator.items()}
    above = [
        {"operator": name, "kind": kind, "share": entry["share"]}
        for name, kinds in entries.items()
        for kind, entry in kinds.items()
        if entry["share"] > LIMIT
    ]
    pairs = {name: _entry(total) for name, total in per_pair.items()}
    above += [
        {"operator": name, "kind": "dominance", "share": entry["share"]}
        for name, entry in pairs.items()
        if entry["share"] > LIMIT
    ]
    return {
        "pairs": sum(int(one.order.sum()) for one in verdicts.values()),
        "contradicted": len(wrong),
        "above_limit": sorted(above, key=lambda one: -one["share"]),
        "per_operator": entries,
        "per_pair": pairs,
        "disagreements": wrong,
    }


def _entry(total: Sequence[int]) -> dict[str, Any]:
    pairs, disagreements = total
    return {"pairs": pairs, "disagreements": disagreements, "share": disagreements / pairs if pairs else 0.0}
