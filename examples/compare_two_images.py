"""What differs between two pictures: how much, in what, where and in which direction."""

from importlib.resources import as_file, files

import torch

from relqa_loss import RelationalLoss
from relqa_loss.images import read_image
from relqa_loss.words import in_words, strongest


def main() -> None:
    with as_file(files("relqa_loss") / "assets" / "photographs" / "dog.png") as path:
        original = read_image(path)[None]
    darker = original * 0.7
    darker[..., 192:] += 0.08 * torch.randn(darker[..., 192:].shape, generator=torch.Generator().manual_seed(0))

    loss_fn = RelationalLoss()
    with torch.no_grad():
        relation = loss_fn.relate(darker, original)
        print(f"distance {float(relation.distance):.3f}")
        for axis, part, direction in strongest(relation, 3):
            left, right = relation[axis][0].split(192, dim=1)
            print(
                f"{axis:12} {part:.3f}  {in_words(axis, direction)}; "
                f"mean of the map: left {float(left.mean()):+.3f}, right {float(right.mean()):+.3f}"
            )


if __name__ == "__main__":
    main()
