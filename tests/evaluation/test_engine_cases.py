"""What figures say of the weights that they were measured with."""

from __future__ import annotations

from typing import Any

import pytest

from relqa_loss.evaluation.engine_cases import trained_without

HELD_OUT = {"recipe": {"data": {"held_out": ["jpeg", "hue"]}}}


@pytest.mark.parametrize(
    ("provenance", "unseen"),
    [
        (HELD_OUT | {"start_sha256": "1234", "trained_without": ["hue"]}, ("hue",)),
        (HELD_OUT | {"start_sha256": None, "trained_without": ["jpeg", "hue"]}, ("jpeg", "hue")),
        (HELD_OUT | {"start_sha256": None}, ("jpeg", "hue")),
        (HELD_OUT, ("jpeg", "hue")),
        (HELD_OUT | {"start_sha256": "1234"}, ()),
        ({}, ()),
    ],
    ids=["start that saw one", "no start", "earlier, no start", "earliest", "earlier, any start", "nothing known"],
)
def test_nothing_is_called_unseen_that_the_start_may_have_seen(
    provenance: dict[str, Any], unseen: tuple[str, ...]
) -> None:
    assert trained_without(provenance) == unseen
