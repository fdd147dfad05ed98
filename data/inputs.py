"""Texts to be scored, from files; a row that cannot be read is a problem, and the others go on."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from temporal.errors import bad, reason

NOT_UTF8 = "bytes that are not UTF-8"


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


def find_inputs(inputs: list[Path], outputs: Collection[Path] = ()) -> list[Path]:
    """Files to score, folders searched, in order.

    Args:
        inputs: files or folders.
        outputs: resolved paths that will be written; passed over in folders.

    Raises:
        UserError: something that does not exist, nothing to score, or an output among the inputs.
    """
    endings = (".txt", *TABLES)
    files: list[Path] = []
    for given in inputs:
        if not given.exists():
            raise bad("score", "input", str(given), "a file or folder that exists")
        if given.is_dir():
            found = sorted(p for p in given.rglob("*") if p.suffix.lower() in endings and p.is_file())
            found = [p for p in found if p.resolve() not in outputs]
            if not found:
                raise bad("score", "input", str(given), f"a folder with files ending in {', '.join(endings)}")
            files.extend(found)
        elif given.resolve() in outputs:
            raise bad("score", "--out", str(given), "a file that is not one of the inputs")
        else:
            files.append(given)
    return files


def read_rows(files: list[Path], column: str) -> Iterator[Row | Problem]:
    """All rows of all files; any other ending than a table's is one text."""
    for file in files:
        number = -1
        try:
            for number, value in TABLES.get(file.suffix.lower(), _text)(file, column):
                yield _check(str(file), number, value)
        except UnicodeDecodeError as error:
            yield Problem(str(file), number + 1, f"{NOT_UTF8} at {error.start}")
        except OSError as error:
            # pyarrow raises OSError without a number for files that are damaged
            yield Problem(str(file), number + 1, _shorten(reason(error)))
        except (ValueError, csv.Error, RecursionError) as error:
            yield Problem(str(file), number + 1, _shorten(str(error)))


def _shorten(text: str) -> str:
    return " ".join(text.split())[:200]


def _check(input: str, row: int, value: Any) -> Row | Problem:
    if isinstance(value, Problem):
        return value._replace(input=input, row=row)
    if not isinstance(value, str):
        got = "nothing" if value is None else type(value).__name__
        return Problem(input, row, f"text, got {got}; expected a string")
    if not value.strip():
        return Problem(input, row, "empty text")
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes let through as lone surrogates, so that other rows can be read
        return Problem(input, row, NOT_UTF8)
    return Row(input, row, value)


def _text(file: Path, column: str) -> Iterator[tuple[int, Any]]:
    yield 0, file.read_text(encoding="utf-8-sig")


def _missing(column: str, known: list[str]) -> ValueError:
    return ValueError(
        f"no column {column!r}; expected one of {', '.join(known)}" if known else "no header line"
    )


def _parquet(file: Path, column: str) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        if column not in opened.schema_arrow.names:
            raise _missing(column, opened.schema_arrow.names)
        number = 0
        for batch in opened.iter_batches(1024, columns=[column]):
            for each in batch.column(0):
                try:
                    value = each.as_py()
                except UnicodeDecodeError:
                    value = Problem("", 0, NOT_UTF8)
                yield number, value
                number += 1


def _csv(file: Path, column: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(sys.maxsize)
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
        table = csv.DictReader(opened)
        if column not in (table.fieldnames or []):
            raise _missing(column, list(table.fieldnames or []))
        for number, row in enumerate(table):
            yield number, row[column]


def _jsonl(file: Path, column: str) -> Iterator[tuple[int, Any]]:
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as opened:
        for number, line in enumerate(opened):
            if line.strip():
                yield number, _field(line, column)


def _json(file: Path, column: str) -> Iterator[tuple[int, Any]]:
    """A list of objects, or lines of them."""
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as opened:
        listed = opened.read(1) == "["
    if not listed:
        yield from _jsonl(file, column)
        return
    rows = json.loads(file.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    yield from ((number, _field(row, column)) for number, row in enumerate(rows))


def _field(row: Any, column: str) -> Any:
    try:
        return (json.loads(row) if isinstance(row, str) else row)[column]
    except (json.JSONDecodeError, KeyError, TypeError, IndexError, RecursionError):
        return Problem("", 0, f"not a JSON object with {column!r}")


TABLES: dict[str, Callable[[Path, str], Iterator[tuple[int, Any]]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".json": _json,
}
