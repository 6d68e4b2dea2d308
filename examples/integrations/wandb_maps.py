"""Distance, its split by axis and the signed maps over the picture, in your own Weights & Biases run."""

import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import torch
import wandb

from relqa_loss import RelationalLoss
from relqa_loss.images import read_image
from relqa_loss.integrations.wandb import log_relation


def main(folder: Path) -> None:
    with as_file(files("relqa_loss") / "assets" / "photographs" / "dog.png") as path:
        ref = read_image(path)[None, :, :128, :128]
    noise = torch.randn(ref.shape, generator=torch.Generator().manual_seed(0))
    loss_fn = RelationalLoss()
    with wandb.init(project="relqa", mode="offline", dir=folder) as run:  # leave mode out to send it to your account
        for step in range(3):  # stand-ins for what a network makes of a validation picture as it learns
            pred = (ref + 0.2 * 0.5**step * noise).clamp(0, 1)
            with torch.no_grad():
                relation = loss_fn.relate(pred, ref)
            log_relation(run, relation, step, pred=pred, ref=ref, tag="val/relqa")
        print(f"wandb sync {run.dir}")


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp(prefix="relqa-")))
