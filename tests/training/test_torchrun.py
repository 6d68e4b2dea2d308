"""Both stages in two processes that torchrun starts on the CPU, beside what one process does with the same recipe."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.run import get_args_parser

from relqa_loss.distortions import DistortionEngine
from relqa_loss.images import write_image
from relqa_loss.scorer import RelationalScorer
from relqa_loss.training.data import Photographs, load_photographs, seeded
from relqa_loss.training.distributed import (
    Ranks,
    any_rank,
    at_least_one,
    average_gradients,
    current,
    extremes,
    joined,
    mean_over_ranks,
    share_of_count,
    start_equal,
)
from relqa_loss.training.kept_cells import FOLDER as PAIRS
from relqa_loss.training.loop import CHECKPOINT, METRICS, Progress, run
from relqa_loss.training.parts import train_parts
from relqa_loss.training.predictor_stage import new_predictor, train_predictor
from relqa_loss.training.recipe import Recipe, StageConfig
from relqa_loss.training.recipe_toml import load_parts, load_recipe
from relqa_loss.training.scorer_stage import ScorerObjective, train_scorer
from relqa_loss.training.start import start_from
from relqa_loss.training.tier_batches import MakeTiers, panel_members

# The step that Adam makes does not depend on the size of a gradient: gradients that are nothing but rounding move their
# weights as far as others. Small steps, so that this does not feed back.
CHANGES = {
    f"{stage}.{key}": value
    for stage in ("predictor", "scorer")
    for key, value in {"batch": "4", "learning_rate": "1e-4", "warmup": "0", "average": "0.5"}.items()
} | {"scorer.steps": "3"}

KEPT = {"predictor.trained": "competition", "predictor.passes": "2", "predictor.dropout": "0.2"}

SCRIPT = """
import json
import sys
from pathlib import Path
import torch
from test_torchrun import break_down, scorer_step
from relqa_loss.training.data import load_photographs
from relqa_loss.training.distributed import joined
from relqa_loss.training.predictor_stage import train_predictor
from relqa_loss.training.recipe_toml import load_recipe
from relqa_loss.training.scorer_stage import train_scorer

if __name__ == "__main__":
    recipe_file, changes, photos, folder = sys.argv[1:]
    recipe = load_recipe(recipe_file, json.loads(changes))
    photographs = load_photographs(photos, recipe.data.validation_share, 48)
    with joined("cpu") as (ranks, device):

        def refused(train):
            try:
                train()
            except ValueError as error:
                print(f"rank {ranks.rank} refused: {error}", file=sys.stderr, flush=True)

        apart = f"{folder}/apart{ranks.rank}"
        refused(lambda: train_predictor(recipe, photographs, apart, resume=True, device=device))
        refused(lambda: break_down(Path(folder, "broken")))

        predictor = train_predictor(recipe, photographs, folder + "/cut", resume=True, device=device)
        train_scorer(recipe, photographs, predictor, folder + "/scorer2", device=device)
        loss, gradients = scorer_step(recipe, photographs, ranks.rows(4), together=True)
        if ranks.first:
            torch.save({"loss": loss, "gradients": gradients}, folder + "/step.pt")
        print(f"rank {ranks.rank} trained", file=sys.stderr, flush=True)

        def report(progress):
            raise ValueError("only the first process sees this")

        with joined("cpu") as again:
            assert again == (ranks, device)
        train_predictor(recipe, photographs, folder + "/failed", device=device, progress=report)
"""


def scorer_step(
    recipe: Recipe, photographs: Photographs, rows: range, *, together: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logged loss and averaged gradients of a step. The panel's levels are drawn: these photographs are too small."""
    config = dataclasses.replace(recipe.scorer, panel="no-opinion", crop=128, panel_weight=0.7)
    torch.manual_seed(0)
    predictor = new_predictor(recipe.predictor).requires_grad_(False)
    shape = recipe.predictor
    scorer = RelationalScorer(shape.pair_widths, shape.texture_widths[0], config.channels)
    batch = MakeTiers(photographs.training, recipe, DistortionEngine(), rows)(0)
    levels = torch.rand(4, config.tier, len(panel_members(config.panel)), generator=seeded(1))
    objective = ScorerObjective(predictor, scorer, config, together=together)
    loss, _ = objective(batch._replace(panel=levels[rows.start : rows.stop]))
    loss.backward()
    average_gradients(list(scorer.parameters()))
    gradients = {name: p.grad for name, p in scorer.named_parameters() if p.grad is not None}
    return mean_over_ranks(loss.detach()), gradients


def break_down(out: Path) -> None:
    """A run whose weights are no longer finite from its fourth step on, which no line of its log tells."""
    model = nn.Linear(1, 1)
    config = StageConfig(
        steps=9, warmup=0, precision="float32", workers=0, checkpoint_seconds=0.0, log_every=9, validate_every=9
    )

    def loss_of(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return model.weight.sum() * (math.nan if step == 3 else 1.0), {}

    run(
        "toy",
        model,
        config,
        int,
        loss_of,
        lambda averaged: {},
        out,
        fingerprint="",
        record={},
        resume=False,
        device=torch.device("cpu"),
        progress=None,
    )


class Interruption(Exception):
    pass


def interrupt(progress: Progress) -> None:
    if progress.step == 3:
        raise Interruption


def interrupt_the_second(progress: Progress) -> None:
    if (progress.stage, progress.step) == ("maps, predictor", 2):
        raise Interruption


@dataclass(frozen=True)
class Runs:
    folder: Path
    recipe: Recipe
    photographs: Photographs
    fresh: subprocess.CompletedProcess[str]
    kept: subprocess.CompletedProcess[str]
    parts: subprocess.CompletedProcess[str]
    second: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    make_photos: Callable[..., Tensor],
    tiny_recipe: Path,
    tiny_parts: Path,
    repository: Path,
) -> Runs:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch.distributed: this build of torch has no gloo backend")
    folder = tmp_path_factory.mktemp("torchrun")
    for index, photo in enumerate(make_photos(6, 56, 64)):
        write_image(folder / "photos" / f"{index}.png", photo)
    (folder / "script.py").write_text(SCRIPT)
    recipe = load_recipe(tiny_recipe, CHANGES)
    photographs = load_photographs(folder / "photos", recipe.data.validation_share, 48)

    predictor = train_predictor(recipe, photographs, folder / "one")
    train_scorer(recipe, photographs, predictor, folder / "scorer1")
    with pytest.raises(Interruption):
        train_predictor(recipe, photographs, folder / "cut", progress=interrupt)
    shutil.copytree(folder / "cut", folder / "apart0")
    path = os.pathsep.join([str(repository), str(Path(__file__).parent)])

    def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def train_by_two(
        changes: dict[str, str], *further: str, recipe: Path = tiny_recipe
    ) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = ["train", "predictor", "--recipe", recipe, "--data", "photos", *further]
        return torchrun("-m", "relqa_loss.cli", *command, *(f"--set={key}={value}" for key, value in changes.items()))

    fresh = train_by_two(CHANGES, "--out", "two")
    settled = load_recipe(tiny_recipe, CHANGES | KEPT)
    start = start_from(new_predictor(settled.predictor), folder / "one")
    train_predictor(settled, photographs, folder / "kept1", start=start)
    kept = train_by_two(CHANGES | KEPT, "--start-from", "one", "--out", "kept2")
    parts_of, cpu = load_parts(tiny_parts, CHANGES), torch.device("cpu")
    train_parts(parts_of, folder / "photos", folder / "parts1", device=cpu)
    with pytest.raises(Interruption):
        train_parts(parts_of, folder / "photos", folder / "parts2", device=cpu, progress=interrupt_the_second)
    parts = train_by_two(CHANGES, "--out", "parts2", "--resume", recipe=tiny_parts)
    second = torchrun("script.py", tiny_recipe, json.dumps(CHANGES), "photos", folder)
    return Runs(folder, recipe, photographs, fresh, kept, parts, second)


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def weights(out: Path, of: str = "model") -> Tensor:
    state: dict[str, Any] = torch.load(out / CHECKPOINT, weights_only=True)[of]
    return torch.cat([state[name].flatten().double() for name in sorted(state)])


def assert_equal_runs(some: Path, others: Path) -> None:
    for of in ("model", "average"):
        difference = weights(some, of) - weights(others, of)
        assert difference.abs().max() < 2e-4
        assert difference.norm() < 1e-4 * weights(others, of).norm()
    for line, other in zip(lines(some), lines(others), strict=True):
        assert {name: line[name] for name in line if name != "seconds"} == pytest.approx(
            {name: other[name] for name in other if name != "seconds"}, rel=1e-3, abs=1e-5
        )


def test_two_processes_train_what_one_does(runs: Runs) -> None:
    assert runs.fresh.returncode == 0, runs.fresh.stderr
    assert_equal_runs(runs.folder / "two", runs.folder / "one")


def test_two_processes_keep_the_pairs_of_one_and_settle_alike(runs: Runs) -> None:
    assert runs.kept.returncode == 0, runs.kept.stderr
    pairs = [sorted((runs.folder / out / PAIRS).iterdir()) for out in ("kept1", "kept2")]
    assert [path.name for path in pairs[0]] == [path.name for path in pairs[1]] == ["00000.pt", "00001.pt"]
    for one, two in zip(*pairs, strict=True):
        contents = [torch.load(path, weights_only=True)["pairs"] for path in (one, two)]
        torch.testing.assert_close(*contents, rtol=1e-2, atol=1e-3)
    assert_equal_runs(runs.folder / "kept2", runs.folder / "kept1")
    assert (weights(runs.folder / "kept1", "average") - weights(runs.folder / "one", "average")).abs().max() > 1e-5


def test_two_processes_go_on_with_the_parts_of_a_recipe_where_one_was_interrupted(runs: Runs) -> None:
    assert runs.parts.returncode == 0, runs.parts.stderr
    assert "first, predictor" not in runs.parts.stderr
    assert "settled, predictor 3/3" in runs.parts.stderr
    for part in ("first", "maps", ""):
        assert_equal_runs(runs.folder / "parts2" / part, runs.folder / "parts1" / part)


def test_only_the_first_process_writes_and_speaks(runs: Runs) -> None:
    assert sorted(entry.name for entry in (runs.folder / "two").iterdir()) == [CHECKPOINT, METRICS]
    assert [line["step"] for line in lines(runs.folder / "two")] == [1, 2, 3, 4]
    assert runs.fresh.stdout.split() == ["two"]
    assert runs.fresh.stderr.count("4/4") == 1


def test_a_run_of_one_process_is_resumed_by_two(runs: Runs) -> None:
    assert runs.second.stderr.count("trained") == 2, runs.second.stderr
    assert_equal_runs(runs.folder / "cut", runs.folder / "one")


def test_the_scorer_stage_is_split_too(runs: Runs) -> None:
    assert runs.second.stderr.count("trained") == 2, runs.second.stderr
    assert_equal_runs(runs.folder / "scorer2", runs.folder / "scorer1")


def test_loss_and_gradients_of_a_step_do_not_depend_on_the_number_of_processes(runs: Runs) -> None:
    loss, gradients = scorer_step(runs.recipe, runs.photographs, range(4), together=False)
    split = torch.load(runs.folder / "step.pt", weights_only=True)
    torch.testing.assert_close(split["loss"], loss)
    assert split["gradients"].keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(split["gradients"][name], gradient, rtol=1e-4, atol=1e-6)


def test_processes_that_find_different_checkpoints_all_refuse(runs: Runs) -> None:
    for rank in (0, 1):
        assert (
            f"rank {rank} refused: out must be one folder for all processes, got {runs.folder}/apart{rank}, where some "
            "find a checkpoint of step 2 and others none"
        ) in runs.second.stderr


def test_weights_that_are_not_finite_end_all_processes(runs: Runs) -> None:
    for rank in (0, 1):
        assert f"rank {rank} refused: the toy's weights are no longer finite at step 4" in runs.second.stderr
    assert torch.load(runs.folder / "broken" / CHECKPOINT, weights_only=True)["step"] == 3


def test_an_error_in_one_process_ends_all(runs: Runs) -> None:
    assert runs.second.returncode != 0
    assert runs.second.stderr.count("ValueError: only the first process sees this") == 1


def test_the_comparison_can_tell_a_process_that_forgot_the_other_half(
    runs: Runs, tiny_recipe: Path, tmp_path: Path
) -> None:
    half = load_recipe(tiny_recipe, CHANGES | {"predictor.batch": "2"})
    train_predictor(half, runs.photographs, tmp_path)
    with pytest.raises(AssertionError):
        assert_equal_runs(tmp_path, runs.folder / "one")


# --- one process


def test_torchrun_takes_no_option_of_ours_for_its_own() -> None:
    theirs = {option for action in get_args_parser()._actions for option in action.option_strings}
    ours = set(re.findall(r"^ +(--[a-z-]+)", help_of("predictor") + help_of("scorer"), re.MULTILINE))
    assert "--start-from" in ours
    assert not [option for option in ours if any(other.startswith(option) for other in theirs)]


def help_of(stage: str) -> str:
    arguments = [sys.executable, "-m", "relqa_loss.cli", "train", stage, "--help"]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


def test_rows_are_dealt_evenly_and_completely() -> None:
    assert [list(Ranks(rank, 3).rows(6)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert Ranks().rows(4) == range(4)


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="batch must be a multiple of the number of processes, 2, got 3"):
        Ranks(1, 2).rows(3)


def test_without_torchrun_nothing_is_initialised() -> None:
    with joined("cpu") as (ranks, device):
        assert (ranks, device) == (Ranks(), torch.device("cpu"))
        assert not torch.distributed.is_initialized()
    assert current() == Ranks()
    assert any_rank([True, False], device) == [True, False]
    assert extremes(3, device) == (3, 3)
    count = torch.tensor(3.0)
    assert share_of_count(count) == at_least_one(count) == 3
    assert share_of_count(torch.tensor(0)) == at_least_one(torch.tensor(0)) == 1


def test_a_network_without_group_keeps_its_gradients() -> None:
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    before = model.weight.grad
    average_gradients(list(model.parameters()))
    start_equal(model)
    assert model.weight.grad is before
