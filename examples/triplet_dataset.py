"""Training material without labels: distorted crops with their maps, from a folder of photographs."""

from importlib.resources import as_file, files

from torch.utils.data import DataLoader

from relqa_loss import AXES
from relqa_loss.distortions.dataset import TripletDataset, collate_triplets


def main() -> list[str]:
    """Returns the names of the operators that were used, in order."""
    names = []
    with as_file(files("relqa_loss") / "assets" / "photographs") as folder:
        dataset = TripletDataset(folder, crop=128, seed=1, length=8, cache=True)
        loader = DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=collate_triplets)
        for epoch in range(2):
            dataset.set_epoch(epoch)
            for batch in loader:
                for image, recipe in enumerate(batch.recipe):
                    done = " + ".join(f"{one.name} {one.severity:.2f} ({one.region})" for one in recipe)
                    strength = (batch.maps[image].abs() * batch.weight[image]).mean(dim=(1, 2))
                    print(f"epoch {epoch}: {done}; strongest on {AXES[int(strength.argmax())]}")
                    names += [one.name for one in recipe]
    return names


if __name__ == "__main__":
    main()
