"""Which pictures ``compare`` and ``rank`` hold against which originals: one original, or folders paired by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .common import named, note
from .progress import tracked

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """Files that are compared.

    Attributes:
        place: among all pairs, from 0.
        reference: the original.
        image: what is compared with it.
        group: folder of the image where folders are compared, else None.
    """

    place: int
    reference: Path
    image: Path
    group: Path | None


class Pairs:
    """Pairs that are read one by one; what cannot be compared is named on stderr, remembered and left out.

    Args:
        reference: an original, or a folder of originals.
        images: pictures, or folders of pictures with the names of their originals.

    Raises:
        ValueError: a file and a folder together, a folder without pictures, two of one name, or folders without a
            common name.
    """

    def __init__(self, reference: Path, images: Sequence[Path]) -> None:
        from ..pairing import pair_folders

        self.reference = reference
        self.folders = reference.is_dir()
        self.skipped: list[tuple[str, str]] = []
        files: list[tuple[Path, Path, Path | None]] = [(reference, image, None) for image in images]
        if self.folders:
            found = [pair_folders(reference, [folder]) for folder in images]
            if not any(each.names for each in found):
                raise ValueError(f"no picture of {', '.join(map(str, images))} has the name of one in {reference}")
            for each in found:
                self.skipped += [
                    (str(folder / name), "no such picture") for folder, missing in each.lacking for name in missing
                ]
                self.skipped += [(str(path), f"no original of this name in {reference}") for path in each.unasked]
            for image, reason in self.skipped:
                note(f"skipped {image}: {reason}")
            files = [(one[0], one[1], folder) for each, folder in zip(found, images, strict=True) for one in each.paths]
        self.all = [Pair(place, *paths) for place, paths in enumerate(files)]

    def __iter__(self) -> Iterator[tuple[Pair, Tensor, Tensor]]:
        """(pair, reference, image), both (3, H, W) in [0, 1].

        Raises:
            ValueError: the only original cannot be read, or not one pair can be compared.
        """
        from ..images import read_each
        from ..pairing import misfit

        known: tuple[Path, Tensor | str] | None = None
        compared = 0
        for pair in tracked(self.all, "comparing"):
            if known is None or known[0] != pair.reference:
                (known,) = read_each([pair.reference])
            original = known[1]
            if isinstance(original, str) and not self.folders:
                raise ValueError(named(pair.reference, original))
            ((_, image),) = read_each([pair.image])
            if isinstance(original, str):
                reason = original
            elif isinstance(image, str):
                reason = image
            else:
                reason = misfit(pair.image, image, pair.reference, original)
                if not reason:
                    compared += 1
                    yield pair, original, image
                    continue
            self.skipped.append((str(pair.image), reason))
            # A single picture that fails is the error of the command, which says it once.
            if len(self.all) > 1:
                note(f"skipped {pair.image}: {reason}")
        if compared == 0:
            name, reason = self.skipped[-1]
            if len(self.all) == 1:
                raise ValueError(named(Path(name), reason))
            raise ValueError(f"none of the {len(self.all)} pictures can be compared with {self.reference}")

    def skipped_rows(self) -> list[dict[str, str]]:
        """The skipped pictures, for JSON."""
        return [{"image": path, "reason": reason} for path, reason in self.skipped]

    def exit_code(self) -> int:
        """1 if a picture was skipped, else 0."""
        return 1 if self.skipped else 0
