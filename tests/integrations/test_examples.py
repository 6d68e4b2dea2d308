import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "integrations"


def run_main(name, *arguments):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](*arguments)


def test_every_example_is_run_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "accelerate_denoiser",
        "lightning_denoiser",
        "tensorboard_maps",
        "torchmetrics_collection",
        "torchvision_transforms",
        "transformers_denoiser",
        "wandb_maps",
    }


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_lightning_denoiser_keeps_the_best_checkpoint(tmp_path):
    callback = run_main("lightning_denoiser", tmp_path)
    assert Path(callback.best_path).is_file() and len(callback.verdicts) == 3
    assert callback.verdicts[-1].distance < callback.verdicts[0].distance


def test_transformers_denoiser_loads_the_best_model(tmp_path):
    trainer = run_main("transformers_denoiser", tmp_path)
    assert trainer.evaluate()["eval_relqa_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-5)


def test_accelerate_denoiser_saves_the_best_state(tmp_path):
    evaluator = run_main("accelerate_denoiser", tmp_path)
    assert evaluator.best_tag == "epoch 2" and (tmp_path / "best" / "model.safetensors").is_file()


def test_torchmetrics_collection_says_what_is_wrong():
    values = run_main("torchmetrics_collection")
    axes = {name: value for name, value in values.items() if name not in ("val/mse", "val/relqa_loss")}
    assert values["val/mse"] > 0 and max(axes, key=axes.get) == "val/relqa_blur"


def test_tensorboard_maps_writes_events(tmp_path):
    run_main("tensorboard_maps", tmp_path)
    assert any(path.stat().st_size > 100_000 for path in tmp_path.glob("events.out.tfevents.*"))


def test_wandb_maps_writes_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_main("wandb_maps", tmp_path)
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/val/relqa/*.png"))) == 3


def test_torchvision_transforms_keep_the_sample_together():
    result = run_main("torchvision_transforms")
    assert result["image"].shape[-2:] == result["boxes"].canvas_size
    assert type(result["boxes"]).__name__ == "BoundingBoxes" and int(result["label"]) == 3
