"""The panel: direction, zero at identity, and who sees what."""

import sys

import pytest
import torch

from relqa_loss.distortions.filters import luma
from relqa_loss.distortions.panel import PANEL, Prepared, colour_difference_map, panel_order, panel_scores, score_order
from relqa_loss.images import MissingExtra

pytest.importorskip("piq")


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(2)
    small = torch.rand(2, 3, 24, 24, generator=generator)
    big = torch.nn.functional.interpolate(small, size=(192, 208), mode="bicubic", align_corners=False)
    return big.clamp(0, 1) * 0.6 + 0.2


def _noisy(pictures, sigma):
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(4))
    return (pictures + sigma * noise).clamp(0, 1)


@pytest.mark.parametrize("member", PANEL, ids=lambda m: m.name)
def test_zero_at_identity_and_higher_is_worse(member, pictures):
    same = member.function(pictures, pictures)
    weak, strong = (member.function(_noisy(pictures, s), pictures) for s in (0.03, 0.12))
    assert same.shape == (2,)
    assert same.abs().max() < 1e-4
    assert (weak > same).all()
    assert (strong > weak).all()


@pytest.mark.parametrize("member", PANEL, ids=lambda m: m.name)
def test_colour_is_seen_by_those_that_say_so(member, pictures):
    # YIQ luminance, the one that the gradient member looks at.
    grey = (pictures * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(pictures)
    seen = member.function(grey, pictures)
    noise = member.function(_noisy(pictures, 0.03), pictures)
    assert bool((seen > noise).all()) == member.sees_colour


def test_a_uniform_change_of_level_is_seen_by_those_that_say_so(pictures):
    brighter = pictures + 0.1
    for member in PANEL:
        ratio = member.function(brighter, pictures) / member.function(_noisy(pictures, 0.1), pictures)
        assert bool((ratio > 1).all()) == member.sees_level, member.name


def test_one_lost_block_weighs_more_in_the_peak_than_in_the_mean(pictures):
    damaged = pictures.clone()
    damaged[:, :, 40:56, 40:56] = 0
    difference = colour_difference_map(damaged, pictures)
    assert difference[:, 44:52, 44:52].min() > 10
    assert difference[:, 120:, 120:].max() < 0.5
    names = [m.name for m in PANEL]
    scores = panel_scores(damaged, pictures)
    mean, peak = (scores[:, names.index(n)] for n in ("colour_difference", "colour_difference_peak"))
    assert (peak > 5 * mean).all()


def test_scores_are_the_members_and_independent_of_batch_mates(pictures):
    damaged = _noisy(pictures, 0.05)
    scores = panel_scores(damaged, pictures)
    assert torch.allclose(scores, torch.stack([m.function(damaged, pictures) for m in PANEL], 1))
    assert torch.allclose(scores[:1], panel_scores(damaged[:1], pictures[:1]), rtol=1e-4, atol=1e-6)


def test_colour_difference_is_symmetric(pictures):
    damaged = _noisy(pictures, 0.05)
    assert torch.allclose(colour_difference_map(damaged, pictures), colour_difference_map(pictures, damaged), atol=1e-4)


def test_small_pictures_are_one_clear_error():
    with pytest.raises(ValueError, match="at least 128x128"):
        panel_scores(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))


def test_missing_piq_names_the_extra(pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "piq", None)
    with pytest.raises(MissingExtra, match=r'piq: pip install "relqa_loss\[benchmark\]"'):
        panel_scores(pictures, pictures)


def test_the_families_asked_for_are_there_and_colour_is_seen_by_several():
    families = {member.family for member in PANEL}
    assert {"structure", "gradient", "wavelet", "saliency", "colour difference"} <= families
    assert sum(member.sees_colour for member in PANEL) >= 2
    untouched = {member.name for member in PANEL if not member.opinion_constants}
    assert untouched == {"ssim", "colour_difference", "colour_difference_peak"}


@pytest.mark.parametrize("size", [(192, 208), (181, 203)])
def test_members_are_the_published_metrics(pictures, size):
    import piq

    reference = pictures[:, :, : size[0], : size[1]]
    damaged = _noisy(reference, 0.05) * 0.9
    scores = dict(zip([m.name for m in PANEL], panel_scores(damaged, reference).unbind(1), strict=True))
    a, b = (torch.nn.functional.avg_pool2d(image, 2) for image in (damaged, reference))
    known = {
        "ssim": 1 - piq.ssim(luma(a), luma(b), reduction="none").reshape(-1),
        "gmsd": piq.gmsd(damaged, reference, reduction="none"),
        "mdsi": piq.mdsi(a, b, reduction="none"),
        "vsi": 1 - piq.vsi(a, b, reduction="none"),
        "haarpsi": 1 - piq.haarpsi(damaged, reference, reduction="none"),
    }
    for name, values in known.items():
        assert torch.allclose(scores[name], values, rtol=1e-3, atol=1e-4), name


def test_a_prepared_reference_gives_the_same_scores(pictures):
    damaged = _noisy(pictures, 0.05)
    prepared = Prepared(pictures)
    for _ in range(2):
        assert torch.equal(panel_scores(damaged, prepared), panel_scores(damaged, pictures))


def test_a_large_photograph_is_seen_as_a_whole(pictures):
    assert Prepared(pictures).viewed.shape[2:] == (96, 104)
    assert Prepared(torch.rand(1, 3, 512, 768)).viewed.shape[2:] == (256, 384)
    assert Prepared(torch.rand(1, 3, 1024, 1024)).viewed.shape[2:] == (256, 256)


def _strict_partial_order(order):
    assert not order.diagonal(dim1=-2, dim2=-1).any()
    assert not (order & order.transpose(-1, -2)).any()
    through = (order.float() @ order.float()) > 0
    assert not (through & ~order).any()


@pytest.mark.parametrize("seed", range(4))
def test_score_order_is_a_strict_partial_order_whatever_the_scores(seed):
    generator = torch.Generator().manual_seed(seed)
    threshold = torch.tensor([member.threshold for member in PANEL])
    trend = torch.rand(16, 12, 1, generator=generator)
    # Around the thresholds, with differences of about one level, ties and blind members.
    octaves = 0.5 * trend + 0.1 * torch.randn(16, 12, len(PANEL), generator=generator)
    octaves[:, ::3] = octaves[:, :1]
    octaves[..., seed] = 0
    order = score_order(threshold * 2**octaves)
    assert order.any()
    _strict_partial_order(order)


def test_blind_members_abstain_and_one_that_contradicts_withholds():
    threshold = torch.tensor([member.threshold for member in PANEL])
    scores = threshold * torch.tensor([2.0, 4.0])[:, None]
    assert score_order(scores).tolist() == [[False, True], [False, False]]
    blind = scores.clone()
    blind[:, 0] = threshold[0] * torch.tensor([0.9, 0.1])
    assert score_order(blind)[0, 1]
    against = scores.clone()
    against[:, 0] = against[:, 0].flip(0)
    assert not score_order(against).any()
    # What one family alone sees is no consensus.
    alone = threshold.expand(2, -1).clone()
    alone[1, -2:] *= 4
    assert not score_order(alone).any()
    assert not score_order(torch.zeros(3, len(PANEL))).any()


def test_panel_order_follows_plain_damage_and_says_nothing_of_unlike_ones(pictures):
    images = torch.stack([pictures, *(_noisy(pictures, s) for s in (0.02, 0.06, 0.15)), pictures], 1)
    order = panel_order(pictures, images)
    assert order.shape == (2, 5, 5)
    _strict_partial_order(order)
    assert order[:, :4, :4].equal(torch.ones(4, 4, dtype=torch.bool).triu(1).expand(2, 4, 4))
    assert not order[:, 0, 4].any()
    assert order[0].equal(panel_order(pictures[0], images[0]))
    # Nearly the same noise as against a small change of level: members disagree.
    brighter = (pictures + 0.1).clamp(0, 1)
    pair = panel_order(pictures, torch.stack([_noisy(pictures, 0.05), brighter], 1))
    assert not pair.any()


def test_panel_order_names_shapes_that_do_not_fit(pictures):
    with pytest.raises(ValueError, match=r"images must have shape \(B, T, 3, H, W\)"):
        panel_order(pictures, pictures)
