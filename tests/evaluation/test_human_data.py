"""Loaders on miniature trees of the exact layouts, and on broken ones."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relqa_loss.evaluation.human_data import LOADERS, load_rated
from relqa_loss.evaluation.human_types import CSIQ_TYPES, KADID10K_TYPES, LIVE_FOLDERS, TID2013_TYPES
from relqa_loss.evaluation.label_files import read_sheet
from relqa_loss.images import MissingExtra


def picture(path: Path, value: int = 90, size: tuple[int, int] = (20, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value // 2, 10)).save(path)


def tid2013(root: Path) -> Path:
    lines = []
    # The archive's own mixture of cases.
    for scene in ("I01.BMP", "i25.bmp"):
        picture(root / "reference_images" / scene)
        number = scene[1:3]
        for kind in (1, 17, 24):
            for level in range(1, 6):
                name = f"i{number}_{kind:02d}_{level}.bmp"
                letter = "I" if number == "01" else "i"
                picture(root / "distorted_images" / f"{letter}{name[1:]}", 90 - level)
                lines.append(f"{7 - level + 0.01 * kind:.5f} {name if kind == 17 else 'I' + name[1:]}")
    (root / "mos_with_names.txt").write_text("\r\n".join(lines) + "\r\n")
    (root / "mos.txt").write_text("\n".join(line.split()[0] for line in lines))
    return root


def kadid10k(root: Path) -> Path:
    lines = ["dist_img,ref_img,dmos,var"]
    for scene in ("I01", "I81"):
        picture(root / "images" / f"{scene}.png")
        for kind in (1, 25):
            for level in (1, 5):
                name = f"{scene}_{kind:02d}_{level:02d}.png"
                picture(root / "images" / name, 80)
                lines.append(f"{name},{scene}.png,{5 - level * 0.7:.2f},0.496")
    (root / "dmos.csv").write_text("\n".join(lines) + "\n")
    return root


def csiq_rows() -> list[tuple[object, ...]]:
    rows = []
    for scene in (1600, "boston"):
        for index, kind in enumerate(("noise", "blur", "contrast", "fnoise", "jpeg", "jpeg 2000"), start=1):
            rows += [(scene, index, kind, level, 0.04, round(0.1 * level + 0.01 * index, 3)) for level in (1, 2, 3)]
    return rows


def csiq(root: Path, *, workbook: bool = True) -> Path:
    for scene, _, kind, level, _, _ in csiq_rows():
        part = CSIQ_TYPES[str(kind).replace(" ", "")]
        picture(root / "src_imgs" / f"{scene}.png")
        picture(root / "dst_imgs" / part.lower() / f"{scene}.{part}.{level}.png", 70)
    # An image that nobody rated, as the original has.
    picture(root / "dst_imgs" / "contrast" / "boston.contrast.5.png")
    if workbook:
        header = ("image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")
        blank = (None,) * 3
        rows = [(), ("DMOS values",), (), (*blank, *header), *((*blank, *row) for row in csiq_rows())]
        write_workbook(root / "csiq.DMOS.xlsx", {"readme": [("see paper",)], "all_by_image": rows})
    else:
        text = "\n".join("\t".join(map(str, row)) for row in csiq_rows())
        (root / "csiq.beta.txt").write_text(text)
    return root


def write_workbook(path: Path, sheets: dict[str, list[tuple[object, ...]]]) -> None:
    book = pytest.importorskip("openpyxl").Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for number, row in enumerate(rows, start=1):
            for column, value in enumerate(row, start=1):
                sheet.cell(number, column, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)


def live(root: Path, *, count: int = 982) -> Path:
    savemat = pytest.importorskip("scipy.io").savemat
    names, values, originals = [], [], []
    picture(root / "refimgs" / "bikes.bmp", size=(2, 2))
    picture(root / "refimgs" / "sailing1.bmp", size=(2, 2))
    content = (root / "refimgs" / "bikes.bmp").read_bytes()
    for folder, images in LIVE_FOLDERS:
        (root / folder).mkdir()
        lines = []
        for k in range(1, images + 1):
            (root / folder / f"img{k}.bmp").write_bytes(content)
            names.append("bikes.bmp" if k % 2 else "sailing1.bmp")
            values.append(0.0 if k == 3 else 0.2 * k + 5)
            originals.append(int(k == 3))
            lines.append(f"{names[-1]} img{k}.bmp {0.01 * k:.4f}")
        (root / folder / "info.txt").write_text("\n".join(lines))
    cells = np.array(names, dtype=object)[None]
    savemat(root / "refnames_all.mat", {"refnames_all": cells})
    numbers = {"dmos_new": np.array([values])[:, :count], "orgs": np.array([originals], dtype=np.uint8)}
    savemat(root / "dmos_realigned.mat", {**numbers, "dmos_std": np.ones((1, 982))})
    return root


def pipal(root: Path) -> Path:
    (root / "Train_Label").mkdir(parents=True)
    for scene, place in (("A0001", "Distortion_1"), ("A0198", "Distortion_4/Distortion_4")):
        picture(root / "Train_Ref" / f"{scene}.bmp")
        lines = []
        for kind in (0, 6):
            for method in (0, 11):
                name = f"{scene}_{kind:02d}_{method:02d}.bmp"
                picture(root / place / name)
                lines.append(f"{name},{1500 - 10 * method - kind}.0648")
        (root / "Train_Label" / f"{scene}.txt").write_text("\n".join(lines) + "\n")
    return root


BUILDERS = {"tid2013": tid2013, "kadid10k": kadid10k, "csiq": csiq, "live": live, "pipal": pipal}


def test_every_loader_has_a_tree():
    assert BUILDERS.keys() == LOADERS.keys()


def test_tid2013(tmp_path):
    dataset = load_rated("tid2013", tid2013(tmp_path))
    assert len(dataset.pairs) == 30 and len(TID2013_TYPES) == 24
    first, last = dataset.pairs[0], dataset.pairs[-1]
    assert (first.score, first.label, first.scene, first.level) == (6.01, 6.01, "I01", 1)
    assert first.distortion == "additive Gaussian noise"
    assert (first.reference.name, first.distorted.name) == ("I01.BMP", "I01_01_1.bmp")
    assert (last.reference.name, last.distorted.name) == ("i25.bmp", "i25_24_5.bmp")
    assert last.distortion == "sparse sampling and reconstruction" and last.level == 5
    distorted, reference = first.read()
    assert distorted.shape == reference.shape == (1, 3, 16, 20)
    assert float(distorted.max()) < float(reference.max()) <= 1


def test_kadid10k(tmp_path):
    dataset = load_rated("kadid10k", kadid10k(tmp_path))
    assert len(dataset.pairs) == 8 and len(KADID10K_TYPES) == 25
    assert [pair.score for pair in dataset.pairs[:2]] == [4.3, 1.5]
    assert dataset.pairs[-1].distortion == "contrast change" and dataset.pairs[-1].level == 5
    assert {pair.scene for pair in dataset.pairs} == {"I01", "I81"}
    assert dataset.pairs[-1].reference.name == "I81.png"


@pytest.mark.parametrize("workbook", [True, False])
def test_csiq(tmp_path, workbook):
    dataset = load_rated("csiq", csiq(tmp_path, workbook=workbook))
    assert len(dataset.pairs) == 36
    first = dataset.pairs[0]
    assert first.label == 0.11 and first.score == pytest.approx(0.89)
    assert (first.reference.name, first.distorted.name) == ("1600.png", "1600.AWGN.1.png")
    assert dataset.pairs[-1].distorted.name == "boston.jpeg2000.3.png" and dataset.pairs[-1].level == 3
    assert list(dict.fromkeys(pair.distortion for pair in dataset.pairs)) == list(CSIQ_TYPES)


def test_live_leaves_hidden_references_out(tmp_path):
    dataset = load_rated("live", live(tmp_path))
    assert len(dataset.pairs) == 982 - 5
    by_name = {(pair.distorted.parent.name, pair.distorted.name): pair for pair in dataset.pairs}
    assert ("jp2k", "img3.bmp") not in by_name
    pair = by_name["fastfading", "img174.bmp"]
    assert pair.label == pytest.approx(39.8) and pair.score == pytest.approx(60.2)
    assert (pair.reference.name, pair.scene, pair.distortion, pair.level) == (
        "sailing1.bmp",
        "sailing1",
        "fastfading",
        None,
    )
    assert by_name["jpeg", "img233.bmp"].reference.name == "bikes.bmp"


def test_pipal(tmp_path):
    dataset = load_rated("pipal", pipal(tmp_path))
    assert len(dataset.pairs) == 8
    pair = dataset.pairs[-1]
    assert (pair.score, pair.distortion, pair.level, pair.scene) == (1384.0648, "class 06", None, "A0198")
    assert pair.reference.name == "A0198.bmp" and pair.distorted.name == "A0198_06_11.bmp"


def test_a_wrong_name_or_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'tid2013'"):
        load_rated("tid2031", tmp_path)
    with pytest.raises(ValueError, match=r"got .*nowhere \(not there\)"):
        load_rated("live", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("tid2013", "mos_with_names.txt"),
        ("kadid10k", "dmos.csv"),
        ("csiq", "csiq.DMOS.xlsx"),
        ("live", "refnames_all.mat"),
        ("live", "dmos_realigned.mat"),
    ],
)
def test_a_missing_label_file_is_named(tmp_path, name, labels):
    (BUILDERS[name](tmp_path) / labels).unlink()
    with pytest.raises(ValueError, match=f"no label file {labels}"):
        load_rated(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("tid2013", "distorted_images"),
        ("tid2013", "reference_images"),
        ("kadid10k", "images"),
        ("csiq", "src_imgs"),
        ("csiq", "dst_imgs"),
        ("live", "wn"),
        ("live", "refimgs"),
        ("pipal", "Train_Label"),
        ("pipal", "Train_Ref"),
    ],
)
def test_a_missing_folder_is_named(tmp_path, name, folder):
    shutil.rmtree(BUILDERS[name](tmp_path) / folder)
    with pytest.raises(ValueError, match=f"no folder {folder}"):
        load_rated(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("tid2013", "distorted_images/I01_17_*.bmp", r"5 of 30 images are missing below .*: i01_17_1.bmp, i01_17_2"),
        ("tid2013", "reference_images/i25.bmp", r"reference images .* 1 of 2 images are missing .*: I25.bmp"),
        ("kadid10k", "images/I81_25_05.png", r"1 of 8 images are missing below .*: I81_25_05.png"),
        ("csiq", "dst_imgs/*/*.AWGN.*.png", r"6 of 36 images are missing .*boston.AWGN.2.png, \.\.\."),
        ("live", "gblur/img17.bmp", r"1 of 977 images are missing .*: gblur/img17.bmp"),
        ("pipal", "Distortion_1/*.bmp", r"4 of 8 images are missing .*: A0001_00_00.bmp, "),
    ],
)
def test_missing_images_are_counted_and_named(tmp_path, name, files, message):
    found = list(BUILDERS[name](tmp_path).glob(files))
    assert found
    for path in found:
        path.unlink()
    with pytest.raises(ValueError, match=message):
        load_rated(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "line", "message"),
    [
        ("tid2013", "mos_with_names.txt", "5.1 I01_01_1.bmp 0.3", r"line 31: expected 2 columns .* got 3"),
        ("tid2013", "mos_with_names.txt", "5.1 J01_01_1.bmp", r"line 31: 'J01_01_1.bmp' is not the name"),
        ("tid2013", "mos_with_names.txt", "5.1 I01_25_1.bmp", r"line 31: distortion types run from 1 to 24, got 25"),
        ("tid2013", "mos_with_names.txt", "five I01_02_1.bmp", r"line 31: expected a number, got 'five'"),
        ("tid2013", "mos_with_names.txt", "nan I01_02_1.bmp", r"line 31: expected a number, got 'nan'"),
        ("tid2013", "mos_with_names.txt", "5.1 I01_01_1.BMP", r"two labels for I01_01_1.BMP"),
        ("tid2013", "mos_with_names.txt", "5.1 I02_01_1.bmp", r"1 of 3 images are missing .*: I02.bmp"),
        ("kadid10k", "dmos.csv", "I01_02_01.png,I01.png,4.5", r"line 10: expected 4 columns .* got 3"),
        ("kadid10k", "dmos.csv", "cat.png,I01.png,4.5,0.1", r"line 10: 'cat.png' is not the name"),
        ("pipal", "Train_Label/A0198.txt", "A0198_00_05.bmp 1400", r"A0198.txt, line 5: expected 2 columns"),
        ("pipal", "Train_Label/A0198.txt", "B0198_00_05.bmp,1400", r"line 5: 'B0198_00_05.bmp' is not the name"),
    ],
)
def test_bad_labels_are_named_with_their_line(tmp_path, name, file, line, message):
    labels = BUILDERS[name](tmp_path) / file
    labels.write_text(labels.read_text() + line + "\n")
    with pytest.raises(ValueError, match=message):
        load_rated(name, tmp_path)


def test_empty_and_headless_label_files(tmp_path):
    (tid2013(tmp_path / "tid") / "mos_with_names.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="holds no label"):
        load_rated("tid2013", tmp_path / "tid")
    labels = kadid10k(tmp_path / "kadid") / "dmos.csv"
    labels.write_text("\n".join(labels.read_text().splitlines()[1:]))
    with pytest.raises(ValueError, match="expected the header dist_img,ref_img,dmos,var"):
        load_rated("kadid10k", tmp_path / "kadid")


def test_a_broken_workbook(tmp_path):
    labels = csiq(tmp_path) / "csiq.DMOS.xlsx"
    header = (None, "image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")
    write_workbook(labels, {"all_by_image": [header, (None, "boston", 9, "smear", 1, 0.1, 0.2)]})
    with pytest.raises(ValueError, match="line 2: unknown distortion 'smear'"):
        load_rated("csiq", tmp_path)
    write_workbook(labels, {"all_by_image": [header[:-1]]})
    with pytest.raises(ValueError, match="no row with the header image, dst_idx"):
        load_rated("csiq", tmp_path)
    write_workbook(labels, {"other": [header]})
    with pytest.raises(ValueError, match=r"no sheet 'all_by_image' \(its sheets: other\)"):
        load_rated("csiq", tmp_path)
    labels.write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="not a workbook"):
        load_rated("csiq", tmp_path)


def test_a_sheet_keeps_gaps_and_types(tmp_path):
    write_workbook(tmp_path / "a.xlsx", {"one": [(None, "x", 1.5), (), (2,)]})
    assert read_sheet(tmp_path / "a.xlsx", "one") == [(None, "x", 1.5), (None,) * 3, (2, None, None)]


def test_live_wants_982_values_and_matlab_files(tmp_path):
    live(tmp_path, count=900)
    with pytest.raises(ValueError, match="dmos_new must hold 982 values, got 900"):
        load_rated("live", tmp_path)
    (tmp_path / "dmos_realigned.mat").write_bytes(b"not a matrix")
    with pytest.raises(ValueError, match="not a MATLAB file"):
        load_rated("live", tmp_path)


def test_live_without_scipy_names_the_extra(tmp_path, monkeypatch):
    live(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingExtra, match=r"SciPy: pip install \"relqa_loss\[benchmark\]\""):
        load_rated("live", tmp_path)


def test_csiqs_workbook_without_openpyxl_names_the_extra(tmp_path, monkeypatch):
    csiq(tmp_path / "new")
    csiq(tmp_path / "old", workbook=False)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingExtra, match=r"openpyxl: pip install \"relqa_loss\[benchmark\]\""):
        load_rated("csiq", tmp_path / "new")
    assert len(load_rated("csiq", tmp_path / "old").pairs) == 36


@pytest.mark.parametrize("place", ["Distortion1", "Train_Dist", "Train_Distort", "train_dist_2", "Dist_Imgs"])
def test_pipals_archives_may_be_unpacked_under_several_names(tmp_path, place):
    pipal(tmp_path)
    (tmp_path / "Distortion_1").rename(tmp_path / place)
    assert len(load_rated("pipal", tmp_path).pairs) == 8
    for folder in (place, "Distortion_4"):
        (tmp_path / folder).rename(tmp_path / f"other_{folder}")
    with pytest.raises(ValueError, match="no folder of distorted images"):
        load_rated("pipal", tmp_path)


def test_images_of_two_sizes_are_named(tmp_path):
    dataset = load_rated("tid2013", tid2013(tmp_path))
    picture(dataset.pairs[0].distorted, size=(24, 16))
    with pytest.raises(ValueError, match=r"I01_01_1.bmp is 24x16 pixels, its reference .*I01.BMP 20x16"):
        dataset.pairs[0].read()
