from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Generator, Tensor

from relqa_loss.distortions import DistortionEngine
from relqa_loss.distortions.threads import spread


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_parts_are_in_order_and_cover_everything(three_threads: None) -> None:
    for count in (1, 2, 3, 7):
        parts = spread(lambda part: list(part), range(count), torch.device("cpu"))
        assert len(parts) == min(3, count)
        assert [item for part in parts for item in part] == list(range(count))


def test_each_part_computes_with_one_thread_and_the_caller_keeps_its_own(three_threads: None) -> None:
    def look(part: Sequence[int]) -> tuple[int, bool]:
        return torch.get_num_threads(), threading.current_thread() is threading.main_thread()

    assert spread(look, range(4), torch.device("cpu")) == [(1, False)] * 3
    assert torch.get_num_threads() == 3
    started_later = []
    thread = threading.Thread(target=lambda: started_later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert started_later == [3]


def test_errors_reach_the_caller_and_leave_the_setting(three_threads: None) -> None:
    def fail(part: Sequence[int]) -> None:
        raise ValueError(f"part {part[0]}")

    with pytest.raises(ValueError, match="part 0"):
        spread(fail, range(4), torch.device("cpu"))
    assert torch.get_num_threads() == 3


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_accelerators_get_everything_in_one_call(three_threads: None) -> None:
    assert spread(list, range(4), torch.device("cuda")) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_and_autocast_are_off(threads: int, photos: Tensor) -> None:
    before = torch.get_num_threads()
    engine = DistortionEngine(["gaussian_blur", "defocus_blur"])
    plain = engine(photos, generator=Generator().manual_seed(1))
    try:
        torch.set_num_threads(threads)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            triplet = engine(photos.clone().requires_grad_(), generator=Generator().manual_seed(1))
    finally:
        torch.set_num_threads(before)
    assert not triplet.distorted.requires_grad
    assert torch.equal(triplet.distorted, plain.distorted)


def test_pictures_do_not_depend_on_the_number_of_threads(make_photos: Callable[..., Tensor]) -> None:
    images = make_photos(6, 192, 192)
    engine = DistortionEngine()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            triplet = engine(images, generator=Generator().manual_seed(1))
            tier = engine.tier(images[:2], 4, generator=Generator().manual_seed(1))
            results.append((triplet.distorted, triplet.maps, triplet.weight, tier.images, tier.order))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
