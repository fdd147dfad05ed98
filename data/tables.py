"""Rows of texts and labels out of files or the hub, checked as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from temporal.data.base import SPLITS
from temporal.errors import UserError, bad

BUILDERS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".json": "json"}
ALIASES = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",), "train": ("train",)}
BATCH = 512


class Table:
    """The rows of one split.

    Args:
        rows: a datasets.Dataset.
        columns: names of the text and the label column.
        classes: class names in the order of label indices.
        skip_bad: leave out rows without text or label instead of raising.
        where: named in errors.
    """

    def __init__(
        self, rows: Any, columns: tuple[str, str], classes: list[str], skip_bad: bool, where: str
    ) -> None:
        self._rows, self._columns, self._skip_bad, self._where = rows, columns, skip_bad, where
        self.classes = classes
        self._index = {name: i for i, name in enumerate(classes)}
        feature = rows.features[columns[1]]
        self._names: list[str] | None = getattr(feature, "names", None)

    def texts(self) -> Iterator[list[str]]:
        """Batches of texts alone."""
        for texts, _ in self.batches():
            yield texts

    def batches(self) -> Iterator[tuple[list[str], list[int]]]:
        """Batches of texts and class indices; raises UserError at a bad row, which it names."""
        for start in range(0, len(self._rows), BATCH):
            batch = self._rows[start : start + BATCH]
            kept: list[tuple[str, int]] = []
            for i, (text, label) in enumerate(zip(*(batch[c] for c in self._columns), strict=True)):
                problem = self._problem(text, label)
                if problem is None:
                    kept.append((text, self._index[self._class(label)]))
                elif not self._skip_bad:
                    raise UserError(
                        f"{self._where} row {start + i}: {problem}; mend it or set data.skip_bad to true"
                    )
            yield [t for t, _ in kept], [c for _, c in kept]

    def _class(self, label: Any) -> str:
        return self._names[label] if self._names is not None and isinstance(label, int) else str(label)

    def _problem(self, text: Any, label: Any) -> str | None:
        if not isinstance(text, str) or not text.strip():
            return f"{self._columns[0]}, got {text!r:.40}; expected a text that is not empty"
        if label is None or label == "":
            return f"{self._columns[1]}, got no label; expected one of {', '.join(self.classes[:8])}"
        if self._class(label) not in self._index:
            known = ", ".join(self.classes[:8])
            return f"{self._columns[1]}, got {self._class(label)!r}, unseen in train; expected one of {known}"
        return None


def find_tables(path: str) -> dict[str, list[str]] | str:
    """Files of each split for a local path (one file counts as train); the name itself for the hub.

    Raises:
        UserError: a local path that is missing, of another format, or without a train file.
    """
    place = Path(path)
    formats = ", ".join(BUILDERS)
    if place.is_file():
        if place.suffix not in BUILDERS:
            raise bad("data", "format of path", place.name, f"a file ending in {formats}")
        return {"train": [str(place)]}
    if place.is_dir():
        found: dict[str, list[str]] = {}
        for split in SPLITS:
            files = [p for p in sorted(place.iterdir()) if p.suffix in BUILDERS and _is_split(p.stem, split)]
            if files:
                found[split] = [str(p) for p in files]
        if "train" not in found:
            raise bad(
                "data",
                "path",
                path,
                f"a folder with train.* ({formats}), and validation.* and test.* if you have them",
            )
        return found
    if place.suffix in BUILDERS or path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise bad("data", "path", path, "a file or folder that exists")
    return path


def _is_split(stem: str, split: str) -> bool:
    return any(stem == name or stem.startswith((name + "-", name + "_")) for name in ALIASES[split])


def load_rows(files: dict[str, list[str]] | str) -> Any:
    """A datasets.DatasetDict from local files or the hub; its own cache is memory-mapped."""
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    try:
        if isinstance(files, str):
            return datasets.load_dataset(files)
        suffix = Path(files["train"][0]).suffix
        return datasets.load_dataset(BUILDERS[suffix], data_files=files)
    except Exception as error:  # the library wraps what went wrong in many types
        cause = error.__cause__ or error
        what = f"{files['train'][0]}" if isinstance(files, dict) else files
        if isinstance(cause, UnicodeDecodeError) or "UTF" in str(cause):
            raise UserError(
                f"data: {what}, got bytes that are not UTF-8; expected UTF-8 text ({cause})"
            ) from None
        reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise bad("data", "path", what, f"a data set that can be loaded ({reason})") from None


def open_tables(
    files: dict[str, list[str]] | str,
    columns: tuple[str, str],
    shares: tuple[float, float],
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
        UserError: a missing column, fewer than two classes, a split without rows.
    """
    loaded = load_rows(files)
    rows: dict[str, Any] = {
        split: next((loaded[a] for a in ALIASES[split] if a in loaded), None) for split in SPLITS
    }
    if rows["train"] is None:
        raise bad("data", "splits", sorted(loaded), "one named train")
    for column in columns:
        known = rows["train"].column_names
        if column not in known:
            raise bad("data", "column", column, f"one of {', '.join(known)}", known)
    for split, share in (("test", shares[1]), ("validation", shares[0])):
        if rows[split] is None:
            parts = rows["train"].train_test_split(test_size=share, seed=seed)
            rows["train"], rows[split] = parts["train"], parts["test"]
    classes = _classes(rows["train"], columns[1])
    for split in SPLITS:
        if len(rows[split]) == 0:
            raise bad("data", f"{split} split", "no row", "one or more")
        missing = [c for c in columns if c not in rows[split].column_names]
        if missing:
            raise bad(f"data {split}", "column", missing[0], f"one of {', '.join(rows[split].column_names)}")
    return {s: Table(rows[s], columns, classes, skip_bad, f"data {s}") for s in SPLITS}


def _classes(rows: Any, column: str) -> list[str]:
    """Names of a ClassLabel in its order, else the labels of train, sorted (as numbers where they are)."""
    names = getattr(rows.features[column], "names", None)
    if names is not None:
        return list(names)
    labels = {label for label in rows.unique(column) if label is not None and label != ""}
    if len(labels) < 2:
        raise bad("data", f"classes in column {column}", sorted(map(str, labels)), "two or more")
    numbers = all(isinstance(label, int) for label in labels)
    return [str(label) for label in (sorted(labels) if numbers else sorted(map(str, labels)))]
