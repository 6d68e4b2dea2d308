from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from relqa_loss.training.predictor_stage import new_predictor
from relqa_loss.training.recipe import PredictorConfig, ScorerConfig
from relqa_loss.training.recipe_toml import bundled_recipes, load_parts, load_recipe

MINIMAL = 'name = "mine"\nseed = 3\n'


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL + "[data]\n[predictor]\nsteps = 7\nwidths = [4, 6, 8, 10]\n[scorer]\n")
    return path


@pytest.mark.parametrize("name", bundled_recipes())
def test_bundled_recipes_load_under_their_own_name(name: str) -> None:
    for _, recipe in load_parts(name):
        assert recipe.name == name
        assert recipe.predictor.steps > recipe.predictor.warmup
        assert recipe.scorer.steps > recipe.scorer.warmup


def test_the_recipe_of_the_shipped_weights_is_bundled() -> None:
    assert "cpu-small" in bundled_recipes()


def test_a_file_is_read_and_missing_values_are_defaults(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    assert (recipe.name, recipe.seed) == ("mine", 3)
    assert recipe.predictor == PredictorConfig(steps=7, widths=(4, 6, 8, 10))
    assert recipe.scorer == ScorerConfig()


def test_sections_may_be_missing_but_name_and_seed_may_not(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(MINIMAL)
    assert load_recipe(path).predictor == PredictorConfig()
    path.write_text('name = "mine"\n')
    with pytest.raises(ValueError, match="lacks the key 'seed'"):
        load_recipe(path)


def test_overrides_take_toml_values_and_plain_words(recipe_file: Path) -> None:
    overrides = {
        "predictor.steps": "20",
        "predictor.learning_rate": "1e-3",
        "scorer.precision": "float32",
        "predictor.pair_widths": "[1, 2, 3, 4]",
        "scorer.kinds": "{ladder = 1}",
        "seed": "9",
    }
    recipe = load_recipe(recipe_file, overrides)
    assert recipe.predictor.steps == 20
    assert recipe.predictor.learning_rate == 1e-3
    assert recipe.scorer.precision == "float32"
    assert recipe.predictor.pair_widths == (1, 2, 3, 4)
    assert recipe.scorer.kinds == {"ladder": 1.0}
    assert recipe.seed == 9


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("predictor.stepps", "5", "did you mean 'steps'"),
        ("predictr.steps", "5", "did you mean 'predictor'"),
        ("predictor.steps", "many", "recipe.predictor.steps must be of type int, got 'many'"),
        ("predictor.steps", "2.5", "recipe.predictor.steps must be of type int"),
        ("predictor.steps", "true", "recipe.predictor.steps must be of type int"),
        ("predictor.learning_rate", "true", "recipe.predictor.learning_rate must be of type float"),
        ("predictor.widths", "16", "recipe.predictor.widths must be of type tuple"),
        ("predictor", "5", "recipe.predictor must be a section"),
        ("seed.steps", "5", "'seed', which is not a section"),
        ("predictor.precision", "float23", "did you mean 'float32'"),
        ("scorer.steps", "0", "steps must be >= 1, got 0"),
        ("scorer.crop", "100", "crop must be a multiple of 16"),
        ("seed", "-1", r"seed must be in \[0, 2\^63\), got -1"),
        ("predictor.weight_decay", "nan", "weight_decay must be >= 0 and finite, got nan"),
        ("predictor.checkpoint_seconds", "-1", "checkpoint_seconds must be >= 0, got -1"),
        ("predictor.both_distorted", "1.5", r"both_distorted must be in \[0, 1\], got 1.5"),
        ("predictor.two_operators", "nan", r"two_operators must be in \[0, 1\], got nan"),
        ("predictor.trained", "head", r"unknown trained .head. \(known: all, decoder, competition\)"),
        ("data.odds", "{jpg = 2}", "operator in odds.*did you mean 'jpeg'"),
        ("data.odds", "{jpeg = inf}", r"odds\['jpeg'\] must be a whole number in 1 .. 1000, got inf"),
        ("data.odds", "2", "recipe.data.odds must be of type dict"),
        ("data.whole", '["jpg"]', "operator in whole.*did you mean 'jpeg'"),
        ("predictor.passes", "0", "passes must be >= 1, got 0"),
        ("predictor.order_weight", "-0.1", "order_weight must be >= 0 and finite, got -0.1"),
        ("predictor.presence_weight", "-1", "presence_weight must be >= 0 and finite, got -1"),
        ("scorer.trained", "judgment", "did you mean 'judgement'"),
        ("predictor.type_weight", "-0.1", "type_weight must be >= 0 and finite, got -0.1"),
        ("predictor.height_weight", "-1", "height_weight must be >= 0"),
        ("predictor.hint_weight", "inf", "hint_weight must be >= 0 and finite, got inf"),
        ("predictor.kinds_first", "-1", "kinds_first must be >= 0, got -1"),
        ("predictor.widths", "[4, 6, 8]", r"widths must be 4 numbers >= 1, got \[4, 6, 8\]"),
        ("predictor.widths", "[4, 6, true, 8]", "recipe.predictor.widths must be of type tuple"),
        ("predictor.pair_widths", "[4, 4, 4, 0]", "pair_widths must be 4 numbers >= 1"),
        ("predictor.texture_widths", "[4, 4, 4, 4]", "texture_widths must be 3 numbers >= 1"),
        ("predictor.map_width", "0", "map_width must be >= 1, got 0"),
        ("scorer.tier", "1", r"tier must be in 2\.\.10, got 1"),
        ("scorer.tier", "11", r"tier must be in 2\.\.10, got 11"),
        ("scorer.channels", "0", "channels must be >= 1, got 0"),
        ("scorer.floor_weight", "0", "floor_weight must be finite and > 0, got 0"),
        ("scorer.temperature", "0", "temperature must be finite and > 0, got 0"),
        ("scorer.panel_weight", "-1", "panel_weight must be >= 0"),
        ("scorer.scale_weight", "-1", "scale_weight must be >= 0"),
        ("scorer.axis_weight", "-1", "axis_weight must be >= 0"),
        ("scorer.judge_weight", "-1", "judge_weight must be >= 0"),
        ("scorer.descent_weight", "-1", "descent_weight must be >= 0"),
        ("scorer.kinds", "{ladder = [1]}", r"recipe.scorer.kinds must be of type dict\[str, float\], got"),
        ("scorer.kinds", "{ladder = true}", r"recipe.scorer.kinds must be of type dict\[str, float\], got"),
        ("scorer.kinds", "{lader = 1}", "kinds has no 'lader'"),
        ("scorer.kinds", "{ladder = -1}", r"kinds\['ladder'\] must be a probability >= 0"),
        ("scorer.kinds", "{ladder = 0}", "kinds must hold at least one probability > 0"),
    ],
)
def test_bad_values_are_one_clear_error(recipe_file: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe_file, {key: value})


def test_the_ends_of_the_ranges_are_inside(recipe_file: Path) -> None:
    smallest = {
        "predictor.widths": "[1, 1, 1, 1]",
        "predictor.pair_widths": "[1, 1, 1, 1]",
        "predictor.texture_widths": "[1, 1, 1]",
        "predictor.map_width": "1",
        "predictor.type_weight": "0",
        "predictor.two_operators": "0",
        "predictor.both_distorted": "1",
        "predictor.checkpoint_seconds": "inf",
        "scorer.tier": "2",
        "scorer.panel_weight": "0",
    }
    recipe = load_recipe(recipe_file, smallest)
    assert recipe.predictor.both_distorted == 1
    assert new_predictor(recipe.predictor)(*torch.zeros(2, 1, 3, 16, 16)).shape[0] == 1
    assert load_recipe(recipe_file, {"scorer.tier": "10"}).scorer.tier == 10


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("name = \n")
    with pytest.raises(ValueError, match=r"broken\.toml is not valid TOML"):
        load_recipe(path)


def test_unknown_recipe_offers_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'cpu-small'"):
        load_recipe("cpu-smal")


def test_digest_depends_on_values_only(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    commented = tmp_path / "commented.toml"
    commented.write_text("# why\n" + recipe_file.read_text())
    assert load_recipe(commented).digest() == recipe.digest()
    assert load_recipe(recipe_file, {"scorer.tier": "6"}).digest() != recipe.digest()
    assert dataclasses.replace(recipe, seed=4).digest() != recipe.digest()


def test_as_dict_is_plain_json(recipe_file: Path) -> None:
    values = load_recipe(recipe_file).as_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["predictor"]["widths"] == [4, 6, 8, 10]


def test_recipes_that_say_the_same_have_one_digest(recipe_file: Path) -> None:
    def digests(key: str, *texts: str) -> set[str]:
        return {load_recipe(recipe_file, {key: text}).digest("pairs") for text in texts}

    plain = load_recipe(recipe_file).digest("pairs")
    assert digests("data.odds", "{}", "{jpeg = 1}") == digests("data.whole", "[]") == {plain}
    odds = digests("data.odds", "{jpeg = 8, hue = 2}", "{hue = 2.0, jpeg = 8, fade = 1}")
    whole = digests("data.whole", '["hue", "jpeg"]', '["jpeg", "hue", "hue"]')
    assert len(odds) == len(whole) == 1 and len(odds | whole | {plain}) == 3


# --- parts

PARTS = """
name = "mine"
seed = 3
[data]
smallest_scale = 0.5
[predictor]
steps = 7
kinds_first = 2
[scorer]
steps = 9
[[then]]
part = "maps"
[then.data.odds]
jpeg = 4
[then.predictor]
trained = "decoder"
[[then]]
part = "settled"
[then.data]
smallest_scale = 0.9
[then.predictor]
trained = "competition"
kinds_first = 0
passes = 2
"""


@pytest.fixture
def parts_file(tmp_path: Path) -> Path:
    path = tmp_path / "parts.toml"
    path.write_text(PARTS)
    return path


def test_each_part_says_what_differs_from_the_one_before(parts_file: Path) -> None:
    names, recipes = zip(*load_parts(parts_file), strict=True)
    assert names == ("first", "maps", "settled")
    assert [recipe.predictor.trained for recipe in recipes] == ["all", "decoder", "competition"]
    assert [recipe.predictor.kinds_first for recipe in recipes] == [2, 2, 0]
    assert [recipe.data.smallest_scale for recipe in recipes] == [0.5, 0.5, 0.9]
    assert [recipe.data.odds for recipe in recipes] == [{}, {"jpeg": 4.0}, {"jpeg": 4.0}]
    assert {(recipe.name, recipe.predictor.steps, recipe.scorer.steps) for recipe in recipes} == {("mine", 7, 9)}


def test_a_table_of_a_part_replaces_the_one_before(parts_file: Path) -> None:
    parts_file.write_text(PARTS.replace("smallest_scale = 0.9", "odds = { webp = 2 }"))
    assert [part.recipe.data.odds for part in load_parts(parts_file)] == [{}, {"jpeg": 4.0}, {"webp": 2.0}]


def test_no_part_has_the_seed_of_another(parts_file: Path) -> None:
    assert [part.recipe.seed for part in load_parts(parts_file)] == [3, 4, 5]
    assert [part.recipe.seed for part in load_parts(parts_file, {"seed": "20"})] == [20, 21, 22]


def test_an_override_holds_for_all_parts_or_for_the_one_it_names(parts_file: Path) -> None:
    overrides = {"maps.predictor.steps": "30", "predictor.steps": "20", "settled.data.odds.webp": "2"}
    parts = load_parts(parts_file, overrides)
    assert [part.recipe.predictor.steps for part in parts] == [20, 30, 20]
    assert [part.recipe.data.odds for part in parts] == [{}, {"jpeg": 4.0}, {"jpeg": 4.0, "webp": 2.0}]


def test_a_part_alone_is_a_recipe_and_several_are_none(recipe_file: Path, parts_file: Path) -> None:
    ((name, recipe),) = load_parts(recipe_file)
    assert (name, recipe) == ("first", load_recipe(recipe_file))
    with pytest.raises(ValueError, match=r"recipe must be of one part, got .* of 3 \(first, maps, settled\)"):
        load_recipe(parts_file)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("maps.predictor.stepps", "5", r"part 'maps': unknown key in recipe\.predictor.*did you mean 'steps'"),
        ("predictor.steps", "many", r"part 'first': recipe\.predictor\.steps must be of type int, got 'many'"),
        ("maps.seed", "5", "of one part, data or predictor can be overridden, got 'maps.seed'"),
        ("maps.scorer.steps", "5", "of one part, data or predictor can be overridden, got 'maps.scorer.steps'"),
        ("maps", "5", "of one part, data or predictor can be overridden, got 'maps'"),
        ("map.predictor.steps", "5", "part 'first': unknown key in recipe 'map'"),
        ("predictor.kinds_first", "3", "part 'settled': kinds_first must be 0 where trained is 'competition', got 3"),
        ("settled.predictor.map_width", "5", "part 'settled': map_width must be that of part 'first', 48, got 5"),
    ],
)
def test_a_bad_override_of_a_part_is_one_clear_error(parts_file: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_parts(parts_file, {key: value})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('part = "maps"', "", "recipe.then.part must be lower-case.*got None"),
        ('part = "maps"', 'part = "../maps"', "recipe.then.part must be lower-case.*got '../maps'"),
        ('part = "settled"', 'part = "maps"', "not one of data, first, maps, .*got 'maps'"),
        ('part = "maps"', 'part = "scorer"', "got 'scorer'"),
        ('part = "maps"', 'part = "pairs"', "got 'pairs'"),
        ('part = "maps"', 'part = "maps"\nseed = 8', "unknown key in recipe.then 'seed'"),
        ('part = "maps"\n[then.data.odds]\njpeg = 4', 'part = "maps"\ndata = 3', "recipe.then.data must be a section"),
    ],
)
def test_a_bad_part_is_one_clear_error(parts_file: Path, old: str, new: str, message: str) -> None:
    assert PARTS.count(old) == 1
    parts_file.write_text(PARTS.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_parts(parts_file)


def test_parts_are_a_list_of_sections(parts_file: Path) -> None:
    parts_file.write_text(MINIMAL + "then = 3\n")
    with pytest.raises(ValueError, match=r"recipe\.then must be sections \[\[then\]\], got 3"):
        load_parts(parts_file)
