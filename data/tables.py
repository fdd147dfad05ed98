"""Rows of texts and labels out of files or the hub, checked as they are read."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from temporal.data.base import SPLITS
from temporal.data.csv_rows import FaultError, read_records
from temporal.errors import UserError, bad

BUILDERS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".json": "json"}
ALIASES = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",), "train": ("train",)}
SHARES = {"validation": 0.1, "test": 0.2}
BATCH = 512


class Table:
    """The rows of one split.

    Args:
        rows: a datasets.Dataset.
        columns: names of the text and the label column.
        classes: class names in the order of label indices.
        skip_bad: leave out rows without text or label instead of raising.
        where: named in errors.
        numbers: (rows,) where each stands in the file that it was taken from; None where these are all of it.
    """

    def __init__(
        self,
        rows: Any,
        columns: tuple[str, str],
        classes: list[str],
        skip_bad: bool,
        where: str,
        numbers: NDArray[np.int64] | None = None,
    ) -> None:
        self._rows = rows.select_columns(list(dict.fromkeys(columns)))
        self._columns, self._skip_bad, self._where, self._numbers = columns, skip_bad, where, numbers
        self.classes = classes
        self._index: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
        feature = rows.features[columns[1]]
        self._names: list[str] | None = getattr(feature, "names", None)

    def texts(self) -> Iterator[list[str]]:
        """Batches of texts alone."""
        for texts, _ in self.batches():
            yield texts

    def batches(self) -> Iterator[tuple[list[str], list[int]]]:
        """Batches of texts and class indices; raises UserError at a bad row, which it names."""
        num_kept = 0
        for start in range(0, len(self._rows), BATCH):
            kept: list[tuple[str, int]] = []
            for i, (text, label) in enumerate(self._read(start), start):
                problem = self._problem(text, label)
                if problem is None:
                    kept.append((text, self._index[self._class(label)]))
                elif not self._skip_bad:
                    row = i if self._numbers is None else self._numbers[i]
                    raise UserError(
                        f"{self._where} row {row}: {problem}; mend it or set data.skip_bad to true"
                    )
            num_kept += len(kept)
            yield [t for t, _ in kept], [c for _, c in kept]
        if num_kept == 0:
            raise UserError(f"{self._where}, got no row with text and label; expected one or more")

    def _read(self, start: int) -> Iterator[tuple[Any, Any]]:
        stop = min(start + BATCH, len(self._rows))
        try:
            batch = self._rows[start:stop]
        except UnicodeDecodeError:  # one by one, to find the row
            for i in range(start, stop):
                try:
                    row = self._rows[i]
                except UnicodeDecodeError:
                    row = dict.fromkeys(self._columns, b"")
                yield row[self._columns[0]], row[self._columns[1]]
            return
        yield from zip(*(batch[c] for c in self._columns), strict=True)

    def _class(self, label: Any) -> str | None:
        """The name of a class; None for a number that a ClassLabel has no name for, such as -1 of unlabelled rows."""
        if self._names is None or not isinstance(label, int):
            return str(label)
        return self._names[label] if 0 <= label < len(self._names) else None

    def _problem(self, text: Any, label: Any) -> str | None:
        if isinstance(text, bytes):
            return f"{self._columns[0]}, got bytes that are not UTF-8; expected UTF-8 text"
        if not isinstance(text, str) or not text.strip():
            return f"{self._columns[0]}, got {text!r:.40}; expected a text that is not empty"
        if label is None or label == "" or self._class(label) is None:
            return f"{self._columns[1]}, got no label; expected one of {', '.join(self.classes[:8])}"
        if self._class(label) not in self._index:
            known = ", ".join(self.classes[:8])
            return f"{self._columns[1]}, got {self._class(label)!r}, unseen in train; expected one of {known}"
        return None


def find_tables(path: str) -> dict[str, list[str]] | str:
    """Files of each split for a local path (one file counts as train); the name itself for the hub.

    Raises:
        UserError: a local path that is missing, of another format, of several formats, or without a train file.
    """
    place = Path(path).expanduser()
    formats = ", ".join(BUILDERS)
    if place.is_file():
        if place.suffix.lower() not in BUILDERS:
            raise bad("data", "format of path", place.name, f"a file ending in {formats}")
        return {"train": [str(place)]}
    if place.is_dir():
        tables = [p for p in sorted(place.iterdir()) if p.suffix.lower() in BUILDERS]
        found = {split: [str(p) for p in tables if _is_split(p.stem, split)] for split in SPLITS}
        if not found["train"]:
            expected = f"a folder with train.* ({formats}), and validation.* and test.* if you have them"
            raise bad("data", "path", path, expected)
        endings = sorted({Path(p).suffix.lower() for paths in found.values() for p in paths})
        if len({BUILDERS[ending] for ending in endings}) > 1:
            raise bad("data", f"formats in {path}", ", ".join(endings), "one for all splits")
        return {split: paths for split, paths in found.items() if paths}
    if place.suffix.lower() in BUILDERS or path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise bad("data", "path", path, "a file or folder that exists")
    return path


def _is_split(stem: str, split: str) -> bool:
    return any(stem == name or stem.startswith((name + "-", name + "_")) for name in ALIASES[split])


def load_rows(files: dict[str, list[str]] | str, columns: tuple[str, str]) -> Any:
    """A datasets.Dataset of each split, from local files or the hub; its own cache is memory-mapped."""
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    if isinstance(files, dict):  # one by one, for what they have besides text and label may differ
        return {split: _load(paths, columns) for split, paths in files.items()}
    try:
        return datasets.load_dataset(files)
    except Exception as error:
        raise _cannot_load(files, error) from None


def _load(paths: list[str], columns: tuple[str, str]) -> Any:
    import datasets

    builder = BUILDERS[Path(paths[0]).suffix.lower()]
    settings: dict[str, Any] = {}
    if builder == "csv":
        for path in paths:
            _check_csv(path, columns)
        # as they stand in the file: pandas takes "NA" and "None" for nothing, and columns of numbers for numbers
        only = list(dict.fromkeys(columns))
        settings = {"usecols": only, "converters": dict.fromkeys(only, str), "keep_default_na": False}
    try:
        return datasets.load_dataset(builder, data_files={"train": paths}, split="train", **settings)
    except Exception as error:  # the library wraps what went wrong in many types
        if builder != "parquet":
            for path in paths:
                _check_utf8(Path(path))
        raise _cannot_load(", ".join(paths), error) from None


def _cannot_load(what: str, error: Exception) -> UserError:
    cause = error.__cause__ or error
    told = " ".join(str(cause).split()) or type(cause).__name__
    return bad("data", "path", what, f"a data set that can be loaded ({told[:200]})")


def _check_csv(path: str, columns: tuple[str, str]) -> None:
    """Raise UserError at a missing column, and a line that pandas would pass over, or take for the rest of another."""
    with Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        try:
            records = read_records(file, columns[0])
            _check_columns(f"data: {path}", columns, next(records).cells)
            fault = next((record for record in records if record.fault is not None), None)
        except FaultError as error:
            raise UserError(f"data: {path}, got {error}; expected rows of texts") from None
    if fault is not None:
        raise UserError(f"data: {path} line {fault.line}, got {fault.fault}; mend it")


def _check_columns(where: str, columns: tuple[str, str], known: list[str]) -> None:
    for column in columns:
        if column not in known:
            raise bad(where, "column", column, f"one of {', '.join(known)}", known)


def _check_utf8(path: Path) -> None:
    """Raise UserError where a file of text holds other bytes."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with path.open("rb") as file:
        for each in file:
            try:
                decoder.decode(each)
            except UnicodeDecodeError:
                got = "bytes that are not UTF-8"
                raise UserError(f"data: {path} line {line}, got {got}; expected UTF-8 text") from None
            line += 1


def open_tables(
    files: dict[str, list[str]] | str,
    columns: tuple[str, str],
    shares: dict[str, float],
    seed: int,
    skip_bad: bool,
) -> dict[str, Table]:
    """The three splits, with what is missing set aside from train by seed.

    Args:
        files: from `find_tables`.
        columns: text and label.
        shares: of train for a missing validation and a missing test split.
        seed: of the set-aside.
        skip_bad: see Table.

    Raises:
        UserError: a missing column, fewer than two classes, a split without rows, a share of what is not missing.
    """
    loaded = load_rows(files, columns)
    rows: dict[str, Any] = {
        split: next((loaded[a] for a in ALIASES[split] if a in loaded), None) for split in SPLITS
    }
    if rows["train"] is None:
        raise bad("data", "splits", sorted(loaded), "one named train")
    for split, share in shares.items():
        if rows[split] is not None and share != SHARES[split]:
            raise bad("data", f"{split}_share", share, f"no value: there is a {split} split")
    paths = files if isinstance(files, dict) else {}
    # the file, where it is one, says more than the split
    where = {s: f"data: {paths[s][0]}" if len(paths.get(s, ())) == 1 else f"data: {s}" for s in SPLITS}
    for split in SPLITS:
        if rows[split] is not None:
            _check_columns(where[split], columns, rows[split].column_names)
        elif len(paths.get("train", ())) == 1:
            where[split] = where["train"]
    classes = _classes(rows["train"], columns[1])
    numbers = _set_aside(rows, shares, seed)
    return {s: Table(rows[s], columns, classes, skip_bad, where[s], numbers.get(s)) for s in SPLITS}


def _set_aside(rows: dict[str, Any], shares: dict[str, float], seed: int) -> dict[str, NDArray[np.int64]]:
    """Take missing splits out of train, in place; returns which of its rows each split holds."""
    import datasets

    numbers: dict[str, NDArray[np.int64]] = {}
    for split in ("test", "validation"):
        if rows[split] is not None:
            continue
        before = numbers.get("train", np.arange(len(rows["train"])))
        table = datasets.Dataset.from_dict({"row": before}).with_format("numpy")
        try:
            parts = table.train_test_split(test_size=shares[split], seed=seed)
        except ValueError:
            raise bad("data", "rows of train", len(before), f"enough to set a {split} split aside") from None
        numbers |= {"train": parts["train"][:]["row"], split: parts["test"][:]["row"]}
    whole = rows["train"]
    for split, chosen in numbers.items():
        rows[split] = whole.select(chosen)
    return numbers


def _classes(rows: Any, column: str) -> list[str]:
    """Names of a ClassLabel in its order, else the labels of train, sorted (as numbers where they are)."""
    names = getattr(rows.features[column], "names", None)
    if names is None:
        names = {str(label) for label in rows.unique(column) if label is not None and label != ""}
    if len(names) < 2:
        raise bad("data", f"classes in column {column}", sorted(names), "two or more")
    if not isinstance(names, set):
        return list(names)
    numbers = all(re.fullmatch(r"-?\d+", name) for name in names)
    return sorted(names, key=int) if numbers else sorted(names)
