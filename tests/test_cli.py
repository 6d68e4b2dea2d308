import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from relqa_loss.cli import main
from relqa_loss.images import read_image, write_image
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
    ["benchmark"],
    ["benchmark", "engine"],
    ["benchmark", "speed"],
    ["benchmark", "calibration"],
    ["demo"],
    ["info"],
]

CORE_INSTALL = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        extras = ("PIL", "matplotlib", "torchvision", "lightning", "pytorch_lightning", "piq", "scipy")
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


def test_info_works_in_a_core_install(tmp_path):
    done = run_core_install(["info", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert tuple(facts["axes"]) == AXES and facts["weights"] == "relqa-v1"
    assert all(len(digest) == 64 for digest in facts["sha256"].values()) and len(facts["sha256"]) == 2


def test_info_prints_digests_and_axes(capsys):
    code, out, _ = run(capsys, "info")
    assert code == 0 and "predictor.safetensors" in out
    assert [line.split()[0] for line in out.splitlines()[-len(AXES) :]] == list(AXES)


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
    assert strongest["part"] == max(far["parts"].values()) and -1 <= strongest["direction"] <= 1
    assert same["distance"] == 0 and same["psnr"] is None and same["dominant"] == []


def test_compare_writes_a_figure_for_each_image(capsys, files):
    pytest.importorskip("matplotlib")
    code, _, err = run(capsys, "compare", files / "ref.png", files / "near.png", "--figure", files / "one.png")
    assert code == 0 and "one.png" in err and read_image(files / "one.png").shape[2] > 300
    run(
        capsys, "compare", files / "ref.png", files / "near.png", files / "far.png", "--figure", files / "f" / "all.png"
    )
    assert sorted(path.name for path in (files / "f").iterdir()) == ["all-1-near.png", "all-2-far.png"]


def test_rank_puts_the_nearest_first(capsys, files):
    code, out, _ = run(capsys, "rank", files / "ref.png", files / "far.png", files / "near.png")
    assert code == 0 and [Path(line.split()[1]).name for line in out.splitlines()[1:]] == ["near.png", "far.png"]
    _, out, _ = run(capsys, "rank", files / "ref.png", files / "far.png", files / "near.png", "--json")
    assert [Path(row["image"]).name for row in json.loads(out)["ranking"]] == ["near.png", "far.png"]


@pytest.fixture
def folders(tmp_path, make_photos):
    """ref, good and bad with seven pictures each; endings differ, names pair them."""
    photos = make_photos(7, 32, 40)
    noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(1))
    for k in range(7):
        write_image(tmp_path / "ref" / f"{k}.png", photos[k])
        write_image(tmp_path / "bad" / f"{k}.webp", photos[k] + 0.15 * noise[k])
        write_image(tmp_path / "good" / f"{k}.tiff", photos[k] + 0.02 * noise[k])
    return tmp_path


def test_select_names_the_best_folder(capsys, folders):
    arguments = ["select", "--ref", folders / "ref", folders / "bad", folders / "good"]
    code, out, _ = run(capsys, *arguments)
    assert code == 0 and out.splitlines()[-1] == f"best: {folders / 'good'}"
    assert "better" in out.splitlines()[2]
    _, out, _ = run(capsys, *arguments, "--json")
    found = json.loads(out)
    assert found["best"] == str(folders / "good") and found["ranking"][0] == found["best"]
    assert [v["decision"] for v in found["verdicts"]] == ["better", "better"] and found["verdicts"][0]["score"] is None
    assert found["verdicts"][1]["win_rate"] == 1.0 and len(found["references"]) == 7


def test_select_skips_the_unreadable_and_names_the_missing(capsys, folders):
    (folders / "bad" / "3.webp").write_text("broken")
    arguments = ["select", "--ref", folders / "ref", folders / "bad", folders / "good", "--json"]
    code, out, err = run(capsys, *arguments)
    assert code == 0 and json.loads(out)["skipped"] == ["3"]
    assert "skipped 3: " in err and err.endswith("1 photograph skipped\n")
    (folders / "good" / "5.tiff").unlink()
    code, out, err = run(capsys, *arguments)
    assert code == 1 and out == "" and "lacks outputs for 1 of 7 references, e.g. '5'" in err


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


def test_benchmark_speed_measures_both(capsys, tmp_path):
    arguments = ["--batch", 1, "--size", 64, "--repeats", 2, "--json", tmp_path / "speed.json"]
    code, out, _ = run(capsys, "benchmark", "speed", *arguments)
    report = json.loads((tmp_path / "speed.json").read_text())
    assert code == 0 and report["shape"] == [1, 3, 64, 64] and "LPIPS-AlexNet" in out
    assert report["ratio"] == pytest.approx(report["loss_ms"] / report["lpips_alexnet_ms"]) and report["loss_ms"] > 0


def test_demo_says_what_is_wrong_and_repairs_it(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, _ = run(capsys, "demo", "--out", tmp_path, "--steps", 25)
    assert code == 0 and read_image(tmp_path / "relqa-demo.png").shape[2] > 600
    assert "the mild one is nearer" in out
    line = next(line for line in out.splitlines() if line.startswith("PSNR"))
    before, after = float(line.split()[1]), float(line.split()[4])
    assert after > before + 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["rank", "nowhere.png", "near.png"], "no such photograph: nowhere.png"),
        (["rank", "ref.png", "near.png", "--weights", "relqa-v0"], "relqa-v1"),
        (["compare", "ref.png", "small.png"], "80x64"),
        (["select", "--ref", ".", "nowhere"], "nowhere"),
        (["distort", "ref.png"], "--name, --out"),
        (["distort", "ref.png", "--name", "gausian_blur", "--out", "x.png"], "did you mean 'gaussian_blur'"),
        (["train", "predictor", "--data", ".", "--out", "x", "--set", "steps"], "KEY=VALUE"),
        (["train", "predictor", "--data", ".", "--out", "x", "--recipe", "nothing"], "unknown recipe 'nothing'"),
        (["benchmark", "engine", "--data", "nowhere"], "nowhere"),
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


def test_wrong_usage_is_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare"])
    assert stop.value.code == 2 and "usage: relqa compare" in capsys.readouterr().err
