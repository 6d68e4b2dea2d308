import copy
import pickle

import PIL.Image
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from relqa_loss.distortions import BANK, Component, Distortion, DistortionEngine, distort
from relqa_loss.integrations.torchvision import Distort, RandomDistortion

HAS_KEYPOINTS = hasattr(tv_tensors, "KeyPoints")
MOVERS = [one.name for one in BANK if one.flow is not None]
PIXELS = DistortionEngine(["gaussian_blur", "luma_noise", "desaturate", "contrast_down"])


def photo(height=48, width=64, seed=0, channels=3):
    coarse = torch.rand(1, channels, 6, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]


def as_uint8(image):
    return (image * 255).round().to(torch.uint8)


def drawn(transform, *sample, seed=1):
    torch.manual_seed(seed)
    return transform(*sample)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kind", "leading"),
    [
        *((tv_tensors.Image, leading) for leading in ((), (2,), (2, 3), (0,))),
        *((tv_tensors.Video, leading) for leading in ((2,), (2, 3), (0,))),
        *((torch.Tensor, leading) for leading in ((), (2,), (2, 3), (0,))),
    ],
)
@pytest.mark.parametrize("transform", [Distort("luma_noise", 0.8), Distort("shift_right", 0.8, region="soft")])
def test_type_dtype_and_leading_dimensions_stay(kind, leading, dtype, transform):
    values = photo()
    values = as_uint8(values) if dtype == torch.uint8 else values.to(dtype)
    values = values.expand(*leading, -1, -1, -1).clone()
    sample = values if kind is torch.Tensor else kind(values)
    result = drawn(transform, sample)
    assert type(result) is kind and result.dtype == dtype and result.shape == values.shape
    plain = result.as_subclass(torch.Tensor)
    if values.numel():
        assert not torch.equal(plain, values)
        assert plain.min() >= 0 and plain.max() <= (255 if dtype == torch.uint8 else 1)
        # frames share one draw
        frames = plain.reshape(-1, *plain.shape[-3:])
        assert all(torch.equal(frame, frames[0]) for frame in frames)
    assert torch.equal(values, sample.as_subclass(torch.Tensor)), "the input was changed"


def test_does_what_distort_and_the_engine_do():
    image = photo()
    transform = Distort("gaussian_blur", 0.6)
    assert torch.equal(drawn(transform, image), distort(image[None], "gaussian_blur", 0.6)[0])
    torch.manual_seed(3)
    params = (transform := RandomDistortion(PIXELS)).make_params([image])
    made = transform.transform(image, params)
    assert torch.equal(made, PIXELS.render(image[None], [params["recipe"]]).distorted[0])
    assert all(isinstance(one, Component) for one in params["recipe"])


def test_uint8_is_rounded_and_untouched_pixels_are_exact():
    image = as_uint8(photo())
    every_value = torch.arange(256, dtype=torch.uint8).repeat(3, 8, 1)[..., : 16 * 16].reshape(3, 32, 64)
    brighter = drawn(Distort("brighten", 0.7), image)
    expected = distort(image[None].float() / 255, "brighten", 0.7)[0] * 255
    assert torch.equal(brighter, expected.round().to(torch.uint8))
    one = Distortion("half", "tone", {"brightness": 1.0}, (0.0, 1.0), apply=lambda x, s, g: x.where(x > 0.5, 0 * x))
    result = drawn(Distort(one, 1.0), every_value)
    assert torch.equal(result[every_value > 127], every_value[every_value > 127])
    assert (result[every_value <= 127] == 0).all()


@pytest.mark.parametrize("name", ["luma_noise", "desaturate", "elastic_warp"])
def test_frames_share_noise_region_and_displacement(name):
    frames = torch.stack([photo(seed=1), photo(seed=2), photo(seed=1)])
    noisy = drawn(Distort(name, 0.4, region="image"), tv_tensors.Video(frames))
    assert torch.equal(noisy[0], noisy[2])
    changed = (noisy[:2] != frames[:2]).any(1)
    if name == "luma_noise":
        noise = (noisy - frames)[:2]
        inside = ((frames > 0.3) & (frames < 0.7))[:2].all(0)  # nothing is clamped there
        assert inside.sum() > 100 and noise[0][inside].std() > 0.01
        torch.testing.assert_close(noise[0][inside], noise[1][inside], atol=1e-5, rtol=0)
    assert changed[0].any() and not changed[0].all()
    # A pixel beyond the region of the first frame stays in all.
    assert not (changed[1] & ~changed[0]).float().mean() > 0.02


def test_images_of_one_sample_share_the_draw():
    image = photo()
    for sizes in ((48, 64), (32, 40)):
        other = photo(*sizes)
        torch.manual_seed(5)
        first, second, same = Distort("elastic_warp", 1.0)(tv_tensors.Image(image), other, tv_tensors.Image(image))
        assert torch.equal(first, same) and second is other, "plain tensors pass where there is an image"
    pair = {"left": tv_tensors.Image(image), "right": tv_tensors.Image(photo(32, 40)), "label": 3}
    result = drawn(RandomDistortion(PIXELS), pair)
    assert result["label"] == 3 and result["right"].shape == (3, 32, 40)
    assert torch.equal(result["left"], drawn(RandomDistortion(PIXELS), tv_tensors.Image(image)))


def test_plain_tensors_follow_the_rule_of_v2():
    image, label = photo(), torch.tensor(4)
    changed, second, same = drawn(Distort("brighten", 1.0), image, image.clone(), label)
    assert not torch.equal(changed, image) and torch.equal(second, image) and same is label


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", ["luma_noise", "shift_down"])
def test_pil_images_stay_pil_images(mode, name):
    picture = v2.functional.to_pil_image(as_uint8(photo(channels=3 if mode == "RGB" else 1)))
    result = drawn(Distort(name, 0.9), picture)
    assert isinstance(result, PIL.Image.Image) and result.mode == mode and result.size == picture.size
    expected = drawn(Distort(name, 0.9), v2.functional.pil_to_tensor(picture))
    assert torch.equal(v2.functional.pil_to_tensor(result), expected)


def test_one_channel_is_grey():
    grey = photo(channels=1)
    torch.testing.assert_close(drawn(Distort("desaturate", 1.0), grey), grey, atol=1e-6, rtol=0)
    blurred = drawn(Distort("gaussian_blur", 0.7), grey)
    torch.testing.assert_close(blurred, distort(grey.expand(1, 3, -1, -1), "gaussian_blur", 0.7)[0, :1])


def test_values_outside_the_range_are_clamped():
    image = photo() * 1.4 - 0.2
    assert torch.equal(drawn(Distort("brighten", 0.5), image), drawn(Distort("brighten", 0.5), image.clamp(0, 1)))
    assert drawn(Distort("brighten", 0.0), image) is image


def scene(x=30, y=20, half=3, height=48, width=64):
    """A bright square with everything that can be said about it."""
    image = torch.full((3, height, width), 0.1)
    square = (..., slice(y - half, y + half + 1), slice(x - half, x + half + 1))
    image[square] = 0.9
    mask = torch.zeros(2, height, width, dtype=torch.uint8)
    mask[square] = 7
    box = [x - half, y - half, x + half + 1, y + half + 1]
    sample = {
        "mask": tv_tensors.Mask(mask),
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor([box], dtype=torch.float32), format="XYXY", canvas_size=(height, width)
        ),
        "image": tv_tensors.Image(image),
    }
    if HAS_KEYPOINTS:
        sample["points"] = tv_tensors.KeyPoints(torch.tensor([[float(x), float(y)]]), canvas_size=(height, width))
    return sample


def centre(weights):
    """Centre of mass (x, y) in pixels, from the centre of the first, of what is above 0."""
    ys, xs = torch.arange(weights.shape[0]).double(), torch.arange(weights.shape[1]).double()
    weights = weights.double().clamp(min=0)
    total = weights.sum()
    return torch.stack(((weights * xs).sum() / total, (weights * ys[:, None]).sum() / total))


@pytest.mark.parametrize("region", [None, "gradient", "soft"])
@pytest.mark.parametrize("severity", [0.3, 1.0])
@pytest.mark.parametrize("name", MOVERS)
def test_what_belongs_to_the_content_moves_with_it(name, severity, region):
    before = scene()
    after = drawn(Distort(name, severity, region=region), before, seed=4)
    where = centre(after["image"][0] - 0.1)
    moved = where - torch.tensor([30.0, 20.0], dtype=torch.float64)
    if region is None and name.startswith("shift"):
        assert moved.abs().max() > 0.2
    # A mask can only follow by whole pixels, its centre a little better.
    assert set(after["mask"].unique().tolist()) == {0, 7} and after["mask"].dtype == torch.uint8
    assert torch.equal(after["mask"][0], after["mask"][1])
    torch.testing.assert_close(centre(after["mask"][0]), where, atol=0.5, rtol=0)
    box = after["boxes"][0].double()
    # A warped square has its centre of mass elsewhere than the box around it.
    near = 0.1 if name.startswith("shift") and region is None else 0.5
    torch.testing.assert_close((box[:2] + box[2:]) / 2 - 0.5, where, atol=near, rtol=0)
    inside = torch.zeros(48, 64)
    left, top, right, bottom = (int(value) for value in box.round())
    inside[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = 1
    assert ((after["image"][0] > 0.5) <= (inside > 0)).all(), "the box lost its square"
    if HAS_KEYPOINTS:
        torch.testing.assert_close(after["points"][0].double(), where, atol=near, rtol=0)


@pytest.mark.parametrize("name", MOVERS)
def test_agrees_with_torchvision_up_to_its_rounding(name):
    sample = scene()
    transform = Distort(name, 0.7)
    params = transform.make_params([sample["image"]])
    (displacement,) = params["scene"].displacements((48, 64), tv_tensors.Mask)
    size = torch.tensor([64.0, 48.0])
    theirs = {
        kind: v2.functional.elastic(value, displacement=-2 * displacement.permute(0, 2, 3, 1) / size)
        for kind, value in sample.items()
    }
    ours = {kind: transform.transform(value, params) for kind, value in sample.items()}
    # bilinear there, bicubic here
    torch.testing.assert_close(centre(ours["image"][0] - 0.1), centre(theirs["image"][0] - 0.1), atol=0.05, rtol=0)
    assert torch.equal(ours["mask"][..., 10:-10, 10:-10], theirs["mask"][..., 10:-10, 10:-10])
    # They take corners by the centre of a pixel, half a pixel away, and do not look where the content came from.
    torch.testing.assert_close(ours["boxes"], theirs["boxes"], atol=1.5, rtol=0)


def test_other_tv_tensors_move_as_torchvision_was_taught():
    class Depth(tv_tensors.TVTensor):
        pass

    class Note(tv_tensors.TVTensor):
        pass

    @v2.functional.register_kernel(v2.functional.elastic, Depth)
    def _(inpt, displacement, interpolation=None, fill=None):
        return tv_tensors.wrap(v2.functional.elastic_image(inpt.as_subclass(torch.Tensor), displacement), like=inpt)

    sample = scene()
    depth, note = sample["image"].as_subclass(torch.Tensor).as_subclass(Depth), torch.ones(3).as_subclass(Note)
    image, moved, same = drawn(Distort("shift_right", 1.0), sample["image"], depth, note)
    assert type(moved) is Depth and same is note
    torch.testing.assert_close(centre(moved[0] - 0.1), centre(image[0] - 0.1), atol=0.05, rtol=0)


def test_boxes_of_every_format():
    around = (27.0, 17.0, 34.0, 24.0)
    for one in tv_tensors.BoundingBoxFormat:
        rotated = one.value in ("CXCYWHR", "XYWHR", "XYXYXYXY")
        start = torch.tensor([[*around, 0.0]] if rotated else [around])
        if rotated:
            start[0, :4] = torch.tensor([30.5, 20.5, 7.0, 7.0])
        plain = v2.functional.convert_bounding_box_format(
            start, old_format=tv_tensors.BoundingBoxFormat("CXCYWHR" if rotated else "XYXY"), new_format=one
        )
        boxes = tv_tensors.BoundingBoxes(plain, format=one, canvas_size=(48, 64))
        _, after = drawn(Distort("shift_right", 1.0), scene()["image"], boxes)
        assert type(after) is tv_tensors.BoundingBoxes and after.format == one
        back = v2.functional.convert_bounding_box_format(
            after.as_subclass(torch.Tensor),
            old_format=one,
            new_format=tv_tensors.BoundingBoxFormat("CXCYWHR" if rotated else "XYXY"),
        )
        right = distance("shift_right")
        expected = start + torch.tensor([[right, 0, 0, 0, 0]] if rotated else [[right, 0, right, 0]])
        torch.testing.assert_close(back, expected, atol=1e-3, rtol=0)


def distance(name):
    (one,) = (one for one in BANK if one.name == name)
    return float(one.parameter(torch.ones(1)))


def test_boxes_and_masks_at_the_border():
    size = (48, 64)
    whole = tv_tensors.BoundingBoxes(torch.tensor([[0, 0, 64, 48]]), format="XYXY", canvas_size=size)
    nothing = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=size)
    empty = tv_tensors.Mask(torch.zeros(0, *size, dtype=torch.bool))
    flat = tv_tensors.Mask(torch.full(size, 2**40))
    flat[:, :10] = 5
    _, box, none, no_mask, flat_after = drawn(
        Distort("shift_right", 1.0), scene()["image"], whole, nothing, empty, flat
    )
    right = round(distance("shift_right"))
    assert box.tolist() == [[right, 0, 64, 48]] and box.dtype == torch.int64
    assert none.shape == (0, 4) and no_mask.shape == (0, *size) and no_mask.dtype == torch.bool
    assert flat_after.shape == size and set(flat_after.unique().tolist()) == {5, 2**40}
    assert int((flat_after == 5).sum()) == 48 * (10 + right)


def test_pixel_operators_leave_everything_else_alone():
    sample = scene()
    after = drawn(RandomDistortion(PIXELS), sample)
    assert not torch.equal(after["image"], sample["image"])
    assert all(after[kind] is sample[kind] for kind in sample if kind != "image")


def test_several_displacements_follow_each_other():
    engine = DistortionEngine(["shift_right", "shift_down"], components={2: 1.0}, regions={"whole": 1.0})
    after = drawn(RandomDistortion(engine), scene())
    where = centre(after["image"][0] - 0.1)
    assert (where - torch.tensor([30.0, 20.0])).min() > 0.2
    box = after["boxes"][0].double()
    torch.testing.assert_close((box[:2] + box[2:]) / 2 - 0.5, where, atol=0.25, rtol=0)


def test_randomness_comes_from_the_global_generator():
    image = photo()
    transform = RandomDistortion(PIXELS, p=0.9)
    first, again, other = (drawn(transform, image, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)
    # One draw a sample, whatever is in it and whatever happens to it.
    states = []
    for p, sample in ((0.0, (image,)), (1.0, (image,)), (1.0, (tv_tensors.Image(image), tv_tensors.Image(photo(32))))):
        torch.manual_seed(7)
        RandomDistortion(PIXELS, p=p)(*sample)
        states.append(torch.rand(()).item())
    assert len(set(states)) == 1


def test_severity_range_and_probability():
    image = torch.full((3, 16, 16), 0.5)
    torch.manual_seed(0)
    some = Distort("brighten", (0.4, 0.8), p=0.3)
    results = [some(image) for _ in range(200)]
    happened = [one for one in results if one is not image]
    assert 35 <= len(happened) <= 85
    ends = [distort(image[None], "brighten", severity).mean().item() for severity in (0.4, 0.8)]
    values = [one.mean().item() for one in happened]
    assert ends[0] <= min(values) < ends[0] + 0.2 * (ends[1] - ends[0])
    assert ends[1] >= max(values) > ends[1] - 0.2 * (ends[1] - ends[0])


class Pictures(torch.utils.data.Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.transform(tv_tensors.Image(as_uint8(photo(16, 24, seed=3))))


def loaded(seed, method="fork", workers=2):
    loader = torch.utils.data.DataLoader(
        Pictures(RandomDistortion(PIXELS)),
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator().manual_seed(seed),
        multiprocessing_context=method,
    )
    return torch.stack([image.as_subclass(torch.Tensor) for image in loader])


def test_worker_seeds_rule():
    first = loaded(1)
    assert torch.equal(first, loaded(1)) and not torch.equal(first, loaded(2))
    assert len({image.numpy().tobytes() for image in first}) == 6, "items share a draw"
    assert torch.equal(loaded(1, "spawn", 1), loaded(1, "fork", 1))


def test_composes_with_transforms_of_torchvision():
    sample = {"image": as_uint8(photo(60, 80)), "label": torch.tensor(1)}
    sample["image"] = tv_tensors.Image(sample["image"])
    pipeline = v2.Compose(
        [
            v2.RandomCrop(48),
            Distort("jpeg", (0.2, 0.9)),
            v2.RandomApply([Distort("shift_left", 0.5)], p=0.5),
            v2.ToDtype(torch.float32, scale=True),
            RandomDistortion(p=0.8),
            v2.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )
    result = drawn(pipeline, sample)
    assert result["image"].shape == (3, 48, 48) and result["image"].dtype == torch.float32
    assert result["image"].isfinite().all() and result["label"] is sample["label"]
    for twin in (copy.deepcopy(pipeline), pickle.loads(pickle.dumps(pipeline))):
        assert torch.equal(drawn(twin, sample)["image"], result["image"])


def test_says_what_it_is():
    assert repr(Distort("jpeg", (0.1, 0.5), region="soft")) == (
        "Distort('jpeg', severity=(0.1, 0.5), region='soft', p=1.0)"
    )
    assert repr(RandomDistortion(PIXELS, p=0.5)) == (
        "RandomDistortion(DistortionEngine(4 distortions, severity=(0.1, 1.0)), p=0.5)"
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Distort("jpg"), ValueError, "did you mean 'jpeg'"),
        (lambda: Distort("jpeg", 1.5), ValueError, r"severity must lie in \[0, 1\]"),
        (lambda: Distort("jpeg", (0.8, 0.2)), ValueError, "severity must be a number or a range"),
        (lambda: Distort("jpeg", (0.1, 0.2, 0.3)), ValueError, "severity must be a number or a range"),
        (lambda: Distort("jpeg", region="sotf"), ValueError, "did you mean 'soft'"),
        (lambda: Distort("jpeg", p=2), ValueError, "p must be a probability"),
        (lambda: RandomDistortion(PIXELS, severity=(0, 1)), ValueError, "where an engine is passed"),
        (lambda: RandomDistortion(["blr"]), ValueError, "unknown distortion"),
    ],
)
def test_bad_settings_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("sample", "error", "message"),
    [
        (torch.zeros(3, 20, 20, dtype=torch.int16), TypeError, "uint8 or float, got torch.int16"),
        (torch.zeros(4, 20, 20), ValueError, r"\(..., 1 or 3, H, W\)"),
        (torch.zeros(20, 20), ValueError, r"\(..., 1 or 3, H, W\)"),
        (torch.zeros(5), ValueError, r"\(..., 1 or 3, H, W\)"),
        (torch.zeros(3, 8, 20), ValueError, "at least 16x16"),
        (PIL.Image.new("RGBA", (20, 20)), TypeError, "mode RGB or L, got RGBA"),
        (tv_tensors.Mask(torch.zeros(20, 20)), TypeError, "no image or video of 20x20"),
        ((photo(), tv_tensors.Mask(torch.zeros(20, 20))), TypeError, "no image or video of 20x20"),
    ],
)
def test_bad_samples_are_named(sample, error, message):
    with pytest.raises(error, match=message):
        Distort("shift_right", 1.0)(sample)
