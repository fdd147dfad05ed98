"""Rows of csv files, read so strictly that no fault in one is passed over, and so that it costs the others nothing.

RFC 4180, with these rules for what breaks it. A quote that is not closed, or is followed by something else than a
comma or the end of the line, makes its first line a problem, and reading goes on at the next line. A quoted cell over
several lines is not believed where its lines look like rows by themselves. A row must have as many cells as the
header. What comes after a fault is taken for a row only if its other cells are such as those of the rows before.
"""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, TextIO

MAX_LETTERS = 1 << 24  # of a line, and of a row
MAX_LINES = 50_000  # of a row
MANY_LINES = 4  # so many that look like rows are rows, even where there are few rows to compare them with
LONG, MOST = 10, 0.8  # of more lines than this, most are enough
SKIPPED_LETTERS = 1 << 32  # of one line, after which a file is given up
TAUGHT, LEAST_TAUGHT = 1000, 20  # rows that tell what cells look like
FEW_VALUES = 64


class Record(NamedTuple):
    """A row, or what is wrong with one line or several."""

    line: int  # the first of it, from 1
    cells: list[str]
    fault: str | None = None


class FaultError(ValueError):
    """A file that cannot be read any further."""


class _TooLongError(Exception):
    """A row that is given up."""


class _Lines:
    """Lines of a file; those of the present row are kept, and can be given back."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._again: deque[str | None] = deque()
        self.taken: list[str | None] = []  # None is a line that is too long to be kept
        self._letters = 0
        self.first = 1  # number of the first of them
        self.num_again = 0  # that were given back and not taken again when the present row began

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else read_line(self._file)
        if line == "":
            raise StopIteration
        self.taken.append(line)
        if line is None:
            raise _TooLongError(too_long("line"))
        if len(self.taken) > 1:
            self._letters += len(line)
            if self._letters > MAX_LETTERS or len(self.taken) > MAX_LINES:
                raise _TooLongError("a quote that is not closed, or a text of too many lines")
        return line

    def next_row(self) -> None:
        """Let go of the lines of the present row."""
        self.num_again = len(self._again)
        self.first += len(self.taken)
        self.taken.clear()
        self._letters = 0

    def give_back(self) -> None:
        """All lines of the present row but its first."""
        self._again.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def read_line(file: TextIO) -> str | None:
    """The next line with its end, empty at the end of the file; None where it is too long, and passed over."""
    line = file.readline(MAX_LETTERS + 1)
    if len(line) <= MAX_LETTERS:
        return line
    num = 0
    while line and line[-1] not in "\r\n":
        line = file.readline(1 << 20)
        num += len(line)
        if num > SKIPPED_LETTERS:
            raise FaultError(too_long("line", SKIPPED_LETTERS))
    return None


def too_long(what: str, limit: int = MAX_LETTERS) -> str:
    """What is said of a text that is too long.

    >>> too_long("line")
    'a line of more than 16,777,216 letters'
    """
    return f"a {what} of more than {limit:,} letters"


class _Columns:
    """What the cells of the columns look like, but for the texts."""

    def __init__(self, header: list[str], column: str) -> None:
        self.num = len(header)
        self._others = [i for i, name in enumerate(header) if name != column]
        self._values: list[set[str]] = [set() for _ in self._others]
        self._num_taught = 0

    def teach(self, cells: list[str]) -> None:
        """Learn from a row that is beyond doubt."""
        if self._num_taught < TAUGHT:
            self._num_taught += 1
            for index, values in zip(self._others, self._values, strict=True):
                values.add(cells[index])

    def resembles(self, cells: list[str]) -> bool | None:
        """Whether a row looks like those before; None where that cannot be said."""
        if self._num_taught < LEAST_TAUGHT:
            return None
        return all(map(_fits, (cells[i] for i in self._others), self._values))

    def are_rows(self, lines: list[str]) -> bool:
        """Whether the lines after a row's first are more likely rows than the rest of a text of several lines."""
        if self.num == 1:  # nothing tells a row from the line of a text
            return False
        found = [self._is_like(line) for line in lines]
        num_fitting = sum(each is not False for each in found[1:])
        if num_fitting < len(lines) - 1:
            return len(lines) > LONG and num_fitting >= MOST * (len(lines) - 1)
        return len(lines) >= MANY_LINES or all(found)

    def _is_like(self, line: str) -> bool | None:
        cells = line.rstrip("\r\n").split(",")
        return len(cells) == self.num and self.resembles([cell.strip('"') for cell in cells])


def _fits(cell: str, values: set[str]) -> bool:
    if cell in values:
        return True
    if all(map(_is_number, values)):
        return _is_number(cell)
    return len(values) > FEW_VALUES  # anything goes


def _is_number(cell: str) -> bool:
    return cell.strip().lstrip("+-").replace(".", "", 1).isdigit()


def read_records(file: TextIO, column: str) -> Iterator[Record]:
    """The header, then all rows and faults in the order of their lines; empty lines are passed over.

    Raises:
        FaultError: the header cannot be read, or the rest of the file.
    """
    csv.field_size_limit(sys.maxsize)  # lines have a limit
    lines = _Lines(file)
    rows = csv.reader(lines, strict=True)
    header = _next_filled(rows, lines)
    if header is None or header.fault is not None:
        raise FaultError("no header line" if header is None else f"header line: {header.fault}")
    yield header
    judge = _Judge(lines, _Columns(header.cells, column))
    while (record := _next_filled(rows, lines)) is not None:
        yield judge(record)


def _next_filled(rows: Iterator[list[str]], lines: _Lines) -> Record | None:
    """The next record that is no empty line, as it stands; None at the end."""
    while True:
        lines.next_row()
        try:
            cells = next(rows)
        except StopIteration:
            return None
        except (csv.Error, _TooLongError) as error:
            fault = _told(error, lines)
            lines.give_back()
            return Record(lines.first, [], fault)
        if cells:
            return Record(lines.first, cells)


def _told(error: Exception, lines: _Lines) -> str:
    if isinstance(error, _TooLongError) and len(lines.taken) == 1:
        return str(error)
    if len(lines.taken) > 1 or "end of data" in str(error):
        return "a quote that is not closed"
    return "a quote within quotes that is not doubled" if "expected after" in str(error) else str(error)


class _Judge:
    """Says what is wrong with records; after a fault no row is believed that is unlike those before."""

    def __init__(self, lines: _Lines, columns: _Columns) -> None:
        self._lines, self._columns = lines, columns
        self._doubts = False

    def __call__(self, record: Record) -> Record:
        """The record, with what is wrong with it."""
        num, lines, columns = len(record.cells), self._lines, self._columns
        if num == columns.num and len(lines.taken) == 1 and not self._doubts:
            columns.teach(record.cells)
            return record
        if record.fault is not None:
            self._doubts = True
            return record
        if len(lines.taken) > 1 and columns.are_rows([line or "" for line in lines.taken]):
            self._doubts = True
            lines.give_back()
            return record._replace(fault="a quote that is not closed; the lines after it are rows")
        if num != columns.num:
            upto = f", up to line {lines.first + len(lines.taken) - 1}" if len(lines.taken) > 1 else ""
            cells = "1 cell" if num == 1 else f"{num} cells"
            return record._replace(fault=f"{cells}{upto}; expected {columns.num} as in the header")
        if self._doubts and columns.resembles(record.cells) is False:
            return record._replace(fault="unlike the rows before, after a quote that is not closed")
        self._doubts = lines.num_again > len(lines.taken)
        return record
