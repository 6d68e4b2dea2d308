import csv
import io
import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from relqa_loss.cli import main
from relqa_loss.cli.benchmark_descent import _write_sheet
from relqa_loss.cli.common import one_line
from relqa_loss.evaluation.recovery import Recovery
from relqa_loss.images import read_image, write_image
from relqa_loss.losses import DEFAULT_WEIGHTS, RelationalLoss
from relqa_loss.relation import AXES

pytest.importorskip("PIL")

ROOT = Path(__file__).parents[1]
COMMANDS = [
    ["compare"],
    ["rank"],
    ["select"],
    ["distort"],
    ["train"],
    ["train", "predictor"],
    ["train", "scorer"],
    ["train", "plot"],
    ["benchmark"],
    ["benchmark", "engine"],
    ["benchmark", "speed"],
    ["benchmark", "growth"],
    ["benchmark", "recovery"],
    ["benchmark", "alignment"],
    ["benchmark", "line"],
    ["benchmark", "calibration"],
    ["benchmark", "severity"],
    ["benchmark", "tiers"],
    ["benchmark", "throughput"],
    ["benchmark", "gradients"],
    ["benchmark", "human"],
    ["benchmark", "jury"],
    ["benchmark", "resume"],
    ["benchmark", "restoration"],
    ["benchmark", "selection"],
    ["benchmark", "targets"],
    ["benchmark", "card"],
    ["benchmark", "document"],
    ["demo"],
    ["info"],
]

CORE_INSTALL = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        extras = ("PIL", "matplotlib", "torchvision", "lightning", "pytorch_lightning", "piq")
        if name.partition(".")[0] in extras:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from relqa_loss.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_core_install(arguments, folder):
    """The command line in a process that has none of the extras."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", CORE_INSTALL, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )


@pytest.fixture
def photo(make_photos):
    return make_photos(1, 64, 80)[0]


@pytest.fixture
def files(tmp_path, photo):
    """ref.png, near.png and far.png: two strengths of noise."""
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(1))
    write_image(tmp_path / "ref.png", photo)
    write_image(tmp_path / "near.png", photo + 0.02 * noise)
    write_image(tmp_path / "far.png", photo + 0.15 * noise)
    return tmp_path


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_of_every_command_works_in_a_core_install(tmp_path):
    # One process for all of them: starting torch is what takes the time.
    script = CORE_INSTALL.rpartition("sys.exit")[0] + (
        "import json\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        main([*command, '--help'])\n"
        "    except SystemExit as stop:\n"
        "        assert stop.code == 0, command\n"
        "print('loaded:', sorted({'relqa_loss.training', 'relqa_loss.distortions'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([[], *COMMANDS])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: relqa") == 1 + len(COMMANDS)
    assert done.stdout.endswith("loaded: []\n")


def test_a_missing_extra_is_one_line_that_names_it(files):
    done = run_core_install(["rank", "ref.png", "near.png"], files)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == ['relqa rank: error: this needs Pillow: pip install "relqa_loss[images]"']


def test_a_plot_without_matplotlib_names_the_extra(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    done = run_core_install(["train", "plot", "metrics.jsonl", "--out", "a.png"], tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        'relqa train: error: this needs matplotlib: pip install "relqa_loss[figures]"',
    ]


def test_of_a_workers_traceback_the_last_line_is_shown():
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left") as caught:
        list(torch.utils.data.DataLoader(Broken(), num_workers=1))
    assert "Traceback" in str(caught.value)
    assert one_line(str(caught.value)) == "OSError: no space left"
    assert one_line("two\n   lines") == "two lines"


def leaving(arguments: list[str], **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line, in a process that says so if it is taken down."""
    script = "import atexit; from relqa_loss.cli import entry; atexit.register(print, 'taken down'); entry()"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=os.environ | environment
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("arguments", "code"), [(["info", "--json"], 0), (["info", "--weights", "nowhere"], 1)])
def test_a_process_of_torchrun_leaves_at_once_with_all_it_had_to_say(arguments: list[str], code: int) -> None:
    plain, at_once = leaving(arguments), leaving(arguments, TORCHELASTIC_RUN_ID="1")
    assert plain[0] == at_once[0] == code
    assert plain[1].endswith("taken down\n")
    assert at_once[1:] == (plain[1].removesuffix("taken down\n"), plain[2])


def test_info_works_in_a_core_install(tmp_path):
    done = run_core_install(["info", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert tuple(facts["axes"]) == AXES and facts["weights"] == DEFAULT_WEIGHTS
    assert all(len(digest) == 64 for digest in facts["sha256"].values()) and len(facts["sha256"]) == 2


def test_info_prints_digests_and_axes(capsys):
    code, out, _ = run(capsys, "info")
    assert code == 0 and "predictor.safetensors" in out and max(map(len, out.splitlines())) < 200
    provenance = json.loads(run(capsys, "info", "--json")[1])["provenance"]
    assert f"  recipe                   name {provenance['recipe']['name']}; seed" in out and "{" not in out
    assert [line.split()[0] for line in out.splitlines()[-len(AXES) :]] == list(AXES)
    runs = provenance["earlier_runs"]
    first = next(index for index, line in enumerate(out.splitlines()) if line.startswith("  earlier_runs "))
    told = out.splitlines()[first : first + len(runs)]
    assert all(f"steps {one['steps']}, " in line for one, line in zip(runs, told, strict=True) if "steps" in one)


def test_compare_prints_a_table(capsys, files):
    code, out, _ = run(capsys, "compare", files / "ref.png", files / "far.png", files / "near.png", files / "ref.png")
    header, far, near, same = out.splitlines()
    assert code == 0 and header.split()[:2] == ["image", "distance"]
    distances = [float(line.split()[1]) for line in (far, near, same)]
    assert distances[0] > distances[1] > distances[2] == 0
    assert float(far.split()[2]) == pytest.approx(-distances[0], rel=1e-3) and same.endswith("no difference")
    assert same.split()[3] == "inf"


def test_compare_as_json_splits_the_distance(capsys, files):
    code, out, _ = run(capsys, "compare", files / "ref.png", files / "far.png", files / "ref.png", "--json")
    far, same = json.loads(out)["images"]
    assert code == 0 and tuple(far["parts"]) == AXES
    assert sum(far["parts"].values()) + far["floor"] == pytest.approx(far["distance"], rel=1e-4)
    strongest = far["dominant"][0]
    assert strongest["part"] == far["parts"][strongest["axis"]] and -1 <= strongest["direction"] <= 1
    assert strongest["axis"] in ("noise", "chroma_noise")
    assert same["distance"] == 0 and same["psnr"] is None and same["dominant"] == []


def test_compare_writes_a_figure_for_each_image(capsys, files):
    pytest.importorskip("matplotlib")
    code, _, err = run(capsys, "compare", files / "ref.png", files / "near.png", "--figure", files / "one.png")
    assert code == 0 and "one.png" in err and read_image(files / "one.png").shape[2] > 300
    run(
        capsys, "compare", files / "ref.png", files / "near.png", files / "far.png", "--figure", files / "f" / "all.png"
    )
    assert sorted(path.name for path in (files / "f").iterdir()) == ["all-1-near.png", "all-2-far.png"]


def test_compare_names_the_file_really_written(capsys, files):
    pytest.importorskip("matplotlib")
    code, _, err = run(capsys, "compare", files / "ref.png", files / "near.png", "--figure", files / "fig")
    assert code == 0 and err == f"figure: {files / 'fig.png'}\n" and (files / "fig.png").is_file()


@pytest.fixture
def odd_files(files, photo):
    """Beside the good ones: small.png of another size, tiny.png below the least size, broken.png no picture."""
    write_image(files / "small.png", photo[:, :40])
    write_image(files / "tiny.png", photo[:, :8, :8])
    (files / "broken.png").write_text("no picture")
    return files


@pytest.mark.parametrize("command, key", [("compare", "images"), ("rank", "ranking")])
def test_unusable_pictures_are_named_and_the_others_compared(capsys, odd_files, command, key):
    names = ["broken.png", "far.png", "small.png", "absent.png", "near.png", "tiny.png"]
    arguments = [command, odd_files / "ref.png", *(odd_files / name for name in names)]
    code, out, err = run(capsys, *arguments)
    assert code == 1 and len(out.splitlines()) == 3 and "near.png" in out and "far.png" in out
    lines = err.splitlines()
    assert [Path(line.split()[1].rstrip(":")).name for line in lines] == names[:1] + names[2:4] + names[5:]
    assert all(line.startswith("skipped ") for line in lines) and "80x40" in lines[1] and "80x64" in lines[1]
    code, out, _ = run(capsys, *arguments, "--json")
    found = json.loads(out)
    assert code == 1 and {Path(row["image"]).name for row in found[key]} == {"near.png", "far.png"}
    assert [Path(row["image"]).name for row in found["skipped"]] == names[:1] + names[2:4] + names[5:]
    assert all(row["reason"] for row in found["skipped"])


def test_nothing_to_compare_is_an_error(capsys, odd_files):
    code, out, err = run(capsys, "rank", odd_files / "ref.png", odd_files / "broken.png", odd_files / "small.png")
    assert code == 1 and out == "" and len(err.splitlines()) == 3
    assert err.splitlines()[-1].startswith("relqa rank: error: none of the 2 pictures can be compared with")
    code, out, err = run(capsys, "compare", odd_files / "tiny.png", odd_files / "near.png")
    assert code == 1 and out == "" and "tiny.png: smaller than 16x16" in err


def test_rank_puts_the_nearest_first(capsys, files):
    code, out, _ = run(capsys, "rank", files / "ref.png", files / "far.png", files / "near.png")
    assert code == 0 and [Path(line.split()[1]).name for line in out.splitlines()[1:]] == ["near.png", "far.png"]
    _, out, _ = run(capsys, "rank", files / "ref.png", files / "far.png", files / "near.png", "--json")
    assert [Path(row["image"]).name for row in json.loads(out)["ranking"]] == ["near.png", "far.png"]


@pytest.fixture
def folders(tmp_path, make_photos):
    """ref, good and bad with nine pictures each, enough to name a reason; endings differ, names pair them."""
    photos = make_photos(9, 32, 40)
    noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(1))
    for k in range(9):
        write_image(tmp_path / "ref" / f"{k}.png", photos[k])
        write_image(tmp_path / "bad" / f"{k}.webp", photos[k] + 0.15 * noise[k])
        write_image(tmp_path / "good" / f"{k}.tiff", photos[k] + 0.02 * noise[k])
    return tmp_path


def test_select_names_the_best_folder(capsys, folders):
    arguments = ["select", "--ref", folders / "ref", folders / "bad", folders / "good"]
    code, out, err = run(capsys, *arguments)
    assert code == 0 and err == "" and out.splitlines()[-1] == f"best of 2 on 9 photographs: {folders / 'good'}"
    assert "worse" in out.splitlines()[2] and "cannot be told apart" not in out
    _, out, _ = run(capsys, *arguments, "--json")
    found = json.loads(out)
    assert found["best"] == [str(folders / "good")] and found["places"][0]["tag"] == str(folders / "good")
    (verdict,) = found["verdicts"]
    assert (verdict["decision"], verdict["tag"]) == ("worse", str(folders / "bad")) and verdict["win_rate"] == 0.0
    assert verdict["confidence"] == 1 - 2**-8 and verdict["interval"][1] < 0
    assert found["references"] == [str(k) for k in range(9)] and found["skipped"] == []


def test_select_does_not_call_the_first_folder_best_when_nothing_is_decided(capsys, folders):
    shutil.copytree(folders / "good", folders / "twin")
    arguments = ["select", "--ref", folders / "ref", folders / "twin", folders / "bad", folders / "good"]
    code, out, _ = run(capsys, *arguments, "--level", 0.9)
    assert code == 0
    group = f"{folders / 'twin'}, {folders / 'good'}"
    assert out.splitlines()[-2:] == [f"cannot be told apart at 0.9: {group}", f"best of 3 on 9 photographs: {group}"]
    assert [line.split("  ")[0] for line in out.splitlines()[1:4]] == ["1 to 2", "1 to 2", "3"]
    code, out, err = run(capsys, "select", "--ref", folders / "ref", folders / "good", folders / "good")
    assert code == 2 and out == "" and "different folders, got" in err


def test_select_skips_the_unreadable_and_names_the_missing(capsys, folders):
    (folders / "bad" / "3.webp").write_text("broken")
    shutil.copy(folders / "good" / "0.tiff", folders / "good" / "more.tiff")
    arguments = ["select", "--ref", folders / "ref", folders / "bad", folders / "good", "--json"]
    code, out, err = run(capsys, *arguments)
    found = json.loads(out)
    assert code == 1 and [row["photograph"] for row in found["skipped"]] == ["3"] and found["images"] == 8
    assert "skipped 3: " in err and err.endswith("1 photograph skipped\n")
    assert "1 output has no original: left out, e.g. " in err and "more.tiff" in err
    (folders / "good" / "5.tiff").unlink()
    code, out, err = run(capsys, *arguments)
    assert code == 1 and out == "" and "lacks outputs for 1 of 9 references, e.g. '5'" in err


def test_select_as_csv_has_a_row_for_each_folder_beside_the_first(capsys, folders):
    shutil.copytree(folders / "good", folders / "twin")
    arguments = ["select", "--ref", folders / "ref", folders / "bad", folders / "good", folders / "twin"]
    code, out, err = run(capsys, *arguments, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and err == "" and len(rows) == 3 and rows[2]["outputs"] == str(folders / "bad")
    assert [(row["best_place"], row["worst_place"]) for row in rows] == [("1", "2"), ("1", "2"), ("3", "3")]
    assert [row["decision"] for row in rows] == ["", "undecided", "worse"]
    found = json.loads(run(capsys, *arguments, "--json")[1])
    assert [float(row["distance"]) for row in rows] == [place["distance"] for place in found["places"]]
    worst = next(
        one for one in found["verdicts"] if (one["tag"], one["against"]) == (rows[2]["outputs"], found["best"][0])
    )
    told = [float(rows[2][name]) for name in ("score", "confidence", "win_rate", "win_rate_low", "win_rate_high")]
    assert told == [worst["score"], worst["confidence"], worst["win_rate"], *worst["win_interval"]]
    assert "grainier" in rows[2]["in_what"]


def test_select_says_when_the_references_are_too_few(capsys, folders):
    for folder in ("ref", "bad", "good"):
        for path in sorted((folders / folder).iterdir())[2:]:
            path.unlink()
    arguments = ["select", "--ref", folders / "ref", folders / "bad", folders / "good"]
    code, out, err = run(capsys, *arguments)
    assert code == 0 and "2 photographs cannot reach the confidence 0.95 asked for in 1 comparison (at most 0.5)" in err
    assert "undecided" in out.splitlines()[2] and out.splitlines()[-1].count(str(folders)) == 2
    assert run(capsys, *arguments, "--level", 0.5)[2] == ""
    assert run(capsys, *arguments, "--level", 1.5)[0] == 1


def test_select_holds_one_output_at_a_time(capsys, folders, monkeypatch):
    alive, most = weakref.WeakSet(), []

    def watched(path):
        image = read_image(path)
        alive.add(image)
        most.append(len(alive))
        return image

    monkeypatch.setattr("relqa_loss.images.read_image", watched)
    more = [folders / f"more{k}" for k in range(3)]
    for folder in more:
        shutil.copytree(folders / "good", folder)
    assert run(capsys, "select", "--ref", folders / "ref", folders / "bad", *more)[0] == 0
    # The original, the output that is being looked at, and the next one while it is read.
    assert len(most) == 45 and max(most) <= 3


def test_select_compares_large_pictures_in_tiles_and_shows_how_far_it_is(capsys, folders, monkeypatch):
    relate, tiles, bars = RelationalLoss.relate, [], []

    def watched(self, *pair, tile=None):
        tiles.append(tile)
        return relate(self, *pair, tile=tile)

    def tracked(items, label):
        bars.append((len(items), label))
        return iter(items)

    monkeypatch.setattr(RelationalLoss, "relate", watched)
    monkeypatch.setattr("relqa_loss.cli.select.tracked", tracked)
    arguments = ["select", "--ref", folders / "ref", folders / "bad", folders / "good", "--json"]
    whole = json.loads(run(capsys, *arguments)[1])
    assert set(tiles) == {None} and bars == [(9, "comparing")]
    tiles.clear()
    monkeypatch.setattr("relqa_loss.cli.common.LARGE", 1000)
    monkeypatch.setattr("relqa_loss.cli.common.TILE", 16)
    tiled = json.loads(run(capsys, *arguments)[1])
    assert set(tiles) == {16}
    for one, other in zip(whole["places"], tiled["places"], strict=True):
        assert other["tag"] == one["tag"] and other["distance"] == pytest.approx(one["distance"], rel=1e-4)


def test_select_names_the_file_of_another_size(capsys, folders, photo):
    write_image(folders / "good" / "4.tiff", photo)
    code, out, err = run(capsys, "select", "--ref", folders / "ref", folders / "bad", folders / "good")
    assert code == 1 and out == "" and len(err.splitlines()) == 1
    assert f"{folders / 'good' / '4.tiff'} is 80x64 pixels" in err and f"{folders / 'ref' / '4.png'} 40x32" in err


def test_distort_is_repeatable_and_leaves_severity_0_alone(capsys, files):
    base = ["distort", files / "ref.png", "--name", "luma_noise", "--out"]
    for target in ("a.png", "b.png"):
        assert run(capsys, *base, files / target, "--severity", 0.7, "--seed", 3)[0] == 0
    assert (files / "a.png").read_bytes() == (files / "b.png").read_bytes()
    run(capsys, *base, files / "c.png", "--severity", 0.7, "--seed", 4)
    assert (files / "a.png").read_bytes() != (files / "c.png").read_bytes()
    code, out, _ = run(capsys, *base, files / "folder", "--severity", 0)
    assert code == 0 and Path(out.strip()) == files / "folder" / "ref-luma_noise-0.png"
    assert torch.equal(read_image(out.strip()), read_image(files / "ref.png"))


def test_distort_keeps_to_its_region(capsys, files):
    target = files / "a.png"
    run(capsys, "distort", files / "ref.png", "--name", "darken", "--severity", 1, "--region", "shape", "--out", target)
    changed = (read_image(target) != read_image(files / "ref.png")).any(dim=0).double().mean()
    assert 0 < changed < 0.9


def test_distort_lists_the_bank(capsys):
    from relqa_loss.distortions import BANK, REGIONS

    code, out, _ = run(capsys, "distort", "--list")
    lines = out.splitlines()
    assert code == 0 and [line.split()[0] for line in lines[1 : 1 + len(BANK)]] == [d.name for d in BANK]
    assert all(kind in lines[-1] for kind in REGIONS)


def test_benchmark_speed_measures_all_contenders(capsys, tmp_path):
    arguments = ["--batch", 1, "--size", 64, "--repeats", 2, "--profile", "--json", tmp_path / "speed.json"]
    code, out, _ = run(capsys, "benchmark", "speed", *arguments)
    report = json.loads((tmp_path / "speed.json").read_text())
    costs = report["contenders"]
    assert code == 0 and report["setup"]["shape"] == [1, 3, 64, 64]
    assert set(costs) == {"relational_loss", "prepared", "lpips_alexnet", "lpips_vgg16"}
    assert all(cost["title"] in out and cost["ms"] > 0 and cost["peak_mib"] > 0 for cost in costs.values())
    assert costs["lpips_vgg16"]["ratio"] == pytest.approx(costs["relational_loss"]["ms"] / costs["lpips_vgg16"]["ms"])
    assert "left out: MS-SSIM" in out and report["memory_method"] in out
    assert "Time beside LPIPS-VGG16" in out and "<= 0.050" in out
    assert "pair network" in out and report["profile"]["ms"]["backward"] > 0


def test_a_drawing_that_cannot_be_written_is_refused_before_anything_is_measured(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("relqa_loss.evaluation.growth.measure_growth", None)
    code, _, err = run(capsys, "benchmark", "growth", "--figure", tmp_path / "growth.webp2")
    assert code == 1 and "growth.webp2" in err and "the ending must be one of" in err


def test_benchmark_growth_writes_figures_and_a_drawing(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    sizes = ["--largest-side", 128, "--largest-batch", 2, "--batch-side", 16, "--repeats", 1]
    files = ["--json", tmp_path / "growth.json", "--figure", tmp_path / "growth.svg"]
    code, out, _ = run(capsys, "benchmark", "growth", *sizes, *files)
    report = json.loads((tmp_path / "growth.json").read_text())
    assert code == 0 and [point["side"] for point in report["side"]["points"]] == [64, 128]
    assert f"time grows as pixels^{report['side']['time_exponent']:.2f}" in out
    assert (tmp_path / "growth.svg").stat().st_size > 0


def test_benchmark_engine_measures_the_operators_asked_for(capsys, tmp_path, files):
    target = tmp_path / "engine.json"
    arguments = ["--data", files, "--limit", 1, "--operators", "darken, shift_left", "--json", target]
    code, out, _ = run(capsys, "benchmark", "engine", *arguments)
    scores = json.loads(target.read_text())
    assert code == 0 and json.loads(out) == scores and set(scores["per_operator"]) == {"darken", "shift_left"}
    assert scores["axis_accuracy"] is not None and scores["shift_endpoint_error_px"] > 0


def test_benchmark_targets_says_what_is_short(capsys, tmp_path):
    target = tmp_path / "engine.json"
    target.write_text(json.dumps({"axis_accuracy": 0.9, "leakage": 0.1}))
    code, out, _ = run(capsys, "benchmark", "targets", "--json", target)
    lines = out.splitlines()
    assert code == 0
    assert any(line.startswith("Axis accuracy ") and line.endswith("90.0 %     short") for line in lines)
    assert any(line.startswith("Leakage ") and line.endswith("reached") for line in lines)
    assert any(line.startswith("Transitivity") and line.endswith("not asked") for line in lines)


@pytest.fixture
def folder(tmp_path, loss_fn):
    """A weights folder of one's own."""
    return loss_fn.save_pretrained(tmp_path / "mine")


@pytest.fixture
def engine_json(tmp_path, folder):
    """Figures as if taken of that folder's weights: two operators, one of which is always named wrong."""
    scores = json.loads((ROOT / "benchmarks" / "results" / "engine.json").read_text())
    scores["weights_sha256"] = json.loads((folder / "config.json").read_text())["files"]
    scores["per_operator"] = {name: scores["per_operator"][name] for name in ("jpeg", "pattern_patches")}
    scores["per_operator"]["pattern_patches"]["axis_accuracy"] = 0.0
    path = tmp_path / "engine.json"
    path.write_text(json.dumps(scores))
    return path


def test_benchmark_card_rewrites_the_card_and_nothing_else(capsys, tmp_path, folder, engine_json):
    config = json.loads((folder / "config.json").read_text())
    config["provenance"].pop("sources")  # weights of somebody who did not say
    (folder / "config.json").write_text(json.dumps(config))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    held_out = tmp_path / "held-out.json"
    held_out.write_text(json.dumps(json.loads(engine_json.read_text()) | {"trained_without": ["jpeg"]}))
    arguments = ["--engine", engine_json, "--held-out", held_out, "--source", "Mine=CC0", "--name", "Of its own"]
    code, _, err = run(capsys, "benchmark", "card", folder, *arguments)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    card = after.pop("README.md").decode()
    before.pop("README.md")
    assert (code, after == before, "written: " in err) == (0, True, True), err
    assert "# Of its own\n" in card and "- Mine: CC0" in card and "without 1 operator" in card
    # What the old card said of the sources stays where nothing newer is known.
    run(capsys, "benchmark", "card", folder, "--engine", engine_json)
    again = (folder / "README.md").read_text()
    assert "# mine\n" in again and "- Mine: CC0" in again and "did not see" not in again


def test_benchmark_card_shows_a_panel_without_opinion_constants(capsys, folder, engine_json):
    arguments = ["--engine", engine_json, "--no-opinion", engine_json]
    code, _, err = run(capsys, "benchmark", "card", folder, *arguments)
    assert code == 0 and "## Without constants that owe to opinion scores" in (folder / "README.md").read_text(), err


def test_benchmark_card_draws_failures_from_the_photographs_given(capsys, folder, engine_json, files):
    pytest.importorskip("matplotlib")
    old = b"of earlier weights"
    (folder / "failures.webp").write_bytes(old)
    run(capsys, "benchmark", "card", folder, "--engine", engine_json)
    assert (folder / "failures.webp").read_bytes() == old and "](failures.webp)" in (folder / "README.md").read_text()
    code, _, err = run(capsys, "benchmark", "card", folder, "--engine", engine_json, "--data", files, "--limit", 1)
    drawn = (folder / "failures.webp").is_file()
    assert code == 0 and drawn == ("no figure of failures" not in err)
    assert drawn == ("](failures.webp)" in (folder / "README.md").read_text())
    assert not drawn or (folder / "failures.webp").read_bytes() != old


@pytest.mark.parametrize("option, kind", [("--jury", "jury"), ("--human", "human")])
def test_benchmark_card_names_a_json_of_another_benchmark(capsys, folder, engine_json, option, kind):
    code, _, err = run(capsys, "benchmark", "card", folder, "--engine", engine_json, option, engine_json)
    assert code == 1 and f"engine.json is not what relqa benchmark {kind} --json writes" in err


def test_benchmark_card_refuses_figures_of_other_weights(capsys, folder, engine_json):
    engine_json.write_text(json.dumps(json.loads(engine_json.read_text()) | {"weights_sha256": {}}))
    card = (folder / "README.md").read_bytes()
    code, _, err = run(capsys, "benchmark", "card", folder, "--engine", engine_json)
    assert code == 1 and "engine.json was not measured with the weights of this folder" in err
    assert (folder / "README.md").read_bytes() == card


def test_benchmark_card_takes_a_jury_on_the_same_distance(capsys, tmp_path, folder, engine_json, loss_fn):
    report = json.loads((ROOT / "benchmarks" / "results" / "jury.json").read_text())
    path = tmp_path / "jury.json"
    for distance, code in ((loss_fn.info()["distance"], 0), ("another", 1)):
        # Of weights whose maps may have been others.
        report["setup"] |= {"weights_sha256": {}, "distance_sha256": distance}
        path.write_text(json.dumps(report))
        assert run(capsys, "benchmark", "card", folder, "--engine", engine_json, "--jury", path)[0] == code
    assert "human-calibrated" in (folder / "README.md").read_text()


def test_benchmark_recovery_compares_with_plain_l1(capsys, tmp_path, files):
    target = tmp_path / "recovery.json"
    arguments = ["--data", files, "--limit", 2, "--crop", 32, "--steps", 2, "--json", target]
    write_image(files / "a.png", torch.rand(3, 40, 24))
    code, out, err = run(capsys, "benchmark", "recovery", *arguments)
    table = json.loads(out)
    assert "skipped a.png: smaller than 32x32 pixels: 40x24" in err
    assert code == 0 and table == json.loads(target.read_text()) and (table["pictures"], table["steps"]) == (2, 2)
    assert all(set(row) == {"start", "RelationalLoss", "L1"} for row in table["psnr"].values())


def test_benchmark_alignment_stands_beside_plain_l1(capsys, tmp_path, files):
    target = tmp_path / "alignment.json"
    arguments = ["--data", str(files), "--limit", "1", "--crop", "32", "--with", "l1", "--json", str(target)]
    code, out, err = run(capsys, "benchmark", "alignment", *arguments)
    assert code == 0 and "RelationalLoss" in out and "blur, sigma 1" in out and "4/4 JPEG, quality 30" in err
    found = json.loads(target.read_text())
    assert set(found["degraded"]["blur, sigma 1"]) == {"RelationalLoss", "L1"} and found["pictures"] == 1
    assert found["weights_sha256"]


def test_benchmark_recovery_takes_axes_writes_a_sheet_and_says_what_was_wanted(capsys, tmp_path, files):
    pytest.importorskip("matplotlib")
    sheet = tmp_path / "sheet.webp"
    arguments = ["--data", files, "--limit", 1, "--crop", 32, "--steps", 1, "--with", "noise, blur", "--figure", sheet]
    code, out, err = run(capsys, "benchmark", "recovery", *arguments)
    table = json.loads(out)
    names = ["start", "RelationalLoss", "noise alone", "blur alone"]
    assert code == 0 and all(list(row) == names for row in table["grain"].values())
    assert read_image(sheet).shape[2] > 5 * 32 and sheet.stat().st_size < 400_000
    assert [one["target"] for one in table["targets"]] == [40.0, 34.0, 32.0, 30.0, 38.0, 38.0]
    assert {one["verdict"] for one in table["targets"]} <= {"reached", "short"}
    assert "target >= 40.0 dB: short" in err and "meant for crops of 192 pixels" in err
    assert len(table["weights_sha256"]) == 2


def test_a_sheet_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")

    def refuse(source, target):
        raise PermissionError(1, "not permitted")

    sheet, picture = tmp_path / "sheet.webp", torch.rand(3, 32, 32)
    sheet.write_bytes(b"before")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match=r"cannot write .*sheet\.webp: not permitted"):
        _write_sheet(Recovery({}, {"grey field": {"start": picture}}), picture, sheet)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"before"]


def test_benchmark_recovery_goes_on_without_a_package_and_says_how_to_get_it(capsys, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "piq", None)
    arguments = ["--data", files, "--limit", 1, "--crop", 32, "--steps", 1, "--with", "ms-ssim,l1"]
    code, out, err = run(capsys, "benchmark", "recovery", *arguments)
    table = json.loads(out)
    assert code == 0 and list(table["psnr"]["grey field"]) == ["start", "RelationalLoss", "L1"]
    assert "left out: MS-SSIM, " in err and "pip install piq" in err and list(table["left_out"]) == ["MS-SSIM"]


def test_benchmark_line_reports_the_share_that_rises(capsys, tmp_path, files):
    target = tmp_path / "line.json"
    arguments = ["--data", files, "--limit", 1, "--crop", 48, "--operators", "darken,gaussian_blur", "--json", target]
    code, out, err = run(capsys, "benchmark", "line", *arguments)
    study = json.loads(out)
    assert code == 0 and study == json.loads(target.read_text())
    assert study["pairs"] == 8 and list(study["per_operator"]) == ["darken", "gaussian_blur"]
    assert study["targets"][0]["target"] == 0.99 and "target >= 99.0 %" in err


def test_demo_says_what_is_wrong_and_repairs_it(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, _ = run(capsys, "demo", "--out", tmp_path, "--steps", 40)
    assert code == 0 and read_image(tmp_path / "relqa-demo.png").shape[2] > 600
    small = tmp_path / "new" / "small.webp"
    assert run(capsys, "demo", "--out", small, "--steps", 1)[0] == 0 and read_image(small).shape[2] > 600
    version = tmp_path / "v0.1"  # a folder, for all the dot in its name
    assert run(capsys, "demo", "--out", version, "--steps", 1)[0] == 0 and (version / "relqa-demo.png").is_file()
    assert "the mild one is nearer" in out
    line = next(line for line in out.splitlines() if line.startswith("PSNR"))
    before, after = float(line.split()[1]), float(line.split()[4])
    assert after > before + 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["rank", "nowhere.png", "near.png"], "no such photograph: nowhere.png"),
        (["rank", "ref.png", "near.png", "--weights", "relqa-v0"], DEFAULT_WEIGHTS),
        (["compare", "ref.png", "small.png"], "80x64"),
        (["select", "--ref", ".", "nowhere"], "nowhere"),
        (["distort", "ref.png", "--name", "gausian_blur", "--out", "x.png"], "did you mean 'gaussian_blur'"),
        (["train", "predictor", "--data", ".", "--out", "x", "--set", "steps"], "KEY=VALUE"),
        (["train", "predictor", "--data", ".", "--out", "x", "--recipe", "nothing"], "unknown recipe 'nothing'"),
        (["train", "predictor", "--data", ".", "--out", "x", "--device", "cuda:99"], "--device must be a device that"),
        (["compare", "ref.png", "near.png", "--device", "cudda"], "--device must be a device of torch"),
        (["benchmark", "engine", "--data", "nowhere"], "nowhere"),
        (["benchmark", "engine", "--data", ".", "--operators", "darkn"], "did you mean 'darken'"),
        (["benchmark", "targets", "--json", "nothing.json"], "nothing.json cannot be read"),
        (["benchmark", "targets", "--json", "ref.png"], "ref.png is not valid JSON"),
        (["benchmark", "recovery", "--data", ".", "--crop", "32", "--steps", "0"], "steps must be at least 1, got 0"),
        (
            ["benchmark", "recovery", "--data", ".", "--crop", "32", "--with", "l2"],
            "unknown loss 'l2'; did you mean 'l1'",
        ),
        (["benchmark", "recovery", "--data", ".", "--figure", "a.png"], "must be a file that ends in .webp, got a.png"),
        (["benchmark", "line", "--data", ".", "--operators", "darkn"], "did you mean 'darken'"),
        (["demo", "--out", "x", "--steps", "-3"], "steps must be at least 1, got -3"),
        (["demo", "--out", "x.docx"], "cannot write the figure 'x.docx'"),
    ],
)
def test_errors_are_one_line_without_traceback(capsys, files, photo, monkeypatch, arguments, message):
    write_image(files / "small.png", photo[:, :40])
    monkeypatch.chdir(files)
    code, out, err = run(capsys, *arguments)
    assert code == 1 and out == ""
    assert len(err.splitlines()) == 1 and err.startswith(f"relqa {arguments[0]}: error: ") and message in err


def test_debug_shows_the_traceback(capsys, files, monkeypatch):
    monkeypatch.chdir(files)
    for arguments in (["--debug", "rank", "nowhere.png", "near.png"], ["rank", "nowhere.png", "near.png", "--debug"]):
        code, _, err = run(capsys, *arguments)
        assert code == 1 and "Traceback" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["distort", "ref.png"], "needs --name, --out"),
        (["distort", "ref.png", "--list", "--grid", "g.png"], "--list and --grid do not go together"),
        (["compare", "ref.png", "near.png", "--html-pictures", "3"], "only with --html"),
        (["select", "--ref", "ref.png", "near", "near"], "different folders, got near twice"),
    ],
)
def test_arguments_at_odds_are_code_2(capsys, monkeypatch, files, arguments, message):
    monkeypatch.chdir(files)
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "" and len(err.splitlines()) == 1 and message in err


def test_an_unknown_option_names_the_command_and_its_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", "engine", "--data", ".", "--coffee"])
    assert stop.value.code == 2 and capsys.readouterr().err == (
        "relqa benchmark engine: error: unrecognized arguments: --coffee (see relqa benchmark engine --help)\n"
    )


def test_wrong_usage_is_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare"])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err == (
        "relqa compare: error: the following arguments are required: REF, IMG (see relqa compare --help)\n"
    )
