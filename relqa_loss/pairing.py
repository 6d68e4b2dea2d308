"""Pictures that belong together because they have one name in several folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .images import list_images


@dataclass(frozen=True)
class Paired:
    """Folders paired by the name of a picture without its ending.

    Attributes:
        names: sorted; those of the first folder that all the others have too.
        paths: for each name, its file in every folder, in the order of the folders.
        lacking: (folder, names of the first folder that it lacks), for the folders that lack any.
        unasked: files of the other folders whose name the first one does not have.
    """

    names: tuple[str, ...]
    paths: tuple[tuple[Path, ...], ...]
    lacking: tuple[tuple[Path, tuple[str, ...]], ...]
    unasked: tuple[Path, ...]


def pair_folders(reference: Path, others: Sequence[Path]) -> Paired:
    """Pair folders of pictures by name; endings may differ, and no file is read.

    Args:
        reference: the folder of originals, not searched recursively.
        others: folders of outputs.

    Raises:
        ValueError: no such folder, one without pictures, or two files of a folder that share a name.
    """
    wanted, *found = (_by_name(folder) for folder in (reference, *others))
    names = tuple(name for name in wanted if all(name in files for files in found))
    lacking = []
    for folder, files in zip(others, found, strict=True):
        missing = tuple(name for name in wanted if name not in files)
        if missing:
            lacking.append((folder, missing))
    unasked = tuple(path for files in found for name, path in files.items() if name not in wanted)
    paths = tuple((wanted[name], *(files[name] for files in found)) for name in names)
    return Paired(names, paths, tuple(lacking), unasked)


def _by_name(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in files:
            raise ValueError(
                f"{folder} holds two photographs named {path.stem!r}: {files[path.stem].name} and {path.name}"
            )
        files[path.stem] = path
    return dict(sorted(files.items()))


def misfit(path: Path, image: Tensor, reference_path: Path, reference: Tensor) -> str:
    """Why an image (3, H, W) cannot be compared with a reference of another size; empty where it can."""
    if image.shape == reference.shape:
        return ""
    return (
        f"{path} is {image.shape[2]}x{image.shape[1]} pixels, the reference {reference_path} "
        f"{reference.shape[2]}x{reference.shape[1]}: they must have one size"
    )
