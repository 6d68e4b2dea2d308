"""Severity calibration: the curves, their inversion, and the whole on a few small pictures."""

import json
import os
import sys

import numpy as np
import pytest
import torch

from relqa_loss.distortions.calibration import (
    MIN_STEP,
    CalibrationSettings,
    build_table,
    calibrate,
    falls,
    for_each,
    invert,
    load_crops,
    measure,
    visibility_curves,
    write_table,
)
from relqa_loss.distortions.crops import at_viewing_scale, detail
from relqa_loss.distortions.panel import PANEL
from relqa_loss.distortions.record import KNOTS, Distortion
from relqa_loss.images import MissingExtra, read_image


def _noise(images, parameter, generator):
    noise = torch.randn(images.shape, generator=generator)
    return (images + parameter.view(-1, 1, 1, 1) * noise).clamp(0, 1)


def _shift(images, parameter, generator):
    flow = torch.zeros(images.shape[0], 2, *images.shape[2:])
    flow[:, 0] = parameter.view(-1, 1, 1)
    return flow


WEAK = Distortion("weak_noise", "sensor", {"noise": 1.0}, (0.002, 0.05), apply=_noise, geometric=True)
STRONG = Distortion("strong_noise", "sensor", {"noise": 1.0}, (0.002, 0.5), apply=_noise, geometric=True)
SHIFT = Distortion("shift", "geometry", {"shift_x": 1.0}, (0.5, 8.0), flow=_shift)
SETTINGS = CalibrationSettings(photographs=2, crop=128, positions=6)


def _values(curves):
    """Panel values (positions, photographs, members) whose members all say the same."""
    return {name: torch.tensor(c).view(-1, 1, 1).expand(-1, 3, len(PANEL)).clone() for name, c in curves.items()}


@pytest.fixture
def photographs(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(5)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for index in range(2):
            small = Image.fromarray(rng.integers(0, 256, (12, 14, 3), dtype=np.uint8))
            small.resize((168, 144), Image.Resampling.BICUBIC).save(tmp_path / folder / f"{index}.png")
    return tmp_path


def test_curves_are_monotone_and_rank_across_operators():
    curves = visibility_curves(_values({"low": [0.0, 1.0, 2.0], "high": [5.0, 7.0, 6.0]}))
    assert curves["low"][0] == 0
    assert curves["high"].max() <= 1
    for curve in curves.values():
        assert (curve.diff() >= 0).all()
    assert curves["high"][0] > curves["low"][-1]


def test_members_on_different_scales_weigh_the_same():
    values = _values({"a": [0.1, 0.2, 0.3], "b": [0.15, 0.25, 0.35]})
    rescaled = {name: v * torch.tensor([1.0, 1e3, 1e-3, 7.0, 1.0, 30.0, 0.2]) for name, v in values.items()}
    for name, curve in visibility_curves(values).items():
        assert torch.equal(curve, visibility_curves(rescaled)[name])


def test_a_blind_member_does_not_vote_a_damage_down():
    values = _values({"structure": [0.1, 0.5, 0.9], "colour": [0.1, 0.5, 0.9]})
    values["colour"][..., :3] = 0.0
    curves = visibility_curves(values)
    # A plain mean over the members would lose about one half.
    assert curves["colour"][-1] > 0.75 * curves["structure"][-1]


def test_no_difference_has_no_visibility_however_often_it_occurs():
    curves = visibility_curves(_values({"nothing": [0.0, 0.0, 0.0], "something": [0.0, 0.5, 1.0]}))
    assert curves["nothing"].tolist() == [0.0, 0.0, 0.0]


def test_inversion_meets_the_common_targets():
    positions, achieved = invert(np.linspace(0, 1, 11) ** 2, foot=0.04, top=0.81)
    assert positions[0] == 0
    assert positions[-1] == pytest.approx(0.9, abs=0.01)
    assert np.allclose(achieved[1:], np.linspace(0.04, 0.81, KNOTS)[1:], atol=0.01)


def test_inversion_of_an_operator_that_falls_short_ends_at_its_strongest():
    positions, achieved = invert([0.1, 0.2, 0.3], foot=0.1, top=0.8)
    assert positions[-1] == pytest.approx(1.0)
    assert achieved[-1] == pytest.approx(0.3)


def test_an_operator_off_the_common_range_leaves_it_only_where_it_must():
    common = np.linspace(0.1, 0.8, KNOTS)
    straight = np.linspace(0, 1, 101)
    _, short = invert(straight * 0.6, foot=0.1, top=0.8)
    assert np.allclose(short[1:6], common[1:6], atol=0.01)
    assert short[-1] == pytest.approx(0.6, abs=0.01)
    _, strong = invert(0.3 + straight * 0.7, foot=0.1, top=0.8)
    assert strong[0] == pytest.approx(0.3)
    assert np.allclose(strong[5:], common[5:], atol=0.01)
    for reached in (short, strong):
        assert np.diff(reached).min() > 0.01
    _, far_short = invert(straight * 0.2, foot=0.1, top=0.8)
    assert np.diff(far_short).min() > 0.004


def test_falls_are_where_the_curve_comes_down():
    assert falls([0.1, 0.5, 0.4, 0.39, 0.9]) == [[0.5, 0.1]]
    assert falls([0.1, 0.2]) == []


def test_curves_that_fall_are_in_the_table():
    values = _values({"own": [0.1, 0.9, 0.2, 0.8, 1.0], "rising": [0.0, 0.3, 0.4, 0.5, 0.6]})
    bank = [Distortion(name, "sensor", {"noise": 1.0}, (0.01, 0.5), apply=_noise) for name in values]
    table = build_table(bank, values, CalibrationSettings(positions=5))
    assert list(table["not_monotone"]) == ["own"]
    assert table["not_monotone"]["own"][0][0] == 0.5


def test_tasks_keep_their_order_their_threads_and_their_errors():
    before = torch.get_num_threads()
    said = []
    threads = for_each(dict.fromkeys("cab", torch.get_num_threads), 2, said.append)
    assert list(threads) == ["c", "a", "b"]
    assert set(threads.values()) == {1}
    assert torch.get_num_threads() == before
    assert said[-1].startswith("3/3 ")
    assert all("s left" in line for line in said)

    def fail():
        raise ValueError("no such luck")

    with pytest.raises(ValueError, match="no such luck"):
        for_each({"a": fail, "b": torch.get_num_threads}, 2)
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="workers must be at least 1"):
        for_each({}, 0)


@pytest.mark.parametrize("curve", [[0.5] * 5, [0.0, 0.9, 0.9, 0.9, 0.9], [0.9] * 4 + [1.0], [0.0, 0.0, 0.01]])
def test_levels_never_stand_still(curve):
    positions, _ = invert(curve, foot=0.2, top=0.8)
    assert np.diff(positions).min() >= MIN_STEP - 1e-9
    assert 0 <= positions[0]
    assert positions[-1] <= 1 + 1e-9


def test_table_brings_equal_operators_of_different_span_together():
    crops = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(3)) * 0.4 + 0.3
    values = {d.name: measure(d, crops, SETTINGS) for d in (WEAK, STRONG)}
    table = build_table((WEAK, STRONG, SHIFT), values, SETTINGS)
    weak, strong = (np.array(table["levels"][d.name]) for d in (WEAK, STRONG))
    assert (np.diff(weak) > 0).all()
    assert (np.diff(strong) > 0).all()
    # At the end of the span the two differ tenfold.
    assert strong[-1] / weak[-1] < 3
    assert table["levels"]["shift"] == pytest.approx(np.linspace(0.5, 8.0, KNOTS).tolist())
    assert table["span_kept"] == ["shift"]


def test_displacements_are_not_judged():
    with pytest.raises(ValueError, match="shift"):
        measure(SHIFT, torch.rand(2, 3, 128, 128), SETTINGS)


def test_calibration_is_reproducible_and_written_as_json(photographs, tmp_path):
    tables = [calibrate(photographs, distortions=(WEAK, STRONG), settings=SETTINGS, workers=n) for n in (1, 2)]
    assert tables[0] == tables[1]
    assert len(tables[0]["provenance"]["photographs_sha256"]) == 64
    write_table(tables[0], tmp_path / "severity.json")
    assert json.loads((tmp_path / "severity.json").read_text()) == json.loads(json.dumps(tables[0]))


def test_a_table_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(1, "not permitted")

    path = tmp_path / "severity.json"
    path.write_text("before")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match=r"cannot write .*severity\.json: not permitted"):
        write_table({"levels": {}}, path)
    assert [one.read_text() for one in tmp_path.iterdir()] == ["before"]


def test_crops_take_turns_between_folders_and_follow_the_seed(photographs):
    crops, names = load_crops(photographs, SETTINGS)
    assert crops.shape == (2, 3, 128, 128)
    assert {name.split("/")[0] for name in names} == {"one", "two"}
    again, _ = load_crops(photographs, SETTINGS)
    assert torch.equal(crops, again)
    other, _ = load_crops(photographs, CalibrationSettings(photographs=2, crop=128, seed=1))
    assert not torch.equal(crops, other)


def test_too_few_photographs_is_one_clear_error(photographs):
    with pytest.raises(ValueError, match="data_dir must hold at least 9"):
        load_crops(photographs, CalibrationSettings(photographs=9, crop=128))


def test_photographs_that_cannot_be_used_are_named_and_others_take_their_place(photographs):
    from PIL import Image

    for path in sorted(photographs.rglob("*.png")):
        if path.name == "0.png":
            path.write_bytes(b"not a picture")
    Image.new("RGB", (100, 200)).save(photographs / "small.png")
    said = []
    crops, names = load_crops(photographs, SETTINGS, said.append)
    assert sorted(names) == ["one/1.png", "two/1.png"]
    assert crops.shape == (2, 3, 128, 128)
    assert "skipped small.png: smaller than 128x128 pixels: 200x100" in said
    with pytest.raises(ValueError, match="found 2"):
        load_crops(photographs, CalibrationSettings(photographs=3, crop=128), said.append)
    assert any(line.startswith("skipped one/0.png: cannot read") for line in said)


def test_every_kind_of_photograph_is_found_and_turned_upright(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (128, 160, 3), dtype=np.uint8))
    picture.save(tmp_path / "turned.JPEG", quality=95, exif=exif)
    upright = read_image(tmp_path / "turned.JPEG")
    assert upright.shape == (3, 160, 128)
    crops, names = load_crops(tmp_path, CalibrationSettings(photographs=1, crop=128))
    assert names == ["turned.JPEG"]
    assert any(torch.equal(crops[0], upright[:, top : top + 128]) for top in range(33))


def test_large_photographs_are_brought_to_viewing_scale():
    ramp = torch.linspace(0, 1, 1500).expand(3, 1024, 1500)
    seen = at_viewing_scale(ramp, 256)
    assert seen.shape == (3, 512, 750)
    assert torch.allclose(seen[0, 0, 5:-5], torch.nn.functional.avg_pool1d(ramp[:1, 0], 2)[0, 5:-5], atol=1e-4)
    assert at_viewing_scale(ramp, 800).shape == (3, 800, 1172)
    small = torch.rand(3, 512, 700)
    assert at_viewing_scale(small, 256) is small


def test_the_crop_with_most_detail_is_taken(tmp_path):
    from PIL import Image

    picture = np.full((300, 300, 3), 128, dtype=np.uint8)
    picture[:, 150:] = np.random.default_rng(2).integers(0, 256, (300, 150, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "half.png")
    one, eight = (
        load_crops(tmp_path, CalibrationSettings(photographs=1, crop=100, candidates=count))[0][0] for count in (1, 8)
    )
    assert detail(eight) > detail(one)
    assert detail(torch.full((3, 64, 64), 0.5)) < 1e-6


def test_the_same_photographs_are_drawn_as_ever(tmp_path):
    from PIL import Image

    # The committed table names its photographs and the seed that drew them: the order of drawing is part of it.
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for index in range(6):
            Image.new("RGB", (64, 64), (index * 20, 0, 0)).save(tmp_path / folder / f"{index}.png")
    _, names = load_crops(tmp_path, CalibrationSettings(photographs=5, crop=64, seed=0))
    random = np.random.default_rng(0)
    a, b = (random.permutation(6).tolist() for _ in range(2))
    assert names == [f"a/{a[5]}.png", f"b/{b[5]}.png", f"a/{a[4]}.png", f"b/{b[4]}.png", f"a/{a[3]}.png"]


def test_missing_pillow_names_the_extra(photographs, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"relqa_loss\[images\]"):
        load_crops(photographs, SETTINGS)
