import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from relqa_loss.integrations.lightning import RelqaCallback
from relqa_loss.relation import AXES, Relation

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
            lambda: torch.zeros(len(a), len(AXES), *a.shape[2:]),
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
    assert [v.decision for v in callback.verdicts] == ["first", "better", "worse", "undecided"]
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


def test_of_an_image_only_numbers_are_kept(tmp_path, images):
    callback = RelqaCallback(predict, PlainLoss())
    trainer = trainer_for(tmp_path, [callback], 1)
    trainer.fit(Gain([1.5]), loader(images), loader(images))
    state = callback.state_dict()["selector"]
    tensors = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}
    assert tensors == {"distances": (8,), "parts": (8, len(AXES)), "tilts": (8, len(AXES))}
    held = [value for value in vars(callback._tally).values() if isinstance(value, torch.Tensor)]
    assert not held and len(callback._tally) == 8
    assert float(trainer.callback_metrics["val/relqa"]) == pytest.approx(0.25 * float(images.square().mean()), rel=1e-4)


def test_a_shuffled_validation_set_is_the_same_set(tmp_path, images):
    callback = RelqaCallback(predict, PlainLoss())
    trainer_for(tmp_path, [callback], 2).fit(Gain([1.5, 1.1]), loader(images), loader(images, shuffle=True))
    assert [v.decision for v in callback.verdicts] == ["first", "better"]


def test_other_validation_images_are_one_clear_error(tmp_path, images):
    callback = RelqaCallback(predict, PlainLoss())
    with pytest.raises(ValueError, match="on the same images"):
        trainer_for(tmp_path, [callback], 3).fit(Gain([1.5, 1.4, 1.3]), loader(images), stream(images, drift=0.01))


def test_ids_of_predict_tell_images_apart(tmp_path, images):
    callback = RelqaCallback(lambda module, batch: (module(batch[0]), batch[0], batch[1]), PlainLoss())
    numbered = list(zip(images, range(8), strict=True))
    trainer_for(tmp_path, [callback], 1).fit(Gain([1.5]), loader(images), loader([*numbered, *numbered[:3]]))
    assert callback.state_dict()["selector"]["keys"] == [str(k) for k in range(8)]


def test_wrong_predictions_are_named(tmp_path, images):
    callback = RelqaCallback(lambda module, batch: (module(batch)[:, :1], batch), PlainLoss())
    with pytest.raises(ValueError, match="pred must have 3 channels"):
        trainer_for(tmp_path, [callback], 1).fit(Gain([1.5]), loader(images), loader(images))


class Part(torch.utils.data.IterableDataset):
    """A stream that gives each process its own pictures, some none; they `drift` from pass to pass."""

    def __init__(self, images, drift=0.0):
        self.images, self.drift, self.passes = images, drift, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.images + self.passes * self.drift)


def stream(images, drift):
    return torch.utils.data.DataLoader(Part(images, drift), batch_size=3)


TWO_PROCESSES = """
import json, multiprocessing, os, sys
from pathlib import Path

folder, tests, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.path.insert(0, tests)
import torch
torch.set_num_threads(1)
from test_lightning import Gain, PlainLoss, RelqaCallback, pl, predict, stream

def run(rank, case):
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.1
    mine = {
        "uneven": (range(5), range(3, 8)), "idle first": ((), range(8)), "idle both": ((), ()),
        "other references": (range(8), range(3)),
    }[case][rank]
    validation = stream(images[list(mine)], drift=0.01 * (case == "other references"))
    callback = RelqaCallback(predict, PlainLoss())
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, callbacks=[callback], logger=False,
        default_root_dir=folder / case, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0,
    )
    error = ""
    try:
        trainer.fit(
            Gain([1.5, 1.1]), torch.utils.data.DataLoader(images, batch_size=4),
            validation,
        )
    except ValueError as caught:
        error = str(caught)
    logged = trainer.callback_metrics.get("val/relqa")
    found = {
        "error": error,
        "decisions": [verdict.decision for verdict in callback.verdicts],
        "distances": [verdict.distance for verdict in callback.verdicts],
        "logged": None if logged is None else float(logged),
        "best": callback.best_path,
    }
    (folder / f"{case}-{rank}.json").write_text(json.dumps(found))

context = multiprocessing.get_context("fork")
for case in sys.argv[4:]:
    workers = [context.Process(target=run, args=(rank, case)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    if any(worker.is_alive() for worker in workers):
        for worker in workers:
            worker.kill()
        sys.exit(f"{case}: a process was left waiting")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="two processes are started by fork")
def test_two_processes_share_the_verdict_and_the_errors_and_none_waits(tmp_path, images):
    cases = ["uneven", "other references", "idle first", "idle both"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = Path(__file__).resolve()
    # A process that waits for the other would do so for half an hour: the script ends it, and says so.
    done = subprocess.run(
        [sys.executable, "-c", TWO_PROCESSES, str(tmp_path), str(here.parent), port, *cases],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=here.parents[2],
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for case in cases:
        found[case], second = (json.loads((tmp_path / f"{case}-{rank}.json").read_text()) for rank in range(2))
        found[case].pop("error"), second.pop("error")
        assert found[case] == second, f"{case}: the processes disagree"
    power = float(images.square().mean())
    for case in ("uneven", "idle first"):
        assert found[case]["decisions"] == ["first", "better"], case
        assert found[case]["logged"] == pytest.approx(0.1**2 * power, rel=1e-4), case
        saved = torch.load(found[case]["best"], weights_only=True)
        assert float(saved["state_dict"]["gain"]) == pytest.approx(1.1)
    for rank in range(2):
        error = json.loads((tmp_path / f"other references-{rank}.json").read_text())["error"]
        assert "on the same images" in error
        assert json.loads((tmp_path / f"idle both-{rank}.json").read_text())["error"] == ""
    assert found["other references"]["decisions"] == ["first"]
    assert found["idle both"] == {"decisions": [], "distances": [], "logged": None, "best": ""}


def test_two_callbacks_have_keys_of_their_own():
    first, second = (RelqaCallback(predict, PlainLoss(), monitor=name) for name in ("val/a", "val/b"))
    assert first.state_key != second.state_key


def test_with_the_bundled_weights(tmp_path, images):
    callback = RelqaCallback(predict)
    trainer = trainer_for(tmp_path, [callback], 2)
    trainer.fit(Gain([1.5, 1.05]), loader(images.clamp(0, 1) * 0.6), loader(images.clamp(0, 1) * 0.6))
    assert [v.decision for v in callback.verdicts] == ["first", "better"]
    assert 0 < callback.verdicts[1].distance < callback.verdicts[0].distance
    assert math.isclose(callback.verdicts[1].distance, float(trainer.callback_metrics["val/relqa"]), rel_tol=1e-3)
