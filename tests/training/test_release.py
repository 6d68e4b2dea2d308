"""From finished networks to a weights folder."""

from __future__ import annotations

import json
from pathlib import Path

from relqa_loss import RelationalLoss, weights
from relqa_loss.evaluation.model_card import sources_of
from relqa_loss.training.release import release


def test_sources_travel_with_the_weights_so_that_their_card_can_be_written_again(
    loss_fn: RelationalLoss, tmp_path: Path
) -> None:
    provenance = {key: value for key, value in loss_fn.info()["provenance"].items() if key != "sources"}
    sources = (("Mine", "CC0"), ("Yours", "CC BY 4.0"))
    assert release(tmp_path, loss_fn.predictor, loss_fn.scorer, provenance, name="mine", sources=sources) is None
    recorded = json.loads((tmp_path / weights.CONFIG_FILE).read_text())["provenance"]
    assert recorded == provenance | {"sources": [list(pair) for pair in sources]}
    assert tuple(sources_of((tmp_path / weights.CARD_FILE).read_text())) == sources
    assert "sources" not in provenance
