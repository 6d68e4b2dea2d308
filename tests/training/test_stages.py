"""Both stages: their targets, their losses, and short real runs of a tiny recipe."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from relqa_loss import AXES, DistortionEngine, DistortionPredictor, RelationalScorer
from relqa_loss.digests import tensors_digest
from relqa_loss.distortions import Distortion, availability
from relqa_loss.distortions.bank import by_name
from relqa_loss.distortions.filters import fixed_gaussian
from relqa_loss.evaluation.engine_cases import trained_without
from relqa_loss.images import write_image
from relqa_loss.training.data import Photographs, batches, load_photographs, random_crops, row_crops, seeded
from relqa_loss.training.loop import CHECKPOINT, METRICS, Progress, load_average
from relqa_loss.training.pairs import MakePairs, PairBatch
from relqa_loss.training.predictor_stage import (
    engine_of,
    map_loss,
    new_predictor,
    presence_loss,
    train_predictor,
)
from relqa_loss.training.provenance import fingerprint, provenance_of
from relqa_loss.training.recipe import PredictorConfig, Recipe
from relqa_loss.training.recipe_toml import load_recipe
from relqa_loss.training.release import release
from relqa_loss.training.scorer_stage import DESCENT_BLUR, ScorerObjective, _circles, train_scorer
from relqa_loss.training.start import DECODING, ScorerStart, Start, start_from, start_scorer_from
from relqa_loss.training.tier_batches import JUDGED_IMAGES, MakeTiers, TierBatch, panel_members, tier_batch

PhotoMaker = Callable[..., Tensor]
LEVELS = tuple(0.05 * k for k in range(11))


class Interruption(Exception):
    pass


def interrupt_at(step: int) -> Callable[[Progress], None]:
    def tell(progress: Progress) -> None:
        if progress.step == step:
            raise Interruption

    return tell


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Path) -> Recipe:
    return load_recipe(tiny_recipe)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_photos: PhotoMaker) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, photo in enumerate(make_photos(6, 56, 64)):
        write_image(folder / f"{index}.png", photo)
    return folder


@pytest.fixture(scope="module")
def photographs(recipe: Recipe, folder: Path) -> Photographs:
    return load_photographs(folder, recipe.data.validation_share, 48)


@pytest.fixture(scope="module")
def trained(
    recipe: Recipe, photographs: Photographs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DistortionPredictor, Photographs, Path]:
    """A predictor stage that ran without interruption."""
    out = tmp_path_factory.mktemp("predictor")
    return train_predictor(recipe, photographs, out), photographs, out


# --- predictor stage


def one_axis(name: str, value: float, batch: int = 1) -> Tensor:
    maps = torch.zeros(batch, len(AXES), 8, 8)
    maps[:, AXES.index(name)] = value
    return maps


def loss_of(maps: Tensor, target: Tensor, weight: Tensor, unsigned: Tensor | None = None) -> tuple[Tensor, dict]:
    return map_loss(maps, target, weight, torch.zeros_like(weight) if unsigned is None else unsigned, CONFIG)


CONFIG = PredictorConfig(type_weight=0.5, height_weight=0.7, order_weight=0.3)


def test_perfect_maps_cost_next_to_nothing_and_a_wrong_axis_more() -> None:
    target, weight = one_axis("blur", 0.8), torch.ones(1, 1, 8, 8)
    perfect, terms = loss_of(target, target, weight)
    assert terms["dense"] == 0
    assert terms["heights"] == 0
    assert terms["types"] < 0.05
    wrong_axis, _ = loss_of(one_axis("noise", 0.8), target, weight)
    wrong_sign, _ = loss_of(-target, target, weight)
    nothing, _ = loss_of(0 * target, target, weight)
    assert perfect < min(wrong_axis, wrong_sign, nothing)
    assert nothing < wrong_axis


def test_total_is_the_weighted_sum_of_the_terms() -> None:
    total, terms = loss_of(one_axis("noise", 0.3), one_axis("blur", 0.8), torch.ones(1, 1, 8, 8))
    wanted = terms["dense"] + 0.7 * terms["heights"] + 0.5 * terms["types"] + 0.3 * terms["order"]
    torch.testing.assert_close(total, wanted)


def test_order_costs_where_axes_that_are_not_there_outrank_one_that_is() -> None:
    target, weight = one_axis("noise", 0.8) + one_axis("blur", 0.1), torch.ones(1, 1, 8, 8)
    doubtful = one_axis("contrast", 0.04) + one_axis("ringing", 0.04)
    above, below = (
        loss_of(one_axis("noise", 0.8) + one_axis("blur", blur) + doubtful, target, weight)[1] for blur in (0.02, 0.08)
    )
    assert above["order"] > below["order"] + 0.05


def test_order_of_a_picture_with_nothing_in_it_costs_nothing() -> None:
    nothing, weight = torch.zeros(1, len(AXES), 8, 8), torch.ones(1, 1, 8, 8)
    assert loss_of(one_axis("blur", 0.5), nothing, weight)[1]["order"] == 0


def test_an_error_that_pixels_share_costs_more_than_one_that_cancels() -> None:
    target, weight = one_axis("blur", 0.5), torch.ones(1, 1, 8, 8)
    alternating = torch.where(torch.arange(8) % 2 == 0, 0.1, -0.1)
    cancelling, _ = loss_of(one_axis("blur", 0.5) + one_axis("blur", 1.0) * alternating, target, weight)
    shared, _ = loss_of(one_axis("blur", 0.6), target, weight)
    assert cancelling < shared


def test_a_map_that_is_far_on_the_wrong_side_is_still_drawn_back_by_its_share() -> None:
    target, weight = one_axis("shift_x", 1.0), torch.ones(1, 1, 8, 8)
    maps = one_axis("shift_x", -50.0).requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(maps, target, weight)[1]["types"], maps)
    expected = -1 / 50 / 64  # -log of 1 / |x|, spread over the pixels
    torch.testing.assert_close(slope[:, AXES.index("shift_x")], torch.full((1, 8, 8), expected), rtol=0.01, atol=0)


def test_at_first_a_kind_is_named_whatever_its_sign_which_other_terms_teach() -> None:
    target, weight = one_axis("blur", 0.8), torch.ones(1, 1, 8, 8)
    unsigned = torch.zeros_like(weight)
    right, wrong = (map_loss(maps, target, weight, unsigned, CONFIG, kinds_first=True)[1] for maps in (target, -target))
    assert torch.equal(right["types"], wrong["types"])
    assert right["dense"] < wrong["dense"] and right["heights"] < wrong["heights"]


def test_the_steps_of_kinds_first_end(recipe: Recipe, photographs: Photographs) -> None:
    early = dataclasses.replace(recipe, predictor=dataclasses.replace(recipe.predictor, kinds_first=2))
    make = MakePairs(photographs.training, early, DistortionEngine(), range(1))
    assert [bool(make(step).kinds_first) for step in (0, 1, 2, 3)] == [True, True, False, False]


@pytest.mark.parametrize("size", [0.05, 0.4, 0.8])
def test_descending_from_the_wrong_sign_leads_to_the_right_one(size: float) -> None:
    target, weight = one_axis("shift_y", 0.8), torch.ones(1, 1, 8, 8)
    maps = one_axis("shift_y", -size).requires_grad_()
    loss, _ = loss_of(maps, target, weight)
    (slope,) = torch.autograd.grad(loss, maps)
    assert (slope[:, AXES.index("shift_y")] < 0).all()
    assert all(
        term > right
        for term, right in zip(
            loss_of(-target, target, weight)[1].values(), loss_of(target, target, weight)[1].values(), strict=True
        )
    )


def test_where_only_magnitudes_are_known_either_sign_is_right() -> None:
    target, everywhere = one_axis("occlusion", 0.8), torch.ones(1, 1, 8, 8)
    right, terms = loss_of(target, target, 0 * everywhere, everywhere)
    other, _ = loss_of(-target, target, 0 * everywhere, everywhere)
    assert terms["dense"] == 0
    assert torch.equal(right, other)
    assert loss_of(one_axis("blur", 0.8), target, 0 * everywhere, everywhere)[0] > right


def test_places_without_weight_and_pairs_without_visible_change_count_nothing() -> None:
    target, maps, weight = one_axis("blur", 0.8, 2), one_axis("blur", 0.5, 2), torch.ones(2, 1, 8, 8)
    weight[:, :, :4] = 0
    expected, _ = loss_of(maps, target, weight)
    maps[:, :, :4] = 100.0
    assert torch.equal(loss_of(maps, target, weight)[0], expected)
    weight[1] = 0
    maps[1] = 100.0
    torch.testing.assert_close(loss_of(maps, target, weight)[0], expected)
    assert loss_of(maps, target, 0 * weight)[0] == 0


def test_pairs_without_trace_have_magnitudes_and_no_signs(recipe: Recipe, photographs: Photographs) -> None:
    engine = DistortionEngine(["copied_patch"], regions={"whole": 1.0}, components={1: 1.0})
    alone = with_predictor(recipe, both_distorted=0.0)
    batch = MakePairs(photographs.training, alone, engine, range(2))(0)
    assert (batch.weight == 0).all()
    assert batch.unsigned.amax() > 0
    assert batch.maps[:, AXES.index("occlusion")].amax() > 0
    engine = DistortionEngine(["gaussian_blur"], regions={"whole": 1.0}, components={1: 1.0})
    assert (MakePairs(photographs.training, alone, engine, range(2))(0).unsigned == 0).all()


def test_operators_of_ones_own_are_drawn_beside_the_recipes_and_are_part_of_what_a_run_is_told_by(
    recipe: Recipe, photographs: Photographs, tmp_path: Path
) -> None:
    def fog(images: Tensor, share: Tensor, generator: torch.Generator) -> Tensor:
        return images * (1 - share.view(-1, 1, 1, 1)) + share.view(-1, 1, 1, 1)

    own = Distortion("fog", "tone", {"contrast": -1.0}, span=(0.1, 0.6), apply=fog, trace=False)
    others = tuple(name for name in recipe.data.operators() if name != "darken")
    few = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, held_out=others))
    engine = engine_of(few, [own])
    assert engine.names == ("darken", "fog") and engine.operator("fog") is own
    with pytest.raises(ValueError, match="unknown distortion 'fogg'; did you mean 'fog'"):
        engine.operator("fogg")
    alone = DistortionEngine([own], regions={"whole": 1.0}, components={1: 1.0})
    pairs = MakePairs(photographs.training, with_predictor(recipe, both_distorted=0.0), alone, range(2))(0)
    assert (pairs.weight == 0).all() and pairs.unsigned.amax() > 0
    kinds = dataclasses.replace(recipe.scorer, kinds={"ladder": 1.0})
    tiers = MakeTiers(photographs.training, dataclasses.replace(recipe, scorer=kinds), alone, range(2))(0)
    assert tiers.axes.amax() > 0
    assert torch.equal(tiers.axes[..., AXES.index("contrast")] > 0, tiers.axes.sum(dim=2) > 0)
    variants: list[list[Distortion]] = [[], [own], [own.with_levels(LEVELS)]]
    told = [fingerprint(recipe, "predictor", photographs, further=one) for one in variants]
    assert len(set(told)) == 3 and told[0] == fingerprint(recipe, "predictor", photographs)
    train_predictor(few, photographs, tmp_path, further=[own])
    train_predictor(few, photographs, tmp_path, further=[own], resume=True)
    with pytest.raises(ValueError, match="another recipe, other photographs, other operators of your own"):
        train_predictor(few, photographs, tmp_path, resume=True)


def test_a_claim_that_nobody_can_see_on_either_side_has_no_weight(recipe: Recipe, photographs: Photographs) -> None:
    traceless = DistortionEngine(["copied_patch", "gaussian_blur"], regions={"whole": 1.0}, components={1: 1.0})
    config = dataclasses.replace(recipe.predictor, both_distorted=1.0, batch=8)
    make = MakePairs(photographs.training, dataclasses.replace(recipe, predictor=config), traceless, range(8))
    channel = AXES.index("occlusion")
    seen = 0
    for step in range(4):
        batch = make(step)
        patched = (batch.maps[:, channel] != 0).flatten(1).any(dim=1)
        assert not patched.any()  # targets are weighted means
        seen += int((batch.weight.flatten(1).sum(dim=1) == 0).sum())
    assert seen > 0


def test_pairs_come_with_targets_at_half_resolution(recipe: Recipe, photographs: Photographs) -> None:
    make = MakePairs(photographs.training, recipe, DistortionEngine(), range(2))
    for step in range(4):
        batch = make(step)
        assert batch.a.shape == batch.b.shape == (2, 3, 32, 32)
        assert batch.maps.shape == (2, len(AXES), 16, 16)
        assert batch.weight.shape == (2, 1, 16, 16)
        assert 0 <= batch.weight.min()
        assert batch.weight.max() <= 1
        assert batch.maps.isfinite().all()
        assert (batch.maps * (batch.weight == 0) == 0).all()
        changed = (batch.a != batch.b).flatten(1).any(dim=1)
        assert (changed | (batch.weight.flatten(1).amax(dim=1) == 0)).all()


def test_the_share_of_pairs_distorted_on_both_sides_is_the_recipes(recipe: Recipe, photographs: Photographs) -> None:
    batch, side, scale = recipe.predictor.batch, recipe.predictor.crop, recipe.data.smallest_scale
    touched = {}
    for share in (0.0, 0.5, 1.0):
        changed = with_predictor(recipe, both_distorted=share)
        make = MakePairs(photographs.training, changed, DistortionEngine(), range(batch))
        streams = [[seeded(recipe.seed, 1, step, row) for row in range(batch)] for step in range(12)]
        crops = [row_crops(photographs.training, side, scale, of_step) for of_step in streams]
        touched[share] = sum(int((make(s).b[i] != crops[s][i]).any()) for s in range(12) for i in range(batch))
    assert touched[0.0] == 0
    assert 0 < touched[0.5] < touched[1.0]


def with_predictor(recipe: Recipe, **changes: float) -> Recipe:
    return dataclasses.replace(recipe, predictor=dataclasses.replace(recipe.predictor, **changes))


def same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(
        torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(some, others, strict=True)
    )


def test_training_data_does_not_depend_on_the_number_of_workers(recipe: Recipe, photographs: Photographs) -> None:
    make = MakePairs(photographs.training, recipe, DistortionEngine(), range(2))
    for here, there in zip(batches(make, range(1, 3), 0), batches(make, range(1, 3), 1), strict=True):
        assert same(here, PairBatch(*there))


@pytest.mark.parametrize("make_rows", [MakePairs, MakeTiers])
def test_processes_that_make_their_own_rows_make_the_batch_that_one_would(
    recipe: Recipe, photographs: Photographs, make_rows: type[MakePairs] | type[MakeTiers]
) -> None:
    engine = DistortionEngine(components={1: 0.5, 2: 0.5})
    whole = make_rows(photographs.training, recipe, engine, range(4))(7)
    parts = [make_rows(photographs.training, recipe, engine, range(at, at + 2))(7) for at in (0, 2)]
    per_image = range(4) if make_rows is MakePairs else range(5)
    for place in per_image:
        assert same([torch.cat([part[place] for part in parts])], [whole[place]])
    assert not same([parts[0][0]], [parts[1][0]])


def test_presence_is_asked_of_the_cells_with_something_to_see() -> None:
    target = torch.zeros(2, len(AXES), 16, 16)
    target[0, AXES.index("blur"), :8] = 0.5
    weight = torch.ones(2, 1, 16, 16)
    weight[0, :, :, 8:] = 0
    weight[1] = 0  # nothing to see: the pair does not count
    right = torch.full((2, len(AXES), 2, 2), -20.0)
    right[0, AXES.index("blur"), 0] = 20.0
    nowhere = torch.zeros(2, 1, 16, 16)
    perfect = presence_loss(right, target, weight, nowhere)
    assert float(perfect) < 1e-6
    wrong_unseen = right.clone()
    wrong_unseen[0, :, :, 1] *= -1
    wrong_unseen[1] *= -1
    assert torch.equal(
        presence_loss(wrong_unseen, target, weight, nowhere), presence_loss(right, target, weight, nowhere)
    )
    wrong = right.clone()
    wrong[0, AXES.index("noise"), 0, 0] = 20.0
    # One axis of one of two cells; 20 nats.
    assert float(presence_loss(wrong, target, weight, nowhere)) == pytest.approx(10.0, abs=1e-4)
    assert float(presence_loss(wrong, target, nowhere, weight)) == pytest.approx(10.0, abs=1e-4)  # magnitudes will do
    chance = torch.zeros(2, len(AXES), 2, 2)
    assert float(presence_loss(chance, target, weight, nowhere)) == pytest.approx(len(AXES) * math.log(2), rel=1e-5)
    assert float(presence_loss(chance, target, nowhere, nowhere)) == 0


def test_a_few_steps_on_one_batch_lower_the_loss(recipe: Recipe, photographs: Photographs) -> None:
    batch = MakePairs(photographs.training, recipe, DistortionEngine(), range(2))(0)
    predictor = new_predictor(recipe.predictor)
    optimiser = torch.optim.Adam(predictor.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        pair = predictor.relate(batch.a, batch.b, predictor.encode(batch.a), predictor.encode(batch.b))
        maps = predictor.confine(predictor.gated_maps(pair, batch.a, batch.b), batch.a, batch.b)
        loss, _ = loss_of(maps, *batch[2:5])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_predictor_stage_leaves_an_averaged_network_and_its_log(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path]
) -> None:
    predictor, photographs, out = trained
    assert not predictor.training
    assert len(photographs.training) + len(photographs.validation) == 6
    again = DistortionPredictor(**predictor.config)
    load_average(again, out, recipe.predictor.steps, fingerprint(recipe, "predictor", photographs))
    assert tensors_digest(again) == tensors_digest(predictor)
    lines = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    logged = {"loss", "dense", "heights", "types", "hint", "validation_axis_accuracy", "validation_severity_spearman"}
    assert logged <= lines[-1].keys()
    assert 0 <= lines[-1]["validation_axis_accuracy"] <= 1


def test_predictor_stage_resumed_equals_one_that_was_never_interrupted(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path], tmp_path: Path
) -> None:
    with pytest.raises(Interruption):
        train_predictor(recipe, trained[1], tmp_path, progress=interrupt_at(3))
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 2
    resumed = train_predictor(recipe, trained[1], tmp_path, resume=True)
    assert tensors_digest(resumed) == tensors_digest(trained[0])


def test_predictor_stage_refuses_another_recipe_and_an_existing_run(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path]
) -> None:
    with pytest.raises(ValueError, match="already holds a run"):
        train_predictor(recipe, trained[1], trained[2])
    with pytest.raises(ValueError, match="another recipe"):
        train_predictor(with_predictor(recipe, learning_rate=0.5), trained[1], trained[2], resume=True)


def test_a_run_started_from_weights_goes_on_from_them_and_knows_it(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path], tmp_path: Path
) -> None:
    before, photographs, out = trained
    start = start_from(new_predictor(recipe.predictor), out)
    assert tensors_digest(start.predictor) == tensors_digest(before)
    frozen = with_predictor(recipe, learning_rate=1e-12, weight_decay=0.0)
    after = train_predictor(frozen, photographs, tmp_path, start=start)
    for name, tensor in after.state_dict().items():
        torch.testing.assert_close(tensor, before.state_dict()[name], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="--start-from"):
        train_predictor(frozen, photographs, tmp_path, resume=True)


def test_weights_know_every_run_that_led_to_them(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path], tmp_path: Path
) -> None:
    _, photographs, out = trained
    steps = recipe.predictor.steps
    first = start_from(new_predictor(recipe.predictor), out)
    second = dataclasses.replace(with_predictor(recipe, trained="decoder"), seed=recipe.seed + 1)
    train_predictor(second, photographs, tmp_path, start=first)
    start = start_from(new_predictor(recipe.predictor), tmp_path)
    seconds = [run.pop("seconds") for run in start.runs]
    assert all(value >= 0 for value in seconds)
    assert start.runs == (
        {"recipe": recipe.name, "seed": recipe.seed, "trained": "all", "steps": steps},
        {"recipe": recipe.name, "seed": recipe.seed + 1, "trained": "decoder", "steps": steps},
    )
    record = provenance_of(
        second, photographs, start=first, predictor_seconds=7, scorer_seconds=0, device=torch.device("cpu")
    )
    assert record["earlier_runs"] == list(first.runs)
    scorer = RelationalScorer(recipe.predictor.pair_widths, recipe.predictor.texture_widths[0])
    release(tmp_path / "weights", start.predictor, scorer, record, name="tiny")
    of_weights = start_from(new_predictor(recipe.predictor), tmp_path / "weights").runs
    assert of_weights == (*first.runs, {**start.runs[1], "seconds": 7})


def test_heights_ask_nothing_of_the_probability_of_presence(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path], tmp_path: Path
) -> None:
    _, photographs, out = trained
    start = start_from(new_predictor(recipe.predictor), out)
    before = copy.deepcopy(start.predictor.competition.presence.state_dict())
    for weight, name in ((0.0, "without"), (0.1, "with")):
        changed = with_predictor(recipe, trained="decoder", presence_weight=weight, weight_decay=0.0)
        after = train_predictor(changed, photographs, tmp_path / name, start=start).competition.presence.state_dict()
        assert all(torch.equal(after[key], before[key]) for key in before) == (weight == 0)


def test_a_pair_of_damaged_pictures_is_taught_where_both_damages_can_be_seen(
    recipe: Recipe, photographs: Photographs
) -> None:
    both = with_predictor(recipe, both_distorted=1.0, two_operators=0.0)
    smooth = [torch.full_like(photo, 128) for photo in photographs.training]
    engine = DistortionEngine(["gaussian_blur", "luma_noise"], components={1: 1.0})
    swell = (torch.arange(smooth[0].shape[2]) % 2).to(torch.uint8)  # half an 8-bit step around its mean
    smooth = [photo + swell for photo in smooth]
    batches = [MakePairs(smooth, both, engine, range(4))(step) for step in range(8)]
    blur, noise = AXES.index("blur"), AXES.index("noise")
    seen = 0
    for batch in batches:
        for maps, weight in zip(batch.maps, batch.weight, strict=True):
            if maps[blur].any() and maps[noise].any():
                seen += 1
                inside = maps[blur].abs() > 0.5 * maps[blur].abs().max()  # cells at the border are half the other's
                assert weight[0][inside].max() < 0.2
    assert seen


def test_training_the_decoder_alone_changes_nothing_else(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path], tmp_path: Path
) -> None:
    before, photographs, out = trained
    start = start_from(new_predictor(recipe.predictor), out)
    after = train_predictor(with_predictor(recipe, trained="decoder"), photographs, tmp_path, start=start)
    changed = {
        name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])
    }
    assert {name.split(".")[0] for name in changed} == {"decoder", "competition"}
    assert all(parameter.requires_grad for parameter in after.parameters())


def test_a_decoder_alone_needs_something_to_decode(recipe: Recipe, photographs: Photographs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start must be given where trained is 'decoder', got None"):
        train_predictor(with_predictor(recipe, trained="decoder"), photographs, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_start_that_is_not_there_or_does_not_fit_is_named(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no-such-weights"):
        start_from(new_predictor(recipe.predictor), "no-such-weights")
    with pytest.raises(ValueError, match="does not fit DistortionPredictor"):
        start_from(DistortionPredictor(), trained[2])
    with pytest.raises(ValueError, match=r"unknown weights 'owner/name'"):
        start_from(new_predictor(recipe.predictor), Path("owner/name"))  # a path never reaches the Hub
    torch.save({"settings": {}, "model": {}}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="not a checkpoint of this package: it lacks average"):
        start_from(new_predictor(recipe.predictor), tmp_path)


def holding_out(recipe: Recipe, *names: str) -> Recipe:
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, held_out=names))


def test_operators_are_unseen_only_if_the_start_has_not_seen_them_either(
    recipe: Recipe, photographs: Photographs, tmp_path: Path
) -> None:
    def provenance(recipe: Recipe, start: Start | None) -> dict[str, Any]:
        return provenance_of(
            recipe, photographs, start=start, predictor_seconds=0, scorer_seconds=0, device=torch.device("cpu")
        )

    def starting_at(out: Path) -> Start:
        return start_from(new_predictor(recipe.predictor), out)

    without_both, without_one = holding_out(recipe, "jpeg", "hue"), holding_out(recipe, "jpeg")
    train_predictor(without_one, photographs, tmp_path / "first")
    first = starting_at(tmp_path / "first")
    train_predictor(without_both, photographs, tmp_path / "second", start=first)
    second = starting_at(tmp_path / "second")
    assert (first.trained_without, second.trained_without) == (("jpeg",), ("jpeg",))
    assert trained_without(provenance(without_both, second)) == ("jpeg",)
    assert trained_without(provenance(without_both, None)) == ("jpeg", "hue")
    assert trained_without(provenance(recipe, first)) == ()

    release(tmp_path / "weights", second.predictor, fresh_scorer(recipe), provenance(without_both, first), name="mine")
    assert starting_at(tmp_path / "weights").trained_without == ("jpeg",)
    state = torch.load(tmp_path / "first" / CHECKPOINT, weights_only=True)
    del state["record"]  # as earlier versions wrote it
    torch.save(state, tmp_path / "first" / CHECKPOINT)
    unknown = starting_at(tmp_path / "first")
    assert trained_without(provenance(without_both, unknown)) == ()
    assert fingerprint(recipe, "predictor", photographs, unknown.predictor) == fingerprint(
        recipe, "predictor", photographs, first.predictor
    )


def test_a_fingerprint_knows_which_operators_had_to_be_left_out(
    recipe: Recipe, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipping = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, missing_codecs="skip"))
    before = [fingerprint(one, "predictor", photographs) for one in (recipe, skipping, holding_out(skipping, "avif"))]
    monkeypatch.setattr(availability, "has_codec", lambda codec: codec != "AVIF")
    after = [fingerprint(one, "predictor", photographs) for one in (recipe, skipping, holding_out(skipping, "avif"))]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True]


def test_without_validation_photographs_a_run_logs_no_validation_and_trains_the_same(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path], tmp_path: Path
) -> None:
    predictor, photographs, _ = trained
    alone = dataclasses.replace(photographs, validation=[])
    assert tensors_digest(train_predictor(recipe, alone, tmp_path / "predictor")) == tensors_digest(predictor)
    train_scorer(recipe, alone, predictor, tmp_path / "scorer")
    for stage in ("predictor", "scorer"):
        last = json.loads((tmp_path / stage / METRICS).read_text().splitlines()[-1])
        assert last["step"] == 4 and not [name for name in last if name.startswith("validation")]
    provenance = provenance_of(
        recipe, alone, start=None, predictor_seconds=0, scorer_seconds=0, device=torch.device("cpu")
    )
    assert provenance["validation_photographs"] == 0


def test_operators_that_are_held_out_are_never_trained_on(recipe: Recipe) -> None:
    data = dataclasses.replace(recipe.data, held_out=("jpeg", "rotation"))
    assert not {"jpeg", "rotation"} & set(data.operators())
    assert len(data.operators()) == len(recipe.data.operators()) - 2
    with pytest.raises(ValueError, match="did you mean 'jpeg'"):
        dataclasses.replace(recipe.data, held_out=("jpg",))
    for setting in ({"odds": {"jpeg": 2}}, {"whole": ("jpeg",)}):
        with pytest.raises(ValueError, match="must not name operators that are held out, got jpeg"):
            dataclasses.replace(data, **setting)


# --- scorer stage


@pytest.mark.parametrize(("name", "judged"), [("gaussian_blur", True), ("brighten", False), ("jpeg", True)])
def test_ladder_targets_are_severity_and_declared_axes(make_photos: PhotoMaker, name: str, judged: bool) -> None:
    engine = DistortionEngine([name], regions={"whole": 1.0})
    tier = engine.tier(make_photos(2, 48, 48), size=3, generator=seeded(1), kinds={"ladder": 1.0})
    batch = tier_batch(tier)
    effects = by_name(name).effects
    declared = torch.tensor([abs(effects.get(axis, 0.0)) for axis in AXES])
    assert torch.equal(batch.order, tier.order)
    torch.testing.assert_close(batch.severity, tier.severity)
    torch.testing.assert_close(batch.axes, (declared / declared.sum()).expand(2, 3, -1))
    assert batch.first.tolist() == [[0, 0, 1], [3, 3, 4]] and batch.second.tolist() == [[1, 2, 2], [4, 5, 5]]
    assert (batch.told == judged).all() and (batch.silent != judged).all()
    assert (batch.better == 1).all()


def test_severity_is_a_target_only_where_one_operator_acts_on_the_whole_picture(make_photos: PhotoMaker) -> None:
    tier = DistortionEngine().tier(
        make_photos(6, 48, 48), size=3, generator=seeded(2), kinds={"dominance": 1.0, "inclusion": 1.0}
    )
    batch = tier_batch(tier)
    for row, recipes in enumerate(tier.recipes):
        for column, recipe in enumerate(recipes):
            single = len(recipe) == 1 and recipe[0].region == "whole"
            assert bool(batch.severity[row, column].isfinite()) == single
        alone = all(by_name(component.name).told_apart_alone for recipe in recipes for component in recipe)
        known = batch.better[row].isfinite()
        assert (batch.told[row][known] == alone).all() and torch.equal(batch.silent[row], known & (not alone))
    shares = batch.axes.sum(dim=2)
    assert (((shares - 1).abs() < 1e-5) | (shares == 0)).all()


def test_the_panel_votes_on_what_it_can_follow_and_replaces_the_order_between_kinds(make_photos: PhotoMaker) -> None:
    photos = make_photos(2, 128, 128)
    members = panel_members("all")
    engine = DistortionEngine(["jpeg", "gaussian_blur", "shift_left"], regions={"whole": 1.0})
    tier = engine.tier(photos, size=3, generator=seeded(4), kinds={"kinds": 1.0})
    batch = tier_batch(tier, members)
    assert batch.panel.shape == (2, 3, len(members))
    moved = torch.tensor([[recipe[0].name == "shift_left" for recipe in recipes] for recipes in tier.recipes])
    assert torch.equal(batch.panel.isnan().all(dim=2), moved)
    assert not batch.order.any()
    # Of the pairs whose order construction leaves open, those that show their damage are judged by the distances.
    assert batch.better.isnan().all() and not batch.silent.any()
    shown = ~moved.flatten()
    assert torch.equal(batch.told, shown[batch.first] & shown[batch.second])
    assert batch.told.any() and not batch.told.all()
    ladder = DistortionEngine(["jpeg"], regions={"whole": 1.0}).tier(
        photos, size=3, generator=seeded(4), kinds={"ladder": 1.0}
    )
    batch = tier_batch(ladder, members)
    assert torch.equal(batch.order, ladder.order)
    assert (batch.panel[:, -1] > batch.panel[:, 0]).float().mean() > 0.9


def test_panels_of_a_recipe() -> None:
    assert panel_members("none") == ()
    assert {member.name for member in panel_members("no-opinion")} == {
        "ssim",
        "colour_difference",
        "colour_difference_peak",
    }
    assert len(panel_members("all")) > 3


def test_judged_pairs_are_all_pairs_of_images_drawn_anew(make_photos: PhotoMaker) -> None:
    engine = DistortionEngine(["gaussian_blur"], regions={"whole": 1.0})
    tier = engine.tier(make_photos(2, 32, 32), size=5, generator=seeded(1), kinds={"ladder": 1.0})
    drawn = set()
    for seed in range(8):
        batch = tier_batch(tier, generators=[seeded(seed), seeded(seed)])
        for row in range(2):
            first, second = batch.first[row] - 5 * row, batch.second[row] - 5 * row
            images = {*first.tolist(), *second.tolist()}
            assert len(images) == JUDGED_IMAGES and images <= set(range(5))
            pairs = [frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)]
            assert len(set(pairs)) == len(pairs) == JUDGED_IMAGES * (JUDGED_IMAGES - 1) // 2
            # A ladder's images come from mild to severe.
            assert torch.equal(batch.better[row], (first < second).float())
            drawn.add(frozenset(images))
    assert len(drawn) > 1


def test_circles_are_what_going_round_three_images_adds() -> None:
    quality = torch.randn(3, 5, generator=seeded(2))
    i, j = torch.triu_indices(5, 5, offset=1)
    score = quality[:, i] - quality[:, j]
    assert _circles(score).shape == (3, 10)
    torch.testing.assert_close(_circles(score), torch.zeros(3, 10), atol=1e-6, rtol=0)
    score[0, 0] += 1.0  # of images 0 and 1, which three other images make a triple with
    assert _circles(score)[0].round().tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert _circles(score[:, :1]).shape == (3, 0)


def test_judgement_learns_the_order_where_it_is_known_and_the_distances_where_it_is_not(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, photographs, _ = trained
    reference = random_crops(photographs.training, 1, 32, 1.0, seeded(6))
    images = (reference.unsqueeze(1) + torch.linspace(0.02, 0.08, 4).view(1, 4, 1, 1, 1)).clamp(0, 1)
    batch = TierBatch(
        reference=reference,
        images=images,
        order=torch.zeros(1, 4, 4, dtype=torch.bool),
        severity=torch.full((1, 4), torch.nan),
        axes=torch.zeros(1, 4, len(AXES)),
        first=torch.tensor([[0, 0, 1]]),
        second=torch.tensor([[1, 2, 2]]),
        better=torch.tensor([[1.0, torch.nan, 1.0]]),
        told=torch.tensor([[True, True, False]]),
        silent=torch.tensor([[False, False, True]]),
        panel=torch.zeros(1, 4, 0),
    )
    objective = ScorerObjective(predictor, fresh_scorer(recipe), recipe.scorer)
    score = torch.tensor([0.02, 0.04, 0.02], requires_grad=True)  # in no circle
    monkeypatch.setattr(objective.scorer, "judge", lambda pair, maps: score)
    flat, distances = images.flatten(0, 1), torch.tensor([0.1, 0.2, 0.4, 0.8])

    def pull(batch: TierBatch) -> list[float]:
        score.grad = None
        objective._judge_loss(flat, predictor.encode(flat), torch.log(distances), batch).backward()
        assert score.grad is not None
        return [-value for value in score.grad.tolist()]

    known, nearer, silent = pull(batch)
    assert known > nearer > 0 > silent  # both rise; certainty pulls harder
    assert pull(batch._replace(better=1 - batch.better))[0] < 0
    nothing = torch.zeros_like(batch.told)
    assert pull(batch._replace(told=nothing, silent=nothing)) == pytest.approx([0, 0, 0], abs=1e-6)
    with torch.no_grad():
        score[1] = -0.04  # from 0 to 1 and on to 2 it falls, straight to 2 it rises
    one, straight, two = pull(batch._replace(told=nothing, silent=nothing))
    assert one < 0 and two < 0 < straight


def test_descent_loss_is_one_minus_the_cosine_of_slope_and_way_and_training_lowers_it(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path]
) -> None:
    predictor, photographs, _ = trained
    references = random_crops(photographs.training, 3, 32, 1.0, seeded(8))
    images = (references + 0.1 * torch.randn(references.shape, generator=seeded(9))).clamp(0, 1)
    images[2] = references[2]  # equal: counts nothing
    objective = ScorerObjective(predictor, fresh_scorer(recipe), recipe.scorer)

    def cosines() -> list[float]:
        a = images.clone().requires_grad_(True)
        pair = predictor.relate(a, references, predictor.encode(a), predictor.encode(references))
        slope = torch.autograd.grad(objective.scorer(pair, a, references).sum(), a)[0].flatten(1)
        way = fixed_gaussian(images - references, DESCENT_BLUR).flatten(1)
        return [float((s @ w) / (s.norm() * w.norm())) for s, w in zip(slope[:2], way[:2], strict=True)]

    first = objective._descent_loss(images, references)
    assert float(first.detach()) == pytest.approx(1 - sum(cosines()) / 2, abs=1e-4)
    optimiser = torch.optim.Adam(objective.scorer.parameters(), lr=3e-2)
    for _ in range(15):
        loss = objective._descent_loss(images, references)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert 1 - sum(cosines()) / 2 < 0.9 * float(first.detach())
    assert float(objective._descent_loss(references, references)) == 0
    off = dataclasses.replace(recipe.scorer, descent_weight=0.0)
    assert float(ScorerObjective(predictor, fresh_scorer(recipe), off)._descent_loss(images, references)) == 0


def fresh_scorer(recipe: Recipe) -> RelationalScorer:
    config = recipe.predictor
    return RelationalScorer(config.pair_widths, config.texture_widths[0], recipe.scorer.channels)


def test_a_few_scorer_steps_on_one_batch_lower_the_loss_and_leave_the_predictor(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path]
) -> None:
    predictor, photographs, _ = trained
    predictor = copy.deepcopy(predictor)
    predictor.zero_grad(set_to_none=True)
    batch = MakeTiers(photographs.training, recipe, DistortionEngine(), range(2))(0)
    scorer = fresh_scorer(recipe)
    objective = ScorerObjective(predictor, scorer, recipe.scorer)
    optimiser = torch.optim.Adam(scorer.parameters(), lr=3e-2)
    losses = []
    for _ in range(25):
        loss, terms = objective(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert set(terms) == {"rank", "votes", "scale", "axes", "descent", "judge", "order_accuracy", "panel_agreement"}
    assert all(parameter.grad is None for parameter in predictor.parameters())


def test_a_batch_without_any_known_order_still_has_a_finite_loss(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path]
) -> None:
    predictor, photographs, _ = trained
    batch = MakeTiers(photographs.training, recipe, DistortionEngine(), range(2))(0)
    batch = batch._replace(order=torch.zeros_like(batch.order))
    scorer = fresh_scorer(recipe)
    loss, _ = ScorerObjective(predictor, scorer, recipe.scorer)(batch)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in scorer.parameters())


def test_scorer_stage_resumed_equals_one_that_was_never_interrupted(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path], tmp_path: Path
) -> None:
    predictor, photographs, _ = trained
    whole = train_scorer(recipe, photographs, predictor, tmp_path / "whole")
    with pytest.raises(Interruption):
        train_scorer(recipe, photographs, predictor, tmp_path / "cut", progress=interrupt_at(3))
    resumed = train_scorer(recipe, photographs, predictor, tmp_path / "cut", resume=True)
    assert not resumed.training
    assert tensors_digest(resumed) == tensors_digest(whole)
    last = json.loads((tmp_path / "whole" / METRICS).read_text().splitlines()[-1])
    assert {"loss", "rank", "scale", "axes", "judge", "validation_order_accuracy"} <= last.keys()

    other = DistortionPredictor(**predictor.config)
    with pytest.raises(ValueError, match="another recipe"):
        train_scorer(recipe, photographs, other, tmp_path / "cut", resume=True)


# --- the judgement alone


@pytest.fixture
def finished(
    recipe: Recipe, trained: tuple[DistortionPredictor, Photographs, Path], tmp_path: Path
) -> tuple[Path, Recipe, ScorerStart]:
    """Weights, a recipe for their judgement alone, and their scorer."""
    predictor, photographs, _ = trained
    scorer = fresh_scorer(recipe)
    record = provenance_of(
        recipe, photographs, start=None, predictor_seconds=5, scorer_seconds=7, device=torch.device("cpu")
    )
    release(tmp_path / "weights", predictor, scorer, record, name="tiny")
    alone = dataclasses.replace(recipe, scorer=dataclasses.replace(recipe.scorer, trained="judgement"))
    return tmp_path / "weights", alone, start_scorer_from(tmp_path / "weights")


def test_training_the_judgement_alone_leaves_the_distance(
    finished: tuple[Path, Recipe, ScorerStart], trained: tuple[DistortionPredictor, Photographs, Path], tmp_path: Path
) -> None:
    _, recipe, start = finished
    predictor, photographs, _ = trained
    predictor = copy.deepcopy(predictor)
    with torch.no_grad():
        for name in DECODING:
            for parameter in predictor.get_submodule(name).parameters():
                parameter.add_(0.1)  # other maps of the same features
    before = copy.deepcopy(start.scorer.state_dict())
    after = train_scorer(recipe, photographs, predictor, tmp_path / "run", start=start)
    changed = {name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[0] for name in changed} == {"judges", "judge_gates", "judge_mix", "map_judge"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.scorer.state_dict().items())
    assert all(parameter.requires_grad for parameter in after.parameters())
    last = json.loads((tmp_path / "run" / METRICS).read_text().splitlines()[-1])
    assert "judge" in last and "votes" not in last
    a, b = random_crops(photographs.training, 2, 48, 1.0, seeded(3)).split(1)

    def distance(of: DistortionPredictor, scorer: RelationalScorer) -> Tensor:
        return scorer(of.relate(a, b, of.encode(a), of.encode(b)), a, b)

    assert torch.equal(distance(predictor, after), distance(trained[0], start.scorer))
    with pytest.raises(ValueError, match="another recipe"):
        train_scorer(recipe, photographs, predictor, tmp_path / "run", resume=True, start=start_of_other(start))


def start_of_other(start: ScorerStart) -> ScorerStart:
    other = copy.deepcopy(start.scorer)
    other.rescale(2.0)
    return dataclasses.replace(start, scorer=other)


def test_a_judgement_alone_needs_the_distance_of_its_predictor(
    finished: tuple[Path, Recipe, ScorerStart], trained: tuple[DistortionPredictor, Photographs, Path], tmp_path: Path
) -> None:
    _, recipe, start = finished
    predictor, photographs, _ = trained
    with pytest.raises(ValueError, match="start must be given where trained is 'judgement', got None"):
        train_scorer(recipe, photographs, predictor, tmp_path / "run")
    other = copy.deepcopy(predictor)
    with torch.no_grad():
        next(other.pair3.parameters()).mul_(1.01)
    with pytest.raises(ValueError, match=r"differs in 'pair3\..*': its distance would be another"):
        train_scorer(recipe, photographs, other, tmp_path / "run", start=start)
    wider = dataclasses.replace(recipe, scorer=dataclasses.replace(recipe.scorer, floor_weight=3.0))
    with pytest.raises(ValueError, match=r"start must be a scorer of the recipe's floor_weight 3.0, got"):
        train_scorer(wider, photographs, predictor, tmp_path / "run", start=start)
    assert not (tmp_path / "run").exists()


def test_weights_know_every_scorer_run_that_led_to_them(
    finished: tuple[Path, Recipe, ScorerStart], trained: tuple[DistortionPredictor, Photographs, Path], tmp_path: Path
) -> None:
    _, recipe, start = finished
    predictor, photographs, _ = trained
    first = {"recipe": recipe.name, "seed": recipe.seed, "trained": "all", "steps": recipe.scorer.steps, "seconds": 7}
    assert start.runs == (first,)
    record = provenance_of(
        recipe,
        photographs,
        start=None,
        scorer_start=start,
        predictor_seconds=5,
        scorer_seconds=9,
        device=torch.device("cpu"),
    )
    assert record["earlier_scorer_runs"] == [first]
    release(tmp_path / "next", predictor, start.scorer, record, name="tiny")
    assert start_scorer_from(tmp_path / "next").runs == (first, first | {"trained": "judgement", "seconds": 9})
