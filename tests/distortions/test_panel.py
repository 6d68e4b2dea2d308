"""The panel: direction, zero at identity, and who sees what."""

import sys

import pytest
import torch

from relqa_loss.distortions.panel import PANEL, colour_difference_map, panel_scores
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
