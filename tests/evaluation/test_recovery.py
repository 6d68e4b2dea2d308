import pytest
import torch

from relqa_loss.evaluation.artefacts import checkerboard, grain
from relqa_loss.evaluation.psnr import psnr
from relqa_loss.evaluation.recovery import START, recover, recovery_table, starts
from relqa_loss.evaluation.recovery_losses import absolute_error
from relqa_loss.evaluation.targets import RECOVERY_TARGETS

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
    recovery = recovery_table({"L1": absolute_error}, list(reference), steps=40, progress=lines.append)
    table = recovery.table
    assert (table["steps"], table["pictures"], table["size"]) == (40, 2, [32, 32]) and len(lines) == 12
    assert len(table["psnr"]) == 6 and all(row["L1"] > row[START] + 3 for row in table["psnr"].values())


def test_the_table_holds_figures_of_clamped_starts_and_the_first_picture_is_kept(reference):
    recovery = recovery_table({}, list(reference), steps=1)
    name = "noise, sigma 0.1"
    noisy = starts(reference)[name].clamp(0, 1)
    values = [psnr(noisy[k], reference[k]) for k in range(2)]
    assert recovery.table["psnr"][name] == {START: pytest.approx(sum(values) / 2)}
    assert recovery.table["lowest_psnr"][name] == {START: pytest.approx(min(values))}
    for figure, value in (
        ("checkerboard", checkerboard(noisy, reference).relative.mean()),
        ("checkerboard_steps", checkerboard(noisy, reference).steps.mean()),
        ("grain", grain(noisy, reference).mean()),
    ):
        assert recovery.table[figure][name] == {START: pytest.approx(float(value))}
    assert torch.equal(recovery.pictures[name][START], noisy[0])


def test_every_start_has_a_target(reference):
    paths = [target.figure.path for target in RECOVERY_TARGETS]
    assert sorted(paths) == sorted(("psnr", start, "RelationalLoss") for start in starts(reference))


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
