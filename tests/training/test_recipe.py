from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from relqa_loss.training.recipe import PredictorConfig, ScorerConfig, bundled_recipes, load_recipe

MINIMAL = 'name = "mine"\nseed = 3\n'


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL + "[data]\n[predictor]\nsteps = 7\nwidths = [4, 6, 8, 10]\n[scorer]\n")
    return path


@pytest.mark.parametrize("name", bundled_recipes())
def test_bundled_recipes_load_under_their_own_name(name: str) -> None:
    recipe = load_recipe(name)
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
    ],
)
def test_bad_values_are_one_clear_error(recipe_file: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe_file, {key: value})


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
