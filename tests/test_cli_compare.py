"""``relqa compare`` on folders, its table, CSV, page and panel; bars of progress and errors of the command line."""

import csv
import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from relqa_loss.cli import EXIT_CODES, build_parser, main, progress
from relqa_loss.images import write_image
from relqa_loss.relation import AXES

pytest.importorskip("PIL")


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folders(tmp_path, make_photos):
    """ref (0, 1, 2), out (0 far, 1 near, 2 equal; other endings), and poor, which lacks 2 and has an extra one."""
    photos = make_photos(3, 32, 40)
    noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(1))
    for k in range(3):
        write_image(tmp_path / "ref" / f"{k}.png", photos[k])
        write_image(tmp_path / "out" / f"{k}.webp", photos[k] + (0.15, 0.02, 0.0)[k] * noise[k])
    for k in (0, 1):
        write_image(tmp_path / "poor" / f"{k}.png", photos[k] + 0.2 * noise[k])
    write_image(tmp_path / "poor" / "more.png", photos[0])
    return tmp_path


def test_folders_are_compared_by_name_with_a_summary(capsys, folders):
    code, out, err = run(capsys, "compare", folders / "ref", folders / "out")
    rows, summary = (part.splitlines() for part in out.split("\n\n"))
    assert code == 0 and err == ""
    assert [line.split()[0].rpartition("/")[2] for line in rows[1:]] == ["0.webp", "1.webp", "2.webp"]
    distances = [float(line.split()[1]) for line in rows[1:]]
    assert distances[0] > distances[1] > distances[2] == 0
    fields = summary[1].split()
    assert fields[0] == str(folders / "out") and fields[1] == "3" and fields[5] == "0.webp"
    assert float(fields[2]) == pytest.approx(sum(distances) / 3, rel=1e-3)


def test_several_folders_are_summed_up_each_and_what_has_no_partner_is_named(capsys, folders):
    code, out, err = run(capsys, "compare", folders / "ref", folders / "out", folders / "poor", "--json")
    found = json.loads(out)
    assert code == 1
    assert [(each["folder"], each["pictures"]) for each in found["summary"]] == [
        (str(folders / "out"), 3),
        (str(folders / "poor"), 2),
    ]
    assert [row["image"].rpartition("/")[2] for row in found["skipped"]] == ["2", "more.png"]
    assert "no such picture" in err and "no original of this name" in err
    best = {row["image"]: row["score_vs_best"] for row in found["images"]}
    assert best[str(folders / "out" / "0.webp")] == 0 > best[str(folders / "poor" / "0.png")]


@pytest.mark.parametrize(
    "reference, image, message",
    [
        ("ref", "out/0.webp", "expected a folder of photographs"),
        ("ref/0.png", "out", "got a folder"),
        ("ref", "empty", "no photograph in folder"),
        ("ref", "other", "has the name of one in"),
    ],
)
def test_a_file_and_a_folder_do_not_go_together(capsys, folders, reference, image, message):
    (folders / "empty").mkdir()
    write_image(folders / "other" / "z.png", torch.zeros(3, 16, 16))
    code, out, err = run(capsys, "compare", folders / reference, folders / image)
    assert code == 1 and out == "" and len(err.splitlines()) == 1 and message in err


def test_rank_sends_folders_to_select(capsys, folders):
    code, _, err = run(capsys, "rank", folders / "ref", folders / "out")
    assert code == 1 and "relqa select compares folders" in err


def test_csv_has_every_number_in_full(capsys, folders):
    code, out, _ = run(capsys, "compare", folders / "ref", folders / "out", "--csv")
    far, _, same = csv.DictReader(io.StringIO(out))
    assert code == 0 and list(far) == ["image", "reference", "distance", "psnr", "floor", *AXES]
    total = float(far["floor"]) + sum(float(far[axis]) for axis in AXES)
    assert total == pytest.approx(float(far["distance"]), rel=1e-5)
    assert float(same["distance"]) == 0 and same["psnr"] == "inf"
    one, two = (folders / "out" / name for name in ("0.webp", "1.webp"))
    write_image(folders / "same.png", torch.rand(3, 32, 40))
    _, out, _ = run(capsys, "rank", folders / "ref" / "1.png", one, two, "--csv")
    assert [row["image"] for row in csv.DictReader(io.StringIO(out))] == [str(two), str(one)]


def test_json_and_csv_exclude_each_other_in_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", "a.png", "b.png", "--json", "--csv"])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and len(err.splitlines()) == 1 and "--csv: not allowed with argument --json" in err


def test_the_page_holds_the_worst_and_names_all(capsys, folders):
    target = folders / "new" / "report.html"
    arguments = ["compare", folders / "ref", folders / "out", folders / "poor", "--html", target, "--html-pictures", 2]
    code, _, err = run(capsys, *arguments)
    page = target.read_text(encoding="utf-8")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert code == 1 and f"page: {target}" in err
    assert [pair["name"] for pair in data["pairs"] if pair["picture"]] == ["poor/0.png", "poor/1.png"]
    assert len(data["pairs"]) == 5 and len(data["groups"]) == 2 and len(data["skipped"]) == 2
    assert "out, poor compared with ref" in page
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--html", "page.txt"], "must be a file that ends in .html"),
        (["--html", "page.html", "--html-pictures", "0"], "pictures must be at least 1, got 0"),
        (["--figure", "a.nothing"], "the ending must be one of"),
        (["--panel", "a.nothing"], "the ending must be one of"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(capsys, folders, monkeypatch, options, message):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(folders)
    code, out, err = run(capsys, "compare", "ref/0.png", "out/0.webp", *options)
    assert code == 1 and out == "" and len(err.splitlines()) == 1 and message in err
    assert not any(path.is_file() for path in folders.iterdir())


def test_what_cannot_be_replaced_is_named_as_it_was_given(capsys, folders, monkeypatch):
    monkeypatch.chdir(folders)
    (folders / "taken.html").mkdir()
    code, _, err = run(capsys, "compare", "ref/0.png", "out/0.webp", "--html", "taken.html")
    assert code == 1 and err.startswith("relqa compare: error: cannot write taken.html: ")
    (folders / "file").touch()
    code, _, err = run(capsys, "compare", "ref/0.png", "out/0.webp", "--html", "file/page.html")
    assert code == 1 and err.startswith("relqa compare: error: cannot write into the folder file: ")
    assert not list(folders.rglob(".writing-*"))


def test_panel_sets_pictures_side_by_side(capsys, folders):
    pytest.importorskip("matplotlib")
    images = [folders / "out" / "0.webp", folders / "poor" / "0.png"]
    code, _, err = run(capsys, "compare", folders / "ref" / "0.png", *images, "--panel", folders / "p.svg")
    svg = (folders / "p.svg").read_text()
    assert code == 0 and f"figure: {folders / 'p.svg'}" in err
    # Both are named 0: the ends of their paths tell them apart.
    assert "/out/0.webp" in svg and "/poor/0.png" in svg
    code, _, err = run(capsys, "compare", folders / "ref", folders / "out", "--panel", folders / "q.svg")
    assert code == 2 and "--panel: for one REF" in err


def test_panel_refuses_one_picture_twice(capsys, folders):
    pytest.importorskip("matplotlib")
    image = folders / "out" / "0.webp"
    code, out, err = run(capsys, "compare", folders / "ref" / "0.png", image, image, "--panel", folders / "p.svg")
    assert code == 2 and out == "" and f"--panel: IMG must be different pictures, got {image} twice" in err
    assert not (folders / "p.svg").exists()


def test_panel_keeps_a_column_for_each_name(capsys, folders, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr("relqa_loss.figures_methods.methods_figure", lambda _, outputs, __: drawn.extend(outputs))
    monkeypatch.chdir(folders)
    # The path of the first is the name of the third.
    images = ["x.png", "poor/x.png", "x.png.png"]
    for name in images:
        shutil.copy("poor/0.png", name)
    assert run(capsys, "compare", "ref/0.png", *images, "--panel", "p.svg")[0] == 0
    assert drawn == images


def test_names_that_are_no_text_are_escaped(capsys, folders):
    pytest.importorskip("matplotlib")
    image = folders / "out" / "b\udcff.webp"
    try:
        shutil.copy(folders / "out" / "0.webp", image)
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes no such name")
    targets = {"--html": "page.html", "--panel": "panel.svg", "--figure": "figure.svg"}
    options = [part for option, name in targets.items() for part in (option, folders / name)]
    code, out, _ = run(capsys, "compare", folders / "ref" / "0.png", image, *options)
    assert code == 0 and "b\\udcff.webp" in out
    for name in targets.values():
        assert "b\\udcff" in (folders / name).read_text(encoding="utf-8")


def test_deep_pictures_differ_below_one_step_of_8_bits(capsys, tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    pytest.importorskip("tifffile")
    values = torch.randint(20000, 40000, (32, 32, 3), generator=torch.Generator().manual_seed(0)).numpy().astype("u2")
    changed = values.copy()
    changed[8:24, 8:24] ^= 1
    for name, pixels in (("a.png", values), ("b.png", changed)):
        (tmp_path / name).write_bytes(imagecodecs.png_encode(pixels))
    code, out, _ = run(capsys, "compare", tmp_path / "a.png", tmp_path / "b.png", "--json")
    assert code == 0 and 90 < json.loads(out)["images"][0]["psnr"] < 110


def test_curves_of_several_runs_share_a_figure(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(
            '{"step": 1, "loss": 0.5, "rank": 1}\n{"step": 2, "loss": 0.4}\n'
        )
    target = tmp_path / "a.svg"
    arguments = ["train", "plot", tmp_path / "one", tmp_path / "two", "--out", target, "--only", "loss", "--narrow"]
    code, out, _ = run(capsys, *arguments)
    svg = target.read_text()
    assert code == 0 and out == f"{target}\n"
    assert str(tmp_path / "two") in svg and ">loss<" in svg and ">rank<" not in svg
    code, _, err = run(capsys, "train", "plot", tmp_path / "one", "--out", target, "--only", "los")
    assert code == 1 and "did you mean 'loss'" in err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_shows_on_a_terminal_after_a_while_and_nowhere_else(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    assert list(progress.tracked([1, 2, 3], "counting")) == [1, 2, 3] and capsys.readouterr().err == ""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    list(progress.tracked([1, 2, 3], "counting"))
    assert "counting" not in screen.getvalue()
    monkeypatch.setattr(progress, "AFTER", 0)
    for item in progress.tracked([1, 2, 3], "counting"):
        if item == 3:
            progress.say("a remark")
    assert "counting" in screen.getvalue() and "a remark\n" in screen.getvalue()
    # What is left on the last line is blank.
    assert screen.getvalue().rpartition("\r")[2].strip() == ""


def test_a_fault_of_the_package_is_one_line_too(capsys, monkeypatch, folders):
    def broken(*_):
        raise AttributeError("nothing has no attribute")

    monkeypatch.setattr("relqa_loss.cli.compare.relate", broken)
    arguments = ["compare", folders / "ref" / "0.png", folders / "out" / "0.webp"]
    code, _, err = run(capsys, *arguments)
    line = "relqa compare: error: AttributeError: nothing has no attribute (--debug shows where)\n"
    assert code == 1 and err == line
    assert "Traceback" in run(capsys, *arguments, "--debug")[2]


def test_help_lists_the_exit_codes():
    assert EXIT_CODES in build_parser().format_help()
    assert [line.split()[0] for line in EXIT_CODES.splitlines()[1:]] == ["0", "1", "2", "130", "143"]


def test_the_documentation_lists_the_same_exit_codes():
    page = Path(__file__).parent.parent / "docs" / "command-line.md"
    listed = re.findall(r"^- (\d+): (.*)$", page.read_text(encoding="utf-8").partition("Exit codes:")[2], re.M)
    assert [(code, says.replace("`", "")) for code, says in listed] == [
        tuple(line.split(maxsplit=1)) for line in EXIT_CODES.splitlines()[1:]
    ]
