"""Let any pixel loss look harder where a distortion shows: here L1, on a picture with one noisy patch."""

from importlib.resources import as_file, files

import torch
from torch import nn

from relqa_loss import RelationalLoss, SpatiallyWeightedLoss
from relqa_loss.images import read_image


def main() -> tuple[float, float]:
    """Returns the share of the gradient that falls on the noisy patch, for plain and for weighted L1."""
    with as_file(files("relqa_loss") / "assets" / "photographs" / "city.png") as path:
        ref = read_image(path)[None, :, :192, :192]
    generator = torch.Generator().manual_seed(0)
    pred = ref + 0.01 * torch.randn(ref.shape, generator=generator)
    patch = (..., slice(64, 128), slice(64, 128))
    pred[patch] += 0.15 * torch.randn(ref[patch].shape, generator=generator)

    shares = []
    weighted = SpatiallyWeightedLoss(nn.L1Loss(reduction="none"), RelationalLoss(), strength=4.0)
    for name, loss_fn in (("plain L1", nn.L1Loss()), ("weighted L1", weighted)):
        image = pred.clone().requires_grad_(True)
        loss_fn(image, ref).backward()
        gradient = image.grad.abs()
        shares.append(float(gradient[patch].sum() / gradient.sum()))
        print(f"{name:12} {shares[-1]:.0%} of the gradient on the patch (11% of the area)")
    return shares[0], shares[1]


if __name__ == "__main__":
    main()
