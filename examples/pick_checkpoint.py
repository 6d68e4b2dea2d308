"""Pick a checkpoint by comparing its outputs, image by image, with those of the best one so far; then rank all."""

from collections.abc import Iterator
from importlib.resources import as_file, files

import torch
from torch import Tensor
from torch.nn import functional

from relqa_loss import CheckpointSelector, RelationalLoss
from relqa_loss.images import read_image

# Stand-ins for checkpoints of a super-resolution network: step, and what it is as good as.
CHECKPOINTS = {1000: 4, 2000: 2, 3000: 3}


def validation_photographs() -> Tensor:
    # Several crops of one photograph are not independent, as a test would want them: take photographs of your own.
    crops = []
    folder = files("relqa_loss") / "assets" / "photographs"
    for name in ("city", "dog", "foliage"):
        with as_file(folder / f"{name}.png") as path:
            photograph = read_image(path)
        crops += [photograph[:, :128, :128], photograph[:, -128:, -128:], photograph[:, 128:256, 128:256]]
    return torch.stack(crops)


def restored(factor: int, references: Tensor) -> Iterator[Tensor]:
    """One output after another: only one is in memory."""
    for reference in references:
        small = functional.interpolate(reference[None], scale_factor=1 / factor, mode="area")
        yield functional.interpolate(small, size=128, mode="bicubic")[0].clamp(0, 1)


def main() -> str:
    """Returns the tag of the checkpoint that wins."""
    references = validation_photographs()
    selector = CheckpointSelector(references, RelationalLoss())
    for step, factor in CHECKPOINTS.items():
        verdict = selector.update(restored(factor, references), tag=f"step {step}")
        sure = f" ({verdict.confidence:.3f}): {verdict.why()}" if verdict.against else ""
        print(f"{verdict.tag} is {verdict.decision}{sure}{', save it' if verdict.promoted else ''}")

    ranking = selector.rank((f"step {step}", restored(factor, references)) for step, factor in CHECKPOINTS.items())
    for place in ranking.places:
        print(f"place {place.best} to {place.worst}: {place.tag}, distance {place.distance:.3f}")
    return str(selector.incumbent)


if __name__ == "__main__":
    main()
