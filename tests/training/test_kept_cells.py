"""The competition of the axes by itself, on pairs that are made once, kept and gone over again."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from relqa_loss import AXES, DistortionEngine, DistortionPredictor, RelationalLoss, RelationalScorer
from relqa_loss.competition import MEASURED_WIDTH, AxisCompetition
from relqa_loss.digests import distance_digest, tensors_digest
from relqa_loss.distortions.draws import Draws
from relqa_loss.distortions.recipe import Component
from relqa_loss.images import write_image
from relqa_loss.local_statistics import EVEN_CHANNELS, ODD_CHANNELS
from relqa_loss.training.data import Photographs, load_photographs
from relqa_loss.training.kept_cells import FOLDER, CellBatch, KeptCells, cells_of_pairs
from relqa_loss.training.loop import CHECKPOINT, Progress
from relqa_loss.training.pairs import MakePairs, PairBatch
from relqa_loss.training.predictor_stage import engine_of, new_predictor, train_predictor, whiten_by
from relqa_loss.training.recipe import PredictorConfig, Recipe
from relqa_loss.training.recipe_toml import load_recipe
from relqa_loss.training.start import Start
from relqa_loss.training.stopping import Stopped

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Path) -> Recipe:
    whole = load_recipe(tiny_recipe)
    config = dataclasses.replace(
        whole.predictor,
        trained="competition",
        passes=3,
        dropout=0.1,
        steps=6,
        batch=4,
        learning_rate=0.01,
        checkpoint_seconds=0.0,
    )
    return dataclasses.replace(whole, predictor=config)


@pytest.fixture(scope="module")
def photographs(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Tensor]):
    folder = tmp_path_factory.mktemp("photos")
    for index, photo in enumerate(make_photos(4, 56, 64)):
        write_image(folder / f"{index}.png", photo)
    return load_photographs(folder, 0.0, recipe.predictor.crop)


@pytest.fixture(scope="module")
def start(recipe: Recipe) -> Start:
    torch.manual_seed(3)
    return Start(new_predictor(recipe.predictor))


@pytest.fixture(scope="module")
def whole(
    recipe: Recipe, photographs: Photographs, start: Start, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DistortionPredictor, Path]:
    """A run without interruption."""
    out = tmp_path_factory.mktemp("whole")
    return train_predictor(recipe, photographs, out, start=start), out


def pairs_of(recipe: Recipe, photographs: Photographs) -> MakePairs:
    return MakePairs(photographs.training, recipe, engine_of(recipe), range(4))


def test_what_is_kept_gives_the_maps_of_the_pairs(recipe: Recipe, photographs: Photographs, start: Start) -> None:
    predictor, batch = copy.deepcopy(start.predictor), pairs_of(recipe, photographs)(0)
    torch.nn.init.normal_(predictor.competition.presence.weight, std=0.02)
    kept = CellBatch(*(tensor.float() for tensor in cells_of_pairs(predictor, batch, CPU)))
    with torch.no_grad():
        _, logits = kept.settled(predictor)
        pair = predictor.relate(batch.a, batch.b, predictor.encode(batch.a), predictor.encode(batch.b))
        _, presence = predictor.maps_if_present(pair, batch.a, batch.b)
        torch.nn.init.zeros_(predictor.competition.presence.weight)
        maps, _ = kept.settled(predictor)
        both = batch.weight + batch.unsigned
        seen = F.avg_pool2d(both, 8)
        # Untrained, the competition leaves all cells alike, so that averaging may come before or after it.
        half = predictor.confine(predictor.gated_maps(pair, batch.a, batch.b), batch.a, batch.b)
        wanted = F.avg_pool2d(half * both, 8) / seen.clamp_min(1e-6)
    torch.testing.assert_close(logits, presence, atol=1e-2, rtol=1e-2)
    assert presence.std() > 0.1
    torch.testing.assert_close(maps, wanted, atol=5e-4, rtol=2e-2)
    assert wanted.abs().amax() > 0.03
    torch.testing.assert_close(kept.weight + kept.unsigned, seen, atol=1e-3, rtol=1e-3)
    target = F.avg_pool2d(batch.maps * both, 8) / seen.clamp_min(1e-6)
    torch.testing.assert_close(kept.target, target, atol=1e-3, rtol=1e-3)


def test_maps_stand_as_high_as_the_cells_that_were_taught(loss_fn: RelationalLoss, make_photos: Callable[..., Tensor]):
    operators = ("missing_blocks", "line_dropout")
    engine = DistortionEngine(operators)
    reference = make_photos(8, 192, 192)
    recipes = [(Component(operators[k % 2], 0.2 + 0.1 * k, "whole", k),) for k in range(8)]
    triplet = engine.render(reference, recipes)
    # At half resolution, as pairs are.
    weight = F.avg_pool2d(triplet.weight[:, None], 2)
    batch = PairBatch(
        triplet.distorted, reference, F.avg_pool2d(triplet.maps, 2), weight, torch.zeros_like(weight),
        torch.zeros(8, 1, 1, 1),
    )  # fmt: skip
    predictor = loss_fn.predictor
    kept = CellBatch(*(tensor.float() for tensor in cells_of_pairs(predictor, batch, CPU)))
    with torch.no_grad():
        taught, _ = kept.settled(predictor)
        shown = loss_fn.relate(triplet.distorted, reference).maps

    def heights(maps: Tensor, weights: Tensor) -> Tensor:
        return ((maps.abs() * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3)))[:, AXES.index("occlusion")]

    off = heights(shown, triplet.weight[:, None]) - heights(taught, kept.weight)
    assert heights(taught, kept.weight).min() > 0.1
    assert off.abs().mean() < 0.04  # 0.09 where factors are interpolated evenly and no pixel is lifted beyond the top


def test_pairs_are_drawn_as_often_and_where_the_recipe_says(
    recipe: Recipe, photographs: Photographs, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = []

    def caught(photographs: object, recipe: object, engine: DistortionEngine, rows: object) -> None:
        engines.append(engine)
        raise InterruptedError

    monkeypatch.setattr("relqa_loss.training.predictor_stage.MakePairs", caught)
    data = dataclasses.replace(recipe.data, odds={"missing_blocks": 1000}, whole=("missing_blocks",))
    with pytest.raises(InterruptedError):
        train_predictor(dataclasses.replace(recipe, data=data), photographs, tmp_path, start=start)
    drawn = [part for seed in range(30) for part in engines[0].plan(Draws(seed))]
    often = [part for part in drawn if part.name == "missing_blocks"]
    assert len(often) >= 25 and {part.region for part in often} == {"whole"}


def test_each_pass_goes_over_every_pair_once_in_an_order_of_its_own() -> None:
    numbers = torch.arange(6.0).view(6, 1, 1, 1)
    batches = KeptCells([CellBatch(*[some] * 8) for some in numbers.split(3)], 4, 5, range(4), 0.0)
    rows = [int(value) for step in range(6) for value in batches(step)[0].maps]
    passes = [rows[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(one) == list(range(6)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    halves = [dataclasses.replace(batches, rows=part) for part in (range(2), range(2, 4))]
    assert torch.equal(torch.cat([half(3)[0].maps for half in halves]), batches(3)[0].maps)


def test_each_row_of_each_step_does_without_other_values() -> None:
    pairs = [CellBatch(*[torch.rand(6, 1, 2, 3)] * 8)]
    batches = KeptCells(pairs, 32, 5, range(32), 0.25)
    gains = batches(2)[1]
    assert gains.shape == (32, 2, MEASURED_WIDTH, 2, 3)
    torch.testing.assert_close(gains[gains > 0], torch.full_like(gains[gains > 0], 4 / 3))
    assert (gains == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert len({tuple(row.flatten().tolist()) for step in (2, 3) for row in batches(step)[1]}) == 64
    halves = [dataclasses.replace(batches, rows=part) for part in (range(16), range(16, 32))]
    assert torch.equal(torch.cat([half(2)[1] for half in halves]), gains)
    assert KeptCells(pairs, 4, 5, range(4), 0.0)(0)[1] is None


def showing(pairs: int, weight: float = 1.0) -> KeptCells:
    """Kept pairs of 9 cells each that show something of this weight."""
    generator = torch.Generator().manual_seed(pairs)
    channels = (len(AXES), ODD_CHANNELS + EVEN_CHANNELS, 1, 4, len(AXES), len(AXES), 1, 1)
    batch = CellBatch(*(torch.rand(pairs, count, 3, 3, generator=generator) + 0.1 for count in channels))
    shard = batch._replace(weight=batch.weight * weight, unsigned=batch.unsigned * 0)
    return KeptCells([shard], 4, 5, range(4), 0.0)


def test_what_the_competition_reads_is_whitened_by_the_kept_pairs_once() -> None:
    competition = AxisCompetition(4)
    torch.nn.init.normal_(competition.factors.weight)
    before = competition.meet.weight.clone()
    whiten_by(competition, showing(60), CPU)
    assert competition.read.fitted and competition.measure.fitted
    # What was learned was learned of other values.
    assert not competition.factors.weight.any() and not torch.equal(competition.meet.weight, before)
    torch.nn.init.normal_(competition.factors.weight)
    learned = copy.deepcopy(competition.state_dict())
    whiten_by(competition, showing(61), CPU)
    assert all(torch.equal(tensor, learned[name]) for name, tensor in competition.state_dict().items())


@pytest.mark.parametrize("kept", [showing(41), showing(60, 1e-3), KeptCells([], 4, 5, range(4), 0.0)])
def test_too_few_cells_whiten_nothing(kept: KeptCells) -> None:
    competition = AxisCompetition(4)
    learned = copy.deepcopy(competition.state_dict())
    whiten_by(competition, kept, CPU)
    assert all(torch.equal(tensor, learned[name]) for name, tensor in competition.state_dict().items())


def test_kept_pairs_are_whitened_before_the_run_begins(
    recipe: Recipe, photographs: Photographs, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relqa_loss.training.predictor_stage.SEEN_CELL", -1.0)
    wide = dataclasses.replace(recipe.predictor, batch=48, steps=2, passes=1)
    after = train_predictor(dataclasses.replace(recipe, predictor=wide), photographs, tmp_path, start=start)
    assert after.competition.measure.fitted and not start.predictor.competition.measure.fitted
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert torch.equal(state["average"]["module.competition.measure.turn"], after.competition.measure.turn)


def test_the_competition_alone_learns_and_distances_stay(
    recipe: Recipe, start: Start, whole: tuple[DistortionPredictor, Path]
) -> None:
    after, out = whole
    before = start.predictor.state_dict()
    changed = {name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and {name.split(".")[0] for name in changed} == {"competition"}
    scorer = RelationalScorer(recipe.predictor.pair_widths, recipe.predictor.texture_widths[0], recipe.scorer.channels)
    assert distance_digest(after, scorer) == distance_digest(start.predictor, scorer)
    assert len(list((out / FOLDER).iterdir())) == 2  # 6 steps of 4, each pair three times


@pytest.mark.parametrize("stage", ["pairs", "predictor"])
def test_a_run_that_is_cut_short_goes_on_to_the_same_end(
    recipe: Recipe,
    photographs: Photographs,
    start: Start,
    whole: tuple[DistortionPredictor, Path],
    tmp_path: Path,
    stage: str,
) -> None:
    def cut(progress: Progress) -> None:
        assert (progress.loss is None) == (progress.stage == "pairs")
        if progress.stage == stage:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_predictor(recipe, photographs, tmp_path, start=start, progress=cut)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / FOLDER).iterdir()}
    assert len(kept) == (1 if stage == "pairs" else 2)
    with pytest.raises(ValueError, match="already holds a run"):
        train_predictor(recipe, photographs, tmp_path, start=start)
    resumed = train_predictor(recipe, photographs, tmp_path, start=start, resume=True)
    assert tensors_digest(resumed) == tensors_digest(whole[0])
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / FOLDER).iterdir()}.items()


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-100], lambda data: b"not a shard"])
def test_a_damaged_shard_is_one_clear_error(
    recipe: Recipe,
    photographs: Photographs,
    start: Start,
    whole: tuple[DistortionPredictor, Path],
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
) -> None:
    shutil.copytree(whole[1] / FOLDER, tmp_path / FOLDER)
    second = tmp_path / FOLDER / "00001.pt"
    second.write_bytes(damage(second.read_bytes()))
    with pytest.raises(ValueError, match=r"00001\.pt is damaged"):
        train_predictor(recipe, photographs, tmp_path, start=start, resume=True)


def test_pairs_are_read_where_they_lie(
    recipe: Recipe, photographs: Photographs, start: Start, whole: tuple[DistortionPredictor, Path], tmp_path: Path
) -> None:
    shutil.copytree(whole[1] / FOLDER, tmp_path / FOLDER)
    first = tmp_path / FOLDER / "00000.pt"
    seen = []

    def look(progress: Progress) -> None:
        seen.append(str(first) in Path("/proc/self/maps").read_text())

    if not Path("/proc/self/maps").exists():
        pytest.skip("this system does not list its maps")
    train_predictor(recipe, photographs, tmp_path, start=start, resume=True, progress=look)
    assert seen and all(seen)


@pytest.mark.parametrize(("name", "value"), [("__version__", "0.0.9"), ("CONTENT", 0)])
def test_pairs_of_another_state_of_the_package_are_refused(
    recipe: Recipe,
    photographs: Photographs,
    start: Start,
    whole: tuple[DistortionPredictor, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: object,
) -> None:
    (tmp_path / FOLDER).symlink_to(whole[1] / FOLDER, target_is_directory=True)
    monkeypatch.setattr(f"relqa_loss.training.provenance.{name}", value)
    with pytest.raises(ValueError, match="another state of this package"):
        train_predictor(recipe, photographs, tmp_path, start=start, resume=True)


@pytest.mark.parametrize(
    "change",
    [
        {"crop": 48},
        {"batch": 2},
        {"two_operators": 1.0},
        {"both_distorted": 1.0},
        {"learning_rate": 0.5, "weight_decay": 0.5, "average": 0.5, "warmup": 3, "dropout": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_pairs_depend_on_is_what_tells_them_apart(
    recipe: Recipe, photographs: Photographs, change: dict[str, float]
) -> None:
    other = dataclasses.replace(recipe, predictor=dataclasses.replace(recipe.predictor, **change))
    batches = [
        MakePairs(photographs.training, one, engine_of(one), range(one.predictor.batch))(0) for one in (recipe, other)
    ]
    same = batches[0].a.shape == batches[1].a.shape and all(map(torch.equal, *batches))
    assert same == (recipe.digest("pairs") == other.digest("pairs")) == ("learning_rate" in change)


def test_the_competition_learns_with_dropout_in_half_precision(
    recipe: Recipe, photographs: Photographs, start: Start, tmp_path: Path
) -> None:
    config = dataclasses.replace(recipe.predictor, precision="bfloat16", dropout=0.5)
    half = dataclasses.replace(recipe, predictor=config)
    after = train_predictor(half, photographs, tmp_path, start=start)
    assert all(tensor.isfinite().all() for tensor in after.competition.state_dict().values())
    assert tensors_digest(after.competition) != tensors_digest(start.predictor.competition)


def test_pairs_of_another_run_are_refused(
    recipe: Recipe, photographs: Photographs, start: Start, whole: tuple[DistortionPredictor, Path], tmp_path: Path
) -> None:
    (tmp_path / FOLDER).mkdir()
    for path in (whole[1] / FOLDER).iterdir():
        (tmp_path / FOLDER / path.name).write_bytes(path.read_bytes())
    other = dataclasses.replace(recipe, seed=recipe.seed + 1)
    (tmp_path / FOLDER / "00001.pt").unlink()
    with pytest.raises(ValueError, match=r"00000\.pt holds pairs of another recipe"):
        train_predictor(other, photographs, tmp_path, start=start, resume=True)
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["00000.pt"]  # none of ours among them
    with pytest.raises(ValueError, match="start must be given where trained is 'competition', got None"):
        train_predictor(recipe, photographs, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_pairs_serve_other_runs_that_learn_from_them_otherwise(
    recipe: Recipe, photographs: Photographs, start: Start, whole: tuple[DistortionPredictor, Path], tmp_path: Path
) -> None:
    def making(progress: Progress) -> None:
        assert progress.stage != "pairs"

    (tmp_path / FOLDER).symlink_to(whole[1] / FOLDER, target_is_directory=True)
    slower = dataclasses.replace(recipe, predictor=dataclasses.replace(recipe.predictor, learning_rate=0.001))
    # Another competition to start from reads the same pairs.
    other = Start(copy.deepcopy(start.predictor))
    torch.nn.init.normal_(other.predictor.competition.presence.weight, std=0.02)
    learned = train_predictor(slower, photographs, tmp_path, start=other, resume=True, progress=making)
    assert tensors_digest(learned.competition) != tensors_digest(whole[0].competition)
    fresh = train_predictor(slower, photographs, tmp_path / "fresh", start=other)
    assert tensors_digest(learned) == tensors_digest(fresh)
    elsewhere = Start(copy.deepcopy(start.predictor))
    torch.nn.init.normal_(elsewhere.predictor.decoder.trust.weight)
    (tmp_path / CHECKPOINT).unlink()
    with pytest.raises(ValueError, match="other weights to start from"):
        train_predictor(slower, photographs, tmp_path, start=elsewhere, resume=True)


def test_a_finished_run_needs_its_pairs_no_more(
    recipe: Recipe, photographs: Photographs, start: Start, whole: tuple[DistortionPredictor, Path], tmp_path: Path
) -> None:
    (tmp_path / CHECKPOINT).write_bytes((whole[1] / CHECKPOINT).read_bytes())
    with pytest.raises(ValueError, match="already holds a run"):
        train_predictor(recipe, photographs, tmp_path, start=start)
    again = train_predictor(recipe, photographs, tmp_path, start=start, resume=True)
    assert tensors_digest(again) == tensors_digest(whole[0])
    assert not (tmp_path / FOLDER).exists()


def test_a_checkpoint_of_other_networks_is_one_clear_error(
    recipe: Recipe, photographs: Photographs, start: Start, whole: tuple[DistortionPredictor, Path], tmp_path: Path
) -> None:
    state = torch.load(whole[1] / CHECKPOINT, weights_only=True)
    del state["model"]["competition.measure.turn"]
    torch.save(state, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match=r"checkpoint\.pt does not fit .*missing competition\.measure\.turn"):
        train_predictor(recipe, photographs, tmp_path, start=start, resume=True)


@pytest.mark.parametrize("made", [1, 2])
def test_sigterm_keeps_the_pairs_that_are_made(
    recipe: Recipe, photographs: Photographs, start: Start, tmp_path: Path, made: int
) -> None:
    def terminate(progress: Progress) -> None:
        if progress.step == made:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="while pairs were made"):
        train_predictor(recipe, photographs, tmp_path, start=start, progress=terminate)
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["00000.pt", "00001.pt"][:made]


def test_pairs_do_not_depend_on_how_many_processes_make_them(
    recipe: Recipe, photographs: Photographs, start: Start, whole: tuple[DistortionPredictor, Path], tmp_path: Path
) -> None:
    by_workers = dataclasses.replace(recipe, predictor=dataclasses.replace(recipe.predictor, workers=2))
    trained = train_predictor(by_workers, photographs, tmp_path, start=start)
    assert tensors_digest(trained) == tensors_digest(whole[0])


def test_only_kept_pairs_can_be_gone_over_again() -> None:
    with pytest.raises(ValueError, match="passes must be 1 unless trained is 'competition', got 2"):
        PredictorConfig(passes=2, trained="decoder")
    with pytest.raises(ValueError, match="kinds_first must be 0 where trained is 'competition', got 9"):
        PredictorConfig(kinds_first=9, trained="competition")
    with pytest.raises(ValueError, match="passes"):
        PredictorConfig(passes=0, trained="competition")
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        PredictorConfig(dropout=1.0, trained="competition")
    with pytest.raises(ValueError, match=r"dropout must be 0 unless trained is 'competition', got 0.1"):
        PredictorConfig(dropout=0.1)
