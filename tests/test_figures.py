import json

import pytest
import torch

from relqa_loss.images import read_image
from relqa_loss.relation import AXES, Relation
from relqa_loss.words import AXIS_WORDS, in_words, strongest

pytest.importorskip("matplotlib")

from relqa_loss.figures import comparison_panel, figure_path, relation_figure, training_curves


def made_relation(shape, **axes):
    """A relation whose maps are given by axis: (H, W) tensors or numbers; a part is the mean magnitude of its map."""
    maps = torch.zeros(1, len(AXES), *shape)
    for name, values in axes.items():
        maps[0, AXES.index(name)] = values
    parts = maps.abs().mean(dim=(2, 3))
    floor = torch.full((1,), 0.01)
    return Relation(parts.sum(1) + floor, parts, floor, lambda: maps, lambda: torch.zeros(1))


@pytest.fixture
def photo():
    return torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0))


def colour_of(panel):
    """RGB an overlay puts on its strongest pixel."""
    overlay = panel.images[-1]
    return overlay.cmap(overlay.norm(overlay.get_array().data.flat[abs(overlay.get_array().data).argmax()]))[:3]


def test_every_axis_has_two_words():
    assert tuple(AXIS_WORDS) == AXES
    assert all(plus and minus and plus != minus for plus, minus in AXIS_WORDS.values())


def test_words_follow_the_sign_and_say_when_an_axis_goes_both_ways():
    assert (in_words("blur", 0.9), in_words("blur", -0.9)) == ("blurrier", "sharper")
    assert in_words("brightness", 0.0) == "brightness both ways"
    with pytest.raises(ValueError, match="blur"):
        in_words("blurr", 1.0)


def test_strongest_orders_by_part_and_leaves_out_empty_axes():
    both = torch.full((16, 16), 0.5)
    both[8:] = -0.5
    found = strongest(made_relation((16, 16), blur=-0.2, contrast=both), 5)
    assert [name for name, _, _ in found] == ["contrast", "blur"]
    assert found[0][1:] == (pytest.approx(0.5), pytest.approx(0.0))
    assert found[1][1:] == (pytest.approx(0.2), pytest.approx(-1.0))
    assert strongest(made_relation((16, 16)), 3) == []


def test_relation_figure_shows_the_strongest_maps_with_zero_centred_legends(photo, tmp_path):
    relation = made_relation((40, 56), blur=0.5, noise=-0.3, tint_red=0.1)
    figure = relation_figure(photo, photo.flip(2), relation, tmp_path / "new" / "a.png", count=2)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["reference", "image", "blur", "noise", "distance split by axis"]
    blur, noise = (next(a for a in figure.axes if a.get_title() == name) for name in ("blur", "noise"))
    for panel in (blur, noise):
        assert panel.images[-1].norm(0.0) == pytest.approx(0.5)
    red, _, blue = colour_of(blur)
    assert red > blue
    red, _, blue = colour_of(noise)
    assert blue > red
    legends = [legend.get_xlabel() for axes in figure.axes for legend in axes.child_axes]
    assert any("sharper" in text and "blurrier" in text for text in legends)
    assert read_image(tmp_path / "new" / "a.png").shape[0] == 3


@pytest.mark.parametrize("name", ["plain", "dotted.", "a.png", "a.b.svg", ".hidden"])
def test_figure_path_names_the_file_that_is_written(photo, tmp_path, name):
    relation_figure(photo, photo, made_relation((40, 56)), tmp_path / name)
    assert list(tmp_path.iterdir()) == [figure_path(tmp_path / name)]


def test_bars_sum_to_the_distance(photo):
    relation = made_relation((40, 56), blur=0.5, noise=-0.3)
    figure = relation_figure(photo, photo, relation)
    bars = next(a for a in figure.axes if a.get_title() == "distance split by axis")
    assert sum(bar.get_width() for bar in bars.patches) == pytest.approx(float(relation.distance), rel=1e-5)


def test_equal_images_and_small_counts_draw_without_maps(photo, tmp_path):
    figure = relation_figure(photo, photo, made_relation((40, 56)), tmp_path / "a.png")
    assert [a.get_title() for a in figure.axes if a.images] == ["reference", "image"]


def test_relation_figure_names_wrong_input(photo, tmp_path):
    relation = made_relation((40, 56), blur=0.5)
    with pytest.raises(ValueError, match="one size"):
        relation_figure(photo[:, :20], photo, relation)
    with pytest.raises(ValueError, match="one size"):
        relation_figure(photo[:, :20], photo[:, :20], relation)
    with pytest.raises(ValueError, match=r"ref must have shape \(3, H, W\)"):
        relation_figure(photo[0], photo, relation)
    with pytest.raises(ValueError, match=r"a\.nothing"):
        relation_figure(photo, photo, relation, tmp_path / "a.nothing")


def test_comparison_panel_holds_the_extra_pictures(photo, tmp_path):
    relation = made_relation((40, 56), blur=0.5, noise=-0.3)
    figure = comparison_panel(
        photo, photo, relation, [("before", photo[:, :20, :20]), ("after", photo)], tmp_path / "a.png"
    )
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["reference", "image", "blur", "noise", "before", "after", "distance split by axis"]
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_training_curves_draws_each_number(tmp_path):
    log = tmp_path / "metrics.jsonl"
    rows = [{"step": k, "loss": 1 / (k + 1), "stage": "predictor", "lr": 1e-3} for k in range(5)]
    rows[3]["val_accuracy"] = 0.5
    rows[4]["loss"] = None
    log.write_text("\n".join(json.dumps(row) for row in rows) + '\n{"step": 5, "lo')
    figure = training_curves(log, tmp_path / "a.svg")
    drawn = {a.get_title(): a.lines[0].get_xydata().tolist() for a in figure.axes if a.lines}
    assert set(drawn) == {"loss", "lr", "val_accuracy"}
    assert drawn["loss"] == [[k, pytest.approx(1 / (k + 1))] for k in range(4)]
    assert drawn["val_accuracy"] == [[3, 0.5]]
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_training_curves_names_a_broken_log(tmp_path):
    log = tmp_path / "metrics.jsonl"
    with pytest.raises(FileNotFoundError):
        training_curves(log)
    log.write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="no line"):
        training_curves(log)
    log.write_text('{"step": 1, "loss": 2}\nbroken\n{"step": 2, "loss": 1}\n')
    with pytest.raises(ValueError, match="line 2"):
        training_curves(log)
