"""Pick a checkpoint by comparing its outputs, image by image, with those of the best one so far."""

from importlib.resources import as_file, files

import torch
from torch.nn import functional

from relqa_loss import CheckpointSelector, RelationalLoss
from relqa_loss.images import read_image


def main() -> str:
    """Returns the tag of the checkpoint that wins."""
    folder = files("relqa_loss") / "assets" / "photographs"
    references = []
    for name in ("city", "dog", "foliage"):
        with as_file(folder / f"{name}.png") as path:
            photograph = read_image(path)
        references += [photograph[:, :128, :128], photograph[:, -128:, -128:], photograph[:, 128:256, 128:256]]
    references = torch.stack(references)

    selector = CheckpointSelector(references, RelationalLoss())
    # Stand-ins for the outputs of three checkpoints of a super-resolution network.
    for step, factor in ((1000, 4), (2000, 2), (3000, 3)):
        small = functional.interpolate(references, scale_factor=1 / factor, mode="area")
        outputs = functional.interpolate(small, size=128, mode="bicubic").clamp(0, 1)
        verdict = selector.update(outputs, tag=f"step {step}")
        why = ", ".join(f"{axis} {change:+.3f}" for axis, change in verdict.reasons())
        print(f"{verdict.tag}: {verdict.decision} ({verdict.confidence:.2f}), distance {verdict.distance:.3f}  {why}")
    print(f"keep {selector.incumbent}")
    return str(selector.incumbent)


if __name__ == "__main__":
    main()
