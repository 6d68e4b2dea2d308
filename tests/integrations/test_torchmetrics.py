import contextlib
import copy
import os
import pickle
import sys
from pathlib import Path

import lightning.pytorch as pl
import matplotlib
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torchmetrics import MeanSquaredError, MetricCollection

from relqa_loss import AXES, RelationalLoss
from relqa_loss.integrations.common import NAMES
from relqa_loss.integrations.torchmetrics import RelationalDistance

matplotlib.use("agg")


@pytest.fixture
def metric(loss_fn):
    return RelationalDistance(loss_fn)


def test_is_the_mean_over_images_however_they_come(metric, loss_fn, pairs):
    pred, ref = pairs
    for part in (slice(0, 3), slice(3, 6), slice(6, 7)):
        metric.update(pred[part], ref[part])
    torch.testing.assert_close(metric.compute(), loss_fn(pred, ref), rtol=1e-5, atol=0)
    metric.reset()
    metric.update(pred[:1], ref[:1])
    torch.testing.assert_close(metric.compute(), loss_fn(pred[:1], ref[:1]))


def test_forward_gives_the_batch_and_keeps_the_whole(metric, loss_fn, pairs):
    pred, ref = pairs
    values = [metric(pred[part], ref[part]) for part in (slice(0, 4), slice(4, 7))]
    torch.testing.assert_close(values[1], loss_fn(pred[4:], ref[4:]), rtol=1e-5, atol=0)
    torch.testing.assert_close(metric.compute(), loss_fn(pred, ref), rtol=1e-5, atol=0)


def test_per_axis_names_the_parts(loss_fn, pairs):
    metric = RelationalDistance(loss_fn, per_axis=True)
    found = metric(*pairs)
    relation = loss_fn.relate(*pairs)
    assert tuple(found) == NAMES == ("relqa_loss", *(f"relqa_{axis}" for axis in AXES))
    torch.testing.assert_close(found["relqa_loss"], relation.distance.mean())
    torch.testing.assert_close(torch.stack([*found.values()][1:]), relation.parts.mean(dim=0))


def test_detaches_and_holds_no_more_after_more_batches(metric, pairs):
    pred, ref = pairs[0].clone().requires_grad_(), pairs[1]

    def held():
        return sum(value.numel() for value in metric.metric_state.values())

    assert not metric(pred, ref).requires_grad
    once, pickled = held(), len(pickle.dumps(metric))
    for _ in range(3):
        metric(pred, ref)
    assert held() == once == len(NAMES) + 1 and len(pickle.dumps(metric)) - pickled < 100
    assert not metric.compute().requires_grad and pred.grad is None


def test_the_network_is_nobodys_parameter_and_in_no_state(metric, pairs):
    owner = nn.Module()
    owner.metric = metric
    assert list(owner.parameters()) == [] and list(owner.buffers()) == [] and owner.state_dict() == {}
    metric.update(*pairs)
    metric.persistent(True)
    assert set(owner.state_dict()) == {"metric.total", "metric.count"}
    other = RelationalDistance(metric.loss_fn)
    other.persistent(True)
    other.load_state_dict(metric.state_dict())
    other.update(pairs[0], pairs[0])
    torch.testing.assert_close(other.compute(), metric.compute() / 2)


def test_copies_share_the_network_and_not_the_figures(metric, pairs):
    metric.update(*pairs)
    expected = metric.compute()
    for twin in (metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        twin.update(pairs[1], pairs[1])
        torch.testing.assert_close(twin.compute(), expected / 2)
    assert metric.clone().loss_fn is metric.loss_fn and torch.equal(metric.compute(), expected)


def test_neither_train_nor_autocast_nor_dtypes_change_it(metric, loss_fn, pairs):
    expected = metric(*pairs)
    metric.train()
    assert torch.equal(metric(*pairs), expected)
    metric.half()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(metric(*pairs), expected)
        assert not torch.equal(loss_fn(*pairs), expected), "autocast does nothing here"
    low = [images.to(torch.bfloat16) for images in pairs]
    assert torch.equal(metric(*low), metric(*(images.float() for images in low)))
    metric.set_dtype(torch.float64)
    assert metric(*pairs).dtype == torch.float64


def test_in_a_collection(loss_fn, pairs):
    collection = MetricCollection(
        {
            "mse": MeanSquaredError(),
            "all": RelationalDistance(loss_fn),
            "axes": RelationalDistance(loss_fn, per_axis=True),
        }
    ).clone(prefix="val/")
    for part in (slice(0, 4), slice(4, 7)):
        collection.update(pairs[0][part], pairs[1][part])
    found = collection.to("cpu").compute()
    assert {"val/mse", "val/all", "val/relqa_loss", "val/relqa_blur"} <= set(found)
    assert float(found["val/all"]) == pytest.approx(float(loss_fn(*pairs)), rel=1e-5)
    assert torch.equal(found["val/all"], found["val/relqa_loss"])


@pytest.mark.parametrize("per_axis", [False, True])
def test_plots(loss_fn, pairs, per_axis):
    metric = RelationalDistance(loss_fn, per_axis=per_axis)
    values = [metric(*pairs), metric(pairs[1], pairs[0])]
    _, axes = metric.plot(values)
    assert any(len(line.get_xdata()) == 2 for line in axes.get_lines())


def test_goes_to_the_device_of_the_images_and_never_back_from_an_accelerator(pairs, monkeypatch):
    # A device without values stands for an accelerator; autocast does not know it.
    monkeypatch.setattr(torch, "autocast", lambda device, enabled: contextlib.nullcontext())
    loss = RelationalLoss()
    with torch.inference_mode():
        RelationalDistance(loss).to("meta").update(pairs[0].to("meta"), pairs[1].to("meta"))
    assert next(loss.parameters()).device.type == "meta"
    assert not any(tensor.is_inference() for tensor in loss.state_dict().values()), "no longer fit for training"
    with pytest.raises(NotImplementedError, match="meta"):  # the answer has no values to bring back to the images
        RelationalDistance(loss).update(*pairs)
    assert next(loss.parameters()).device.type == "meta"


@pytest.mark.gpu
def test_on_a_gpu(loss_fn, pairs):
    metric = RelationalDistance(copy.deepcopy(loss_fn)).to("cuda")
    metric.update(pairs[0].cuda(), pairs[1].cuda())
    assert metric.compute().device.type == "cuda"
    torch.testing.assert_close(metric.compute().cpu(), loss_fn(*pairs), rtol=1e-3, atol=0)


def test_wrong_images_are_named_and_not_counted(metric, pairs):
    with pytest.raises(ValueError, match="pred must have 3 channels"):
        metric.update(pairs[0][:, :1], pairs[1])
    metric.update(*pairs)
    assert int(metric.count) == 7


class Module(pl.LightningModule):
    """pred = gain * input; the gain goes down from epoch to epoch and up again."""

    def __init__(self, loss_fn):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.relqa = RelationalDistance(loss_fn)

    def on_train_epoch_start(self):
        self.gain.data.fill_([1.5, 1.1, 1.3][self.current_epoch])

    def training_step(self, batch, index):
        return (batch * self.gain).mean() * 0

    def validation_step(self, batch, index):
        self.relqa.update(batch * self.gain, batch)
        self.log("val/relqa", self.relqa)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_logged_by_a_lightning_module_checkpoints_follow_it(tmp_path, loss_fn, pairs):
    images = torch.utils.data.DataLoader(pairs[1] * 0.6, batch_size=3)
    monitor = ModelCheckpoint(tmp_path, monitor="val/relqa", mode="min")
    trainer = pl.Trainer(
        max_epochs=3,
        callbacks=[monitor],
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(loss_fn), images, images)
    saved = torch.load(monitor.best_model_path, weights_only=True)
    assert saved["epoch"] == 1 and set(saved["state_dict"]) == {"gain"}
    gain = float(saved["state_dict"]["gain"])
    assert float(monitor.best_model_score) == pytest.approx(
        float(loss_fn(images.dataset * gain, images.dataset)), rel=1e-4
    )


def share(rank: int, folder: Path) -> None:
    """One process: 5 of the 7 images or the other 2, then all of them in the first process alone."""
    pred, ref = torch.load(folder / "pairs.pt", weights_only=True)
    torch.distributed.init_process_group("gloo")
    metric = RelationalDistance(RelationalLoss(folder / "weights"))
    mine = (slice(0, 5), slice(5, 7))[rank]
    metric.update(pred[mine], ref[mine])
    found = [metric.compute()]
    metric.reset()
    if rank == 0:
        metric.update(pred, ref)
    found.append(metric.compute())
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.barrier()


def test_two_processes_with_unequal_shares(tmp_path, loss_fn, pairs, in_two_processes):
    torch.save(pairs, tmp_path / "pairs.pt")
    loss_fn.save_pretrained(tmp_path / "weights")
    in_two_processes(__file__, tmp_path)
    for rank in range(2):
        for value in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            torch.testing.assert_close(value, loss_fn(*pairs), rtol=1e-5, atol=0)


if __name__ == "__main__":
    share(int(os.environ["RANK"]), Path(sys.argv[1]))
