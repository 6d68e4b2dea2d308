import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, DistributedSampler

from relqa_loss.distortions import Distortion, DistortionEngine, Triplet
from relqa_loss.distortions.dataset import TripletDataset, collate_triplets

pytest.importorskip("PIL")
from relqa_loss.images import read_image, write_image

SEED, EPOCH, LENGTH, CROP = 3, 2, 13, 48
RANKS = 2


def photo(index, height=70, width=90):
    coarse = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(index))
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(4):
        write_image(folder / f"{index % 2}" / f"{index}.png", photo(index, 70 + index, 90 - index))
    return folder


def make(folder, **settings):
    dataset = TripletDataset(folder, **{"crop": CROP, "seed": SEED, "length": LENGTH, **settings})
    dataset.set_epoch(EPOCH)
    return dataset


def content(triplet):
    """Everything in it as bytes: equal means bit for bit."""
    tensors = (triplet.reference, triplet.distorted, triplet.maps, triplet.weight)
    return (*(tensor.contiguous().numpy().tobytes() for tensor in tensors), triplet.recipe)


def loaded(dataset, indices, **settings):
    """Items by index, through a loader of batches of 1."""
    loader = DataLoader(dataset, 1, sampler=indices, collate_fn=collate_triplets, **settings)
    return dict(zip(indices, (content(one) for one in loader), strict=True))


@pytest.fixture(scope="module")
def expected(folder):
    dataset = make(folder)
    return {index: content(dataset[index]) for index in range(LENGTH)}


def run_rank(rank, folder, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=(results / "meeting").as_uri(), rank=rank, world_size=RANKS
    )
    try:
        dataset = make(folder)
        sampler = DistributedSampler(dataset, seed=5)
        sampler.set_epoch(EPOCH)
        found = {workers: loaded(dataset, list(sampler), num_workers=workers) for workers in (0, 1)}
        (results / f"rank{rank}.pickle").write_bytes(pickle.dumps(found))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_data_do_not_depend_on_the_number_of_workers(workers, folder, expected):
    assert len(set(expected.values())) == LENGTH, "items are alike, the test could not fail"
    assert loaded(make(folder), list(range(LENGTH)), num_workers=workers) == expected


def test_data_do_not_depend_on_the_number_of_ranks(folder, expected, tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch.distributed: this build of torch has no gloo backend")
    torch.multiprocessing.spawn(run_rank, args=(folder, tmp_path), nprocs=RANKS)
    first, second = (pickle.loads((tmp_path / f"rank{rank}.pickle").read_bytes()) for rank in range(RANKS))
    for workers in (0, 1):
        assert len(first[workers]) == len(second[workers]) == (LENGTH + 1) // RANKS
        assert {**first[workers], **second[workers]} == expected


def test_data_do_not_depend_on_the_start_of_workers_or_the_cache(folder, expected):
    dataset = make(folder, cache=True)
    indices = [7, 2, 11]
    spawned = loaded(dataset, indices, num_workers=1, multiprocessing_context="spawn")
    assert spawned == {index: expected[index] for index in indices}
    assert {index: content(dataset[index]) for index in range(LENGTH)} == expected


def test_data_do_not_depend_on_threads():
    # Pixels are shared out to threads, and the last bits of these two operations depend on how.
    def soften(images, share, generator):
        small = F.interpolate(images, (100, 100), mode="bilinear") ** 2.2
        return F.interpolate(small, images.shape[-2:], mode="nearest")

    engine = DistortionEngine([Distortion("soften", "optics", {"blur": 1.0}, (0.0, 1.0), apply=soften)])
    photographs = [photo(index, 280, 300) for index in range(8)]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            dataset = TripletDataset(photographs, engine, crop=256)
            found.append([content(dataset[index]) for index in reversed(range(8))])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_seed_and_epoch_change_everything(folder, expected):
    other_seed, other_epoch = make(folder, seed=SEED + 1), make(folder)
    other_epoch.set_epoch(EPOCH + 1)
    for dataset in (other_seed, other_epoch):
        assert not {content(dataset[index])[0] for index in range(LENGTH)} & {one[0] for one in expected.values()}
    other_epoch.set_epoch(EPOCH)
    assert content(other_epoch[4]) == expected[4]


def test_a_new_epoch_reaches_workers_that_persist(folder, expected):
    dataset = make(folder)
    loader = DataLoader(
        dataset, 1, collate_fn=collate_triplets, num_workers=2, persistent_workers=True, prefetch_factor=4
    )
    epochs = {}
    for epoch in (EPOCH, EPOCH + 1, EPOCH):
        dataset.set_epoch(epoch)
        found = [content(one) for one in loader]
        assert epochs.setdefault(epoch, found) == found
    assert epochs[EPOCH] == list(expected.values()) and not set(epochs[EPOCH]) & set(epochs[EPOCH + 1])


def test_epochs_go_through_all_photographs():
    flat = [torch.full((3, 16, 16), index, dtype=torch.uint8) for index in range(5)]
    dataset = TripletDataset(flat, DistortionEngine(["brighten"]), crop=16, length=2)
    seen = []
    for epoch in range(5):
        dataset.set_epoch(epoch)
        seen += [round(float(dataset[index].reference.mean()) * 255) for index in range(2)]
    assert seen == [0, 1, 2, 3, 4] * 2


def test_crops_lie_anywhere_and_are_mirrored():
    height, width, crop = 24, 40, 16
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack((xs, ys, (xs + ys) % 2 * 255)).to(torch.uint8)
    dataset = TripletDataset([places], DistortionEngine(["brighten"]), crop=crop, length=300)
    left, top, mirrored = set(), set(), 0
    for index in range(300):
        values = (dataset[index].reference[0] * 255).round().long()
        flipped = bool(values[0, 0, 0] > values[0, 0, -1])
        mirrored += flipped
        values = values.flip(2) if flipped else values
        x, y = int(values[0, 0, 0]), int(values[1, 0, 0])
        assert torch.equal(values, places[:, y : y + crop, x : x + crop].long())
        left.add(x)
        top.add(y)
    assert left == set(range(width - crop + 1)) and top == set(range(height - crop + 1))
    assert 110 < mirrored < 190


def test_flat_crops_are_avoided():
    sky = torch.full((3, 40, 400), 200, dtype=torch.uint8)
    sky[..., 340:] = torch.randint(0, 255, (3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dataset = TripletDataset([sky], DistortionEngine(["brighten"]), crop=32, length=60)
    lively = sum(bool(dataset[index].reference.std() > 0.02) for index in range(60))
    # A crop drawn once shows the lively part in a quarter of the cases.
    assert lively > 36
    assert len(TripletDataset([sky[..., :64]], crop=32)[0].recipe) == 1, "flat photographs still make triplets"


def test_float_and_uint8_tensors_give_the_same_data():
    pixels = [(photo(index) * 255).round().to(torch.uint8) for index in range(3)]
    engine = DistortionEngine(["gaussian_blur", "desaturate", "shift_right"])
    whole, float32 = (
        TripletDataset(photographs, engine, crop=32) for photographs in (pixels, [one.float() / 255 for one in pixels])
    )
    assert [content(one) for one in whole] == [content(one) for one in float32]
    half = TripletDataset([photo(0).half()], engine, crop=32)[0]
    assert half.reference.dtype == half.distorted.dtype == torch.float16 and half.maps.dtype == torch.float32


def test_items_are_what_the_engine_renders_again(folder):
    dataset = make(folder)
    for index in range(3):
        item = dataset[index]
        assert isinstance(item, Triplet) and item.reference.shape == (1, 3, CROP, CROP)
        assert content(dataset.engine.render(item.reference, item.recipe)) == content(item)


def test_batches_join_items_in_order(folder, expected):
    dataset = make(folder)
    batches = list(DataLoader(dataset, 5, collate_fn=collate_triplets, num_workers=1))
    assert [len(batch.recipe) for batch in batches] == [5, 5, 3]
    for start, batch in zip((0, 5, 10), batches, strict=True):
        for row in range(len(batch.recipe)):
            part = slice(row, row + 1)
            one = Triplet(
                batch.reference[part], batch.distorted[part], batch.maps[part], batch.weight[part], batch.recipe[part]
            )
            assert content(one) == expected[start + row]
    with pytest.raises(ValueError, match="at least one triplet"):
        collate_triplets([])


@pytest.fixture
def torn(tmp_path):
    """Six photographs of which two are no use."""
    for index in range(4):
        write_image(tmp_path / f"{index}.png", photo(index))
    (tmp_path / "0a.png").write_bytes((tmp_path / "0.png").read_bytes()[:300])
    write_image(tmp_path / "1a.png", photo(9, 40, 90))
    return tmp_path


@pytest.mark.filterwarnings("ignore:left out")
def test_a_bad_photograph_does_not_end_the_epoch(torn):
    dataset = TripletDataset(torn, crop=48, length=12)
    items = [content(one) for one in dataset]
    assert len(set(items)) == 12
    good = [(read_image(path) * 255).round() for path in sorted(torn.glob("[0-9].png"))]
    for one in dataset:
        crop = (one.reference[0] * 255).round()
        found = [
            any(
                torch.equal(side, picture[:, y : y + 48, x : x + 48])
                for side in (crop, crop.flip(2))
                for y, x in (picture[0].unfold(0, 1, 1).unfold(1, 1, 1).squeeze() == side[0, 0, 0]).nonzero().tolist()
            )
            for picture in good
        ]
        assert sum(found) == 1
    assert [(Path(name).name, reason) for name, reason in dataset.skipped] == [
        ("0a.png", dataset.skipped[0][1]),
        ("1a.png", "smaller than 48x48 pixels: 40x90"),
    ]
    assert "cannot read" in dataset.skipped[0][1]
    # Whatever has been met before, by whichever worker.
    fresh = TripletDataset(torn, crop=48, length=12)
    assert content(fresh[7]) == items[7] and content(fresh[1]) == items[1]
    loader = DataLoader(TripletDataset(torn, crop=48, length=12), 1, num_workers=2, collate_fn=collate_triplets)
    assert [content(one) for one in loader] == items
    cached = TripletDataset(torn, crop=48, length=12, cache=True)
    assert len(cached.skipped) == 2 and [content(one) for one in cached] == items


def test_a_bad_photograph_is_named_once(torn):
    dataset = TripletDataset(torn, crop=48, length=12)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            list(dataset)
    named = [str(one.message) for one in caught]
    assert len(named) == 2 and any("0a.png" in one for one in named) and any("1a.png" in one for one in named)


@pytest.mark.filterwarnings("ignore:left out")
def test_without_any_good_photograph_the_first_is_named(torn):
    for settings in ({}, {"cache": True}):
        with pytest.raises(ValueError, match=r"none of the 6 photographs .*0\.png.*smaller than 128x128 pixels"):
            TripletDataset(torn, crop=128, **settings)[0]


def test_the_cache_does_not_read_again(torn):
    paths = sorted(torn.glob("[0-9].png"))
    read = make([str(path) for path in paths])
    cached = make(paths, cache=True)
    items = [content(one) for one in read]
    for path in paths:
        os.remove(path)
    assert [content(one) for one in cached] == items


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ([], {}, ValueError, "at least one photograph"),
        ("nowhere", {}, ValueError, "folder of photographs, got nowhere"),
        (5, {}, TypeError, "a folder or a sequence"),
        ([torch.zeros(3, 32, 32)], {"crop": 8}, ValueError, "crop must be at least 16"),
        ([torch.zeros(3, 32, 32)], {"length": 0}, ValueError, "length must be at least 1"),
        (["a.png", torch.zeros(3, 32, 32)], {}, TypeError, "not both, got Tensor"),
        ([torch.zeros(32, 32)], {}, TypeError, r"photographs\[0\] must have shape \(3, H, W\), got \(32, 32\)"),
        ([torch.zeros(3, 32, 32).int()], {}, TypeError, "uint8 or a float dtype, got torch.int32"),
        ([None], {}, TypeError, "uint8 or a float dtype, got NoneType"),
    ],
)
def test_bad_settings_are_named(arguments, settings, error, message):
    with pytest.raises(error, match=message):
        TripletDataset(arguments, **{"crop": 16, **settings})[0]


def test_epochs_and_indices_are_checked(folder):
    dataset = make(folder)
    with pytest.raises(ValueError, match="epoch must be at least 0"):
        dataset.set_epoch(-1)
    with pytest.raises(IndexError, match="index 13 is out of range"):
        dataset[LENGTH]
    assert content(dataset[-1]) == content(dataset[LENGTH - 1])
    assert f"epoch={EPOCH}" in repr(dataset) and len(dataset) == LENGTH
