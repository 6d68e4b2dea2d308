"""Image quality datasets with opinion scores, read as their authors distribute them.

TID2013, KADID-10k, CSIQ, LIVE release 2 and PIPAL. Nothing is downloaded and nothing is converted: ``root`` is the
folder that the authors' archive unpacks to. File names are matched without regard to case, since the archives
themselves mix it. Images are read when they are asked for.

Where each fact about a layout stands is said at its loader. BAPPS, whose labels are choices and not scores, is in
:mod:`relqa_loss.evaluation.human_bapps`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from ..images import read_image
from ..validation import unknown_name
from .human_types import CSIQ_TYPES, KADID10K_TYPES, LIVE_FOLDERS, TID2013_TYPES
from .label_files import (
    Cell,
    as_text,
    check_sizes,
    columns,
    file_index,
    find_file,
    find_folder,
    image_name,
    lines,
    matlab_vector,
    missing_files,
    read_sheet,
    to_number,
    type_name,
)


@dataclass(frozen=True)
class RatedPair:
    """One distorted image, its reference and what people thought of it.

    Attributes:
        reference: file of the original.
        distorted: file of the distorted image, of the same size.
        score: opinion score, turned where necessary so that higher means better quality.
        label: the number as it stands in the label file.
        distortion: name of the kind of distortion.
        level: strength from 1 up where the dataset says it, else None.
        scene: name of the original; pairs of one scene are not independent.
    """

    reference: Path
    distorted: Path
    score: float
    label: float
    distortion: str
    level: int | None
    scene: str

    def read(self) -> tuple[Tensor, Tensor]:
        """Distorted image and reference, (1, 3, H, W) float32 in [0, 1] each.

        Raises:
            ValueError: a file cannot be read, or the sizes differ; the files are named.
        """
        distorted, reference = read_image(self.distorted)[None], read_image(self.reference)[None]
        check_sizes(self.distorted, distorted, self.reference, reference)
        return distorted, reference


@dataclass(frozen=True)
class RatedDataset:
    """A dataset of rated pairs.

    Attributes:
        name: as in ``LOADERS``.
        title: for people.
        scale: what ``score`` is, with its direction and nominal range.
        root: folder it was read from.
        pairs: in the order of the label files.
    """

    name: str
    title: str
    scale: str
    root: Path
    pairs: tuple[RatedPair, ...]


@dataclass(frozen=True)
class _Row:
    """One label, before its files are looked up."""

    image: str
    reference: str
    label: float
    score: float
    distortion: str
    level: int | None
    scene: str


def load_rated(name: str, root: str | Path) -> RatedDataset:
    """Read the labels of one dataset and find its images.

    Args:
        name: a key of ``LOADERS``.
        root: folder that the authors' archive unpacks to.

    Raises:
        ValueError: unknown name, no such folder, a label file that is missing or malformed (file and line are named),
            labels of unknown images, or images that are missing (counted, the first ones named).
        MissingExtra: LIVE without SciPy, or CSIQ's workbook without openpyxl.
    """
    if name not in LOADERS:
        raise ValueError(unknown_name("dataset", name, LOADERS))
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"root must be the folder of {name}, got {root}" + ("" if root.exists() else " (not there)"))
    return LOADERS[name](root)


def load_tid2013(root: Path) -> RatedDataset:
    """TID2013: 25 scenes, 24 distortions, 5 levels.

    ``mos_with_names.txt`` has a line ``5.51429 I01_01_1.bmp`` for each of ``distorted_images/``: scene, type and level;
    references are ``reference_images/I01.BMP`` to ``I25.BMP``, the last one ``i25.bmp`` in the archive, and some
    distorted images are spelled with a small ``i``. The mean opinion score runs from 0 to 9, higher is better.
    These facts stand in ``scripts/process_tid.py`` (which corrects the same mixed case) and ``pyiqa/dataset_info.py``
    of chaofengc/IQA-PyTorch; the list of types is table I of the database's readme, as public code quotes it.

    Raises:
        ValueError: see :func:`load_rated`.
    """
    labels = find_file(root, "mos_with_names.txt", "TID2013")
    rows = []
    for number, line in lines(labels):
        score, image = columns(labels, number, line.split(), ("score", "file name"))
        match = image_name(labels, number, image, r"(I(\d\d))_(\d\d)_(\d)\.bmp", "TID2013")
        kind = type_name(labels, number, int(match[3]), TID2013_TYPES)
        mos = to_number(labels, number, score)
        rows.append(_Row(image, f"{match[1]}.bmp", mos, mos, kind, int(match[4]), match[1].upper()))
    pairs = _locate(labels, rows, find_folder(root, "distorted_images"), find_folder(root, "reference_images"))
    return RatedDataset("tid2013", "TID2013", "mean opinion score, 0 to 9, higher is better", root, pairs)


def load_kadid10k(root: Path) -> RatedDataset:
    """KADID-10k: 81 scenes, 25 distortions, 5 levels.

    ``dmos.csv`` has the header ``dist_img,ref_img,dmos,var`` and a line such as ``I01_01_01.png,I01.png,4.57,0.496``
    for each image of ``images/``, which holds the references too. In spite of its name ``dmos`` runs from 1 (bad) to 5
    (imperceptible): higher is better. These facts stand in ``scripts/process_kadid10k.py`` and
    ``pyiqa/dataset_info.py`` (score type and range) of chaofengc/IQA-PyTorch.

    Raises:
        ValueError: see :func:`load_rated`.
    """
    labels = find_file(root, "dmos.csv", "KADID-10k")
    header = ("dist_img", "ref_img", "dmos", "var")
    rows: list[_Row] = []
    for number, line in lines(labels):
        cells = columns(labels, number, next(csv.reader([line])), header)
        if number == 1:
            if tuple(cells) != header:
                raise ValueError(f"{labels}, line 1: expected the header {','.join(header)}, got {line!r}")
            continue
        match = image_name(labels, number, cells[0], r"(I(\d\d))_(\d\d)_(\d\d)\.png", "KADID-10k")
        kind = type_name(labels, number, int(match[3]), KADID10K_TYPES)
        score = to_number(labels, number, cells[2])
        rows.append(_Row(cells[0], cells[1], score, score, kind, int(match[4]), match[1].upper()))
    images = find_folder(root, "images")
    pairs = _locate(labels, rows, images, images)
    return RatedDataset("kadid10k", "KADID-10k", "opinion score, 1 to 5, higher is better", root, pairs)


def load_csiq(root: Path) -> RatedDataset:
    """CSIQ: 30 scenes, 6 distortions, 4 or 5 levels, 866 rated images.

    ``csiq.DMOS.xlsx``, sheet ``all_by_image``, has its header ``image, dst_idx, dst_type, dst_lev, dmos_std, dmos`` in
    columns D to I of row 4 (found here by its names); ``csiq.beta.txt``, the older form of the table, has the same six
    columns without a header, parted by tabs, and is read where there is no workbook. The image of ``1600``, ``noise``,
    ``1`` is ``1600.AWGN.1.png`` in a folder of ``dst_imgs/``, that of its original ``src_imgs/1600.png``. DMOS runs
    from 0 to 1, lower is better; the score is 1 - DMOS. Some images have no label. These facts stand in the entry of
    CSIQ in QUALINET/databases (the three files, 866 images), in ``sample_combine_data/sample_csiq.m`` of
    fzp0424/MonotonicIQA (``csiq.beta.txt``, file names) and in several public scripts that read the workbook and agree
    on its sheet and header.

    Raises:
        ValueError: see :func:`load_rated`.
        MissingExtra: openpyxl, which reads the workbook, is not installed.
    """
    labels, table = _csiq_table(root)
    rows = []
    for number, (image, _, kind, level, _, dmos) in table:
        kind = str(kind).replace(" ", "").lower()
        if kind not in CSIQ_TYPES:
            raise ValueError(f"{labels}, line {number}: {unknown_name('distortion', kind, CSIQ_TYPES)}")
        # The workbook holds the scene 1600 and the levels as numbers.
        scene, step = as_text(image), int(to_number(labels, number, level))
        label = to_number(labels, number, dmos)
        file_name = f"{scene}.{CSIQ_TYPES[kind]}.{step}.png"
        rows.append(_Row(file_name, f"{scene}.png", label, 1.0 - label, kind, step, scene.lower()))
    pairs = _locate(labels, rows, find_folder(root, "dst_imgs"), find_folder(root, "src_imgs"))
    return RatedDataset("csiq", "CSIQ", "1 - DMOS, 0 to 1, higher is better", root, pairs)


def load_live(root: Path) -> RatedDataset:
    """LIVE release 2: 29 scenes, 5 distortions, 779 distorted images.

    ``refnames_all.mat`` (``refnames_all``: names in ``refimgs/``) and ``dmos_realigned.mat`` (``dmos_new``, ``orgs``)
    hold 982 values each, those of ``jp2k/img1.bmp`` to ``img227.bmp``, then ``jpeg``, ``wn``, ``gblur`` and
    ``fastfading`` (see ``LIVE_FOLDERS``). Where ``orgs`` is 1 the image is a copy of its reference that viewers were
    shown too: no distorted image, left out. DMOS is about 0 to 100, lower is better; the score is 100 - DMOS. These
    facts stand in ``scripts/process_live.py`` and ``pyiqa/dataset_info.py`` of chaofengc/IQA-PyTorch (which takes the
    values before realignment); the keys of ``dmos_realigned.mat`` agree between several public loaders. The
    ``info.txt`` in each folder (reference, image and strength in each line) repeats the references; it is not read.

    Raises:
        ValueError: see :func:`load_rated`.
        MissingExtra: SciPy, which reads MATLAB files, is not installed.
    """
    names_file, labels = find_file(root, "refnames_all.mat", "LIVE"), find_file(root, "dmos_realigned.mat", "LIVE")
    names, values, originals = (
        matlab_vector(names_file, "refnames_all"),
        matlab_vector(labels, "dmos_new"),
        matlab_vector(labels, "orgs"),
    )
    images = [(folder, k) for folder, count in LIVE_FOLDERS for k in range(1, count + 1)]
    for file, key, found in (
        (names_file, "refnames_all", names),
        (labels, "dmos_new", values),
        (labels, "orgs", originals),
    ):
        if len(found) != len(images):
            raise ValueError(f"{file}: {key} must hold {len(images)} values, got {len(found)}")
    rows = []
    for number, ((folder, k), name, value, original) in enumerate(
        zip(images, names, values, originals, strict=True), start=1
    ):
        if int(to_number(labels, number, original)) == 1:
            continue
        dmos = to_number(labels, number, value)
        reference = str(name)
        rows.append(_Row(f"{folder}/img{k}.bmp", reference, dmos, 100.0 - dmos, folder, None, Path(reference).stem))
    folders = [find_folder(root, folder) for folder, _ in LIVE_FOLDERS]
    index = {f"{folder.name.lower()}/{name}": path for folder in folders for name, path in file_index(folder).items()}
    pairs = _locate(labels, rows, index, find_folder(root, "refimgs"))
    return RatedDataset("live", "LIVE release 2", "100 - realigned DMOS, about 0 to 100, higher is better", root, pairs)


def load_pipal(root: Path) -> RatedDataset:
    """PIPAL, the training part, whose labels are public: 200 scenes, 116 distorted images of each.

    ``Train_Label/A0001.txt`` has a line ``A0001_00_00.bmp,1520.0648`` for each distorted image of
    ``Train_Ref/A0001.bmp``: an Elo rating, higher is better. The distorted images come in four archives; folders named
    ``Distortion_1`` to ``Distortion_4`` (``Distortion1``), ``Train_Dist``, ``Train_Distort`` or alike are searched with
    all below them. In ``A0001_bb_cc.bmp``, bb is the class of the distortion and cc the method within it (author's
    answer in issue 13 of HaomingCai/PIPAL-dataset); the release names neither, so that types are called by their
    number and no level is known. The label files stand in ``scripts/process_pipal.py`` of chaofengc/IQA-PyTorch, the
    folders of the images in its users' readmes.

    Raises:
        ValueError: see :func:`load_rated`.
    """
    folder = find_folder(root, "Train_Label")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".txt" and not path.name.startswith("."))
    if not files:
        raise ValueError(f"PIPAL: no label file (A0001.txt, ...) in {folder}")
    rows = []
    for labels in files:
        for number, line in lines(labels):
            image, label = columns(labels, number, line.split(","), ("file name", "score"))
            match = image_name(labels, number, image.strip(), r"(A\d{4})_(\d\d)_(\d\d)\.bmp", "PIPAL")
            score = to_number(labels, number, label)
            kind = f"class {match[2]}"
            rows.append(_Row(image.strip(), f"{match[1]}.bmp", score, score, kind, None, match[1].upper()))
    places = [
        path
        for path in sorted(root.iterdir())
        if path.is_dir() and re.fullmatch(r"(train_?)?dist(ort(ion)?)?s?(_?(imgs|images|\d))?", path.name.lower())
    ]
    if not places:
        raise ValueError(f"PIPAL: no folder of distorted images (Distortion_1, ..., or Train_Dist) in {root}")
    index = {name: path for place in places for name, path in file_index(place).items()}
    pairs = _locate(folder, rows, index, find_folder(root, "Train_Ref"))
    return RatedDataset("pipal", "PIPAL (training part)", "Elo rating, higher is better", root, pairs)


LOADERS: Mapping[str, Callable[[Path], RatedDataset]] = MappingProxyType(
    {
        "tid2013": load_tid2013,
        "kadid10k": load_kadid10k,
        "csiq": load_csiq,
        "live": load_live,
        "pipal": load_pipal,
    }
)
"""Dataset -> its loader."""


def _locate(
    labels: Path, rows: Sequence[_Row], images: Path | Mapping[str, Path], references: Path
) -> tuple[RatedPair, ...]:
    """Files of the labelled images; one error names what is missing."""
    if not rows:
        raise ValueError(f"{labels} holds no label")
    index = file_index(images) if isinstance(images, Path) else images
    originals = index if references == images else file_index(references)
    seen: set[str] = set()
    for row in rows:
        if row.image.lower() in seen:
            raise ValueError(f"{labels} has two labels for {row.image}")
        seen.add(row.image.lower())
    for kind, names, there in (
        ("reference", {row.reference.lower(): row.reference for row in rows}.values(), originals),
        ("distorted", [row.image for row in rows], index),
    ):
        absent = [name for name in names if name.lower() not in there]
        if absent:
            raise missing_files(f"{kind} images of {labels.name}", absent, len(names), f"below {labels.parent}")
    return tuple(
        RatedPair(
            reference=originals[row.reference.lower()],
            distorted=index[row.image.lower()],
            score=row.score,
            label=row.label,
            distortion=row.distortion,
            level=row.level,
            scene=row.scene,
        )
        for row in rows
    )


_CSIQ_HEADER = ("image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")


def _csiq_table(root: Path) -> tuple[Path, Sequence[tuple[int, Sequence[Cell]]]]:
    names = {path.name.lower(): path for path in root.iterdir() if path.is_file()}
    if "csiq.dmos.xlsx" not in names and "csiq.beta.txt" in names:
        labels = names["csiq.beta.txt"]
        return labels, [(n, columns(labels, n, line.split("\t"), _CSIQ_HEADER)) for n, line in lines(labels)]
    labels = find_file(root, "csiq.DMOS.xlsx", "CSIQ")
    sheet = read_sheet(labels, "all_by_image")
    top = next((k for k, row in enumerate(sheet) if set(_CSIQ_HEADER) <= set(row)), None)
    if top is None:
        raise ValueError(f"{labels}: no row with the header {', '.join(_CSIQ_HEADER)} in the sheet all_by_image")
    places = [sheet[top].index(name) for name in _CSIQ_HEADER]
    table = []
    for number, row in enumerate(sheet[top + 1 :], start=top + 2):
        cells = [row[k] if k < len(row) else None for k in places]
        if any(cell is not None for cell in cells):
            table.append((number, cells))
    return labels, table
