import json
import time

import numpy as np
import PIL.Image
import pytest
import torch
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from relqa_loss import AXES
from relqa_loss.integrations.wandb import log_relation

HEADER, BLOCK = 7, 32768


def history(folder):
    """The rows of an offline run, as ``wandb sync`` would send them: records of LevelDB's log format."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, place, record, rows = file.read_bytes(), HEADER, b"", []
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            entry, record = Record.FromString(record), b""
            if entry.WhichOneof("record_type") == "history":
                items = entry.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="relqa", mode="offline", dir=tmp_path) as run:
        yield run


def test_one_row_a_call_is_read_back(tmp_path, loss_fn, pairs, run):
    with torch.no_grad():
        relation = loss_fn.relate(*pairs)
    with pytest.raises(ValueError, match="pred and ref go together"):
        log_relation(run, relation, pred=pairs[0])
    log_relation(run, relation, 10, pred=pairs[0], ref=pairs[1], tag="val/relqa", max_images=2, max_maps=1)
    log_relation(run, relation, 20, tag="val/relqa")
    log_relation(run, relation, tag="closing")  # to the current row, as run.log does
    folder = run.dir
    run.finish()
    until = time.monotonic() + 30  # the service of wandb writes on its own, after finish() on a busy machine
    while len(rows := history(tmp_path)) < 2 and time.monotonic() < until:
        time.sleep(0.2)
    first, second = rows
    assert (first["_step"], second["_step"]) == (10, 20)
    assert "closing/distance" in second
    names = {f"val/relqa/{name}" for name in ("distance", "floor", *AXES)}
    assert names <= set(first) and names <= set(second) and not any("maps" in key for key in second)
    assert first["val/relqa/distance"] == pytest.approx(relation.distance.mean().item(), rel=1e-5)
    assert first["val/relqa/blur"] == pytest.approx(relation.parts[:, 0].mean().item(), rel=1e-5)
    assert first["val/relqa/maps/_type"] == "images/separated" and first["val/relqa/maps/count"] == 2
    pictures = [np.asarray(PIL.Image.open(f"{folder}/{name}")) for name in first["val/relqa/maps/filenames"]]
    assert len(pictures) == 2 and not np.array_equal(*pictures)
    assert all(picture.shape[2] == 3 and picture.std() > 20 for picture in pictures)
