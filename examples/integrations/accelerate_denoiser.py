"""accelerate: the distance over all processes of your own loop, and the best state saved.

On two processes: torchrun --nproc-per-node=2 examples/integrations/accelerate_denoiser.py FOLDER
"""

import sys
import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from relqa_loss.integrations.accelerate import RelqaEvaluator


def pairs(count: int, seed: int) -> TensorDataset:
    """Noisy and clean scenes (3, 32, 32): coloured fields with hard edges."""
    generator = torch.Generator().manual_seed(seed)
    field = functional.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=32, mode="bicubic")
    clean = (0.6 * field + 0.4 * (field > 0.5)).clamp(0, 1)
    return TensorDataset(clean + 0.1 * torch.randn(clean.shape, generator=generator), clean)


def main(folder: Path, epochs: int = 3) -> RelqaEvaluator:
    """Train; returns the evaluator, which knows the best epoch."""
    set_seed(0)
    accelerator = Accelerator(cpu=True)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
    net, optimiser, train, held_out = accelerator.prepare(
        net,
        torch.optim.Adam(net.parameters(), lr=3e-3),
        DataLoader(pairs(32, seed=0), batch_size=4, shuffle=True),
        DataLoader(pairs(7, seed=1), batch_size=2),
    )
    evaluator = RelqaEvaluator(accelerator)
    accelerator.register_for_checkpointing(evaluator)
    for epoch in range(epochs):
        for noisy, clean in train:
            optimiser.zero_grad()
            accelerator.backward(functional.l1_loss(noisy + net(noisy), clean))
            optimiser.step()
        for noisy, clean in held_out:
            with torch.no_grad():
                evaluator.update(noisy + net(noisy), clean)
        means = evaluator.finish(f"epoch {epoch}")
        accelerator.print(f"epoch {epoch}: distance {means['relqa_loss']:.4f}, noise {means['relqa_noise']:.4f}")
        if evaluator.improved:
            accelerator.save_state(str(folder / "best"))
    accelerator.print(f"best: {evaluator.best_tag}, distance {evaluator.best:.4f}")
    accelerator.end_training()
    return evaluator


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="relqa-")))
