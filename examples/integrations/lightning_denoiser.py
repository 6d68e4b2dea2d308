"""Lightning: log the distance in validation and keep the checkpoint that wins image by image."""

import tempfile
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from relqa_loss.integrations.lightning import RelqaCallback


def pairs(count: int, seed: int) -> TensorDataset:
    """Noisy and clean scenes (3, 32, 32): coloured fields with hard edges."""
    generator = torch.Generator().manual_seed(seed)
    field = functional.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=32, mode="bicubic")
    clean = (0.6 * field + 0.4 * (field > 0.5)).clamp(0, 1)
    return TensorDataset(clean + 0.1 * torch.randn(clean.shape, generator=generator), clean)


class Denoiser(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy + self.net(noisy)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        noisy, clean = batch
        return functional.l1_loss(self(noisy), clean)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        pass  # the callback judges

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def predict(module: pl.LightningModule, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
    noisy, clean = batch
    return module(noisy), clean


def main(folder: Path, epochs: int = 3) -> RelqaCallback:
    """Train; returns the callback, which knows the best checkpoint and every verdict."""
    pl.seed_everything(0)
    callback = RelqaCallback(predict, dirpath=folder)
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[callback], default_root_dir=folder, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Denoiser(), DataLoader(pairs(32, seed=0), batch_size=4, shuffle=True), DataLoader(pairs(8, seed=1), 4))
    for verdict in callback.verdicts:
        print(f"{verdict.tag}: {verdict.decision}, distance {verdict.distance:.4f}  {verdict.why()}")
    print(f"best: {callback.best_path}")
    return callback


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp(prefix="relqa-")))
