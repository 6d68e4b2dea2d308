import io
import itertools
import math

import pytest
import torch
from torch import nn

from relqa_loss.relation import AXES, Relation
from relqa_loss.selection import CheckpointSelector, bootstrap, highest_confidence


class PlainLoss(nn.Module):
    """Same interface as RelationalLoss, with answers that can be worked out by hand: all difference is `noise`."""

    def __init__(self):
        super().__init__()
        self.batches = []
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def relate(self, a, b, ref=None):
        self.batches.append(len(a))
        parts = torch.zeros(len(a), len(AXES), dtype=a.dtype)
        parts[:, AXES.index("noise")] = (a - b).square().mean(dim=(1, 2, 3))
        floor = torch.zeros(len(a))

        def score():
            return (b - ref).square().mean(dim=(1, 2, 3)) - (a - ref).square().mean(dim=(1, 2, 3))

        return Relation(parts.sum(1) + floor, parts, floor, lambda: a - b, score)


@pytest.fixture
def references():
    return torch.rand(8, 3, 16, 20, generator=torch.Generator().manual_seed(0))


def noisy(references, sigma, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return references + sigma * torch.randn(references.shape, generator=generator)


def test_first_becomes_incumbent_then_better_and_worse_are_told_apart(references):
    selector = CheckpointSelector(references, PlainLoss())
    first = selector.update(noisy(references, 0.1), "first")
    assert (first.decision, first.against, first.confidence) == ("better", None, 0.0) and math.isnan(first.score)
    worse = selector.update(noisy(references, 0.2), 2)
    assert (worse.tag, worse.decision, worse.against, worse.win_rate) == ("2", "worse", "first", 0.0)
    assert selector.incumbent == "first" and worse.interval[1] < 0
    better = selector.update(noisy(references, 0.05), "third")
    assert (better.decision, better.win_rate, selector.incumbent) == ("better", 1.0, "third")
    assert better.confidence >= 0.95 and 0 < better.interval[0] <= better.score <= better.interval[1]


def test_score_distance_and_changes_are_means_over_references(references):
    selector = CheckpointSelector(references, PlainLoss())
    a, b = noisy(references, 0.1), noisy(references, 0.05)
    selector.update(a, "a")
    verdict = selector.update(b, "b")
    before, after = float((a - references).square().mean()), float((b - references).square().mean())
    assert verdict.distance == pytest.approx(after, rel=1e-5)
    assert verdict.score == pytest.approx(before - after, rel=1e-4)
    assert verdict.reasons() == [("noise", pytest.approx(after - before, rel=1e-4))]
    assert verdict.changes["blur"] == 0


def test_equal_outputs_and_mixed_evidence_are_undecided(references):
    selector = CheckpointSelector(references, PlainLoss())
    outputs = noisy(references, 0.1)
    selector.update(outputs, "a")
    same = selector.update(outputs, "b")
    assert (same.decision, same.confidence, same.win_rate, same.score) == ("undecided", 0.0, 0.5, 0.0)
    mixed = noisy(references, 0.1)
    mixed[::2] = references[::2] + 1.2 * (mixed[::2] - references[::2])
    mixed[1::2] = references[1::2] + 0.8 * (mixed[1::2] - references[1::2])
    verdict = selector.update(mixed, "c")
    assert verdict.decision == "undecided" and selector.incumbent == "a" and verdict.win_rate == 0.5


def test_a_handful_of_references_cannot_decide_at_95_percent(references):
    for count, decision in ((5, "undecided"), (6, "better")):
        selector = CheckpointSelector(references[:count], PlainLoss())
        selector.update(noisy(references[:count], 0.2), "a")
        assert selector.update(noisy(references[:count], 0.02), "b").decision == decision
    lenient = CheckpointSelector(references[:2], PlainLoss(), level=0.5)
    lenient.update(noisy(references[:2], 0.2), "a")
    assert lenient.update(noisy(references[:2], 0.02), "b").decision == "better"


def test_repeatable_and_one_image_at_a_time(references):
    verdicts = []
    for _ in range(2):
        loss = PlainLoss()
        selector = CheckpointSelector(references, loss, seed=4)
        selector.update(noisy(references, 0.1), "a")
        verdicts.append(selector.update(noisy(references, 0.099), "b"))
        assert loss.batches == [1] * 16, "one evaluation for each reference of each candidate"
    assert verdicts[0] == verdicts[1]


def test_images_of_different_sizes_and_generators_are_taken():
    references = [torch.rand(3, 16, 16), torch.rand(3, 24, 18)]
    selector = CheckpointSelector(references, PlainLoss())
    verdict = selector.update((image + 0.1 for image in references), "a")
    assert verdict.distance == pytest.approx(0.01, rel=1e-4)


def test_what_is_kept_does_not_change_under_the_trainers_hands(references):
    originals = references.clone()
    selector = CheckpointSelector(references, PlainLoss())
    outputs = noisy(references, 0.1).requires_grad_(True)
    selector.update(outputs, "a")
    worse = noisy(originals, 0.2)
    expected = CheckpointSelector(originals, PlainLoss())
    expected.update(noisy(originals, 0.1), "a")
    outputs.data.zero_()
    references.zero_()
    assert selector.update(worse, "b") == expected.update(worse, "b")
    assert not any(image.requires_grad for image in selector.references)


def test_score_is_the_anchored_score_of_the_real_loss(make_loss, make_photos):
    photos = make_photos(3, 32, 40)
    a, b = noisy(photos, 0.1).clamp(0, 1), noisy(photos, 0.05).clamp(0, 1)
    loss_fn = make_loss()
    selector = CheckpointSelector(photos, loss_fn)
    selector.update(a, "a")
    verdict = selector.update(b, "b")
    expected = [float(loss_fn.relate(b[k : k + 1], a[k : k + 1], ref=photos[k : k + 1]).score) for k in range(3)]
    assert verdict.score == pytest.approx(sum(expected) / 3, rel=1e-5) and verdict.score > 0


def test_the_state_holds_a_few_numbers_and_no_picture(references):
    selector = CheckpointSelector(references, PlainLoss())
    selector.update(noisy(references, 0.1), "a")
    tensors = [value for value in selector.state_dict().values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.numel() for tensor in tensors) == len(references) * (1 + len(AXES))


def test_state_survives_a_safe_load(references):
    selector = CheckpointSelector(references, PlainLoss())
    selector.update(noisy(references, 0.1), "a")
    file = io.BytesIO()
    torch.save(selector.state_dict(), file)
    file.seek(0)
    restored = CheckpointSelector(references, PlainLoss())
    restored.load_state_dict(torch.load(file, weights_only=True))
    candidate = noisy(references, 0.09)
    assert restored.incumbent == "a"
    assert restored.update(candidate, "b") == selector.update(candidate, "b")


def test_state_before_the_first_update_and_of_other_references(references):
    empty = CheckpointSelector(references, PlainLoss())
    other = CheckpointSelector(references, PlainLoss())
    other.update(references, "a")
    other.load_state_dict(empty.state_dict())
    assert other.incumbent is None
    assert other.update(references, "b").against is None
    with pytest.raises(ValueError, match="other references"):
        CheckpointSelector(references + 0.01, PlainLoss()).load_state_dict(empty.state_dict())
    with pytest.raises(ValueError, match="lacks incumbent"):
        empty.load_state_dict({})
    retrained = PlainLoss()
    retrained.scale.data.fill_(2.0)
    with pytest.raises(ValueError, match="other weights"):
        CheckpointSelector(references, retrained).load_state_dict(empty.state_dict())
    full = CheckpointSelector(references, PlainLoss())
    full.update(references, "a")
    cut = {**full.state_dict(), "distances": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"distances \(8,\).*\(3,\)"):
        full.load_state_dict(cut)


def test_wrong_inputs_are_named(references):
    selector = CheckpointSelector(references, PlainLoss())
    with pytest.raises(ValueError, match="8 references, got 7"):
        selector.update(references[:7], "a")
    with pytest.raises(ValueError, match=r"outputs\[0\].*\(3, 16, 20\), got \(3, 16, 19\)"):
        selector.update(references[..., :19], "a")
    with pytest.raises(TypeError, match=r"outputs\[0\].*int64"):
        selector.update(references.long(), "a")
    with pytest.raises(ValueError, match="NaN"):
        selector.update(references * float("nan"), "a")
    assert selector.incumbent is None
    for bad in ([], references[:0]):
        with pytest.raises(ValueError, match="at least one"):
            CheckpointSelector(bad, PlainLoss())
    with pytest.raises(ValueError, match=r"references\[0\]"):
        CheckpointSelector(references[0], PlainLoss())
    with pytest.raises(ValueError, match="level"):
        CheckpointSelector(references, PlainLoss(), level=1.0)


def test_bootstrap_covers_the_true_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(5)
    hits = 0
    for _ in range(200):
        low, high, _ = bootstrap(torch.randn(40, generator=generator) + 0.3, 0.9, 500)
        hits += low <= 0.3 <= high
    assert 0.83 <= hits / 200 <= 0.96


def test_bootstrap_is_odd_in_its_evidence():
    scores = torch.randn(12, generator=torch.Generator().manual_seed(6)) + 0.4
    low, high, confidence = bootstrap(scores, 0.95)
    mirrored = bootstrap(-scores, 0.95)
    assert mirrored == (pytest.approx(-high), pytest.approx(-low), confidence)


def test_confidence_grows_with_the_number_of_agreeing_references():
    ladder = [bootstrap(torch.ones(n), 0.95)[2] for n in (1, 2, 4, 8)]
    assert ladder[0] == 0 and all(a < b for a, b in itertools.pairwise(ladder))
    assert ladder == [highest_confidence(n) for n in (1, 2, 4, 8)]
    assert highest_confidence(5) < 0.95 < highest_confidence(6)
