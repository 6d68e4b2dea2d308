"""Order without the original: does the score run in circles?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations

import torch
from torch import Tensor

from ..distortions.calibration import stable_seed
from ..distortions.compose import distort
from ..distortions.draws import Draws
from ..distortions.record import Distortion
from .engine_cases import Comparer, any_visible, differ, generator_for
from .engine_rows import Count

MIXED = 12
"""Pictures of one photograph in a mix across operators: 220 triples."""

SEVERITY = (0.1, 1.0)

TOGETHER = 16
"""Pairs in one call."""


def count_triples(scores: Mapping[tuple[int, int], Tensor], usable: Mapping[tuple[int, int], Tensor]) -> Count:
    """Triples of pictures without a cycle: score(i, j) > 0 and score(j, k) > 0 imply score(i, k) > 0.

    Args:
        scores: pair of pictures (i < j) -> (B,) ``relate(i, j).score``, for each of B contents; the other direction is
            its negative, as the score is anti-symmetric.
        usable: pair -> (B,), bool: the two may be compared. A triple needs all three, and at least two scores that
            chain: who says 0 of everything is not asked.
    """
    wins = {pair: score > 0 for pair, score in scores.items()}
    wins |= {(j, i): score < 0 for (i, j), score in scores.items()}
    count = Count()
    for triple in combinations(sorted({picture for pair in scores for picture in pair}), 3):
        chains, broken = [], []
        for i, j, k in permutations(triple):
            chain = wins[i, j] & wins[j, k]
            chains.append(chain)
            broken.append(chain & ~wins[i, k])
        allowed = torch.stack([usable[pair] for pair in combinations(triple, 2)]).all(dim=0)
        count.add(~torch.stack(broken).any(dim=0), allowed & torch.stack(chains).any(dim=0))
    return count


def count_mixed(loss_fn: Comparer, bank: Sequence[Distortion], pictures: Sequence[Tensor], seed: int) -> Count:
    """Triples of pictures of one photograph by different operators, of those that can be told apart alone.

    Args:
        loss_fn: what is measured.
        bank: the operators.
        pictures: (1, 3, H, W) in [0, 1]: ``MIXED`` pictures are made of each.
        seed: of operators, severities and the operators' draws.
    """
    usable = [one for one in bank if one.told_apart_alone]
    total = Count()
    if len(usable) < 2:
        return total
    for number, reference in enumerate(pictures):
        draws = Draws(stable_seed(f"mix {number}", seed))
        order = draws.shuffled(usable)
        several = [
            distort(
                reference,
                order[k % len(order)],
                draws.uniform(*SEVERITY),
                generator=generator_for(reference, draws.new_seed()),
            )
            for k in range(MIXED)
        ]
        seen = [any_visible(reference, one) for one in several]
        pairs = list(combinations(range(MIXED), 2))
        scores: dict[tuple[int, int], Tensor] = {}
        for start in range(0, len(pairs), TOGETHER):
            part = pairs[start : start + TOGETHER]
            first, second = (torch.cat([several[pair[side]] for pair in part]) for side in (0, 1))
            scores |= dict(zip(part, loss_fn.relate(first, second).score.split(1), strict=True))
        compared = {(i, j): seen[i] & seen[j] & differ(several[i], several[j]) for i, j in pairs}
        total += count_triples(scores, compared)
    return total
