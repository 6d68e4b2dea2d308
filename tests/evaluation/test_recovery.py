import pytest
import torch

from relqa_loss.evaluation.psnr import psnr
from relqa_loss.evaluation.recovery import absolute_error, recover, recovery_table, starts

pytest.importorskip("PIL")


@pytest.fixture
def reference(make_photos):
    return make_photos(2, 32, 32)


def squared_error(pred, ref):
    return (pred - ref).square().mean(dim=(1, 2, 3))


def test_psnr_by_hand():
    a = torch.zeros(1, 3, 4, 4)
    assert psnr(a, a) == float("inf")
    assert psnr(a, a + 0.1) == pytest.approx(20.0, abs=1e-4)


def test_descending_l1_raises_the_psnr_from_every_start(reference):
    lines = []
    table = recovery_table({"L1": absolute_error}, list(reference), steps=40, progress=lines.append)
    assert (table["steps"], table["pictures"]) == (40, 2) and len(lines) == len(table["psnr"]) == 6
    assert all(row["L1"] > row["start"] + 3 for row in table["psnr"].values())


def test_the_table_holds_the_mean_over_pictures_of_clamped_starts(reference):
    table = recovery_table({}, list(reference), steps=1)
    noisy = starts(reference)["noise, sigma 0.1"].clamp(0, 1)
    expected = (psnr(noisy[0], reference[0]) + psnr(noisy[1], reference[1])) / 2
    assert table["psnr"]["noise, sigma 0.1"] == {"start": pytest.approx(expected)}


def test_starts_follow_the_reference_and_draw_the_same_numbers(reference):
    single, double = starts(reference), starts(reference.double())
    assert list(single) == list(double)
    for name, start in double.items():
        assert start.dtype == torch.float64 and start.shape == reference.shape
        assert single[name].dtype == torch.float32
        # JPEG rounds to 8 bits before it codes, so a last bit can move a pixel by a few steps.
        assert torch.allclose(start.float(), single[name], atol=0.05 if "JPEG" in name else 1e-5)


@pytest.mark.gpu
def test_starts_follow_the_reference_to_the_gpu(reference):
    for name, start in starts(reference.cuda()).items():
        assert start.is_cuda and torch.allclose(start.cpu(), starts(reference)[name], atol=0.05)


def test_a_picture_descends_alone_whatever_its_batch_mates(reference):
    start = starts(reference)["blur, sigma 2"]
    together = recover(squared_error, start, reference, steps=10)
    alone = torch.cat([recover(squared_error, start[k : k + 1], reference[k : k + 1], steps=10) for k in range(2)])
    assert torch.equal(together, alone)


def test_the_result_is_clamped_and_the_start_left_alone(reference):
    start = reference + 0.5
    kept = start.clone()
    result = recover(absolute_error, start, reference, steps=1)
    assert torch.equal(start, kept) and 0 <= float(result.min()) and float(result.max()) <= 1
    assert not result.requires_grad


def test_bad_arguments_are_named(reference):
    for steps in (0, -3):
        with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
            recover(absolute_error, reference, reference, steps)
        with pytest.raises(ValueError, match="steps must be at least 1"):
            recovery_table({}, list(reference), steps=steps)
    with pytest.raises(ValueError, match="one size"):
        recovery_table({}, [reference[0], reference[0, :, :20]])
    with pytest.raises(ValueError, match="got none"):
        recovery_table({}, [])
