"""Which of the measured figures are of other weights than those of this release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]
"""The JSON of a benchmark."""


def same_distance(report: Report, engine: Report) -> bool:
    """Whether a report is of the distance that the engine figures are of."""
    return bool(report["distance_sha256"] == engine["distance_sha256"])


def remark(report: Report, engine: Report) -> str:
    """Says so where a report is of another distance than the engine figures."""
    return "" if same_distance(report, engine) else ", with earlier weights than those of this release"


def remark_of_both(report: Report, engine: Report) -> str:
    """The same for a report that used the maps, too."""
    if same_distance(report, engine) and report["weights_sha256"] != engine["weights_sha256"]:
        return "; what maps trained or measured, with earlier maps than those of this release"
    return remark(report, engine)
