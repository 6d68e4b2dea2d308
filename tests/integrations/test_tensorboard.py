import io

import numpy as np
import PIL.Image
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from relqa_loss import AXES
from relqa_loss.integrations.tensorboard import log_relation


def written(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_scalars_and_maps_are_read_back(tmp_path, loss_fn, pairs):
    pred, ref = pairs[0].clone().requires_grad_(), pairs[1]
    relations = [loss_fn.relate(pred, ref), loss_fn.relate(ref, ref)]
    with SummaryWriter(tmp_path) as writer:
        log_relation(writer, relations[0], 10, pred=pred, ref=ref, tag="val/relqa", max_images=2, max_maps=1)
        log_relation(writer, relations[1], 20, tag="val/relqa")
    events = written(tmp_path)
    assert set(events.Tags()["scalars"]) == {f"val/relqa/{name}" for name in ("distance", "floor", *AXES)}
    for name, expected in (("distance", relations[0].distance), ("blur", relations[0].parts[:, 0])):
        first, second = events.Scalars(f"val/relqa/{name}")
        assert (first.step, second.step, second.value) == (10, 20, 0.0)
        assert first.value == pytest.approx(expected.mean().item(), rel=1e-5)
    parts = [events.Scalars(f"val/relqa/{name}")[0].value for name in ("floor", *AXES)]
    assert sum(parts) == pytest.approx(relations[0].distance.mean().item(), rel=1e-4)
    assert set(events.Tags()["images"]) == {"val/relqa/maps/0", "val/relqa/maps/1"}
    pictures = []
    for tag in events.Tags()["images"]:
        (event,) = events.Images(tag)
        assert event.step == 10
        pictures.append(np.asarray(PIL.Image.open(io.BytesIO(event.encoded_image_string))))
    assert all(picture.shape[2] == 3 and picture.std() > 20 for picture in pictures)
    assert not np.array_equal(*pictures), "each image has its own overlay"
    assert pred.grad is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pred, ref: {"pred": pred}, "pred and ref go together"),
        (lambda pred, ref: {"ref": ref}, "pred and ref go together"),
        (lambda pred, ref: {"pred": pred[:2], "ref": ref[:2]}, "relation's 7 images, got 2"),
        (lambda pred, ref: {"pred": pred, "ref": ref[..., :16]}, "must have one shape"),
        (lambda pred, ref: {"pred": pred[..., :16], "ref": ref[..., :16]}, "must have one size"),
    ],
)
def test_a_wrong_call_writes_nothing(tmp_path, loss_fn, pairs, change, message):
    with SummaryWriter(tmp_path) as writer, torch.no_grad():
        with pytest.raises(ValueError, match=message):
            log_relation(writer, loss_fn.relate(*pairs), 1, **change(*pairs))
    assert written(tmp_path).Tags()["scalars"] == []
