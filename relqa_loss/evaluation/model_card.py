"""Model card from measured numbers: nothing in it is written by hand but the words around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_FIGURES = (
    ("Axis accuracy", ("axis_accuracy",)),
    ("Sign accuracy, tone axes", ("sign_accuracy", "tone")),
    ("Sign accuracy, shift axes", ("sign_accuracy", "shift")),
    ("Sign accuracy, all axes", ("sign_accuracy", "all")),
    ("Localisation (ROC-AUC)", ("localisation_auc",)),
    ("Severity (Spearman, mean over axes)", ("severity_spearman", "mean")),
    ("Leakage (lower is better)", ("leakage",)),
    ("Ladder accuracy", ("ladder_accuracy",)),
    ("Dominance accuracy", ("dominance_accuracy",)),
    ("Inclusion accuracy", ("inclusion_accuracy",)),
    ("Unanchored accuracy", ("unanchored_accuracy",)),
)

_COEFFICIENTS = ("localisation_auc", "severity_spearman", "leakage")

_HEADER = """---
library_name: relqa_loss
license: apache-2.0
tags: [image-quality-assessment, perceptual-loss, distortion-maps]
---

# {name}

Weights of `relqa_loss`: a perceptual distance between two images, split by distortion axis, and signed maps of what
differs, where, how much and in which direction. Trained from pristine photographs and a synthetic distortion engine; no
opinion score and no metric with learned weights took part in the training itself.

```python
from relqa_loss import RelationalLoss

loss = RelationalLoss("{name}")(pred, ref)  # (B, 3, H, W), RGB in [0, 1]
```
"""

_LIMITS = """
## Limits

- The bank of distortions is finite: an artefact that is none of them is measured through the ones it resembles, and the
  full-resolution floor.
- Without the original, a tone or geometry difference has no better side; the unanchored score stays near 0 there.
- Severities were put on one scale by a panel of closed-form metrics ({panel}). The authors of GMSD, MDSI,
  VSI and HaarPSI chose some constants of theirs with the help of opinion scores.
- Distances grow with calibrated severity but are in no unit: not of severity, and not of any opinion score.
- Trained on sRGB photographs and screenshots of ordinary dynamic range, on crops of {crops} pixels.
"""


def model_card(
    name: str,
    provenance: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    sources: Sequence[tuple[str, str]] = (),
) -> str:
    """Markdown with front matter as the Hub reads it.

    Args:
        name: of the weights.
        provenance: of the weights, as ``relqa train scorer`` records it; ``notes`` (a list of texts) where given.
        evaluation: figures of ``relqa_loss.evaluation.engine_scores.evaluate``, or None where none were taken.
        sources: (source, licence) of the photographs that were trained on; left out where nobody told.
    """
    recipe = provenance["recipe"]
    lines = [_HEADER.format(name=name)]
    if evaluation is None:
        lines.append("## Figures\n\nNone have been taken for these weights.\n")
    else:
        lines.append(_figures(evaluation))
    lines.append(
        "## How they were made\n\n"
        f"| | |\n|---|---|\n| Recipe | `{recipe['name']}`, sha256 `{provenance['recipe_sha256'][:16]}` |\n"
        f"| Seed | {recipe['seed']} |\n"
        f"| Photographs | sha256 over names and pixels `{provenance['data_sha256'][:16]}`, "
        f"{provenance['training_photographs']} to train on, {provenance['validation_photographs']} to validate |\n"
        f"| Severity table | sha256 `{provenance['severity_sha256'][:16]}` |\n"
        f"| Time | predictor {_minutes(provenance['predictor_seconds'])}, scorer "
        f"{_minutes(provenance['scorer_seconds'])}, on {provenance['device']} |\n"
        f"| Versions | relqa_loss {provenance['relqa_loss']}, torch {provenance['torch']} |\n"
    )
    if notes := provenance.get("notes"):
        lines.append("What the recipe alone does not tell:\n")
        lines.extend(f"- {note}" for note in notes)
        lines.append("")
    if sources:
        lines.append("Photographs and their licences:\n")
        lines.extend(f"- {source}: {licence}" for source, licence in sources)
    crops = f"{recipe['predictor']['crop']} and {recipe['scorer']['crop']}"
    lines.append(_LIMITS.format(panel=", ".join(provenance["panel"]), crops=crops))
    return "\n".join(lines)


def _figures(evaluation: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {label} | {_cell(path, _look_up(evaluation, path))} |" for label, path in _FIGURES)
    operators = evaluation["per_operator"]
    weakest = sorted(
        (entry["axis_accuracy"], name) for name, entry in operators.items() if entry["axis_accuracy"] is not None
    )[:8]
    weak = ", ".join(f"`{name}` {_percent(accuracy)}" for accuracy, name in weakest)
    return (
        "## Figures\n\n"
        f"On {evaluation['photographs']} photographs that no training saw, {len(operators)} operators, "
        f"{evaluation['photographs_per_operator']} photographs each, crops of {evaluation['crop']} pixels, severities "
        f"{', '.join(map(str, evaluation['severities']))}, seed {evaluation['seed']}; operators weigh equally.\n\n"
        f"| Figure | |\n|---|---|\n{rows}\n\nOperators whose axis is named least reliably: {weak}.\n"
    )


def _look_up(values: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    found: Any = values
    for key in path:
        found = found[key]
    return None if found is None else float(found)


def _cell(path: tuple[str, ...], value: float | None) -> str:
    """Shares in percent, coefficients as they are."""
    if value is not None and path[0] in _COEFFICIENTS:
        return f"{value:.3f}"
    return _percent(value)


def _percent(value: float | None) -> str:
    return "not asked" if value is None else f"{100 * value:.1f} %"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"
