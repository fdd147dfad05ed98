"""Texts to be scored, from files; a row that cannot be read is a problem, and the others go on."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from temporal.errors import bad

TABLES = (".parquet", ".csv", ".jsonl")


class Row(NamedTuple):
    """One text and where it came from; `row` counts from 0 within a table and is 0 for a text file."""

    input: str
    row: int
    text: str


class Problem(NamedTuple):
    """A row or file that cannot be scored, and why."""

    input: str
    row: int
    reason: str


def find_inputs(inputs: list[Path]) -> list[Path]:
    """Files to score, folders searched, in order.

    Raises:
        UserError: something that does not exist, or nothing to score.
    """
    files: list[Path] = []
    for given in inputs:
        if not given.exists():
            raise bad("score", "input", str(given), "a file or folder that exists")
        found = sorted(p for p in given.rglob("*") if p.suffix in (".txt", *TABLES)) if given.is_dir() else [given]
        if not found:
            raise bad("score", "input", str(given), f"a folder with files ending in .txt, {', '.join(TABLES)}")
        files.extend(found)
    return files


def read_rows(files: list[Path], column: str) -> Iterator[Row | Problem]:
    """All rows of all files; any other ending than a table's is one text."""
    for file in files:
        readers = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}
        number = 0
        try:
            for number, value in readers.get(file.suffix, _text)(file, column):  # noqa: B007
                yield _check(str(file), number, value)
        except UnicodeDecodeError as error:
            yield Problem(str(file), number, f"bytes that are not UTF-8 at {error.start}")
        except (OSError, ValueError, csv.Error) as error:
            yield Problem(str(file), number, " ".join(str(error).split())[:200])


def _check(input: str, row: int, value: Any) -> Row | Problem:
    if isinstance(value, Problem):
        return value._replace(input=input, row=row)
    if not isinstance(value, str):
        return Problem(input, row, f"text, got {type(value).__name__}; expected a string")
    if not value.strip():
        return Problem(input, row, "empty text")
    return Row(input, row, value)


def _text(file: Path, column: str) -> Iterator[tuple[int, Any]]:
    yield 0, file.read_text(encoding="utf-8")


def _missing(column: str, known: list[str]) -> ValueError:
    return ValueError(f"no column {column!r}; the file has {', '.join(known)}")


def _parquet(file: Path, column: str) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as pq

    opened = pq.ParquetFile(file)
    if column not in opened.schema_arrow.names:
        raise _missing(column, opened.schema_arrow.names)
    number = 0
    for batch in opened.iter_batches(1024, columns=[column]):
        for i in range(len(batch)):
            try:
                value = batch.column(0)[i].as_py()
            except UnicodeDecodeError:
                value = Problem("", 0, "bytes that are not UTF-8")
            yield number, value
            number += 1


def _csv(file: Path, column: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(sys.maxsize)
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as opened:
        table = csv.DictReader(opened)
        if column not in (table.fieldnames or []):
            raise _missing(column, list(table.fieldnames or []))
        for number, row in enumerate(table):
            yield number, _utf8(row[column])


def _jsonl(file: Path, column: str) -> Iterator[tuple[int, Any]]:
    with file.open(encoding="utf-8", errors="surrogateescape") as opened:
        for number, line in enumerate(opened):
            try:
                value = json.loads(line)[column]
            except (json.JSONDecodeError, KeyError, TypeError, IndexError):
                yield number, Problem("", 0, f"not a JSON object with {column!r}")
                continue
            yield number, _utf8(value)


def _utf8(value: Any) -> Any:
    """The value, or a problem where it holds bytes that were no UTF-8."""
    if isinstance(value, str) and any("\udc80" <= letter <= "\udcff" for letter in value):
        return Problem("", 0, "bytes that are not UTF-8")
    return value
