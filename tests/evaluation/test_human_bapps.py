"""BAPPS on a miniature tree of the exact layout and on broken ones; its scores by hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relqa_loss.evaluation.human_bapps import (
    CHOICE_SUBSETS,
    SAME_SUBSETS,
    choice_agreement,
    detection_precision,
    load_bapps,
    viewer_agreement,
)


def picture(path: Path, value: int = 90, size: tuple[int, int] = (20, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value // 2, 10)).save(path)


def bapps(root: Path) -> Path:
    for part, subsets, images, label in (
        ("2afc", CHOICE_SUBSETS, ("ref", "p0", "p1"), "judge"),
        ("jnd", SAME_SUBSETS, ("p0", "p1"), "same"),
    ):
        for subset in subsets:
            folder = root / part / "val" / subset
            (folder / label).mkdir(parents=True)
            for k in range(3):
                for name in images:
                    picture(folder / name / f"{k:06d}.png", 20 * k)
                np.save(folder / label / f"{k:06d}.npy", np.array([k / 3], dtype=np.float32))
    return root


def test_bapps(tmp_path):
    dataset = load_bapps(bapps(tmp_path))
    assert len(dataset.choices) == 18 and len(dataset.detections) == 6
    one = dataset.choices[-1]
    assert one.subset == "frameinterp" and one.preference == pytest.approx(2 / 3)
    assert [p.parent.name for p in (one.reference, one.first, one.second)] == ["ref", "p0", "p1"]
    assert {p.name for p in (one.reference, one.first, one.second)} == {"000002.png"}
    assert dataset.detections[1].same == pytest.approx(1 / 3)


def test_one_part_of_bapps_suffices_but_must_be_whole(tmp_path):
    bapps(tmp_path)
    shutil.rmtree(tmp_path / "2afc")
    assert load_bapps(tmp_path).choices == ()
    (tmp_path / "jnd/val/cnn/same/000001.npy").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 images are missing in .*cnn: same/000001"):
        load_bapps(tmp_path)
    shutil.rmtree(tmp_path / "jnd/val/cnn")
    with pytest.raises(ValueError, match="no folder cnn"):
        load_bapps(tmp_path)
    shutil.rmtree(tmp_path / "jnd")
    with pytest.raises(ValueError, match="neither 2afc nor jnd"):
        load_bapps(tmp_path)


@pytest.mark.parametrize("label", [np.array([0.2, 0.3]), np.array([1.5]), np.array([np.nan])])
def test_a_bad_judgement_is_named(tmp_path, label):
    np.save(bapps(tmp_path) / "2afc/val/color/judge/000000.npy", label)
    with pytest.raises(ValueError, match=r"000000.npy must hold one number in \[0, 1\]"):
        load_bapps(tmp_path)


def test_choice_agreement_is_the_share_that_agrees():
    credit = choice_agreement([0.1, 0.3, 0.2], [0.2, 0.1, 0.2], [0.25, 0.75, 1.0])
    assert credit.tolist() == [0.75, 0.75, 0.5]
    assert viewer_agreement([0.0, 0.5, 0.75]).tolist() == [1.0, 0.5, 0.625]


def test_detection_precision_by_hand():
    # Perfect order; then the only positive last of two.
    assert detection_precision([1, 2, 3, 4], [1, 1, 0, 0]) == 1.0
    assert detection_precision([1, 2], [0, 1]) == 0.5
    # Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1: the envelope lifts the middle.
    assert detection_precision([1, 2, 3], [1, 0, 1]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # Shares weigh; ties do not depend on their order.
    assert detection_precision([1, 1], [0.25, 0.75]) == detection_precision([1, 1], [0.75, 0.25]) == 0.5
    assert np.isnan(detection_precision([1, 2], [0, 0]))
