"""Hugging Face Trainer: select and load the model with the lowest distance."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from relqa_loss.integrations.transformers import RelqaMetrics


class Pairs(Dataset):
    """Noisy and clean scenes (3, 32, 32): coloured fields with hard edges."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        field = functional.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=32, mode="bicubic")
        self.clean = (0.6 * field + 0.4 * (field > 0.5)).clamp(0, 1)
        self.noisy = self.clean + 0.1 * torch.randn(self.clean.shape, generator=generator)

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.noisy[index], "labels": self.clean[index]}


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        restored = pixel_values + self.net(pixel_values)
        return {"loss": functional.l1_loss(restored, labels), "reconstruction": restored}


def main(folder: Path, epochs: int = 3) -> Trainer:
    """Train; returns the trainer, which holds the best model."""
    set_seed(0)
    relqa = RelqaMetrics()
    trainer = Trainer(
        Denoiser(),
        TrainingArguments(
            output_dir=str(folder), num_train_epochs=epochs, learning_rate=3e-3, use_cpu=True, report_to="none",
            per_device_train_batch_size=4, per_device_eval_batch_size=4, disable_tqdm=True,
            eval_strategy="epoch", save_strategy="epoch", save_total_limit=2,
            batch_eval_metrics=True,  # no picture outlives its batch
            metric_for_best_model="relqa_loss", load_best_model_at_end=True,
        ),
        train_dataset=Pairs(32, seed=0),
        eval_dataset=Pairs(8, seed=1),
        compute_metrics=relqa,
        preprocess_logits_for_metrics=relqa.preprocess,
    )  # fmt: skip
    trainer.train()
    print(f"best: {trainer.state.best_model_checkpoint}, distance {trainer.state.best_metric:.4f}")
    return trainer


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp(prefix="relqa-")))
