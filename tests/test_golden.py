"""Golden values: what the weights and the engine gave when ``golden.json`` was written, on the shipped photographs.

``python tests/test_golden.py --write`` writes the file anew; RELQA_TEST_WEIGHTS names other weights, as in the tests.
Operators only of plain arithmetic: the bytes of a codec depend on its version, and quantisers flip at ties.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from relqa_loss import RelationalLoss
from relqa_loss.distortions import DistortionEngine, distort
from relqa_loss.images import central_crop, read_image
from relqa_loss.relation import AXES

GOLDEN = Path(__file__).with_name("golden.json")
COMMAND = "python tests/test_golden.py --write"
PHOTOGRAPHS = ("dog", "city", "foliage")
CROP = 160
SEED = 3

RELATED = ("gaussian_blur", "luma_noise", "brighten")
WEAK, STRONG = 0.3, 0.8
RELATION_TOLERANCE = 1e-3
"""Relative, for other CPUs and thread counts: convolutions add in another order. Besides, a tenth of it relative to the
distance, for parts and scores near 0; sums of a map are measured by the sum of its magnitudes."""

OPERATORS = (
    "gaussian_blur", "motion_blur", "vignetting", "luma_noise", "chroma_noise", "hot_pixels", "brighten", "desaturate",
    "chroma_bleeding", "oversharpen", "elastic_warp", "missing_blocks",
)  # fmt: skip
OPERATOR_TOLERANCE = 1e-4
"""Relative, for other CPUs: exponentials, roots and the logarithms of normal draws differ in their last bits."""


def photograph(name: str) -> Tensor:
    """(1, 3, CROP, CROP), the middle of a shipped photograph."""
    source = importlib.resources.files("relqa_loss").joinpath("assets", "photographs", f"{name}.png")
    with importlib.resources.as_file(source) as path:
        return central_crop(read_image(path), CROP)[None]


def apply(name: str, images: Tensor, severity: float) -> Tensor:
    return distort(images, name, severity, generator=Generator().manual_seed(SEED))


@torch.no_grad()
def relation_values(loss: RelationalLoss, photo: Tensor, operator: str) -> dict[str, Any]:
    """The strongly distorted photograph against the clean one; scores of the weakly against the strongly distorted."""
    weak, strong = (apply(operator, photo, severity) for severity in (WEAK, STRONG))
    found = loss.relate(strong, photo)
    return {
        "distance": found.distance.item(),
        "floor": found.floor.item(),
        "parts": found.parts[0].tolist(),
        "map_sums": found.maps[0].double().sum(dim=(1, 2)).tolist(),
        "map_abs_sums": found.maps[0].double().abs().sum(dim=(1, 2)).tolist(),
        "score": loss.relate(weak, strong, ref=photo).score.item(),
        "score_without_reference": loss.relate(weak, strong).score.item(),
    }


def summary(after: Tensor, before: Tensor) -> dict[str, float]:
    """Numbers that move when any part of a picture does: its sum, the change, and where on average the change is."""
    change = (after - before).abs().double().sum(dim=(0, 1))
    ramp = torch.linspace(0, 1, change.shape[0], dtype=torch.float64)
    return {
        "sum": after.double().sum().item(),
        "change": change.sum().item(),
        "change_by_row": (change * ramp[:, None]).sum().item(),
        "change_by_column": (change * ramp).sum().item(),
    }


def operator_values(operator: str) -> dict[str, float]:
    photo = photograph("dog")
    return summary(apply(operator, photo, STRONG), photo)


def engine_values() -> dict[str, Any]:
    """A seeded triplet: the recipes that were drawn, and what they made of pictures, maps and weight."""
    photos = torch.cat([photograph(name) for name in PHOTOGRAPHS])
    triplet = DistortionEngine(OPERATORS)(photos, generator=Generator().manual_seed(SEED))
    recipes = [
        {"name": part.name, "severity": part.severity, "region": part.region, "seed": part.seed}
        for recipe in triplet.recipe
        for part in recipe
    ]
    return {
        "recipes": recipes,
        "distorted": summary(triplet.distorted, photos),
        "maps": triplet.maps.double().abs().sum().item(),
        "weight": triplet.weight.double().sum().item(),
    }


def digests(loss: RelationalLoss) -> dict[str, str]:
    """Sha256 by file name; loading has compared them with the files."""
    return dict(sorted(loss.info()["files"].items()))


def check_weights(loss: RelationalLoss, golden: dict[str, Any]) -> None:
    if golden["weights"] != digests(loss):
        pytest.fail(
            f"{GOLDEN.name} was written with other weights than {loss.weights_name!r}: {golden['weights']} there, "
            f"{digests(loss)} here; if the weights are meant to be new, run: {COMMAND}",
            pytrace=False,
        )


def far(found: float, wanted: float, allowed: float) -> bool:
    return not math.isfinite(found) or abs(found - wanted) > allowed


def relation_mismatches(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What is further from the golden values than ``RELATION_TOLERANCE``."""
    tolerance = RELATION_TOLERANCE
    scales: dict[str, list[float]] = {
        "parts": [abs(value) + 0.1 * wanted["distance"] for value in wanted["parts"]],
        # A map that is all but empty is measured by the others.
        "map_sums": [value + 0.01 * max(wanted["map_abs_sums"]) for value in wanted["map_abs_sums"]],
    }
    scales["map_abs_sums"] = scales["map_sums"]
    wrong = [
        f"{key} {axis}: {found[key][k]:.6g}, golden {wanted[key][k]:.6g}"
        for key, scale in scales.items()
        for k, axis in enumerate(AXES)
        if far(found[key][k], wanted[key][k], tolerance * scale[k])
    ]
    for key in ("distance", "floor", "score", "score_without_reference"):
        if far(found[key], wanted[key], tolerance * (abs(wanted[key]) + 0.1 * wanted["distance"])):
            wrong.append(f"{key}: {found[key]:.6g}, golden {wanted[key]:.6g}")
    return wrong


def number_mismatches(found: dict[str, float], wanted: dict[str, float]) -> list[str]:
    """What is further from the golden values than ``OPERATOR_TOLERANCE``."""
    assert found.keys() == wanted.keys()
    return [
        f"{key}: {found[key]:.8g}, golden {wanted[key]:.8g}"
        for key in wanted
        if far(found[key], wanted[key], OPERATOR_TOLERANCE * abs(wanted[key]))
    ]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return content


def test_golden_values_belong_to_these_weights(loss_fn: RelationalLoss, golden: dict[str, Any]) -> None:
    check_weights(loss_fn, golden)


@pytest.mark.parametrize("operator", RELATED)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_relation(name: str, operator: str, loss_fn: RelationalLoss, golden: dict[str, Any]) -> None:
    check_weights(loss_fn, golden)
    found = relation_values(loss_fn, photograph(name), operator)
    assert relation_mismatches(found, golden["relations"][name][operator]) == []


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator(operator: str, golden: dict[str, Any]) -> None:
    assert number_mismatches(operator_values(operator), golden["operators"][operator]) == []


def test_engine(golden: dict[str, Any]) -> None:
    found, wanted = engine_values(), golden["engine"]
    assert [part["name"] for part in found["recipes"]] == [part["name"] for part in wanted["recipes"]]
    for part, kept in zip(found["recipes"], wanted["recipes"], strict=True):
        assert (part["region"], part["seed"]) == (kept["region"], kept["seed"])
        assert part["severity"] == pytest.approx(kept["severity"], abs=1e-9)
    assert number_mismatches(found["distorted"], wanted["distorted"]) == []
    sums = ("maps", "weight")
    assert number_mismatches({key: found[key] for key in sums}, {key: wanted[key] for key in sums}) == []


def test_the_comparison_would_notice(golden: dict[str, Any]) -> None:
    wanted = golden["relations"]["dog"]["luma_noise"]
    assert relation_mismatches(wanted, wanted) == []
    for key in ("distance", "floor", "score", "score_without_reference"):
        assert relation_mismatches({**wanted, key: wanted[key] * 1.0015 + 0.0002 * wanted["distance"]}, wanted)
        assert relation_mismatches({**wanted, key: math.nan}, wanted)
    for key in ("map_sums", "map_abs_sums", "parts"):
        assert relation_mismatches({**wanted, key: wanted[key][::-1]}, wanted)
    operator = golden["operators"]["elastic_warp"]
    for key in operator:
        assert number_mismatches({**operator, key: operator[key] * 1.0002}, operator)


def test_other_weights_are_one_clear_failure(loss_fn: RelationalLoss, golden: dict[str, Any]) -> None:
    altered = {**golden, "weights": dict.fromkeys(digests(loss_fn), "0" * 64)}
    with pytest.raises(pytest.fail.Exception, match=f"written with other weights(?s:.)*{COMMAND}"):
        check_weights(loss_fn, altered)


def rounded(value: Any) -> Any:
    """Floats with 8 significant digits, so that the file reads well; severities keep all of theirs."""
    if isinstance(value, dict):
        return {key: item if key == "severity" else rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def write(loss: RelationalLoss) -> None:
    content = {
        "weights": digests(loss),
        "relations": {
            name: {operator: relation_values(loss, photograph(name), operator) for operator in RELATED}
            for name in PHOTOGRAPHS
        },
        "operators": {operator: operator_values(operator) for operator in OPERATORS},
        "engine": engine_values(),
    }
    GOLDEN.write_text(json.dumps(rounded(content), indent=1) + "\n", encoding="utf-8")


def main() -> int:
    from conftest import CANDIDATE

    parser = argparse.ArgumentParser(description="Golden values of the weights and the engine.")
    parser.add_argument("--write", action="store_true", required=True, help=f"write {GOLDEN.name} anew")
    parser.parse_args()
    folder = os.environ.get(CANDIDATE)
    loss = RelationalLoss(folder) if folder else RelationalLoss()
    write(loss)
    print(f"written: {GOLDEN}, with weights {loss.weights_name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
