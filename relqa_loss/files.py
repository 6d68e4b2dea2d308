"""Files that are there whole or not at all, whatever interrupts their writing."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_OPEN_FILE = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary sibling, then put it in place in one step: an interruption leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        _to_disk(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file of text, in UTF-8, or of bytes, as :func:`whole_files` does; links are followed.

    A pipe or a terminal is written into: were it replaced by a file, its reader would wait in vain. So is an open file
    (``/dev/stdout``), behind what has been written there before.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    opened = _OPEN_FILE.fullmatch(str(path))
    if opened is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        with os.fdopen(os.dup({"stdout": 1, "stderr": 2}.get(opened[1]) or int(opened[2])), "wb") as file:
            file.write(data)
        return
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(data)
        return
    target = path.resolve() if path.is_symlink() else path
    with whole_files(target.parent) as scratch:
        (scratch / target.name).write_bytes(data)


def _to_disk(path: Path) -> None:
    """Without this a new name can survive a power loss that its contents do not."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files go to ``folder`` together at the end, or not at all if something fails.

    Each file is replaced in one step and JSON comes last, so that a recipe, or the digests of weights, never stand
    beside files of another.

    Raises:
        OSError: the folder cannot be made or written into, or a file not replaced; named as the caller knows it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Inside its target: os.replace is atomic only within one file system.
        made = tempfile.TemporaryDirectory(dir=folder, prefix=".writing-")
    except OSError as error:
        raise OSError(f"cannot write into the folder {folder}: {error.strerror or error}") from error
    with made as scratch:
        yield Path(scratch)
        ready = sorted(Path(scratch).iterdir(), key=lambda path: (path.suffix == ".json", path.name))
        for written in ready:
            _to_disk(written)
        for written in ready:
            try:
                os.replace(written, folder / written.name)
            except OSError as error:
                raise OSError(f"cannot write {folder / written.name}: {error.strerror or error}") from error
