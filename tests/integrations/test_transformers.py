import json
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution, Trainer, TrainerCallback, TrainingArguments
from transformers.modeling_outputs import ImageSuperResolutionOutput

from relqa_loss import RelationalLoss
from relqa_loss.integrations.common import NAMES
from relqa_loss.integrations.transformers import RelqaMetrics

GAINS = [1.4, 1.05, 1.2]


class Pictures(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": self.images[index]}


class Gain(nn.Module):
    """Restored = gain * input; its own loss says that a higher gain is better."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, pixel_values, labels):
        return {"loss": -self.gain, "restored": pixel_values * self.gain}


class Schedule(TrainerCallback):
    """Sets the gain at the end of each epoch, before the evaluation."""

    def on_epoch_end(self, args, state, control, model=None, **_):
        model.gain.data.fill_(GAINS[round(state.epoch) - 1])


def trainer_for(folder, images, metrics, model=None, **changes):
    settings = {
        "output_dir": str(folder),
        "num_train_epochs": len(GAINS),
        "learning_rate": 0.0,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 2,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "batch_eval_metrics": True,
        "metric_for_best_model": "relqa_loss",
        "load_best_model_at_end": True,
    }
    return Trainer(
        Gain() if model is None else model,
        TrainingArguments(**(settings | changes)),
        train_dataset=Pictures(images),
        eval_dataset=Pictures(images),
        compute_metrics=metrics,
        preprocess_logits_for_metrics=metrics.preprocess,
        callbacks=[Schedule()] if model is None else [],
    )


@pytest.fixture
def images(pairs):
    return pairs[1] * 0.7


@pytest.fixture
def metrics(loss_fn):
    return RelqaMetrics(loss_fn)


def test_the_best_model_is_the_one_with_the_lowest_distance(tmp_path, images, metrics, loss_fn):
    trainer = trainer_for(tmp_path, images, metrics)
    trainer.train()
    logged = [entry["eval_relqa_loss"] for entry in trainer.state.log_history if "eval_relqa_loss" in entry]
    expected = [float(loss_fn(images * gain, images)) for gain in GAINS]
    assert logged == pytest.approx(expected, rel=1e-5)
    assert trainer.state.best_metric == logged[1] and trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    assert trainer.model.gain.item() == pytest.approx(1.05), "the best model was not loaded"
    saved = [path.name for path in Path(trainer.state.best_model_checkpoint).iterdir()]
    assert "trainer_state.json" in saved
    assert all(path.stat().st_size < 100_000 for path in tmp_path.rglob("*") if path.is_file()), "the network was saved"


def test_no_picture_outlives_its_batch(tmp_path, images, metrics):
    seen = []

    def spy(prediction, compute_result):
        seen.append((tuple(prediction.predictions.shape), compute_result))
        return metrics(prediction, compute_result)

    trainer = trainer_for(tmp_path, images, metrics)
    trainer.compute_metrics = spy
    output = trainer.evaluation_loop(trainer.get_eval_dataloader(), "Evaluation")
    assert output.predictions is None and output.label_ids is None
    assert seen == [((2, len(NAMES)), False)] * 3 + [((1, len(NAMES)), True)]


def test_the_split_by_axis_on_request_and_without_batches(tmp_path, images, loss_fn):
    metrics = RelqaMetrics(loss_fn, per_axis=True)
    model = Gain()
    model.gain.data.fill_(1.3)
    found = [
        trainer_for(tmp_path, images, metrics, model, batch_eval_metrics=batches).evaluate()
        for batches in (True, False)
    ]
    relation = loss_fn.relate(images * 1.3, images)
    for one in found:
        assert one["eval_relqa_loss"] == pytest.approx(float(relation.distance.mean()), rel=1e-5)
        assert one["eval_relqa_brightness"] == pytest.approx(float(relation.parts[:, 9].mean()), rel=1e-4)
        assert {f"eval_{name}" for name in NAMES} <= set(one)


class Restorer(Swin2SRForImageSuperResolution):
    """The library's own network; it has no training loss of its own."""

    def forward(self, pixel_values, labels=None):
        restored = super().forward(pixel_values).reconstruction
        loss = None if labels is None else nn.functional.l1_loss(restored, labels)
        return ImageSuperResolutionOutput(loss=loss, reconstruction=restored)


def test_a_network_of_the_library(tmp_path, images, metrics, loss_fn):
    config = Swin2SRConfig(
        image_size=32, embed_dim=8, depths=[1], num_heads=[1], window_size=4, upscale=1, upsampler="pixelshuffledirect"
    )
    trainer = trainer_for(
        tmp_path, images, metrics, Restorer(config), num_train_epochs=2, learning_rate=1e-2, bf16=True
    )
    trainer.train()
    logged = [entry["eval_relqa_loss"] for entry in trainer.state.log_history if "eval_relqa_loss" in entry]
    assert trainer.state.best_metric == min(logged)
    found = trainer.evaluate()["eval_relqa_loss"]
    assert found == pytest.approx(min(logged), rel=1e-5), "the best model was not loaded"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        restored = trainer.model.eval()(images).reconstruction
    assert found == pytest.approx(float(loss_fn(restored.float(), images)), rel=0.02)
    assert not any("relqa" in name or "scorer" in name for name in trainer.model.state_dict())


def test_outputs_that_are_not_the_pair_itself(tmp_path, images, loss_fn):
    metrics = RelqaMetrics(loss_fn, lambda logits, labels: (logits + 0.1, labels))
    found = trainer_for(tmp_path, images, metrics, Gain()).evaluate()
    assert found["eval_relqa_loss"] == pytest.approx(float(loss_fn(images + 0.1, images)), rel=1e-5)


def test_an_evaluation_that_was_broken_off_can_be_forgotten(tmp_path, images, metrics):
    trainer = trainer_for(tmp_path, images, metrics, Gain())
    rows = metrics.preprocess(images * 2, images)
    assert metrics(type("Prediction", (), {"predictions": rows})(), compute_result=False) == {}
    metrics.reset()
    assert trainer.evaluate()["eval_relqa_loss"] == 0.0


def test_a_forgotten_half_is_one_clear_error(tmp_path, images, metrics):
    trainer = trainer_for(tmp_path, images, metrics, Gain())
    trainer.preprocess_logits_for_metrics = None
    with pytest.raises(ValueError, match="preprocess_logits_for_metrics="):
        trainer.evaluate()


def share(folder: Path) -> None:
    """One of two processes: the evaluation and the selection of a whole training."""
    images = torch.load(folder / "images.pt", weights_only=True)
    metrics = RelqaMetrics(RelationalLoss(folder / "weights"))
    trainer = trainer_for(folder / "run", images, metrics, ddp_backend="gloo", per_device_train_batch_size=2)
    trainer.train()
    logged = [entry["eval_relqa_loss"] for entry in trainer.state.log_history if "eval_relqa_loss" in entry]
    found = {"logged": logged, "gain": trainer.model.gain.item(), "processes": trainer.args.world_size}
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    torch.distributed.barrier()


def test_two_processes_count_each_picture_once_and_load_the_same_model(tmp_path, images, loss_fn, in_two_processes):
    torch.save(images, tmp_path / "images.pt")
    loss_fn.save_pretrained(tmp_path / "weights")
    in_two_processes(__file__, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second and first["processes"] == 2
    assert first["logged"] == pytest.approx([float(loss_fn(images * gain, images)) for gain in GAINS], rel=1e-5)
    assert first["gain"] == pytest.approx(1.05)


if __name__ == "__main__":
    share(Path(sys.argv[1]))
