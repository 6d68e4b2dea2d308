"""Distortions among the transforms of torchvision: boxes, masks and pictures stay together."""

from importlib.resources import as_file, files

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from relqa_loss.integrations.torchvision import Distort, RandomDistortion


def main() -> dict[str, torch.Tensor]:
    """Returns the sample after the pipeline."""
    with as_file(files("relqa_loss") / "assets" / "photographs" / "dog.png") as path:
        image = v2.functional.pil_to_tensor(Image.open(path).convert("RGB"))
    size = image.shape[-2:]
    sample = {
        "image": tv_tensors.Image(image),
        "boxes": tv_tensors.BoundingBoxes(torch.tensor([[80.0, 60.0, 160.0, 150.0]]), format="XYXY", canvas_size=size),
        "label": torch.tensor(3),
    }
    pipeline = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            Distort("elastic_warp", severity=(0.2, 0.8), p=0.5),  # moves the boxes too
            RandomDistortion(p=0.8),  # one to three operators of the whole bank, each in its own region
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),  # last: operators work on [0, 1]
        ]
    )
    torch.manual_seed(0)
    result = pipeline(sample)
    print(pipeline)
    print("image", tuple(result["image"].shape), result["image"].dtype)
    print("box  ", [round(value, 1) for value in result["boxes"][0].tolist()])
    return result


if __name__ == "__main__":
    main()
