import pytest
import torch

from relqa_loss.places import strongest_places
from relqa_loss.relation import AXES, Relation


def relation_of(**axes):
    """A relation of one pair whose maps are given by axis, (H, W) each."""
    shape = next(iter(axes.values())).shape
    maps = torch.zeros(1, len(AXES), *shape)
    for name, values in axes.items():
        maps[0, AXES.index(name)] = values
    parts = maps.abs().mean(dim=(2, 3))
    return Relation(parts.sum(1), parts, torch.zeros(1), lambda: maps, lambda: torch.zeros(1))


def patch(top, left, height, width, value, shape=(96, 128)):
    made = torch.zeros(shape)
    made[top : top + height, left : left + width] = value
    return made


def test_places_name_axis_sign_box_and_mean_heaviest_first():
    maps = {"blur": patch(10, 20, 40, 40, 0.5), "brightness": patch(60, 80, 20, 30, -0.8)}
    first, second = strongest_places(relation_of(**maps), 5)
    assert (first.axis, first.words, second.axis, second.words) == ("blur", "blurrier", "brightness", "darker")
    assert (first.left, first.top, first.width, first.height) == (20, 10, 40, 40)
    assert (second.left, second.top, second.width, second.height) == (80, 60, 30, 20)
    assert first.value == pytest.approx(0.5) and second.value == pytest.approx(-0.8)
    assert first.share == pytest.approx(1600 / (96 * 128)) and first.weight > second.weight


def test_areas_apart_and_areas_of_two_signs_are_places_of_their_own():
    apart = patch(0, 0, 20, 20, 0.5) + patch(60, 90, 20, 20, 0.4)
    assert len(strongest_places(relation_of(noise=apart), 5)) == 2
    touching = patch(20, 20, 20, 20, 0.5) + patch(20, 40, 20, 20, -0.5)
    words = {place.words for place in strongest_places(relation_of(contrast=touching), 5)}
    assert words == {"more contrast", "flatter"}


def test_an_area_that_winds_is_one_place():
    snake = torch.zeros(96, 96)
    for k, top in enumerate(range(0, 90, 8)):
        snake[top : top + 4] = 0.6
        # From one run to the next at alternate ends: the whole is long, and nowhere wide.
        end = slice(0, 4) if k % 2 else slice(92, 96)
        snake[top : top + 12, end] = 0.6
    (place,) = strongest_places(relation_of(blur=snake), 5)
    assert (place.width, place.height) == (96, 96) and place.share < 0.6


def test_boxes_of_sizes_that_no_cell_divides_stay_inside():
    (place,) = strongest_places(relation_of(blur=torch.full((97, 301), 0.3)), 5)
    assert (place.left, place.top, place.width, place.height) == (0, 0, 301, 97) and place.share == 1.0


def test_count_is_kept_faint_areas_and_equal_images_give_none():
    maps = {"blur": patch(0, 0, 30, 30, 0.9), "noise": patch(50, 50, 30, 30, 0.05)}
    assert [place.axis for place in strongest_places(relation_of(**maps), 5)] == ["blur"]
    many = sum(patch(20 * k, 0, 10, 10, 0.5) for k in range(4))
    assert len(strongest_places(relation_of(blur=many), 3)) == 3
    assert strongest_places(relation_of(blur=torch.zeros(32, 32)), 3) == []
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        strongest_places(relation_of(**maps), 0)
