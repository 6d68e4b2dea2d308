import base64
import itertools
import json
import re
import sys
from xml.etree import ElementTree

import pytest
import torch

from relqa_loss.images import read_image
from relqa_loss.relation import AXES, Relation
from relqa_loss.words import AXIS_WORDS, in_words, strongest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex
from matplotlib.text import Text

from relqa_loss.figures import GREY, NARROW, ORANGE, PURPLE, WIDE, comparison_panel, figure_path, relation_figure
from relqa_loss.figures_methods import methods_figure
from relqa_loss.figures_training import training_curves


def made_relation(shape, **axes):
    """A relation whose maps are given by axis: (H, W) tensors or numbers; a part is the mean magnitude of its map."""
    maps = torch.zeros(1, len(AXES), *shape)
    for name, values in axes.items():
        maps[0, AXES.index(name)] = values
    parts = maps.abs().mean(dim=(2, 3))
    floor = torch.full((1,), 0.01)
    return Relation(parts.sum(1) + floor, parts, floor, lambda: maps, lambda: torch.zeros(1))


def test_a_figure_that_cannot_be_written_leaves_the_one_before(tmp_path, photo, monkeypatch):
    from matplotlib.figure import Figure

    def fail(self, target, **options):
        target.write(b"half")
        raise OSError("disk full")

    (tmp_path / "a.png").write_bytes(b"before")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        relation_figure(photo, photo, made_relation((40, 56), blur=0.5), tmp_path / "a.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"before")]


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


@pytest.mark.parametrize(("maps", "rows"), [(1, [3]), (2, [2, 2]), (3, [3, 2]), (4, [3, 3])])
def test_no_panel_stands_alone_in_its_row(photo, maps, rows):
    axes = dict(zip(("blur", "noise", "ringing", "banding"), (0.5, 0.4, 0.3, 0.2), strict=True))
    figure = relation_figure(photo, photo.flip(2), made_relation((40, 56), **axes), count=maps)
    tops = [round(panel.get_position(original=True).y1, 6) for panel in figure.axes if panel.images]
    assert [tops.count(top) for top in dict.fromkeys(tops)] == rows


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


def texts_of(svg):
    """What an SVG says in text that stays text."""
    root = ElementTree.parse(svg).getroot()
    return {"".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")}


@pytest.fixture
def related(photo):
    """A relation that knows its images, of a batch of two: the second pair is brighter and less blurred."""
    a = torch.stack([photo, photo * 0.5])
    b = torch.stack([photo.flip(2), photo])
    scale = torch.ones((), requires_grad=True)
    maps = torch.zeros(2, len(AXES), 40, 56)
    maps[0, AXES.index("noise")] = 0.4
    maps[1, AXES.index("brightness"), :20] = 0.8
    maps[1, AXES.index("blur"), 20:] = -0.5
    maps = maps * scale
    parts = maps.abs().mean(dim=(2, 3))
    return Relation(
        parts.sum(1), parts, torch.zeros(2), lambda: maps, lambda: torch.zeros(2), images=lambda: (a, b)
    ), scale


def test_vector_figures_keep_axes_and_legends_as_text(photo, tmp_path):
    relation = made_relation((40, 56), blur=0.5, chroma_noise=-0.3)
    relation_figure(photo, photo, relation, tmp_path / "a.svg", title="a title")
    texts = texts_of(tmp_path / "a.svg")
    assert {"blur", "chroma_noise", "a title", "reference", "image", "distance split by axis", "(floor)"} <= texts
    assert any("sharper" in text and "blurrier" in text for text in texts)
    relation_figure(photo, photo, relation, tmp_path / "b.svg", title="a title")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    relation_figure(photo, photo, relation, tmp_path / "a.pdf")
    # Type 3 fonts hold outlines that many journals refuse.
    assert b"/Type3" not in (tmp_path / "a.pdf").read_bytes()


def test_bars_are_orange_for_more_purple_for_less_and_grey_for_both(photo):
    both = torch.full((40, 56), 0.3)
    both[:20] = -0.3
    figure = relation_figure(photo, photo, made_relation((40, 56), blur=0.5, noise=-0.4, contrast=both))
    bars = next(axes for axes in figure.axes if axes.get_title() == "distance split by axis")
    colours = {
        label.get_text(): to_hex(bar.get_facecolor())
        for label, bar in zip(bars.get_yticklabels(), bars.patches, strict=True)
    }
    assert (colours["blur"], colours["noise"], colours["contrast"]) == (ORANGE, PURPLE, GREY)


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_text_on_paper_is_large_enough_and_stays_inside_and_apart(photo, width):
    maps = dict.fromkeys(("chroma_noise", "impulse", "aliasing", "fringing"), 0.5)
    figure = relation_figure(photo, photo, made_relation((40, 56), **maps), width=width)
    assert figure.get_size_inches()[0] == pytest.approx(width)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in texts) >= 7
    boxes = {text.get_text(): text.get_window_extent(renderer) for text in texts}
    drawn = figure.get_tightbbox(renderer)
    assert drawn.x0 >= 0 and drawn.x1 <= width and drawn.y0 >= 0 and drawn.y1 <= figure.get_size_inches()[1]
    legends = [box for text, box in boxes.items() if "◂" in text]
    assert len(legends) == 4
    assert not any(one.overlaps(other) for one, other in itertools.combinations(legends, 2))


def test_figures_leave_the_global_settings_alone(photo, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    relation_figure(photo, photo, made_relation((40, 56), blur=0.5), tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_relation_draws_the_pair_asked_for_and_keeps_its_gradient(related, tmp_path):
    relation, scale = related
    figure = relation.plot(tmp_path / "a.svg", item=1, names=("mine", "theirs"))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["theirs", "mine", "brightness", "blur", "distance split by axis"]
    assert {"brightness", "blur", "mine"} <= texts_of(tmp_path / "a.svg")
    bright, blur = (next(a for a in figure.axes if a.get_title() == name) for name in ("brightness", "blur"))
    assert colour_of(bright)[0] > colour_of(bright)[2] and colour_of(blur)[2] > colour_of(blur)[0]
    relation.maps.sum().backward()
    assert scale.grad is not None and scale.grad != 0
    with pytest.raises(ValueError, match="item must be one of the 2 pairs, got 2"):
        relation.plot(item=2)
    with pytest.raises(ValueError, match="without its images"):
        made_relation((40, 56), blur=0.5).plot()


def test_a_notebook_shows_every_pair_in_words_and_the_first_as_a_figure(related, monkeypatch):
    relation, _ = related
    shown = relation._repr_html_()
    assert shown.count("<tr>") == 3 and "grainier" in shown and "brighter" in shown and "sharper" in shown
    picture = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", shown).group(1))
    assert picture.startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "<img" not in relation._repr_html_() and "grainier" in relation._repr_html_()
    assert "<img" not in made_relation((40, 56), blur=0.5)._repr_html_()


def test_what_a_loss_relates_can_be_drawn_in_any_mode(loss_fn, photo):
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            relation = loss_fn.relate(
                photo[None].clone().requires_grad_(mode is torch.enable_grad), photo.flip(2)[None]
            )
            figure = relation.plot()
        shown = [axes.images[0].get_array() for axes in figure.axes[:2]]
        assert abs(shown[0] - photo.flip(2).permute(1, 2, 0).numpy()).max() < 1e-6
        assert abs(shown[1] - photo.permute(1, 2, 0).numpy()).max() < 1e-6
    tiled = loss_fn.relate(photo[None], photo.flip(2)[None], tile=32).plot()
    assert [axes.get_title() for axes in tiled.axes][:2] == ["b", "a"]


def test_methods_stand_side_by_side_with_one_scale(photo, tmp_path):
    outputs = {
        "first": (photo, made_relation((40, 56), blur=0.5, noise=0.1)),
        "second": (photo, made_relation((40, 56), blur=-0.25)),
    }
    figure = methods_figure(photo, outputs, tmp_path / "a.svg", title="two methods")
    texts = texts_of(tmp_path / "a.svg")
    assert {"reference", "blur", "noise", "first", "second", "two methods", "part of the distance"} <= texts
    panels = [axes for axes in figure.axes if axes.get_title() == "blur"]
    assert len(panels) == 2 and {axes.images[-1].norm.vmax for axes in panels} == {0.5}
    assert colour_of(panels[0])[0] > colour_of(panels[0])[2] and colour_of(panels[1])[2] > colour_of(panels[1])[0]
    bars = next(axes for axes in figure.axes if axes.get_ylabel())
    heights = [[bar.get_height() for bar in group] for group in bars.containers]
    assert heights[0][:2] == [pytest.approx(0.5), pytest.approx(0.1)] and heights[1][0] == pytest.approx(0.25)
    assert bars.containers[0][0].get_hatch() != bars.containers[1][0].get_hatch()
    with pytest.raises(ValueError, match="did you mean 'noise'"):
        methods_figure(photo, outputs, axis="noises")
    with pytest.raises(ValueError, match="1 to 5 pictures, got 0"):
        methods_figure(photo, {})
    with pytest.raises(ValueError, match="second must have the size of ref"):
        methods_figure(photo, outputs | {"second": (photo[:, :20], outputs["second"][1])})


def write_log(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_was_validated_is_dashed_in_the_same_panel_and_runs_share_panels(tmp_path):
    one = write_log(
        tmp_path / "one.jsonl",
        [{"step": k, "seconds": k, "loss": 100.0 / (k + 1) ** 3, "validation_loss": 2.0} for k in range(6)],
    )
    two = write_log(tmp_path / "two.jsonl", [{"step": k, "loss": 3.0, "rank": 0.1 * k} for k in range(40)])
    figure = training_curves({"mine": one, "theirs": two}, tmp_path / "a.svg")
    assert {"loss", "rank", "mine", "theirs", "mine, validation", "step"} <= texts_of(tmp_path / "a.svg")
    loss, rank = (next(a for a in figure.axes if a.get_title() == name) for name in ("loss", "rank"))
    styles = {line.get_label(): (line.get_linestyle(), line.get_color()) for line in loss.lines}
    assert styles["mine"][0] == "-" and styles["mine, validation"][0] == "--"
    assert styles["mine"][1] == styles["mine, validation"][1] != styles["theirs"][1]
    assert loss.get_yscale() == "log" and rank.get_yscale() == "linear"
    assert [a.get_title() for a in training_curves(one, names=["loss"]).axes] == ["loss"]
    with pytest.raises(ValueError, match="unknown number 'los'; did you mean 'loss'"):
        training_curves(one, names=["los"])
    with pytest.raises(ValueError, match="1 to 6 logs, got 0"):
        training_curves({})
