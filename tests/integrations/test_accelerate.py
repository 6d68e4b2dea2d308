import json
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from relqa_loss import CheckpointSelector, RelationalLoss
from relqa_loss.integrations.accelerate import RelqaEvaluator
from relqa_loss.integrations.common import NAMES


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def evaluated(accelerator, evaluator, pairs, tag, batch=2):
    for pred, ref in accelerator.prepare(DataLoader(TensorDataset(*pairs), batch_size=batch)):
        evaluator.update(pred, ref)
    return evaluator.finish(tag)


def test_means_and_the_best_of_them(accelerator, loss_fn, pairs):
    evaluator = RelqaEvaluator(accelerator, loss_fn)
    pred, ref = pairs
    found = {}
    for tag, share in (("half", 0.5), ("quarter", 0.25), ("all", 1.0)):
        found[tag] = evaluated(accelerator, evaluator, (ref + share * (pred - ref), ref), tag)
        assert evaluator.improved == (tag != "all")
    relation = loss_fn.relate(pred, ref)
    assert tuple(found["all"]) == NAMES
    assert found["all"]["relqa_loss"] == pytest.approx(float(relation.distance.mean()), rel=1e-5)
    assert found["all"]["relqa_blur"] == pytest.approx(float(relation.parts[:, 0].mean()), rel=1e-5)
    assert (evaluator.best_tag, evaluator.best) == ("quarter", found["quarter"]["relqa_loss"])


def test_a_model_that_diverged_is_never_the_best(accelerator, loss_fn, pairs):
    evaluator = RelqaEvaluator(accelerator, loss_fn)
    evaluated(accelerator, evaluator, (pairs[0] * float("nan"), pairs[1]), "diverged")
    assert not evaluator.improved and evaluator.best is None
    evaluated(accelerator, evaluator, pairs, "sound")
    assert evaluator.improved and evaluator.best_tag == "sound"


def test_goes_on_from_a_saved_state_that_holds_no_network(tmp_path, accelerator, loss_fn, pairs):
    evaluator, selector = RelqaEvaluator(accelerator, loss_fn), CheckpointSelector(pairs[1], loss_fn)
    accelerator.prepare(nn.Linear(2, 2))
    accelerator.register_for_checkpointing(evaluator, selector)
    means = evaluated(accelerator, evaluator, pairs, "first")
    selector.update(pairs[0], "first")
    accelerator.save_state(str(tmp_path / "state"))
    assert sum(path.stat().st_size for path in (tmp_path / "state").iterdir()) < 100_000
    evaluated(accelerator, evaluator, (pairs[1], pairs[1]), "second")
    selector.update(pairs[1], "second")
    assert evaluator.best == 0.0 and selector.incumbent == "second"
    accelerator.load_state(str(tmp_path / "state"))
    assert (evaluator.best, evaluator.best_tag) == (means["relqa_loss"], "first")
    assert selector.incumbent == "first"
    evaluated(accelerator, evaluator, pairs, "the same again")
    assert not evaluator.improved


def test_a_validation_without_images_is_an_error(accelerator, loss_fn):
    with pytest.raises(ValueError, match="no image was measured"):
        RelqaEvaluator(accelerator, loss_fn).finish("empty")


def share(folder: Path) -> None:
    """One of two processes; every batch size leaves another rest of the 7 pictures."""
    accelerator = Accelerator(cpu=True)
    pairs = torch.load(folder / "pairs.pt", weights_only=True)
    evaluator = RelqaEvaluator(accelerator, RelationalLoss(folder / "weights"))
    accelerator.register_for_checkpointing(evaluator)
    found = [evaluated(accelerator, evaluator, pairs, f"batch {batch}", batch)["relqa_loss"] for batch in (1, 2, 3, 4)]
    best = evaluator.best
    accelerator.save_state(str(folder / "state"))
    evaluated(accelerator, evaluator, (pairs[1], pairs[1]), "perfect")
    accelerator.load_state(str(folder / "state"))
    told = {"found": found, "kept": evaluator.best == best, "processes": accelerator.num_processes}
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(told))
    accelerator.wait_for_everyone()


def test_two_processes_count_each_picture_once(tmp_path, loss_fn, pairs, in_two_processes):
    torch.save(pairs, tmp_path / "pairs.pt")
    loss_fn.save_pretrained(tmp_path / "weights")
    in_two_processes(__file__, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second and first["processes"] == 2 and first["kept"]
    assert first["found"] == pytest.approx([float(loss_fn(*pairs))] * 4, rel=1e-5)


if __name__ == "__main__":
    share(Path(sys.argv[1]))
