"""Distances already computed, one JSON line each, so that a stopped run goes on where it stopped."""

from __future__ import annotations

import json
from io import TextIOWrapper
from pathlib import Path


class DistanceCache:
    """Distances by metric and pair, in memory and, with a path, in a file that grows line by line.

    A line is written and flushed as soon as a distance is known. A last line that was cut off is dropped; any other
    line that cannot be read is an error. Use as a context manager, which closes the file.

    Args:
        path: the file; made with its folders where it does not exist. None keeps everything in memory.

    Raises:
        ValueError: the file holds something else, with the number of the line.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._known: dict[tuple[str, str], float] = {}
        self._file: TextIOWrapper | None = None
        if path is not None:
            path = Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._read(path)
            self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> DistanceCache:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        return len(self._known)

    def get(self, metric: str, pair: str) -> float | None:
        """The distance, or None if it is not known."""
        return self._known.get((metric, pair))

    def put(self, metric: str, pair: str, distance: float) -> None:
        """Keep a finite distance."""
        self._known[metric, pair] = distance
        if self._file is not None:
            line = json.dumps({"metric": metric, "pair": pair, "distance": distance}, allow_nan=False)
            self._file.write(line + "\n")
            self._file.flush()

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                entry = json.loads(line)
                self._known[str(entry["metric"]), str(entry["pair"])] = float(entry["distance"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number} is not a cached distance: {line[:80]!r}") from error
        if whole < len(content):
            if whole == 0 and not content.lstrip().startswith(b"{"):
                raise ValueError(f"{path} is not a file of cached distances")
            with path.open("r+b") as file:
                file.truncate(whole)
