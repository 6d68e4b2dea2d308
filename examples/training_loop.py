"""Train a tiny denoiser with L1 plus the relational loss."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from relqa_loss import RelationalLoss


def scenes(count: int, generator: torch.Generator) -> Tensor:
    """(count, 3, 64, 64) smooth coloured fields with hard edges: something to denoise without a data set."""
    field = functional.interpolate(torch.rand(count, 3, 8, 8, generator=generator), size=64, mode="bicubic")
    return (0.6 * field + 0.4 * (field > 0.5)).clamp(0, 1)


def main(steps: int = 30) -> tuple[float, float]:
    """Train for some steps; returns the distance on held-out scenes before and after."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    denoiser = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
    loss_fn = RelationalLoss()
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    held_out = scenes(4, generator)
    held_out_noisy = held_out + 0.1 * torch.randn(held_out.shape, generator=generator)

    def distance() -> float:
        with torch.no_grad():
            return float(loss_fn(held_out_noisy + denoiser(held_out_noisy), held_out))

    before = distance()
    for step in range(steps):
        clean = scenes(4, generator)
        noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator)
        restored = noisy + denoiser(noisy)
        loss = functional.l1_loss(restored, clean) + 0.03 * loss_fn(restored, clean)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 10 == 0:
            print(f"step {step:3}  loss {loss.item():.4f}")
    after = distance()
    print(f"held-out distance {before:.4f} -> {after:.4f}")
    return before, after


if __name__ == "__main__":
    main()
