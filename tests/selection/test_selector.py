"""`CheckpointSelector`: who becomes incumbent, what is kept, what is refused, and how memory stays small."""

from __future__ import annotations

import io
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from relqa_loss import CheckpointSelector, RelationalLoss
from relqa_loss.relation import AXES, Relation
from relqa_loss.selection import Tally


class PlainLoss(nn.Module):
    """Same interface as RelationalLoss, with answers that can be worked out by hand: all difference is `noise`."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def relate(self, a: Tensor, b: Tensor, ref: Tensor | None = None) -> Relation:
        self.batches.append(len(a))
        parts = torch.zeros(len(a), len(AXES), dtype=a.dtype)
        parts[:, AXES.index("noise")] = (a - b).square().mean(dim=(1, 2, 3))
        floor = torch.zeros(len(a))

        def maps() -> Tensor:
            found = torch.zeros(len(a), len(AXES), *a.shape[2:], dtype=a.dtype)
            found[:, AXES.index("noise")] = (a - b).square().mean(dim=1)
            return found

        def score() -> Tensor:
            assert ref is not None
            return (b - ref).square().mean(dim=(1, 2, 3)) - (a - ref).square().mean(dim=(1, 2, 3))

        return Relation(parts.sum(1) + floor, parts, floor, maps, score)


@pytest.fixture
def references() -> Tensor:
    return torch.rand(8, 3, 16, 20, generator=torch.Generator().manual_seed(0))


def noisy(references: Tensor, sigma: float, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return references + sigma * torch.randn(references.shape, generator=generator)


def test_the_first_is_neither_better_nor_worse_and_becomes_incumbent(references: Tensor) -> None:
    selector = CheckpointSelector(references, PlainLoss())
    first = selector.update(noisy(references, 0.1), "first")
    assert (first.decision, first.against, first.promoted) == ("first", None, True)
    assert math.isnan(first.score) and math.isnan(first.confidence) and first.why() == ""
    assert selector.incumbent == "first"


def test_better_and_worse_are_told_apart(references: Tensor) -> None:
    selector = CheckpointSelector(references, PlainLoss())
    selector.update(noisy(references, 0.1), "first")
    worse = selector.update(noisy(references, 0.2), 2)
    assert (worse.tag, worse.decision, worse.against, worse.win_rate) == ("2", "worse", "first", 0.0)
    assert selector.incumbent == "first" and worse.interval[1] < 0 and not worse.promoted
    better = selector.update(noisy(references, 0.05), "third")
    assert (better.decision, better.win_rate, selector.incumbent) == ("better", 1.0, "third")
    assert better.confidence == 1 - 2**-7 and better.images == 8
    assert 0 < better.interval[0] <= better.score <= better.interval[1]
    assert 0.5 < better.win_interval[0] < 0.9 and better.win_interval[1] == 1.0


def test_score_distance_and_changes_are_means_over_references(references: Tensor) -> None:
    selector = CheckpointSelector(references, PlainLoss())
    a, b = noisy(references, 0.1), noisy(references, 0.05)
    selector.update(a, "a")
    verdict = selector.update(b, "b")
    before, after = float((a - references).square().mean()), float((b - references).square().mean())
    assert verdict.distance == pytest.approx(after, rel=1e-5)
    assert verdict.score == pytest.approx(before - after, rel=1e-4)
    assert verdict.changes["noise"] == pytest.approx(after - before, rel=1e-4) and verdict.changes["blur"] == 0


def test_equal_outputs_and_mixed_evidence_are_undecided(references: Tensor) -> None:
    selector = CheckpointSelector(references, PlainLoss())
    outputs = noisy(references, 0.1)
    selector.update(outputs, "a")
    same = selector.update(outputs, "b")
    assert (same.decision, same.confidence, same.win_rate, same.score, same.reasons) == ("undecided", 0, 0.5, 0, ())
    mixed = noisy(references, 0.1)
    mixed[::2] = references[::2] + 1.2 * (mixed[::2] - references[::2])
    mixed[1::2] = references[1::2] + 0.8 * (mixed[1::2] - references[1::2])
    verdict = selector.update(mixed, "c")
    assert verdict.decision == "undecided" and selector.incumbent == "a" and verdict.win_rate == 0.5


def test_a_handful_of_references_cannot_decide_at_95_percent(references: Tensor) -> None:
    for count, decision in ((5, "undecided"), (6, "better")):
        selector = CheckpointSelector(references[:count], PlainLoss())
        selector.update(noisy(references[:count], 0.2), "a")
        verdict = selector.update(noisy(references[:count], 0.02), "b")
        assert verdict.decision == decision and math.isinf(verdict.interval[0]) == (count == 5)
    lenient = CheckpointSelector(references[:2], PlainLoss(), level=0.5)
    lenient.update(noisy(references[:2], 0.2), "a")
    assert lenient.update(noisy(references[:2], 0.02), "b").decision == "better"


def test_repeatable_and_one_image_at_a_time(references: Tensor) -> None:
    verdicts = []
    for _ in range(2):
        loss = PlainLoss()
        selector = CheckpointSelector(references, loss, seed=4)
        selector.update(noisy(references, 0.1), "a")
        verdicts.append(selector.update(noisy(references, 0.099), "b"))
        assert loss.batches == [1] * 16, "one evaluation for each reference of each candidate"
    assert verdicts[0] == verdicts[1]


class Pictures(Dataset[Tensor]):
    """A map-style dataset that never raises IndexError, and counts how many of its pictures are alive."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        self.most = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image = self.images[index % len(self.images)].clone()
        self.alive.add(image)
        self.most = max(self.most, len(self.alive))
        return image


def test_datasets_generators_and_loaders_are_read_without_being_kept(references: Tensor) -> None:
    outputs = noisy(references, 0.1)
    expected = CheckpointSelector(references, PlainLoss()).update(outputs, "a")
    dataset = Pictures(references)
    selector = CheckpointSelector(dataset, PlainLoss())

    def produced() -> Iterator[Tensor]:
        for index, image in enumerate(outputs):
            assert len(dataset.alive) <= 2, f"references pile up before output {index}"
            yield image

    assert selector.update(produced(), "a") == expected
    assert dataset.most <= 2 and len(dataset.alive) == 0
    loader = DataLoader(list(references), batch_size=3)
    assert CheckpointSelector(loader, PlainLoss()).update(outputs.split(5), "a") == expected


def test_images_of_different_sizes_are_taken() -> None:
    references = [torch.rand(3, 16, 16), torch.rand(3, 24, 18)]
    verdict = CheckpointSelector(references, PlainLoss()).update((image + 0.1 for image in references), "a")
    assert verdict.distance == pytest.approx(0.01, rel=1e-4)


def test_a_tally_filled_in_batches_gives_the_same_verdict(references: Tensor) -> None:
    whole, streamed = CheckpointSelector(references, PlainLoss()), CheckpointSelector(loss_fn=PlainLoss())
    for tag, sigma in (("a", 0.1), ("b", 0.05)):
        outputs = noisy(references, sigma)
        tally = streamed.tally()
        for rows in (slice(5, 8), slice(0, 5)):
            tally.add(outputs[rows].requires_grad_(True), references[rows])
        assert streamed.judge(tally.scores(), tag).distance == whole.update(outputs, tag).distance
    assert streamed.incumbent == whole.incumbent == "b"


def test_ids_count_a_repeated_image_once_and_order_does_not_matter(references: Tensor) -> None:
    outputs = noisy(references, 0.1)
    tallies = [Tally(PlainLoss()) for _ in range(2)]
    tallies[0].add(outputs, references, ids=torch.arange(8))
    for index in (7, 0, 1, 2, 3, 4, 5, 6, 7, 0):
        tallies[1].add(outputs[index], references[index], ids=[index])
    first, second = (tally.scores() for tally in tallies)
    assert len(second) == 8 and first.keys == second.keys and torch.equal(first.distances, second.distances)
    with pytest.raises(ValueError, match="id '3' stands for two different references"):
        tallies[0].add(outputs[:1], references[:1], ids=[3])
    with pytest.raises(ValueError, match="ids must name each of 8 images, got 2"):
        tallies[0].add(outputs, references, ids=["a", "b"])


def test_one_reference_under_two_degradations_counts_twice(references: Tensor) -> None:
    tally = Tally(PlainLoss())
    for sigma in (0.1, 0.2):
        tally.add(noisy(references, sigma), references)
    assert len(tally.scores()) == 16


def test_changed_references_are_noticed(references: Tensor) -> None:
    selector = CheckpointSelector(references, PlainLoss())
    outputs = noisy(references, 0.1)
    selector.update(outputs, "a")
    references[3] += 0.01
    with pytest.raises(ValueError, match="'b' was scored on 8 images and 'a' on 8, 1 of the former"):
        selector.update(outputs, "b")
    assert selector.incumbent == "a"


def test_score_is_the_anchored_score_of_the_real_loss(
    loss_fn: RelationalLoss, make_photos: Callable[..., Tensor]
) -> None:
    photos = make_photos(3, 32, 40)
    a, b = noisy(photos, 0.1).clamp(0, 1), noisy(photos, 0.05).clamp(0, 1)
    selector = CheckpointSelector(photos, loss_fn)
    selector.update(a, "a")
    verdict = selector.update(b, "b")
    expected = [float(loss_fn.relate(b[k : k + 1], a[k : k + 1], ref=photos[k : k + 1]).score) for k in range(3)]
    assert verdict.score == pytest.approx(sum(expected) / 3, rel=1e-5) and verdict.score > 0


def test_ranking_leaves_the_incumbent_alone_and_takes_one_checkpoint_after_another(references: Tensor) -> None:
    selector = CheckpointSelector(references, PlainLoss())
    selector.update(noisy(references, 0.3), "incumbent")
    loaded: list[float] = []

    def candidates() -> Iterator[tuple[float, Iterator[Tensor]]]:
        for sigma in (0.2, 0.05, 0.1):
            loaded.append(sigma)
            yield sigma, (image for image in noisy(references, sigma) if loaded[-1] == sigma)

    ranking = selector.rank(candidates())
    assert [place.tag for place in ranking.places] == ["0.05", "0.1", "0.2"] and ranking.best == ("0.05",)
    assert selector.incumbent == "incumbent"
    with pytest.raises(ValueError, match="'x' twice"):
        selector.rank([("x", references), ("x", references)])


def test_state_survives_a_safe_load_and_holds_no_picture(references: Tensor) -> None:
    selector = CheckpointSelector(references, PlainLoss())
    selector.update(noisy(references, 0.1), "a")
    state = selector.state_dict()
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    assert sum(tensor.numel() for tensor in tensors) == len(references) * (1 + 2 * len(AXES))
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    restored = CheckpointSelector(references, PlainLoss())
    restored.load_state_dict(torch.load(file, weights_only=True))
    candidate = noisy(references, 0.05)
    assert restored.incumbent == "a"
    assert restored.update(candidate, "b") == selector.update(candidate, "b")


def test_a_restored_incumbent_is_not_compared_on_other_references(references: Tensor) -> None:
    selector = CheckpointSelector(references, PlainLoss())
    selector.update(noisy(references, 0.1), "a")
    other = CheckpointSelector(references[:6], PlainLoss())
    other.load_state_dict(selector.state_dict())
    with pytest.raises(ValueError, match="'b' was scored on 6 images and 'a' on 8, 0 of the former"):
        other.update(references[:6], "b")


def test_states_that_do_not_fit_are_refused_and_change_nothing(references: Tensor) -> None:
    empty = CheckpointSelector(references, PlainLoss())
    full = CheckpointSelector(references, PlainLoss())
    full.update(references, "a")
    state = full.state_dict()
    retrained = PlainLoss()
    retrained.scale.data.fill_(2.0)
    with pytest.raises(ValueError, match="other weights"):
        CheckpointSelector(references, retrained).load_state_dict(state)
    wrong = [
        ({}, "lacks incumbent"),
        ({**state, "more": 1}, "unknown entries more"),
        ({**state, "distances": torch.zeros(3)}, r"'distances': \(8,\).*'distances': \(3,\)"),
        ({**state, "references": state["references"][1:]}, "8 images"),
        ({**state, "keys": [], "references": []}, "0 images"),
        ({**state, "parts": state["parts"] * float("nan")}, "not finite"),
    ]
    for broken, message in wrong:
        with pytest.raises(ValueError, match=message):
            full.load_state_dict(broken)
    assert full.incumbent == "a"
    full.load_state_dict(empty.state_dict())
    assert full.incumbent is None and full.update(references, "b").against is None


def test_a_state_is_a_copy(references: Tensor) -> None:
    selector = CheckpointSelector(references, PlainLoss())
    selector.update(noisy(references, 0.1), "a")
    state = selector.state_dict()
    restored = CheckpointSelector(references, PlainLoss())
    restored.load_state_dict(state)
    state["distances"].zero_()
    assert restored.update(noisy(references, 0.05), "b").decision == "better"


def test_wrong_inputs_are_named_and_leave_no_trace(references: Tensor) -> None:
    selector = CheckpointSelector(references, PlainLoss())
    wrong = [
        (references[:7], ValueError, "each reference, got only 7"),
        (torch.cat([references, references]), ValueError, "each of 8 references, got more"),
        (references[..., :19], ValueError, r"outputs\[0\].*\(3, 16, 20\), got \(3, 16, 19\)"),
        (references.long(), TypeError, r"outputs\[0\].*int64"),
        ([*references[:2], "third"], TypeError, r"outputs\[2\] must be a torch.Tensor.*str"),
        (torch.where(torch.arange(8)[:, None, None, None] == 5, float("nan"), references), ValueError, r"\[5\].*NaN"),
    ]
    for outputs, error, message in wrong:
        with pytest.raises(error, match=message):
            selector.update(outputs, "a")
    assert selector.incumbent is None
    with pytest.raises(ValueError, match="at least one"):
        CheckpointSelector([], PlainLoss())
    with pytest.raises(TypeError, match="tuple_iterator, which ends after the first"):
        CheckpointSelector(iter(references.unbind()), PlainLoss())
    with pytest.raises(ValueError, match=r"references\[0\]"):
        CheckpointSelector(references[0], PlainLoss()).update(references, "a")
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 1"):
        CheckpointSelector(references, PlainLoss(), level=1.0)
    with pytest.raises(ValueError, match="made without references"):
        CheckpointSelector(loss_fn=PlainLoss()).update(references, "a")
    with pytest.raises(ValueError, match="each reference, got 3 ids"):
        CheckpointSelector(references, PlainLoss(), ids="abc").update(references, "a")
    with pytest.raises(ValueError, match="not one image"):
        CheckpointSelector(loss_fn=PlainLoss()).judge(Tally(PlainLoss()).scores(), "a")


def test_without_directions_the_verdict_is_the_same_but_for_the_words(references: Tensor) -> None:
    verdicts = []
    for directions in (True, False):
        selector = CheckpointSelector(references, PlainLoss(), directions=directions, level=0.8)
        selector.update(noisy(references, 0.1), "a")
        verdicts.append(selector.update(noisy(references, 0.05), "b"))
    assert [verdict.why() for verdict in verdicts] == ["less grainy", "noise nearer to the originals"]
    assert replace(verdicts[0], reasons=()) == replace(verdicts[1], reasons=())
