"""The cases that weights get most wrong, and their figure."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from relqa_loss.distortions.compose import resolve
from relqa_loss.distortions.record import Distortion
from relqa_loss.evaluation import failures
from relqa_loss.evaluation.failures import failures_webp, weakest_in_pairs, weakest_operators, worst_cases, worst_pairs
from relqa_loss.figures_failures import Case, as_webp, failure_figure
from relqa_loss.images import MissingExtra
from relqa_loss.relation import AXES, Relation


def _brighten(images: Tensor, parameter: Tensor, generator: Generator) -> Tensor:
    return images + parameter.view(-1, 1, 1, 1)


def _operator(name: str, axis: str) -> Distortion:
    return Distortion(name, "tone", {axis: 1.0}, (0.0, 0.2), apply=_brighten)


class Says:
    """Maps of constants, whatever it is shown."""

    def __init__(self, **maps: float) -> None:
        self.values = torch.tensor([maps.get(axis, 0.0) for axis in AXES])

    def relate(self, a: Tensor, b: Tensor, ref: Tensor | None = None) -> Relation:
        zeros = torch.zeros(a.shape[0])
        maps = self.values.view(1, -1, 1, 1).expand(a.shape[0], -1, *a.shape[2:])
        return Relation(zeros, zeros[:, None].expand(-1, len(AXES)), zeros, lambda: maps, lambda: zeros)


PHOTOGRAPHS = [torch.full((3, 40, 48), level) for level in (0.4, 0.5)]
EVALUATION: dict[str, Any] = {
    "crop": 32,
    "per_operator": {
        "darken": {"axis_accuracy": 0.25, "two_operator_top3": 1.0},
        "fade": {"axis_accuracy": None, "two_operator_top3": 0.5},
        "brighten": {"axis_accuracy": 0.5, "two_operator_top3": 0.0},
        "contrast_up": {"axis_accuracy": 1.0, "two_operator_top3": None},
    },
}


def test_only_operators_that_were_named_wrong_are_looked_at_the_worst_first() -> None:
    assert weakest_operators(EVALUATION) == [("darken", 0.25), ("brighten", 0.5)]
    assert weakest_operators(EVALUATION, 1) == [("darken", 0.25)]


def test_the_worst_case_is_the_one_farthest_from_its_right_axis() -> None:
    says = Says(brightness=1.0, contrast=-4.0, blur=2.0)
    bank = [_operator("near", "blur"), _operator("far", "brightness"), _operator("fine", "contrast")]
    cases = worst_cases(says, PHOTOGRAPHS, bank, crop=32)
    assert [case.title.split(",")[0] for case in cases] == ["far", "near"]
    assert (cases[0].axis, cases[0].verdict) == ("contrast", "named contrast, right: brightness")
    assert cases[0].picture.shape == cases[0].reference.shape == (3, 32, 32)
    assert torch.equal(cases[0].axis_map, torch.full((32, 32), -4.0))
    assert len(worst_cases(says, PHOTOGRAPHS, bank, count=1, crop=32)) == 1


def test_maps_of_zeros_name_no_wrong_axis() -> None:
    assert worst_cases(Says(), PHOTOGRAPHS, [_operator("up", "brightness")], crop=32) == []


def test_the_figure_has_a_row_for_each_case_and_names_both_axes() -> None:
    pytest.importorskip("matplotlib")
    says = Says(brightness=1.0, contrast=-4.0)
    cases = worst_cases(says, PHOTOGRAPHS, [_operator("a", "brightness"), _operator("b", "blur")], crop=32)
    figure = failure_figure(cases)
    titles = [axes.get_title() for axes in figure.axes]
    assert "named contrast, right: brightness" in titles and "named contrast, right: blur" in titles
    assert sum(title == "reference" for title in titles) == 2
    with pytest.raises(ValueError, match="at least one"):
        failure_figure([])


def test_the_figure_travels_as_a_small_webp() -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    noise = torch.rand(3, 256, 256)
    case = Case("hard to compress", noise, 1 - noise, "named noise, right: blur", "noise", torch.randn(256, 256))
    figure = failure_figure([case] * 4)
    blob = as_webp(figure)
    assert len(blob) <= 150_000
    assert image.open(io.BytesIO(blob)).format == "WEBP"
    with pytest.raises(ValueError, match="lowest quality"):
        as_webp(figure, largest=1000)


def test_of_two_operators_the_one_that_is_not_among_the_strongest_axes_is_overlooked() -> None:
    photographs = [torch.rand(3, 80, 96, generator=torch.Generator().manual_seed(level)) for level in (4, 5)]
    assert weakest_in_pairs(EVALUATION) == ["brighten", "fade"]
    says = Says(brightness=1.0, contrast=0.2, saturation=0.1, **{axis: 0.01 for axis in AXES if axis[:4] == "tint"})
    (case,) = worst_pairs(says, photographs, ["brighten"], crop=64)
    axis = case.verdict.removeprefix("overlooked: ")
    assert axis == case.axis and axis not in ("brightness", "contrast", "saturation")
    assert torch.equal(case.axis_map, torch.full((64, 64), float(says.values[AXES.index(axis)])))
    assert "brighten" in case.title and " and " in case.title
    (case,) = worst_pairs(Says(), photographs, ["brighten"], crop=64)  # maps of zeros name neither
    assert case.axis in resolve("brighten").right_axes or case.axis in case.verdict
    assert not case.axis_map.any()
    everything = Says(**{axis: 1.0 + 0.01 * k for k, axis in enumerate(AXES)})
    cases = worst_pairs(everything, photographs, ["brighten", "fade"], crop=64)
    assert len(cases) == 2 and not {case.axis for case in cases} & set(AXES[-3:])


def test_the_figure_is_filled_up_with_two_operators_at_once() -> None:
    pytest.importorskip("matplotlib")
    photographs = [torch.rand(3, 80, 96, generator=torch.Generator().manual_seed(level)) for level in (4, 5)]
    never_alone = {"crop": 64, "per_operator": {"brighten": {"axis_accuracy": 1.0, "two_operator_top3": 0.0}}}
    assert failures_webp(Says(brightness=1.0, contrast=0.2, saturation=0.1), photographs, never_alone) is not None


def test_nothing_wrong_is_no_figure() -> None:
    never = {name: entry | {"two_operator_top3": None} for name, entry in EVALUATION["per_operator"].items()}
    assert failures_webp(Says(brightness=1.0), PHOTOGRAPHS, EVALUATION | {"per_operator": never}) is None


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(cases: list[Case]) -> None:
        raise MissingExtra("matplotlib", "figures")

    monkeypatch.setattr(failures, "failure_figure", missing)
    with pytest.raises(MissingExtra, match="figures"):
        failures_webp(Says(blur=1.0), PHOTOGRAPHS, EVALUATION)


@pytest.mark.parametrize("count", [1, 3])
def test_legends_lie_inside_the_figure(count: int) -> None:
    pytest.importorskip("matplotlib")
    photo = torch.rand(3, 32, 32)
    case = Case("noise, severity 0.7", photo, photo, "named chroma_noise", "chroma_noise", torch.full((32, 32), 0.5))
    figure = failure_figure([case] * count)
    figure.canvas.draw()
    every = [*figure.axes, *(inset for axes in figure.axes for inset in axes.child_axes)]
    legends = {axes.xaxis.label for axes in every if axes.get_xlabel()}
    assert len(legends) == count
    assert min(legend.get_window_extent().y0 for legend in legends) >= 0
