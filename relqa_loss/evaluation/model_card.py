"""Model card from measured numbers: nothing in it is written by hand but the words around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..weights import FIGURE_FILE, bundled
from . import card_sections as sections

_SOURCES = "Photographs and their licences:"

_HEADER = """---
library_name: relqa_loss
{licence}tags: [image-quality-assessment, perceptual-loss, distortion-maps]
---

# {name}

Weights of `relqa_loss`: a perceptual distance between two images, split by distortion axis, and signed maps of what
differs, where, how much and in which direction. Trained from pristine photographs and a synthetic distortion engine; no
opinion score and no metric with learned weights took part in the training itself.

```python
from relqa_loss import RelationalLoss

loss = RelationalLoss("{where}")(pred, ref)  # (B, 3, H, W), RGB in [0, 1]
```
"""

_LIMITS = """
## Limits

- Without the original, a tone or geometry difference has no better side; the unanchored score stays near 0 there.
- Distances grow with calibrated severity but are in no unit: not of severity, and not of any opinion score.
- Trained on sRGB pictures of ordinary dynamic range, on crops of {crops} pixels.
- Severities were put on one scale by a panel of closed-form metrics. The constants that their authors chose with the
  help of opinion scores:
{panel}
"""


def model_card(
    name: str,
    provenance: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    sources: Sequence[tuple[str, str]] = (),
    *,
    held_out: Mapping[str, Any] | None = None,
    no_opinion: Mapping[str, Any] | None = None,
    jury: Mapping[str, Any] | None = None,
    human: Sequence[Mapping[str, Any]] = (),
    figure: bool = False,
) -> str:
    """Markdown with front matter as the Hub reads it.

    Args:
        name: of the weights.
        provenance: of the weights, as ``relqa train scorer`` records it; ``notes`` (a list of texts) where given.
        evaluation: figures of ``relqa_loss.evaluation.engine_scores.evaluate``, or None where none were taken.
        sources: (source, licence) of the photographs that were trained on; left out where nobody told.
        held_out: figures of weights whose training held operators out, see :func:`.card_sections.held_out`; None for
            ``evaluation``, if these weights are such.
        no_opinion: figures of weights taught without opinion constants, see
            :func:`.card_sections.without_opinion_constants`, or None.
        jury: report of ``relqa benchmark jury``, or None.
        human: reports of ``relqa benchmark human``.
        figure: whether the folder holds a figure of failures.

    Raises:
        ValueError: nothing in ``held_out`` was held out; no panel was asked in ``no_opinion``.
    """
    recipe = provenance["recipe"]
    stage = recipe["predictor"]
    # Weights of one's own have the licence that their maker gives them, and lie where they were put.
    licence, where = ("license: apache-2.0\n", name) if name in bundled() else ("", "path/to/this/folder")
    lines = [_HEADER.format(name=name, licence=licence, where=where)]
    if evaluation is None:
        lines.append("## Figures\n\nNone have been taken for these weights.\n")
    else:
        lines.append(sections.figures(evaluation))
    if held_out is None and evaluation is not None:
        unseen = evaluation.get("trained_without", ())
        held_out = evaluation if any(name in evaluation["per_operator"] for name in unseen) else None
    if held_out is not None:
        lines.append(sections.held_out(held_out, (evaluation or {}).get("weights_sha256")))
    if text := sections.agreement(evaluation, jury, human):
        lines.append(text)
    if no_opinion is not None and evaluation is not None:
        lines.append(sections.without_opinion_constants(evaluation, no_opinion))
    if evaluation is not None:
        lines.append(sections.cannot_see(evaluation))
    if figure:
        lines.append(sections.failures(FIGURE_FILE))
    lines.append(
        "## How they were made\n\n"
        f"| | |\n|---|---|\n| Recipe | `{recipe['name']}`, sha256 `{provenance['recipe_sha256'][:16]}` |\n"
        f"| Last runs | predictor, {_steps(stage)}; scorer, {_steps(recipe['scorer'])}{_beside(provenance)} |\n"
        f"| Seed | {recipe['seed']} |\n"
        f"{_before('Predictor', provenance.get('earlier_runs', []))}"
        f"{_before('Scorer', provenance.get('earlier_scorer_runs', []))}"
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
        lines.append(f"{_SOURCES}\n")
        lines.extend(f"- {source}: {licence}" for source, licence in sources)
    crops = " and ".join(map(str, sorted({recipe["predictor"]["crop"], recipe["scorer"]["crop"]})))
    lines.append(_LIMITS.format(panel=sections.panel(provenance["panel"]), crops=crops))
    return "\n".join(lines)


def sources_of(card: str) -> list[tuple[str, str]]:
    """The (source, licence) pairs that a card names: what :func:`model_card` was given when it wrote it."""
    _, _, rest = card.partition(f"{_SOURCES}\n\n")
    lines = rest.partition("\n\n")[0].splitlines()
    pairs = (line.removeprefix("- ").partition(": ") for line in lines if line.startswith("- "))
    return [(source, licence) for source, _, licence in pairs]


def _before(network: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """The row that names the runs of a network before the recipe's own; nothing where there were none."""
    if not runs:
        return ""
    told = []
    for run in runs:
        if run.get("unrecorded"):
            told.append("runs that were not recorded")
            continue
        recipe = f"`{run['recipe']}`, seed {run['seed']}" if "recipe" in run else "no recipe recorded"
        told.append(f"{_steps(run)} ({recipe}, {_minutes(run['seconds'])}{_beside(run)})")
    return f"| {network} started from | {', then '.join(told)} |\n"


def _steps(run: Mapping[str, Any]) -> str:
    """How many, and of what where they were not of the whole network."""
    trained = run.get("trained", "all")
    return f"{run['steps']:,} steps" + ("" if trained == "all" else f" of the {trained}")


def _beside(run: Mapping[str, Any]) -> str:
    """Operators that a run had beside its recipe's."""
    further = run.get("further_operators", ())
    return f"; also on {', '.join(f'`{name}`' for name in further)}, of whoever trained it" if further else ""


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"
