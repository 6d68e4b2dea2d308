"""Measured figures as parts of the documentation: each number stands in the JSON of a benchmark, none is typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..markdown import table
from . import card_sections, document_descent
from .document_remarks import Report, remark_of_both, same_distance
from .human_distances import OURS
from .jury_figures import JURY
from .speed import OURS as LOSS_KEY
from .speed import TARGETS as SPEED_TARGETS
from .targets import LINE_TARGETS, RECOVERY_TARGETS, SHORT, Verdict, percent, verdicts

COMMAND = "relqa benchmark document"
"""What makes :func:`parts`, as the documentation names it."""

BY_MAPS = "L1 by maps"
"""What ``relqa benchmark restoration`` calls L1 that is weighted by the maps."""

RESULTS = (
    "engine",
    "held-out",
    "held-out-seen",
    "no-opinion",
    "jury",
    "recovery",
    "recovery-axes",
    "line",
    "alignment",
    "gradients",
    "restoration",
    "restoration-others",
    "selection",
    "speed",
    "growth",
    "severity",
    "tiers",
    "throughput",
)
"""Stems of the JSON files that the parts are made of; what made each stands in ``benchmarks/README.md``."""


HUMAN = "human-*.json"
"""Names of the JSON of ``relqa benchmark human`` beside these, where there is any."""

FROM_SCRATCH = "from-scratch-*.json"
"""The same of the figures of whole runs of the recipe ``cpu``; what stands for the star is the run."""


def run_name(path: Path) -> str:
    """Of a file of ``FROM_SCRATCH``: ``seed 11`` of ``from-scratch-seed-11.json``."""
    return path.stem.removeprefix("from-scratch-").replace("-", " ")


def parts(
    results: Mapping[str, Report], human: Sequence[Report] = (), runs: Mapping[str, Report] | None = None
) -> dict[str, str]:
    """The parts of the documentation by name; see :func:`relqa_loss.markdown.fill`.

    Args:
        results: one report for each stem of ``RESULTS``.
        human: agreement with people, by data set; what is of another distance than the engine figures is left out.
        runs: name -> engine figures of a run from scratch on the whole bank.

    Raises:
        KeyError: a report is missing or lacks a figure.
    """
    engine = results["engine"]
    jury = results["jury"] if same_distance(results["jury"]["setup"], engine) else None
    human = [report for report in human if report["weights"]["distance"] == engine["distance_sha256"]]
    return {
        "summary": summary(results, human),
        "engine": "\n".join(
            [
                card_sections.figures(engine),
                card_sections.held_out(results["held-out"], engine["weights_sha256"]),
                card_sections.agreement(engine, jury, human),
                card_sections.without_opinion_constants(engine, results["no-opinion"]),
                card_sections.cannot_see(engine),
            ]
        ).rstrip(),
        "from-scratch": from_scratch(results["held-out-seen"], engine, runs or {}),
        "recovery": document_descent.recovery(results["recovery"], engine),
        "recovery-axes": document_descent.recovery_by_axis(results["recovery-axes"], engine),
        "line": document_descent.line(results["line"], engine),
        "alignment": document_descent.alignment(results["alignment"], engine),
        "gradients": document_descent.gradients(results["gradients"], engine),
        "restoration": "\n\n".join(
            restoration(results[stem], engine) for stem in ("restoration", "restoration-others")
        ),
        "selection": selection(results["selection"], engine),
        "speed": speed(results["speed"]),
        "growth": growth(results["growth"]),
        "bank-order": bank_order(results["severity"], results["tiers"]),
        "throughput": throughput(results["throughput"]),
    }


def summary(results: Mapping[str, Report], human: Sequence[Report] = ()) -> str:
    """A few lines for readers in a hurry: what is reached, and what is short of its target."""
    engine, jury, contenders = results["engine"], results["jury"], results["speed"]["contenders"]
    found = {one.target.figure.path: one for one in verdicts(engine)}
    everything = [
        *verdicts(engine),
        *card_sections.held_out_figures(results["held-out"]),
        *_speed_verdicts(results["speed"]),
    ]
    for stem, targets in (("recovery", RECOVERY_TARGETS), ("line", LINE_TARGETS)):
        if same_distance(results[stem], engine):
            everything += verdicts(results[stem], targets)

    def measured(*path: str) -> str:
        figure = found[path].target.figure
        return figure.text(figure.measured(engine))

    rival, ours = contenders["lpips_alexnet"], contenders[LOSS_KEY]
    setup = results["speed"]["setup"]
    lines = [
        f"- On {engine['photographs']} photographs that no training saw and {len(engine['per_operator'])} distortions: "
        f"strongest map on the right axis {measured('axis_accuracy')} (from severity {min(engine['severities']):g} on, "
        f"weighted by what is visible), right direction of tone {measured('sign_accuracy', 'tone')}, localisation "
        f"{measured('localisation_auc')} (ROC-AUC), rising severity "
        f"ordered right {measured('ladder_accuracy')}.",
        f"- On {len(card_sections.unseen_by(results['held-out']))} distortions that other weights, for this test only, "
        f"were trained without: {_told(card_sections.held_out_figures(results['held-out']))}.",
        f"- **Short of target:** {_short(everything)}.",
    ]
    if same_distance(jury["setup"], engine):
        pooled = jury["spearman"]["pooled"][JURY]
        lines.append(
            f"- Agreement with a jury of human-calibrated metrics {pooled[OURS]['value']:.3f} (Spearman). "
            f"{card_sections.others_by_the_jury(jury)}."
        )
    lines += [card_sections.people(report) for report in human] or ["- Agreement with people has not been measured."]
    for stem in ("restoration", "restoration-others"):
        report = results[stem]
        for task, figures in report["tasks"].items():
            goal = figures["goal"]
            if same_distance(report, engine) and goal["reached"] is not None:
                verdict = "" if goal["reached"] else " **Short of its goal.**"
                judges, seeds, plan = list(report["judges"]), len(report["seeds"]), report["plan"]
                lines.append(
                    f"- Small restorers with L1 + {OURS}, {task} ({plan['start_steps']} steps with L1, then "
                    f"{plan['steps']} with both; {seeds} {'seed' if seeds == 1 else 'seeds'}, {report['photographs']} "
                    f"photographs; judged by {', '.join(judges)}): {_held(figures, judges, BY_MAPS)}.{verdict}"
                )
    chosen = results["selection"]
    if same_distance(chosen, engine):
        sides = {name: one["agreement"] for name, one in chosen["choosers"].items()}
        others = "; ".join(
            f"{name} in {percent(one['value'])} (ours: {one['verdict']})" for name, one in sides.items() if name != OURS
        )
        lines.append(
            f"- Of two checkpoints of such restorers, {_trained_with_ours(chosen)}, {OURS} picks the one that a jury "
            f"of metrics prefers in {percent(sides[OURS]['value'])}; {others}{remark_of_both(chosen, engine)}."
        )
    lines.append(
        f"- Forward and backward pass at {_shape(setup['shape'])}, {setup['precision']}, {setup['threads']} CPU "
        f"threads: {rival['ratio']:.2f} of the time of the LPIPS-AlexNet architecture, "
        f"{rival['memory_ratio']:.1f} times its memory; {ours['ms']:.0f} ms, "
        f"{engine['parameters'] / 1e6:.2f} M parameters, {engine['weight_bytes'] / 1e6:.1f} MB."
    )
    return "\n".join(lines)


def from_scratch(report: Report, engine: Report, runs: Mapping[str, Report]) -> str:
    """All figures of weights whose training held operators out, on the operators that it did see; then of whole runs.

    Args:
        report: of the weights that were trained without some operators.
        engine: of the bundled weights.
        runs: name -> figures of a run on the whole bank.

    Raises:
        ValueError: the report holds an operator that was held out, or a run is not of the whole bank.
    """
    unseen = [name for name in report["per_operator"] if name in report["trained_without"]]
    if unseen:
        raise ValueError(f"report must be of operators that its weights were trained on, got {', '.join(unseen)}")
    rows = [one.cells() for one in verdicts(report)]
    text = f"{len(report['per_operator'])} operators:\n\n" + table(("figure", "target", "measured", ""), rows)
    if not runs:
        return text
    beside = [list(one.cells()[:3]) for one in verdicts(engine)]
    for name, run in runs.items():
        if run["trained_without"] or run["per_operator"].keys() != engine["per_operator"].keys():
            raise ValueError(f"run {name!r} must be trained and measured on the whole bank, as the bundled weights are")
        for row, one in zip(beside, verdicts(run), strict=True):
            row.append(one.cells()[2])
    heading = ("figure", "target", "bundled", *runs)
    return f"{text}\n\nAll {len(engine['per_operator'])} operators, by the recipe `cpu`:\n\n{table(heading, beside)}"


def restoration(report: Report, engine: Report) -> str:
    """What losses train: a table for each task, and how ours stands to each other loss by every judge."""
    judges = list(report["judges"])
    texts = [f"{_plan(report)}{remark_of_both(report, engine)}."]
    for task, figures in report["tasks"].items():
        against = figures["against"]
        measures = [key for key in next(iter(figures["mean"].values())) if key not in judges]
        rows = []
        for name, mean in figures["mean"].items():
            cells = [f"{-mean[judge]:.2f}" if judge == "psnr" else f"{mean[judge]:.3f}" for judge in judges]
            if name in against:
                verdicts_of = [against[name][judge]["verdict"] for judge in judges]
                cells = [f"{cell} (ours: {verdict})" for cell, verdict in zip(cells, verdicts_of, strict=True)]
            rows.append([name, *cells, *(f"{mean[measure]:.2f}" for measure in measures)])
        texts.append(table((task, *judges, *measures), rows))
        reached = figures["goal"]["reached"]
        if reached is not None:
            texts.append(f"Goal: {'reached' if reached else 'short'}; {_held(figures, judges)}.")
    return "\n\n".join(texts)


def _plan(report: Report) -> str:
    """How restorers were trained and on what they were judged."""
    plan = report["plan"]
    shares = "".join(f", {share:g} of {name}" for name, share in report.get("shares", {}).items())
    return (
        f"{report['photographs']} pictures, crops of {report['crop']}; {plan['start_steps']} steps with L1, then "
        f"{plan['steps']} with each loss, {plan['batch']} crops of {plan['crop']} a step, seed "
        f"{', '.join(map(str, report['seeds']))}; length of the second term's gradient at the start, where L1's is 1: "
        f"{plan['share']:g}{shares}"
    )


def _held(figures: Report, judges: Sequence[str], *further: str) -> str:
    """By how many judges ours is better, worse or ties, compared with each rival and ``further``; the PSNR it costs."""
    goal = figures["goal"]
    told = []
    for name in (*goal["better_or_tie"], *(name for name in further if name in figures["against"])):
        verdicts_of = [figures["against"][name][judge]["verdict"] for judge in judges]
        words = {"better": "better by", "worse": "worse by", "tie": "tied by", "unknown": "unknown by"}
        counts = [(text, verdicts_of.count(word)) for word, text in words.items() if word in verdicts_of]
        (verdict, count), *others = counts
        first = f"{verdict} {count} {'judge' if count == 1 else 'judges'}"
        told.append(f"against {name} {', '.join([first, *(f'{text} {number}' for text, number in others)])}")
    lost = goal["psnr_lost_db"]
    return f"{'; '.join(told)}; {abs(lost):.2f} dB PSNR {'lost to' if lost > 0 else 'gained over'} L1"


def _trained_with_ours(report: Report) -> str:
    """How many of a study's checkpoints owe to the loss that then chooses among them."""
    names = [name for run in report["checkpoints"].values() for name in run]
    ours = sum(OURS in name or name.startswith(BY_MAPS) for name in names)
    return f"{ours} of {len(names)} trained with {OURS} or by its maps"


def selection(report: Report, engine: Report) -> str:
    """How often a figure on one half of the photographs picks the checkpoint that a jury prefers on the other half."""
    rows = [
        [
            name,
            _percent(one["agreement"]),
            "" if name == OURS else one["agreement"]["verdict"],
            _percent(one["unanimous"]),
            _percent(one["picked"]),
        ]
        for name, one in report["choosers"].items()
    ]
    header = ("chosen by", "sides with the jury", f"{OURS} is", "where the jury is unanimous", "its pick beats")
    return (
        f"{report['pairs']} choices between two checkpoints of one task and seed, of the start and of all losses "
        f"({'; '.join(f'{run}: {len(names)}' for run, names in report['checkpoints'].items())}; "
        f"{_trained_with_ours(report)}), made on one half of "
        f"{report['photographs']} photographs and judged on the other by {', '.join(report['jury'])}, who are "
        f"unanimous in {100 * report['unanimous']:.0f} %. {_plan(report)}{remark_of_both(report, engine)}.\n\n"
        f"{table(header, rows)}\n\n"
        f"Goal, better than validation L1 and PSNR by the intervals: "
        f"{'reached' if report['goal']['reached'] else 'short'}."
    )


def _percent(estimate: Report) -> str:
    """An estimate and its interval; nothing to say where there was nothing to decide."""
    if estimate["value"] is None:
        return "-"
    return f"{percent(estimate['value'])} ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"


def speed(report: Report) -> str:
    """Time and memory beside other losses."""
    rows = [
        [
            one["title"],
            f"{one['ms']:.0f} ms",
            f"{one['peak_mib']:.0f} MiB",
            ""
            if key == LOSS_KEY
            else f"{one['ratio']:.3f} ({one['ratio_spread'][0]:.3f} to {one['ratio_spread'][1]:.3f})",
            "" if key == LOSS_KEY else f"{one['memory_ratio']:.3f}",
        ]
        for key, one in sorted(report["contenders"].items(), key=lambda item: item[1]["ms"])
    ]
    wanted = [[*one.cells()] for one in _speed_verdicts(report)]
    setup = report["setup"]
    return (
        f"{_shape(setup['shape'])}, {setup['precision']}, {setup['device']}, {setup['threads']} threads, "
        f"torch {setup['torch']}, {setup['repeats']} interleaved repeats{_allocator(setup)}; "
        "*time ratio* and *memory ratio* are ours divided by the other's.\n\n"
        + table(("loss", "median time", "peak memory", "time ratio (spread)", "memory ratio"), rows)
        + "\n\n"
        + table(("figure", "target", "measured", ""), wanted)
    )


def growth(report: Report) -> str:
    """Time and memory over sizes at batch 1."""
    points: Sequence[Report] = report["side"]["points"]
    rows = []
    for before, point in zip([None, *points[:-1]], points, strict=True):
        factor = "" if before is None else f"{point['ms'] / before['ms']:.1f}"
        pixels = "" if before is None else f"{point['pixels'] / before['pixels']:.1f}"
        rows.append([f"{point['side']}", pixels, f"{point['ms']:.0f} ms", factor, f"{point['peak_mib']:.0f} MiB"])
    setup = report["setup"]
    return (
        f"{setup['precision']}, {setup['device']}, {setup['threads']} threads, {setup['repeats']} "
        f"repeats{_allocator(setup)}; the exponent in pixels over all sizes is {report['side']['time_exponent']:.2f} "
        f"for time and {report['side']['memory_exponent']:.2f} for memory.\n\n"
        + table(("side", "times the pixels", "median time", "times as long", "peak memory"), rows)
        + "".join(f"\n\nLeft out: {reason}." for reason in report["side"]["left_out"])
    )


def bank_order(severity: Report, tiers: Report) -> str:
    """Whether stronger looks worse, and whether equal severity looks equal."""
    spread, all_of_them = severity["spread"], severity["spread_of_all"]
    return (
        f"- {severity['monotone']:,} of {severity['steps']:,} steps of severity look worse to a panel of "
        f"{len(severity['panel'])} closed-form metrics, on {len(severity['photographs'])} photographs that the "
        "calibration did not see.\n"
        f"- Calibration brings the spread of visibility at equal severity (standard deviation, mean over severities) "
        f"from {spread['before']['mean_sd']:.3f} to {spread['after']['mean_sd']:.3f} between the {spread['operators']} "
        f"operators that can be as visible as the common target, and from {all_of_them['before']['mean_sd']:.3f} to "
        f"{all_of_them['after']['mean_sd']:.3f} between all {all_of_them['operators']} that the panel can follow.\n"
        f"- {tiers['contradicted']} of {tiers['pairs']:,} pairs that are ordered by construction are contradicted by a "
        f"unanimous panel, on {len(tiers['photographs'])} photographs."
    )


def throughput(report: Report) -> str:
    """Pictures a second of the engine."""
    setup, engine = report["setup"], report["engine"]
    side = setup["size"]
    return (
        f"Triplets of {side}x{side} with maps, real codecs included: {engine['triplets']:.0f} a second called "
        f"directly on {setup['threads']} CPU threads, {engine['triplets_loader']:.0f} through a `DataLoader` with "
        f"{setup['workers']} workers."
    )


def _speed_verdicts(report: Report) -> list[Verdict]:
    return verdicts(report["contenders"], SPEED_TARGETS)


def _short(found: Sequence[Verdict]) -> str:
    """All figures that are short of their target, with both numbers."""
    texts = [
        f"{_lower_first(one.target.figure.title)} {one.target.figure.text(one.measured)} "
        f"(wanted {one.target.goal_text()})"
        for one in found
        if one.verdict == SHORT
    ]
    return "; ".join(texts) if texts else "none"


def _told(found: Sequence[Verdict]) -> str:
    """Figures as they are, whatever was wanted."""
    cells = [one.cells() for one in found]
    return ", ".join(f"{_lower_first(title.partition(',')[0])} {measured}" for title, _, measured, _ in cells)


def _lower_first(title: str) -> str:
    acronym = title[:2].isupper()
    return title if acronym else title[0].lower() + title[1:]


def _allocator(setup: Report) -> str:
    """Settings of the C library's allocator that the run had, where it had any."""
    return f", with `{setup['allocator']}`" if setup.get("allocator") else ""


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
