"""Rows of numbers kept for the clips of any source, keyed by content: appended once, memory-mapped for reading."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import DTypeLike, NDArray

from temporal.errors import bad, reason


class Pool:
    """A growing table on disk, of which each key owns some consecutive rows.

    `rows.bin` holds the rows, `index.jsonl` one line for each key, written after its rows: what a killed process left
    half written is overwritten by the next. Processes take turns by `lock`.

    Args:
        folder: made when missing.
        shape: of one row.
        dtype: of its numbers.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._folder, self._shape, self._dtype = folder, shape, np.dtype(dtype)
        self._row_bytes = int(np.prod(shape)) * self._dtype.itemsize
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            expected = f"a folder that can be written ({reason(error)}); TEMPORAL_CACHE names another"
            raise bad("data", "cache folder", str(folder), expected) from None
        self.lock = FileLock(folder / "lock")
        self._spans: dict[str, tuple[int, int]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take in what other processes have added."""
        index = self._folder / "index.jsonl"
        self._spans, self._index_bytes = {}, 0
        for line in index.read_bytes().splitlines(keepends=True) if index.is_file() else []:
            try:
                entry: Any = json.loads(line)
                self._spans[entry["key"]] = (int(entry["row"]), int(entry["num"]))
            except (ValueError, KeyError, TypeError):
                break  # cut off while being written
            self._index_bytes += len(line)
        self._num_rows = max((row + num for row, num in self._spans.values()), default=0)

    def span(self, key: str) -> tuple[int, int] | None:
        """First row and number of rows of a key; None where it is not there."""
        return self._spans.get(key)

    def add(self, key: str, rows: NDArray[Any]) -> None:
        """Append the rows of a key; hold `lock` meanwhile."""
        data = np.ascontiguousarray(rows, dtype=self._dtype)
        assert data.shape[1:] == self._shape
        line = json.dumps({"key": key, "row": self._num_rows, "num": len(data)}).encode() + b"\n"
        self._write("rows.bin", self._num_rows * self._row_bytes, data.tobytes())
        self._write("index.jsonl", self._index_bytes, line)
        self._index_bytes += len(line)
        self._spans[key] = (self._num_rows, len(data))
        self._num_rows += len(data)

    def _write(self, name: str, place: int, data: bytes) -> None:
        """Write at the end of what is whole, over what was left half written."""
        file = self._folder / name
        with file.open("r+b" if file.exists() else "w+b") as out:
            out.seek(place)
            out.write(data)
            out.truncate()

    def rows(self) -> NDArray[Any]:
        """All rows, memory-mapped."""
        if not self._num_rows:
            return np.zeros((0, *self._shape), dtype=self._dtype)
        return np.memmap(
            self._folder / "rows.bin", mode="r", dtype=self._dtype, shape=(self._num_rows, *self._shape)
        )


def digest(path: Path, *settings: object) -> str:
    """A key for a file's content and what else matters."""
    total = sha256(json.dumps([str(s) for s in settings]).encode())
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()[:32]
