"""The distance beside other metrics in a torchmetrics collection, with what it is made of."""

import torch
from torchmetrics import MeanSquaredError, MetricCollection

from relqa_loss import distort
from relqa_loss.integrations.torchmetrics import RelationalDistance


def main() -> dict[str, float]:
    """Returns the collection's values by name."""
    metrics = MetricCollection({"mse": MeanSquaredError(), "relqa": RelationalDistance(per_axis=True)}, prefix="val/")
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):  # batches of a validation set
        target = torch.nn.functional.interpolate(torch.rand(2, 3, 12, 12, generator=generator), size=64, mode="bicubic")
        metrics.update(distort(target.clamp(0, 1), "gaussian_blur", 0.5), target.clamp(0, 1))
    values = {name: float(value) for name, value in metrics.compute().items()}
    for name, value in sorted(values.items(), key=lambda item: -item[1])[:4]:
        print(f"{name:20} {value:.4f}")
    return values


if __name__ == "__main__":
    main()
