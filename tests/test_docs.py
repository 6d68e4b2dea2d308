"""README and documentation: code runs, commands exist, links lead somewhere, figures are the measured ones."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
from fake_hub import TOKEN, FakeHub
from pages import ROOT, Block, blocks_of, run_python

from relqa_loss import RelationalLoss
from relqa_loss.cli import build_parser, main
from relqa_loss.distortions import recipe_file
from relqa_loss.evaluation import document, document_descent
from relqa_loss.images import read_image
from relqa_loss.markdown import fill, marks, table
from relqa_loss.restoration.restorers import BY_MAPS
from relqa_loss.training.recipe_toml import load_parts

pytest.importorskip("PIL")

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"]
LANGUAGES = {"python", "bash", "json", "toml"}

RUN = {"compare", "rank", "select", "distort", "info", "targets", "document"}
"""Commands, and kinds of benchmark, that are run as they stand; of the others the options are parsed."""
SMALL = {"--grid": ["--names", "jpeg", "--side", "16"], "--family": []}
"""Added to commands with these options, so that they take no time; the last that applies counts."""


def blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page) if block.language == language]


def commands() -> list[tuple[str, list[str]]]:
    """(place, words) of each command line; comments are no part of it."""
    return [
        (str(block), words)
        for block in blocks("bash")
        for line in block.text.replace("\\\n", " ").splitlines()
        if (words := shlex.split(line, comments=True))
    ]


def relqa_words(words: list[str]) -> list[str] | None:
    """The arguments of ``relqa`` in a command line, or None; torchrun's own options come before the module."""
    if words[0] == "relqa":
        return words[1:]
    if words[0] == "torchrun" and "relqa_loss.cli" in words:
        return words[words.index("relqa_loss.cli") + 1 :]
    return None


OTHERWHERE = {"integrations.md"}
"""Run where the frameworks are installed: ``tests/integrations/test_pages.py``."""
PYTHON_PAGES = [
    page
    for page in PAGES
    if page.name not in OTHERWHERE and any(block.language == "python" for block in blocks_of(page))
]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, folder_of_pages: Path, names_of_pages, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    if page.name == "human-agreement.md":
        pytest.importorskip("scipy")
        from relqa_loss.evaluation.mos_mapping import MOSMapping

        distances = torch.linspace(0.0, 2.0, 12)
        sha256 = RelationalLoss().info()["distance"]
        MOSMapping.fit(distances, 5 - 2 * distances, dataset="made up", distance_sha256=sha256).save("live.json")
    run_python(page, names_of_pages)


def test_there_is_code_to_run() -> None:
    assert {"README.md", "index.md", "start.md", "distortions.md", "migration.md"} <= {p.name for p in PYTHON_PAGES}
    assert len(commands()) > 15


def test_every_block_has_a_language_that_is_checked() -> None:
    unchecked = [str(block) for page in PAGES for block in blocks_of(page) if block.language not in LANGUAGES]
    assert not unchecked
    fences = sum(len(re.findall(r"^\s*```", page.read_text(encoding="utf-8"), flags=re.MULTILINE)) for page in PAGES)
    assert fences == 2 * sum(len(list(blocks_of(page))) for page in PAGES)


@pytest.mark.parametrize(("place", "words"), commands(), ids=[f"{place} {words[0]}" for place, words in commands()])
def test_a_command_line_exists(place: str, words: list[str]) -> None:
    arguments = relqa_words(words)
    if arguments is not None:
        args = build_parser().parse_args(arguments)
        if args.command == "train" and args.stage in ("predictor", "scorer"):
            load_parts(args.recipe, dict(item.split("=", 1) for item in args.set))
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[:2] == ["pip", "install"]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for requirement in words[2:]:
            found = re.fullmatch(r"(?:relqa_loss|\.)(?:\[([\w,-]+)\])?", requirement)
            assert found is not None, requirement
            assert set((found[1] or "").split(",")) - {""} <= project["optional-dependencies"].keys()
    else:
        raise AssertionError(f"{place}: nothing checks {words[0]!r}")


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Of a command and all below it."""
    found = {option for action in parser._actions for option in action.option_strings}
    below = [
        one
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for one in action.choices.values()
    ]
    return found.union(*map(options, below))


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_named_in_the_text_exist(page: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    named = {option for span in spans for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}
    assert named <= options(build_parser()) | {"--nproc-per-node"}


def is_run(words: list[str]) -> bool:
    arguments = relqa_words(words) or [""]
    return arguments[0] in RUN or (arguments[:1] == ["benchmark"] and arguments[1] in RUN)


CHEAP = [(place, words) for place, words in commands() if is_run(words)]


@pytest.mark.parametrize(("place", "words"), CHEAP, ids=[f"{place} {words[1]}" for place, words in CHEAP])
def test_a_cheap_command_line_runs(place: str, words: list[str], folder_of_pages: Path, capsys) -> None:
    if any(word in words for word in ("--figure", "--grid")):
        pytest.importorskip("matplotlib")
    if words[1] == "benchmark":
        (folder_of_pages / "benchmarks").symlink_to(ROOT / "benchmarks")
        for path in (ROOT / "README.md", ROOT / "docs" / "figures.md"):
            (folder_of_pages / path.relative_to(ROOT)).parent.mkdir(exist_ok=True)
            (folder_of_pages / path.relative_to(ROOT)).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    added = next((SMALL[option] for option in reversed(SMALL) if option in words), [])
    assert main([*words[1:], *added]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("block", blocks("json") + blocks("toml"), ids=str)
def test_data_blocks_are_what_they_show(block: Block, tmp_path: Path) -> None:
    if block.language == "toml":
        (tmp_path / "recipe.toml").write_text(block.text)
        assert load_parts(tmp_path / "recipe.toml")
    else:
        (tmp_path / "recipe.json").write_text(block.text)
        components, _ = recipe_file.read_recipe(tmp_path / "recipe.json")
        assert components


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        goal = (page.parent / name).resolve() if name else page
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", [page for page in PAGES if "docs" in page.parts], ids=lambda page: page.name)
def test_pages_of_the_site_link_inside_it(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
    inside = [target for target in targets if not re.match(r"\w+:", target)]
    assert all((page.parent / target).resolve().is_relative_to(ROOT / "docs") for target in inside)


@pytest.fixture(scope="module")
def results() -> dict[str, dict]:
    folder = ROOT / "benchmarks" / "results"
    return {stem: json.loads((folder / f"{stem}.json").read_text(encoding="utf-8")) for stem in document.RESULTS}


def test_the_figures_in_the_documents_are_the_measured_ones(results) -> None:
    folder = ROOT / "benchmarks" / "results"
    human = [json.loads(path.read_text()) for path in sorted(folder.glob(document.HUMAN))]
    runs = {
        document.run_name(path): json.loads(path.read_text()) for path in sorted(folder.glob(document.FROM_SCRATCH))
    }
    for page in (ROOT / "README.md", ROOT / "docs" / "figures.md"):
        text = page.read_text(encoding="utf-8")
        assert fill(text, document.parts(results, human, runs), document.COMMAND) == text, (
            "run: relqa benchmark document README.md docs/figures.md"
        )


def test_the_readmes_picture_is_small_and_its_command_is_told() -> None:
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert 600 < read_image(ROOT / picture).shape[2] and (ROOT / picture).stat().st_size < 200_000
    assert f"relqa demo --out {picture}" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_part_has_a_place(results) -> None:
    both = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/figures.md"))
    assert all(marks(part, document.COMMAND)[0] in both for part in document.parts(results))


def test_figures_from_scratch_are_of_operators_that_were_seen(results) -> None:
    with pytest.raises(ValueError, match="report must be of operators that its weights were trained on, got colour"):
        document.from_scratch(results["held-out"], results["engine"], {})


def test_whole_runs_stand_beside_the_bundled_weights(results) -> None:
    name = document.run_name(Path("from-scratch-seed-7.json"))
    run = results["engine"] | {"axis_accuracy": 0.125}
    for part in ({"trained_without": ["jpeg"]}, {"per_operator": {}}):
        with pytest.raises(ValueError, match="run 'seed 7' must be trained and measured on the whole bank"):
            document.from_scratch(results["held-out-seen"], results["engine"], {name: run | part})
    text = document.from_scratch(results["held-out-seen"], results["engine"], {name: run})
    assert "| figure | target | bundled | seed 7 |" in text
    assert "| Axis accuracy | >= 92.0 % | 100.0 % | 12.5 % |" in text


def test_a_changed_figure_changes_the_summary(results) -> None:
    engine = results["engine"] | {"axis_accuracy": 0.1234}
    text = document.summary(results | {"engine": engine})
    assert "right axis 12.3 %" in text and "axis accuracy 12.3 % (wanted >= 92.0 %)" in text


def test_every_figure_that_is_short_is_in_the_summary(results) -> None:
    held_out = results["held-out"]
    poor = {name: of | {"ladder_accuracy": 0.5} for name, of in held_out["per_operator"].items()}
    of_these = {"distance_sha256": results["engine"]["distance_sha256"]}  # others do not count
    changed = {
        "held-out": held_out | {"per_operator": poor},
        "line": results["line"] | of_these | {"share": 0.7},
        "recovery": results["recovery"] | of_these | {"psnr": {"grey field": {"RelationalLoss": 12.0}}},
    }
    text = document.summary(results | changed)
    assert "ladder accuracy, distortions that training did not see 50.0 % (wanted >= 96.0 %)" in text
    assert "rises along the line 70.0 % (wanted >= 99.0 %)" in text
    assert "PSNR from grey field 12.0 dB (wanted >= 30.0 dB)" in text


def test_all_documents_are_written_or_none(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(document, "parts", lambda *reports: {"summary": "new"})
    begin, end = marks("summary", document.COMMAND)
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text(f"{begin}\nold\n{end}\n", encoding="utf-8")
    results = ["--results", str(ROOT / "benchmarks" / "results")]
    paths = [str(tmp_path / name) for name in ("a.md", "b.md")]
    write_text = Path.write_text

    def full_disk(path, *arguments, **options):
        if path.name == "b.md":
            raise OSError("disk full")
        return write_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full_disk)
    assert main(["benchmark", "document", *paths, *results]) != 0
    assert all("old" in Path(path).read_text() for path in paths)
    monkeypatch.undo()
    monkeypatch.setattr(document, "parts", lambda *reports: {"summary": "new"})
    assert main(["benchmark", "document", *paths, *results]) == 0
    assert all("new" in Path(path).read_text() for path in paths)


def test_reports_that_lack_a_figure_are_named(tmp_path: Path, capsys, results) -> None:
    for stem, report in results.items():
        (tmp_path / f"{stem}.json").write_text(json.dumps(report))
    lacking = results["throughput"] | {"engine": {}}
    (tmp_path / "throughput.json").write_text(json.dumps(lacking))
    assert main(["benchmark", "document", str(tmp_path / "page.md"), "--results", str(tmp_path)]) == 1
    assert f"the reports in {tmp_path} lack a figure that is to be shown: 'triplets'" in capsys.readouterr().err


def test_figures_of_other_weights_are_said_to_be(results) -> None:
    engine, other = results["engine"], {"distance_sha256": "0"}
    assert "earlier weights" in document_descent.line(results["line"] | other, engine)
    jury = results["jury"] | {"setup": results["jury"]["setup"] | other}
    assert "Agreement with a jury" not in document.summary(results | {"jury": jury})


def test_figures_of_the_distance_stay_true_of_weights_with_other_maps(results) -> None:
    engine, other = results["engine"], {"weights_sha256": {"predictor.safetensors": "0"}}
    assert "earlier" not in document_descent.line(results["line"] | other, engine)
    for text in (
        document.restoration(results["restoration"] | other, engine),
        document.selection(results["selection"] | other, engine),
    ):
        assert "earlier maps" in text and "earlier weights" not in text
    both = results["restoration"] | other | {"distance_sha256": "0"}
    assert "earlier weights" in document.restoration(both, engine)


def test_a_goal_that_is_missed_is_in_the_summary(results) -> None:
    engine, report = results["engine"], results["restoration"]
    task, figures = next(iter(report["tasks"].items()))
    for reached in (True, False):
        goal = {"reached": reached, "better_or_tie": {"L1": 1, "L1 + MS-SSIM": 0}, "psnr_lost_db": 0.35}
        words = {"L1": "better worse worse unknown", "L1 + MS-SSIM": "worse worse worse worse"}
        against = {
            name: {judge: {"verdict": word} for judge, word in zip(report["judges"], told.split(), strict=True)}
            for name, told in words.items()
        }
        told = figures | {"goal": goal, "against": against}
        changed = report | {"tasks": {task: told}, "distance_sha256": engine["distance_sha256"]}
        text = document.summary(results | {"restoration": changed})
        (line,) = [line for line in text.splitlines() if f"RelationalLoss, {task} (" in line]
        wanted = (
            "against L1 better by 1 judge, worse by 2, unknown by 1; against L1 + MS-SSIM worse by 4 judges; "
            "0.35 dB PSNR lost to L1"
        )
        assert wanted in line
        assert ("Short of its goal" in line) is not reached
        assert f"Goal: {'reached' if reached else 'short'};" in document.restoration(changed, engine)


def test_agreement_with_people_is_told_where_it_was_measured_of_these_weights(results) -> None:
    metric = {"name": "RelationalLoss", "spearman": {"value": 0.87, "low": 0.85, "high": 0.89}}
    report = {
        "weights": {"distance": results["engine"]["distance_sha256"]},
        "setup": {"title": "TID2013", "pairs": 3000},
        "metrics": [metric],
    }
    told = "With people on TID2013 (3000 pairs): 0.870 [0.850, 0.890]."
    parts = document.parts(results, [report])
    assert told in parts["summary"] and told in parts["engine"]
    assert "has not been measured" not in parts["summary"]
    parts = document.parts(results, [report | {"weights": {"distance": "another"}}])
    assert told not in parts["summary"] and "has not been measured" in parts["summary"]


def test_restorers_by_maps_are_known_by_their_name(results) -> None:
    assert document.BY_MAPS == BY_MAPS
    assert f"against {BY_MAPS} " in document.summary(results)


def test_psnr_is_shown_in_db_and_verdicts_stand_beside_the_rivals(results) -> None:
    report = results["restoration"]
    task, figures = next(iter(report["tasks"].items()))
    figures = figures | {"mean": {"L1": figures["mean"]["L1"] | {"psnr": -31.234}}}
    text = document.restoration(report | {"tasks": {task: figures}}, results["engine"])
    assert f"31.23 (ours: {figures['against']['L1']['psnr']['verdict']})" in text


def test_a_jury_that_never_agrees_leaves_a_dash(results) -> None:
    report = results["selection"]
    chooser, one = next(iter(report["choosers"].items()))
    nothing = {"value": None, "low": None, "high": None}
    text = document.selection(report | {"choosers": {chooser: one | {"unanimous": nothing}}}, results["engine"])
    assert "| - |" in text


def test_the_stated_precision_is_the_tested_one() -> None:
    from test_precision import STATED

    text = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    rows = [(name, f"{100 * error:g} %") for name, (error, _) in STATED.items()]
    assert table(("computed in", "error below"), rows).splitlines()[2:] == [
        line for line in text.splitlines() if line.startswith(tuple(f"| {name} |" for name, _ in rows))
    ]


def test_a_document_without_a_place_is_refused(tmp_path: Path, capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing to fill")
    arguments = ["benchmark", "document", str(page), "--results", str(ROOT / "benchmarks" / "results")]
    assert main(arguments) == 1 and "the document must hold" in capsys.readouterr().err
    page.write_text(marks("summary", document.COMMAND)[0])
    assert main(arguments) == 1 and "once each" in capsys.readouterr().err
