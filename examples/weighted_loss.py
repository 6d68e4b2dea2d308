"""Let any pixel loss look harder where a distortion shows: here L1, on a picture with one noisy patch."""

from importlib.resources import as_file, files

import torch
from torch import nn

from relqa_loss import RelationalLoss, SpatiallyWeightedLoss
from relqa_loss.images import read_image


def main() -> dict[str, float]:
    """Returns the share of the gradient that falls on the noisy patch, for plain and for weighted L1."""
    with as_file(files("relqa_loss") / "assets" / "photographs" / "city.png") as path:
        ref = read_image(path)[None, :, :192, :192]
    generator = torch.Generator().manual_seed(0)
    pred = ref + 0.01 * torch.randn(ref.shape, generator=generator)
    patch = (..., slice(64, 128), slice(64, 128))
    pred[patch] += 0.15 * torch.randn(ref[patch].shape, generator=generator)

    l1 = nn.L1Loss(reduction="none")
    loss_fn = RelationalLoss()
    losses = {
        "plain L1": nn.L1Loss(),
        "weighted L1": SpatiallyWeightedLoss(l1, loss_fn, strength=4.0),
        # Looks first at the places where little is wrong, and comes to those where much is within 2 steps.
        "curriculum": SpatiallyWeightedLoss(l1, loss_fn, strength=4.0, warmup=2, easy_first=True),
        # The weights alone, for a training loop of your own; here only noise is followed.
        "own code": lambda image, ref: (
            loss_fn.weights(image, ref, axes="noise", strength=4.0) * l1(image, ref)
        ).mean(),
    }
    shares = {}
    for name, loss in losses.items():
        image = pred.clone().requires_grad_(True)
        loss(image, ref).backward()
        gradient = image.grad.abs()
        shares[name] = float(gradient[patch].sum() / gradient.sum())
        print(f"{name:12} {shares[name]:.0%} of the gradient on the patch (11% of the area)")
    return shares


if __name__ == "__main__":
    main()
