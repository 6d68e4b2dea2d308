"""What the panel says together: one visibility from members of different scales.

A member's values become ranks in [0, 1] within a pool of cases, which makes the members comparable without
assuming anything about their scales. The visibility of one case is the mean of its ``VOTES`` highest ranks: what
several members notice is seen, and a member that is blind to a kind of damage (gradients to tone) does not vote it
down.
"""

from __future__ import annotations

import torch
from torch import Tensor

VOTES = 3
"""So many members of the panel must notice a damage for it to count as fully visible."""


class Pool:
    """The cases within which values are ranked.

    Args:
        values: (..., members), higher = worse.
    """

    def __init__(self, values: Tensor) -> None:
        self._sorted = values.reshape(-1, values.shape[-1]).T.contiguous().sort(dim=1).values

    def visibility(self, values: Tensor) -> Tensor:
        """Consensus (...) in [0, 1] of values (..., members)."""
        columns = values.reshape(-1, values.shape[-1]).T.contiguous()
        # Ties take their lowest rank, so that "no difference at all" is 0 however often it occurs.
        count = self._sorted.shape[1]
        ranks = torch.searchsorted(self._sorted, columns).T.float() / max(1, count - 1)
        votes = ranks.clamp(max=1).topk(min(VOTES, ranks.shape[1]), dim=1).values.mean(dim=1)
        return votes.reshape(values.shape[:-1])
