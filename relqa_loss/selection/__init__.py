"""Checkpoint selection: is this one better than the best so far, how sure is that, and in what do they differ?"""

from __future__ import annotations

from .image_scores import ImageScore, ImageScores, Judge, Tally, score_image
from .inference import check_level, highest_confidence
from .ranking import Place, Ranking, rank
from .selector import CheckpointSelector
from .verdict import BETTER, FIRST, UNDECIDED, WORSE, Reason, Verdict, compare

__all__ = [
    "BETTER",
    "FIRST",
    "UNDECIDED",
    "WORSE",
    "CheckpointSelector",
    "ImageScore",
    "ImageScores",
    "Judge",
    "Place",
    "Ranking",
    "Reason",
    "Tally",
    "Verdict",
    "check_level",
    "compare",
    "highest_confidence",
    "rank",
    "score_image",
]
