from __future__ import annotations

import pytest
import torch

from relqa_loss.validation import FLOAT_DTYPES, MIN_SIDE, check_device, check_images, check_pair, unknown_name


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_every_float_dtype_and_the_smallest_size_pass(dtype: torch.dtype) -> None:
    check_images("x", torch.zeros(1, 3, MIN_SIDE, MIN_SIDE, dtype=dtype))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([[0.0]], TypeError, "photos must be a torch.Tensor of shape (B, 3, H, W), got list"),
        (torch.zeros(3, 16, 16), ValueError, "photos must have 4 dimensions (B, 3, H, W), got 3: (3, 16, 16)"),
        (torch.zeros(1, 4, 16, 16), ValueError, "photos must have 3 channels (RGB), got 4: (1, 4, 16, 16)"),
        (
            torch.zeros(1, 3, 16, 16, dtype=torch.int64),
            TypeError,
            "photos must be float16, bfloat16, float32 or float64, got torch.int64",
        ),
        (
            torch.zeros(0, 3, 16, 16),
            ValueError,
            "photos must hold at least one image, got an empty batch: (0, 3, 16, 16)",
        ),
        (torch.zeros(1, 3, 16, 15), ValueError, "photos must be at least 16x16 pixels, got 16x15"),
    ],
    ids=["list", "rank", "channels", "integers", "empty", "small"],
)
def test_a_message_names_the_argument_what_it_got_and_what_it_wants(
    images: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        check_images("photos", images)
    assert str(caught.value) == message


def test_the_smallest_side_can_be_chosen() -> None:
    check_images("x", torch.zeros(1, 3, 4, 4), min_side=4)
    with pytest.raises(ValueError, match="at least 32x32"):
        check_images("x", torch.zeros(1, 3, 31, 32), min_side=32)


def test_a_pair_may_mix_dtypes_but_not_shapes_or_devices() -> None:
    images = torch.zeros(1, 3, 16, 16)
    check_pair("a", images, "b", images.double())
    with pytest.raises(ValueError, match=r"a and b must have one shape"):
        check_pair("a", images, "b", torch.zeros(1, 3, 16, 17))
    with pytest.raises(ValueError, match="a and b must be on one device, got cpu and meta"):
        check_pair("a", images, "b", images.to("meta"))


def test_unknown_name_offers_the_nearest_or_nothing() -> None:
    assert unknown_name("fruit", "aple", ["apple", "pear"]) == (
        "unknown fruit 'aple'; did you mean 'apple'? (known: apple, pear)"
    )
    assert unknown_name("fruit", "xyz", ["apple", "pear"]) == "unknown fruit 'xyz' (known: apple, pear)"


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_device_that_is_there_is_passed_on(device: str | torch.device) -> None:
    assert check_device("device", device) == torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cudda", "where must be a device of torch, e.g. cpu or cuda, got 'cudda'"),
        ("cuda:99", "where must be a device that torch finds here, got 'cuda:99'"),
        ("meta", "where must be a device that torch finds here, got 'meta'"),
    ],
)
def test_a_device_that_is_not_there_is_one_clear_error(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_device("where", device)
