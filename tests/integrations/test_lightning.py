import math

import pytest
import torch
from torch import nn

from relqa_loss.relation import AXES, Relation

pl = pytest.importorskip("lightning.pytorch")
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402

from relqa_loss.integrations.lightning import RelqaCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class PlainLoss(nn.Module):
    """Same interface as RelationalLoss, with a parameter to look for and answers that can be worked out by hand."""

    def __init__(self):
        super().__init__()
        self.relqa_parameter = nn.Parameter(torch.ones(1), requires_grad=False)

    def relate(self, a, b, ref=None):
        parts = torch.zeros(len(a), len(AXES))
        parts[:, 0] = (a - b).square().mean(dim=(1, 2, 3)) * self.relqa_parameter
        floor = torch.zeros(len(a))
        return Relation(
            parts.sum(1),
            parts,
            floor,
            lambda: a - b,
            lambda: (b - ref).square().mean(dim=(1, 2, 3)) - (a - ref).square().mean(dim=(1, 2, 3)),
        )


class Gain(pl.LightningModule):
    """pred = gain * input; the distance to the input is (gain - 1)^2 times its power. `gains` go by epoch."""

    def __init__(self, gains):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.gains = gains

    def forward(self, images):
        return images * self.gain

    def on_train_epoch_end(self):
        self.gain.data.fill_(self.gains[self.current_epoch])

    def training_step(self, batch, index):
        return self(batch).mean() * 0

    def validation_step(self, batch, index):
        pass

    def on_train_epoch_start(self):
        self.gain.data.fill_(self.gains[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def predict(module, batch):
    return module(batch), batch


def loader(images, shuffle=False):
    return torch.utils.data.DataLoader(images, batch_size=3, shuffle=shuffle)


@pytest.fixture
def images():
    return torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.1


def trainer_for(folder, callbacks, epochs):
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=callbacks,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
    )


def test_logs_the_mean_distance_and_stock_checkpoints_monitor_it(tmp_path, images):
    callback = RelqaCallback(predict, PlainLoss())
    monitor = ModelCheckpoint(
        tmp_path / "stock", monitor="val/relqa", mode="min", filename="{epoch}", auto_insert_metric_name=True
    )
    trainer = trainer_for(tmp_path, [callback, monitor], 3)
    trainer.fit(Gain([1.5, 1.1, 1.3]), loader(images), loader(images))
    power = float(images.square().mean())
    assert float(trainer.callback_metrics["val/relqa"]) == pytest.approx(0.3**2 * power, rel=1e-4)
    assert float(monitor.best_model_score) == pytest.approx(0.1**2 * power, rel=1e-4)
    assert monitor.best_model_path.endswith("epoch=1.ckpt")


def test_keeps_the_best_checkpoint_by_comparison_and_stays_out_of_it(tmp_path, images):
    callback = RelqaCallback(predict, PlainLoss(), dirpath=tmp_path / "best")
    trainer = trainer_for(tmp_path, [callback], 4)
    trainer.fit(Gain([1.5, 1.1, 1.3, 1.1]), loader(images), loader(images))
    assert [v.decision for v in callback.verdicts] == ["better", "better", "worse", "undecided"]
    assert callback.best_path == str(tmp_path / "best" / "relqa-best.ckpt")
    saved = torch.load(callback.best_path, weights_only=True)
    assert set(saved["state_dict"]) == {"gain"}
    assert float(saved["state_dict"]["gain"]) == pytest.approx(1.1) and saved["epoch"] == 1
    assert not any("relqa_parameter" in str(key) for key in saved["state_dict"])
    assert saved["callbacks"][callback.state_key]["best_path"] == callback.best_path


def test_sanity_check_and_plain_validation_leave_no_trace(tmp_path, images):
    callback = RelqaCallback(predict, PlainLoss())
    trainer = trainer_for(tmp_path, [callback], 1)
    found = trainer.validate(Gain([1.5]), loader(images), verbose=False)
    assert found[0]["val/relqa"] == pytest.approx(float(images.square().mean()), rel=1e-4)
    assert callback.verdicts == [] and callback.best_path == ""
    trainer.fit(Gain([1.5]), loader(images), loader(images))
    assert len(callback.verdicts) == 1


def test_a_resumed_fit_compares_with_the_best_so_far(tmp_path, images):
    first = RelqaCallback(predict, PlainLoss(), dirpath=tmp_path / "best")
    trainer = trainer_for(tmp_path, [first], 2)
    trainer.fit(Gain([1.05, 1.2]), loader(images), loader(images))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = RelqaCallback(predict, PlainLoss(), dirpath=tmp_path / "best")
    resumed = trainer_for(tmp_path, [second], 4)
    resumed.fit(Gain([1.05, 1.2, 1.1, 1.01]), loader(images), loader(images), ckpt_path=tmp_path / "last.ckpt")
    assert [v.decision for v in second.verdicts] == ["worse", "better"]
    assert second.verdicts[0].against == first.verdicts[0].tag


def test_nothing_is_kept_on_the_graph_and_memory_is_bounded(tmp_path, images):
    callback = RelqaCallback(predict, PlainLoss(), max_images=4)
    trainer = trainer_for(tmp_path, [callback], 1)
    trainer.fit(Gain([1.5]), loader(images), loader(images))
    assert len(callback._outputs) == 4 and not any(image.requires_grad for image in callback._outputs)
    assert float(trainer.callback_metrics["val/relqa"]) == pytest.approx(0.25 * float(images.square().mean()), rel=1e-4)


def test_a_shuffled_validation_set_is_one_clear_error(tmp_path, images):
    callback = RelqaCallback(predict, PlainLoss())
    with pytest.raises(ValueError, match="same order"):
        trainer_for(tmp_path, [callback], 3).fit(Gain([1.5, 1.4, 1.3]), loader(images), loader(images, shuffle=True))


def test_wrong_predictions_are_named(tmp_path, images):
    callback = RelqaCallback(lambda module, batch: (module(batch)[:, :1], batch), PlainLoss())
    with pytest.raises(ValueError, match="pred must have 3 channels"):
        trainer_for(tmp_path, [callback], 1).fit(Gain([1.5]), loader(images), loader(images))
    with pytest.raises(ValueError, match="max_images"):
        RelqaCallback(predict, PlainLoss(), max_images=0)


def test_two_callbacks_have_keys_of_their_own():
    first, second = (RelqaCallback(predict, PlainLoss(), monitor=name) for name in ("val/a", "val/b"))
    assert first.state_key != second.state_key


def test_with_the_bundled_weights(tmp_path, images):
    callback = RelqaCallback(predict)
    trainer = trainer_for(tmp_path, [callback], 2)
    trainer.fit(Gain([1.5, 1.05]), loader(images.clamp(0, 1) * 0.6), loader(images.clamp(0, 1) * 0.6))
    assert [v.decision for v in callback.verdicts] == ["better", "better"]
    assert 0 < callback.verdicts[1].distance < callback.verdicts[0].distance
    assert math.isclose(callback.verdicts[1].distance, float(trainer.callback_metrics["val/relqa"]), rel_tol=1e-3)
