import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from relqa_loss import markdown
from relqa_loss.cli import main
from relqa_loss.distortions import (
    BANK,
    REGIONS,
    Component,
    DistortionEngine,
    availability,
    by_name,
    catalogue,
    distort,
    draw_region,
    recipe_file,
)
from relqa_loss.distortions.coverage import DATABASES
from relqa_loss.images import read_image, write_image
from relqa_loss.relation import AXES

pytest.importorskip("PIL")

DOCUMENT = Path(__file__).parents[1] / "docs" / "bank.md"


@pytest.fixture
def files(tmp_path, make_photos):
    """a.png and b.png, two photographs of 64x80."""
    for name, photo in zip("ab", make_photos(2, 64, 80), strict=True):
        write_image(tmp_path / f"{name}.png", photo)
    return tmp_path


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failed(result, *parts):
    code, out, err = result
    assert code in (1, 2) and out == "" and len(err.splitlines()) == 1
    assert err.startswith("relqa distort: error: ") and all(part in err for part in parts), err
    return True


@pytest.mark.parametrize("name", ["film_grain", "jpeg", "elastic_warp"])
def test_a_recipe_brings_every_file_back_bit_for_bit(capsys, files, name):
    pytest.importorskip("matplotlib")
    arguments = ["--name", name, "--severity", 0.6, "--region", "soft", "--seed", 5]
    code, out, err = run(capsys, "distort", files / "a.png", *arguments, "--out", files / "one")
    stem = f"a-{name}-0.6-soft-seed-5"
    assert code == 0 and Path(out.strip()) == files / "one" / f"{stem}.png" and err.count("written: ") == 3
    made = contents(files / "one")
    assert set(made) == {f"{stem}{end}" for end in (".png", "-map.png", "-maps.safetensors", "-recipe.json")}
    code, _, err = run(
        capsys, "distort", files / "a.png", "--recipe", files / "one" / f"{stem}-recipe.json", "--out", files / "two"
    )
    assert code == 0 and "may differ" not in err and contents(files / "two") == made
    run(capsys, "distort", files / "a.png", *arguments[:-1], 6, "--out", files / "one")
    both = contents(files / "one")
    assert both.items() > made.items() and both[f"a-{name}-0.6-soft-seed-6.png"] != made[f"{stem}.png"]


def test_image_and_maps_are_those_of_the_engine(capsys, files):
    component = Component("shot_noise", 0.7, "shape", 3)
    arguments = ["--name", "shot_noise", "--severity", 0.7, "--region", "shape", "--seed", 3, "--out", files / "out"]
    assert run(capsys, "distort", files / "a.png", *arguments)[0] == 0
    image = read_image(files / "a.png")
    triplet = DistortionEngine(["shot_noise"]).render(image[None], [(component,)])
    written = read_image(files / "out" / "a-shot_noise-0.7-shape-seed-3.png")
    assert torch.equal(written, (triplet.distorted[0] * 255).round() / 255)
    maps = load_file(files / "out" / "a-shot_noise-0.7-shape-seed-3-maps.safetensors")
    assert torch.equal(maps.pop("weight"), triplet.weight[0])
    assert set(maps) == set(by_name("shot_noise").effects)
    for k, axis in enumerate(AXES):
        assert torch.equal(maps.get(axis, torch.zeros(64, 80)), triplet.maps[0, k])


@pytest.mark.parametrize("name", ["luma_noise", "jpeg", "motion_blur", "elastic_warp", "missing_blocks"])
def test_distort_and_render_agree(name, make_photos):
    images = make_photos(1, 48, 64)
    engine = DistortionEngine([name])
    whole = engine.render(images, [(Component(name, 1.0, "whole", 9),)]).distorted
    assert torch.equal(whole, distort(images, name, 1.0, generator=torch.Generator().manual_seed(9)))
    # With the darkening in the same region: its map is the region times the severity.
    mask = (
        -DistortionEngine(["darken"])
        .render(images, [(Component("darken", 1.0, "soft", 9),)])
        .maps[:, AXES.index("brightness")]
    )
    soft = engine.render(images, [(Component(name, 1.0, "soft", 9),)]).distorted
    inside = distort(images, name, 1.0, region=mask, generator=torch.Generator().manual_seed(9))
    assert not torch.equal(soft, images) and torch.equal(soft, inside)
    assert mask.unique().numel() > 2 and draw_region("soft", images, torch.Generator()).shape == (1, 1, 48, 64)


def test_a_file_gets_the_picture_alone(capsys, files):
    code, out, err = run(capsys, "distort", files / "a.png", "--name", "darken", "--out", files / "deep" / "x.webp")
    assert code == 0 and out == f"{files / 'deep' / 'x.webp'}\n" and err == ""
    assert list(contents(files / "deep")) == ["x.webp"]
    wanted = distort(read_image(files / "a.png")[None], "darken", 0.5)[0]
    assert torch.equal(read_image(files / "deep" / "x.webp"), (wanted * 255).round() / 255)


def test_a_recipe_by_hand_may_hold_several_components(capsys, files):
    components = [{"name": "gaussian_blur", "severity": 0.5, "region": "shape"}, {"name": "tint_red", "severity": 1}]
    (files / "mine.json").write_text(json.dumps({"components": components}))
    code, out, _ = run(capsys, "distort", files / "a.png", "--recipe", files / "mine.json", "--out", files / "out")
    stem = "a-gaussian_blur-0.5-shape-tint_red-1"
    assert code == 0 and Path(out.strip()).name == f"{stem}.png"
    maps = load_file(files / "out" / f"{stem}-maps.safetensors")
    assert torch.equal(maps["tint_red"], torch.ones(64, 80)) and 0 < float((maps["blur"] > 0).float().mean()) < 1
    record = json.loads((files / "out" / f"{stem}-recipe.json").read_text())
    assert [one["parameter"] for one in record["components"]] == [
        pytest.approx(float(by_name(one["name"]).parameter(torch.tensor([float(one["severity"])]))[0]), rel=1e-5)
        for one in components
    ]
    assert record["photo"] == {"name": "a.png", "sha256": recipe_file.file_sha256(files / "a.png")}


@pytest.fixture
def recipe(capsys, files):
    """Recipe of a darker a.png."""
    run(capsys, "distort", files / "a.png", "--name", "darken", "--out", files / "made")
    return files / "made" / "a-darken-0.5-recipe.json"


def test_another_photograph_is_an_error_unless_it_is_wanted(capsys, files, recipe):
    arguments = ["distort", files / "b.png", "--recipe", recipe, "--out", files / "out"]
    assert failed(run(capsys, *arguments), "another photograph", "a.png", "b.png", "--other-photo")
    assert not (files / "out").exists()
    code, out, _ = run(capsys, *arguments, "--other-photo")
    assert code == 0 and Path(out.strip()) == files / "out" / "b-darken-0.5.png"


def test_another_severity_table_is_an_error(capsys, files, recipe):
    record = json.loads(recipe.read_text())
    record["severity_sha256"] = "0" * 64
    recipe.write_text(json.dumps(record))
    for extra in ([], ["--other-photo"]):
        result = run(capsys, "distort", files / "a.png", "--recipe", recipe, "--out", files / "out", *extra)
        assert failed(result, "another severity table", "0" * 12)


def test_another_range_of_the_operator_is_an_error(capsys, files, recipe):
    record = json.loads(recipe.read_text())
    record["components"][0]["parameter"] *= 1.01
    recipe.write_text(json.dumps(record))
    result = run(capsys, "distort", files / "a.png", "--recipe", recipe, "--out", files / "out")
    assert failed(result, "another range of 'darken'", "severity 0.5")


def test_other_versions_are_a_remark(capsys, files, recipe):
    record = json.loads(recipe.read_text())
    record["versions"]["torch"] = "1.0"
    recipe.write_text(json.dumps(record))
    code, _, err = run(capsys, "distort", files / "a.png", "--recipe", recipe, "--out", files / "x.png")
    assert code == 0 and err.splitlines() == [
        f"made with torch 1.0, this is torch {torch.__version__}: the bytes may differ"
    ]


@pytest.mark.parametrize(
    "text, parts",
    [
        ("{", ["is not JSON"]),
        ("[]", ["a list of components"]),
        ('{"components": []}', ["at least one"]),
        ('{"components": [3]}', ["component 0 must be an object"]),
        ('{"components": [{"name": "jpeg"}]}', ["component 0 has no 'severity'"]),
        ('{"components": [{"name": "jpeg", "severity": "much"}]}', ["severity must be int or float, got 'much'"]),
        ('{"components": [{"name": "jpeg", "severity": NaN}]}', ["severity of 'jpeg' must lie in [0, 1]"]),
        ('{"components": [{"name": "jpeg", "severity": 0.5, "seed": -1}]}', ["seed must lie in [0, 2**53), got -1"]),
        ('{"components": [{"name": "jpeg", "severity": 0.5, "place": 1}]}', ["unknown entries: place"]),
        ('{"components": [{"name": "jpg", "severity": 0.5}]}', ["did you mean 'jpeg'"]),
        ('{"components": [{"name": "jpeg", "severity": 0.5, "region": "sift"}]}', ["did you mean 'soft'"]),
        ('{"components": [{"name": "jpeg", "severity": 0.5}], "photo": "a.png"}', ["photo must be an object"]),
        ('{"components": [{"name": "jpeg", "severity": 0.5}], "format": 7}', ["format 7"]),
    ],
)
def test_a_wrong_recipe_is_one_clear_line(capsys, files, text, parts):
    (files / "bad.json").write_text(text)
    result = run(capsys, "distort", files / "a.png", "--recipe", files / "bad.json", "--out", files / "out")
    assert failed(result, *parts) and not (files / "out").exists()


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--name", "jpeg", "--severity", "1.01", "--out", "out"], ["must lie in [0, 1], got 1.01"]),
        (["--name", "jpeg", "--severity", "-0.1", "--out", "out"], ["must lie in [0, 1], got -0.1"]),
        (["--name", "jpeg", "--region", "sotf", "--out", "out"], ["did you mean 'soft'"]),
        (["--name", "jpeg", "--seed", "-3", "--out", "out"], ["seed must lie in [0, 2**53), got -3"]),
        (["--name", "gausian_blur", "--out", "out"], ["did you mean 'gaussian_blur'"]),
        (["--name", "jpeg"], ["needs --out"]),
        ([], ["needs --name, --out (or --grid FILE, or --list)"]),
        (["--recipe", "no.json", "--out", "out"], ["no such recipe: no.json"]),
        (["--recipe", "no.json", "--name", "jpeg", "--out", "out"], ["--recipe and --name do not go together"]),
        (["--recipe", "no.json", "--severity", "0.5", "--out", "out"], ["--severity: not with --recipe"]),
        (["--grid", "out/g.png", "--family", "tome"], ["did you mean 'tone'"]),
        (["--grid", "out/g.png", "--names", "jpeg,gausian_blur"], ["did you mean 'gaussian_blur'"]),
        (["--grid", "out/g.png", "--severities", "0.5,2"], ["must lie in [0, 1], got 2.0"]),
        (["--grid", "out/g.png", "--side", "65"], ["side must be 16 to 64"]),
        (["--grid", "out/g.nothing"], ["g.nothing", "the ending must be one of"]),
        (["--list", "--out", "x.md"], ["only together with --markdown"]),
    ],
)
def test_errors_are_one_line_and_leave_no_file(capsys, files, monkeypatch, arguments, parts):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(files)
    assert failed(run(capsys, "distort", "a.png", *arguments), *parts)
    assert [path for path in files.rglob("*") if path.is_file()] == [files / "a.png", files / "b.png"]


@pytest.mark.parametrize("option", ["--names", "--family", "--severities"])
def test_an_empty_list_is_wrong_usage(capsys, files, option):
    with pytest.raises(SystemExit) as end:
        main(["distort", str(files / "a.png"), "--grid", str(files / "g.png"), option, ","])
    assert end.value.code == 2
    assert f"argument {option}: must hold at least one value, got ','" in capsys.readouterr().err


def test_a_missing_codec_is_named(capsys, files, monkeypatch):
    monkeypatch.setattr(availability, "has_codec", lambda codec: codec != "WEBP")
    result = run(capsys, "distort", files / "a.png", "--name", "webp", "--out", files / "out")
    assert failed(result, "webp", "WEBP") and not (files / "out").exists()
    result = run(capsys, "distort", files / "a.png", "--grid", files / "g.png", "--names", "jpeg,webp", "--side", 32)
    assert failed(result, "webp", "WEBP") and not (files / "g.png").exists()


def test_a_grid_of_a_family_does_without_a_missing_codec(capsys, files, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(availability, "has_codec", lambda codec: codec != "WEBP")
    arguments = ["--grid", files / "g.png", "--family", "compression", "--side", 32, "--severities", 1]
    code, out, err = run(capsys, "distort", files / "a.png", *arguments)
    assert code == 0 and "webp (WEBP)" in err and (files / "g.png").is_file() and out.endswith("g.png\n")


def test_without_matplotlib_only_the_figure_is_missing(capsys, files, monkeypatch):
    from relqa_loss import figures_distortions
    from relqa_loss.images import MissingExtra

    def absent(width, height):
        raise MissingExtra("matplotlib", "figures")

    (files / "out").mkdir()
    (files / "out" / "a-darken-0.5-map.png").write_bytes(b"of another run")
    monkeypatch.setattr(figures_distortions, "_figure", absent)
    code, _, err = run(capsys, "distort", files / "a.png", "--name", "darken", "--out", files / "out")
    ends = {"a-darken-0.5.png", "a-darken-0.5-maps.safetensors", "a-darken-0.5-recipe.json"}
    assert code == 0 and "relqa_loss[figures]" in err and set(contents(files / "out")) == ends


@pytest.mark.parametrize("ending", [".png", ".pdf"])
def test_the_grid_shows_each_operator_with_its_maps(capsys, files, ending):
    pytest.importorskip("matplotlib")
    names = "gaussian_blur,darken,tint_blue,jpeg,elastic_warp"
    target = files / f"grid{ending}"
    arguments = ["--grid", target, "--names", names, "--severities", "0.5,1", "--side", 40]
    code, out, _ = run(capsys, "distort", files / "a.png", *arguments)
    assert code == 0 and out == f"{target}\n"
    if ending == ".pdf":
        assert target.read_bytes().startswith(b"%PDF")
    else:
        assert read_image(target).shape[2] > 4 * 40


def test_grid_rows_hold_rising_damage_and_the_maps_of_the_region(make_photos):
    pytest.importorskip("matplotlib")
    from relqa_loss.figures_distortions import distortion_grid, grid_photo, grid_rows

    photo = grid_photo(make_photos(1, 64, 96)[0], 48)
    assert photo.shape == (3, 48, 48)
    chosen = [by_name(name) for name in ("luma_noise", "darken", "elastic_warp")]
    rows = grid_rows(photo, chosen, (0.25, 0.5, 1.0), seed=2)
    for row, one in zip(rows, chosen, strict=True):
        error = (row.pictures - photo).square().mean(dim=(1, 2, 3)).tolist()
        assert error[0] < error[1] < error[2] and 0 < error[3] < error[2]
        assert [axis for axis, _ in row.maps] == list(one.right_axes)
        inside = (row.pictures[3] != photo).any(dim=0)
        # Where no map says so, nothing has changed.
        assert not (inside & torch.stack([signed == 0 for _, signed in row.maps]).all(dim=0)).any()
    assert (rows[1].maps[0][1] <= 0).all() and rows[1].maps[0][1].min() == -1
    figure = distortion_grid(make_photos(1, 64, 96)[0], chosen, severities=(0.25, 1.0), side=48, title="a.png")
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"luma_noise", "darken", "elastic_warp", "sensor", "tone", "geometry", "severity 0.25"} <= texts
    assert {"noise +1", "brightness -1", "shift_x", "shift_y"} <= texts


def test_the_grid_breaks_into_columns_in_order():
    pytest.importorskip("matplotlib")
    from relqa_loss.figures_distortions import GridRow, _best_columns, _column_height

    rows = [GridRow(one, (1.0,), torch.zeros(2, 3, 32, 32), ()) for one in BANK]
    columns = _best_columns(rows, 6 * 36, 32)
    assert [row for column in columns for row in column] == rows and len(columns) > 1
    heights = [_column_height(column, 32) for column in columns]
    assert max(heights) < 2 * sum(heights) / len(heights)


def test_the_map_figure_has_a_panel_for_each_axis(make_photos):
    pytest.importorskip("matplotlib")
    from relqa_loss.figures_distortions import recipe_figure

    recipe = (Component("jpeg", 0.6, "soft", 0), Component("darken", 0.3, "whole", 1))
    figure = recipe_figure(DistortionEngine(["jpeg", "darken"]).render(make_photos(1, 48, 64), [recipe]), title="both")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    declared = {**by_name("jpeg").effects, **by_name("darken").effects}
    assert titles[:2] == ["reference", "distorted"] and titles[3:] == [axis for axis in AXES if axis in declared]


def test_list_can_be_narrowed(capsys):
    code, out, _ = run(capsys, "distort", "--list", "--family", "geometry", "--names", "jpeg")
    names = [line.split()[0] for line in out.splitlines()[1:-2]]
    assert code == 0 and names == [one.name for one in BANK if one.family == "geometry" or one.name == "jpeg"]
    assert all(kind in out for kind in REGIONS)


def test_the_documents_tables_are_those_of_the_bank():
    text = DOCUMENT.read_text(encoding="utf-8")
    made = markdown.fill(text, catalogue.tables(), catalogue.COMMAND)
    assert made == text, "run: relqa distort --list --markdown --out docs/bank.md"


def test_tables_are_written_into_their_places(capsys, tmp_path):
    begin, end = markdown.marks("bank", catalogue.COMMAND)
    other = "\n".join(markdown.marks("coverage", catalogue.COMMAND))
    document = tmp_path / "d.md"
    document.write_text(f"before\n{begin}\nold\n{end}\nbetween\n{other}\nafter\n")
    code, out, _ = run(capsys, "distort", "--list", "--markdown", "--out", document)
    text = document.read_text()
    assert code == 0 and out == f"{document}\n" and "\nold\n" not in text and "between" in text
    assert text.startswith("before\n") and text.endswith("after\n")
    assert all(f"| `{one.name}` |" in text for one in BANK) and "### KADID-10k" in text
    document.write_text("no marks")
    assert failed(run(capsys, "distort", "--list", "--markdown", "--out", document), "the document must hold")
    assert document.read_text() == "no marks"


def test_every_operator_has_a_summary():
    lines = {one.name: catalogue.summary(one) for one in BANK}
    assert [name for name, line in lines.items() if not line] == []


def test_cells_hold_no_bars():
    for line in catalogue.bank_markdown().splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 8


def test_the_databases_are_covered_by_operators_that_exist():
    assert {name: len(types) for name, types in DATABASES.items()} == {"TID2013": 24, "KADID-10k": 25}
    for types in DATABASES.values():
        assert [one.number for one in types] == list(range(1, len(types) + 1))
        assert len({one.title for one in types}) == len(types)
        assert all(one.operators or one.note for one in types)
        for name in (name for one in types for name in one.operators):
            assert by_name(name).name == name
