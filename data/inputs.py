"""Texts to be scored, from files; a row that cannot be read is a problem, and the others go on."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import pyarrow as pa

from temporal.bounded import KINDS
from temporal.data.csv_rows import MAX_LETTERS, FaultError, read_records, too_long
from temporal.data.json_rows import BLANK, STEP, Unreadable, read_lines, read_list
from temporal.errors import bad, plain, reason

NOT_UTF8 = "bytes that are not UTF-8"
MAX_BYTES = 4 * MAX_LETTERS  # that so many letters can take
GROUP_BYTES = 1 << 28  # of one batch of parquet, were all its cells the largest
UNPACKED = 200  # times the size in the file, above which large columns are not unpacked; texts reach 20
BATCH = 1024


class Row(NamedTuple):
    """One text and where it came from; `row` counts from 0 within a table and is 0 for a text file."""

    input: str
    row: int
    text: str


class Problem(NamedTuple):
    """A row or file that cannot be scored, and why; `line` counts from 1, None where the file has no lines."""

    input: str
    row: int
    line: int | None
    reason: str


def find_inputs(inputs: list[Path], outputs: Collection[Path] = ()) -> list[Path]:
    """Files to score, folders searched, in order; also folders that cannot be searched.

    Args:
        inputs: files or folders.
        outputs: resolved paths that will be written; passed over in folders, with what is kept beside them meanwhile.

    Raises:
        UserError: something that does not exist, nothing to score, or an output among the inputs.
    """
    endings = (".txt", *TABLES)
    files: list[Path] = []
    for given in inputs:
        if not os.path.lexists(given):
            raise bad("score", "input", str(given), "a file or folder that exists")
        if given.is_dir():
            found = [p for p in _search(given, endings, outputs) if _real(p) not in outputs]
            if not found:
                raise bad("score", "input", str(given), f"a folder with files ending in {', '.join(endings)}")
            files.extend(sorted(found))
        elif _real(given) in outputs:
            raise bad("score", "--out", str(given), "a file that is not one of the inputs")
        else:
            files.append(given)
    return files


def _real(path: Path) -> Path:
    """Where a path leads; unlike resolve(), this takes links that go round in circles."""
    return Path(os.path.realpath(path))


def _search(folder: Path, endings: Collection[str], outputs: Collection[Path]) -> Iterator[Path]:
    unsearched: list[Path] = []
    for place, folders, names in os.walk(
        folder, onerror=lambda error: unsearched.append(Path(error.filename))
    ):
        folders[:] = [name for name in folders if not _is_kept(Path(place, name), outputs)]
        yield from (path for path in map(Path(place).joinpath, names) if path.suffix.lower() in endings)
    yield from unsearched


def _is_kept(folder: Path, outputs: Collection[Path]) -> bool:
    """Whether a folder holds what is kept of an output while it is made."""
    if folder.suffix not in (".parts", ".old"):
        return False
    place = _real(folder)
    return any(place.parent == o.parent and place.name.startswith(o.name + ".") for o in outputs)


def shown(path: Path | str) -> str:
    """A path as it can be written: what is no UTF-8 in a file's name as a backslash and its code."""
    return str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")


def read_rows(files: list[Path], column: str) -> Iterator[Row | Problem]:
    """All rows of all files; any other ending than a table's is one text."""
    for file in files:
        name, number = shown(file), -1
        try:
            _check_kind(file)
            for number, line, value in TABLES.get(file.suffix.lower(), _text)(file, column):
                yield _check(name, number, line, value)
        except UnicodeDecodeError as error:
            yield Problem(name, number + 1, None, f"{NOT_UTF8} at {error.start}")
        except OSError as error:
            # pyarrow raises OSError without a number for files that are damaged
            yield Problem(name, number + 1, None, _shorten(reason(error)))
        except (ValueError, pa.ArrowException, MemoryError, OverflowError) as error:
            yield Problem(name, number + 1, None, _shorten(str(error) or type(error).__name__))


HEADS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, which begins alike
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip file",
}


def _check_kind(file: Path) -> None:
    """Raise FaultError or OSError for what is no file of text, before it is opened: a pipe would be waited for."""
    mode = stat.S_IFMT(file.stat().st_mode)
    if mode == stat.S_IFDIR:
        os.scandir(file).close()  # one that may not be listed says so
    if mode != stat.S_IFREG:
        raise FaultError(f"{KINDS.get(mode, 'no file')}; expected a file")
    if file.suffix.lower() == ".parquet":
        return
    with file.open("rb") as opened:
        head = opened.read(4)
    for start, kind in HEADS.items():
        if head.startswith(start):
            raise FaultError(f"{kind}; expected UTF-8 text")


def _shorten(text: str) -> str:
    """One line that is safe to show."""
    return plain(" ".join(text.split()), 200)


def _check(input: str, row: int, line: int | None, value: Any) -> Row | Problem:
    fault = value.why if isinstance(value, _Fault) else _what_is_wrong(value)
    return Row(input, row, value) if fault is None else Problem(input, row, line, fault)


def _what_is_wrong(value: Any) -> str | None:
    if not isinstance(value, str):
        got = "nothing" if value is None else type(value).__name__
        return f"text, got {got}; expected a string"
    if len(value) > MAX_LETTERS:
        return too_long("text")
    if not value.strip():
        return "empty text"
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes let through as lone surrogates, so that other rows can be read
        return NOT_UTF8
    return None


class _Fault(NamedTuple):
    """Stands for a text that cannot be read."""

    why: str


Values = Iterator[tuple[int, int | None, Any]]
"""Row number, line number if any, and text (or a _Fault, or something else than a text)."""


def _text(file: Path, column: str) -> Values:
    with file.open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        yield 0, None, _Fault(too_long("text"))
        return
    text = content.decode("utf-8-sig")
    del content
    yield 0, None, text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _find(column: str, known: list[str]) -> int:
    """Where a column stands; raises FaultError where it is missing or there twice."""
    if known.count(column) != 1:
        got = f"{known.count(column)} columns" if column in known else "no column"
        raise FaultError(f"{got} {column!r}; expected one of {', '.join(known)}")
    return known.index(column)


def _parquet(file: Path, column: str) -> Values:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, buffer_size=1 << 16, pre_buffer=False) as opened:
        _find(column, opened.schema_arrow.names)
        number = 0
        for index in range(opened.num_row_groups):
            group = opened.metadata.row_group(index)
            size, packed = _sizes(group, column)
            if size > MAX_BYTES and (size > MAX_BYTES * group.num_rows or size > UNPACKED * packed):
                upto = number + group.num_rows - 1
                yield (
                    number,
                    None,
                    _Fault(f"{size:,} bytes out of {packed:,} in rows up to {upto}; expected texts"),
                )
                number = upto + 1
                continue
            num = min(max(GROUP_BYTES // max(size, 1), 1), BATCH)
            for batch in opened.iter_batches(num, row_groups=[index], columns=[column]):
                for value in _cells(batch.column(0)):
                    yield number, None, value
                    number += 1


def _sizes(group: Any, column: str) -> tuple[int, int]:
    """Bytes of a column in a row group, unpacked and in the file."""
    parts = [group.column(i) for i in range(group.num_columns)]
    parts = [p for p in parts if p.path_in_schema == column or p.path_in_schema.startswith(column + ".")]
    return sum(p.total_uncompressed_size for p in parts), sum(p.total_compressed_size for p in parts)


def _cells(column: pa.Array) -> Iterator[Any]:
    is_large = column.nbytes > MAX_BYTES
    for each in column:
        if is_large and pa.types.is_string(each.type) and each.is_valid and each.as_buffer().size > MAX_BYTES:
            yield _Fault(too_long("text"))
            continue
        try:
            yield each.as_py()
        except UnicodeDecodeError:
            yield _Fault(NOT_UTF8)


def _open(file: Path, newline: str | None = None) -> TextIO:
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _csv(file: Path, column: str) -> Values:
    with _open(file, newline="") as opened:
        records = read_records(opened, column)
        place = _find(column, next(records).cells)
        for number, (line, cells, fault) in enumerate(records):
            yield number, line, cells[place] if fault is None else _Fault(fault)


def _jsonl(file: Path, column: str) -> Values:
    with _open(file) as opened:
        for number, value in read_lines(opened):
            yield number, number + 1, _field(value, column)


def _json(file: Path, column: str) -> Values:
    """A list of objects, or lines of them."""
    with _open(file) as opened:
        while (head := opened.read(STEP)) and not head.strip(BLANK):
            pass
    if not head.lstrip(BLANK).startswith("["):
        yield from _jsonl(file, column)
        return
    with _open(file) as opened:
        for number, value in enumerate(read_list(opened)):
            yield number, None, _field(value, column)


def _field(value: Any, column: str) -> Any:
    if isinstance(value, Unreadable) and value.why is not None:
        return _Fault(value.why)
    if isinstance(value, dict) and column in value:
        return value[column]
    return _Fault(f"not a JSON object with {column!r}")


TABLES: dict[str, Callable[[Path, str], Values]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".json": _json,
}
