"""Lists of clips: which videos there are, from when to when, of which class and split, out of text, csv and jsonl."""

from __future__ import annotations

import csv
import errno
import glob
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from temporal.data.base import Split
from temporal.data.tables import ALIASES
from temporal.errors import UserError, bad, reason

ENDINGS = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
MOST_BYTES = 1 << 28  # of a list: several times the longest of the known data sets
LISTS = (".csv", ".jsonl", ".txt")
NAMES: dict[Split, tuple[str, ...]] = {
    "train": ALIASES["train"],
    "validation": (*ALIASES["validation"], "validate"),
    "test": ALIASES["test"],
}
KINETICS = ("youtube_id", "time_start", "time_end")

# A path up to its ending, which may hold spaces, and what follows; quotes as csv writes them.
_LINE = re.compile(rf'"?(.+?(?:{"|".join(map(re.escape, ENDINGS))}))"?(?:[\s,;]+"?(.*?)"?)?', re.IGNORECASE)


class Clip(NamedTuple):
    """A stretch of a video file, in seconds; None is from the beginning, or to the end."""

    path: str
    start: float | None = None
    end: float | None = None


class Columns(NamedTuple):
    """What the columns of a list are called; all but the first may be missing."""

    path: str = "path"
    label: str = "label"
    start: str = "start"
    end: str = "end"
    truth: str = "truth"
    split: str = "split"


COLUMNS = Columns()


class Row(NamedTuple):
    """One line of a list with values as they stand there; None is what the line does not say."""

    where: str  # names the row in errors
    path: Any = None
    label: Any = None
    start: Any = None
    end: Any = None
    truth: Any = None
    split: Any = None
    problem: str | None = None


def is_video(name: str) -> bool:
    """Whether a file is taken for a video, by its ending.

    >>> is_video("a/b.MP4"), is_video("manifest.jsonl")
    (True, False)
    """
    return name.lower().endswith(ENDINGS)


def split_of(name: str) -> Split | None:
    """The split that a folder or a value names.

    >>> split_of("Val"), split_of("holdout")
    ('validation', None)
    """
    return next((split for split, names in NAMES.items() if name.lower() in names), None)


def split_of_list(stem: str) -> tuple[Split, str] | None:
    """The split that the beginning of a file's name says, and the rest of the name.

    >>> split_of_list("trainlist01"), split_of_list("val"), split_of_list("valley")
    (('train', 'list01'), ('validation', ''), None)
    """
    for split, names in NAMES.items():
        found = re.fullmatch(rf"(?:{'|'.join(names)})((?:list|[-_.\d]).*)?", stem, re.IGNORECASE)
        if found:
            return split, found[1] or ""
    return None


def read_list(file: Path, columns: Columns, root: Path, labelled: bool = True) -> list[Row]:
    """All rows of a txt, csv or jsonl list, paths joined to `root`; those that are not right say so themselves.

    A txt list, or a csv without a header, has lines of "path label", as UCF-101 comes; the folder of a path is its
    label where there is none, and classInd.txt beside the list names numbers. A csv as Kinetics comes has no paths
    but youtube_id, time_start and time_end, of which the names of files are made.

    Args:
        file: the list.
        columns: of a csv with a header, and keys of a jsonl.
        root: folder that paths are relative to.
        labelled: whether there must be a column of labels, as for learning; for scoring they do not matter.

    Raises:
        UserError: a file that cannot be read or has no rows, a column that is missing.
    """
    who = "data" if labelled else "score"
    try:
        # other bytes than UTF-8 are kept as paths keep them
        text = _read_whole(file).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise bad(who, "path", str(file), f"a file that can be read ({reason(error)})") from None
    where, lines = f"{who}: {file}", text.split("\n")
    first = next((line.strip() for line in lines if line.strip()), "")
    if file.suffix.lower() == ".jsonl":
        rows = _objects(lines, columns, where, labelled)
    elif file.suffix.lower() == ".csv" and not _LINE.fullmatch(first):
        rows = _table(text, columns, where, labelled)
    else:
        rows = _lines(lines, where, _numbered_classes(file.parent / "classInd.txt"))
    if not rows:
        raise UserError(f"{where}, got no row; expected one or more videos")
    return [_locate(row, root) for row in rows]


def _read_whole(file: Path) -> bytes:
    """What is in a list; raises OSError. A pipe may wait for ever, a device never end."""
    found = file.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "")
    if not stat.S_ISREG(found.st_mode):
        raise OSError("not a file")
    if found.st_size > MOST_BYTES:
        raise OSError(f"more than {MOST_BYTES >> 20} MB")
    return file.read_bytes()


def _locate(row: Row, root: Path) -> Row:
    """Join a path to its root; a tuple of names is as many places to look in."""
    if isinstance(row.path, str) and row.path:
        return row._replace(path=os.path.join(root, os.path.expanduser(row.path)))
    if isinstance(row.path, tuple):
        places = [str(root / name) for name in row.path]
        return row._replace(path=next((p for p in places if os.path.lexists(p)), places[0]))
    return row


def _lines(lines: list[str], where: str, classes: dict[str, str]) -> list[Row]:
    rows = []
    for number, line in enumerate(lines):
        found = _LINE.fullmatch(line.strip())
        if found:
            label = found[2] or Path(found[1]).parent.name or None
            rows.append(Row(f"{where} row {number}", found[1], classes.get(label or "", label)))
        elif line.strip():
            problem = f"line, got {line.strip()!r:.60}; expected the path of a video and a label"
            rows.append(Row(f"{where} row {number}", problem=problem))
    return rows


def _numbered_classes(file: Path) -> dict[str, str]:
    """Names of numbered classes, from lines such as "1 ApplyEyeMakeup"."""
    try:
        text = _read_whole(file).decode("utf-8-sig", "replace")
        pairs = [line.split(maxsplit=1) for line in text.splitlines()]
    except OSError:
        return {}
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def _objects(lines: list[str], columns: Columns, where: str, labelled: bool) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        here = f"{where} row {number}"
        if isinstance(values, dict):
            if not any(row.problem is None for row in rows):  # the first that can be read stands for all
                check_columns(where, columns, list(values), labelled)
            rows.append(_row(here, values, columns))
        else:
            rows.append(Row(here, problem=f"line, got {line.strip()!r:.60}; expected a JSON object"))
    return rows


def _table(text: str, columns: Columns, where: str, labelled: bool) -> list[Row]:
    try:
        table = csv.DictReader(StringIO(text, newline=""), strict=True)
        known = list(table.fieldnames or [])
        kinetics = columns.path not in known and set(KINETICS) <= set(known)
        if known:
            check_columns(where, columns, [*known, columns.path] if kinetics else known, labelled)
        read = _kinetics if kinetics else _row
        return [
            _misread(f"{where} row {number}", values) or read(f"{where} row {number}", values, columns)
            for number, values in enumerate(table)
        ]
    except csv.Error as error:
        raise bad(where, "table", str(error), "comma-separated values") from None


def _misread(where: str, values: dict[Any, Any]) -> Row | None:
    """What is wrong with a row of a table, if anything is: a path cut at a comma, or rows swallowed by a quote."""
    if None in values:
        return Row(
            where, problem=f"more cells than the header, got {values[None][0]!r:.60}; expected as many"
        )
    broken = next((cell for cell in values.values() if cell and ("\n" in cell or "\r" in cell)), None)
    if broken is not None:
        return Row(where, problem=f"cell, got {broken!r:.60}; expected one line: an open quote?")
    return None


def _row(where: str, values: dict[str, Any], columns: Columns) -> Row:
    return Row(where, **{field: values.get(name) for field, name in columns._asdict().items()})


def _kinetics(where: str, values: dict[str, Any], columns: Columns) -> Row:
    """The file of a clip that was cut out already; where the common tools put it."""
    row = _row(where, values, columns)._replace(start=None, end=None)
    key, *times = (values[name] for name in KINETICS)
    try:
        start, end = (int(float(time)) for time in times)
    except (TypeError, ValueError, OverflowError):
        return Row(where, problem=f"time_start and time_end, got {tuple(times)!r}; expected seconds")
    name = f"{key}_{start:06d}_{end:06d}.mp4"
    split, label = str(row.split or ""), str(row.label or "")
    folders = ["", split, label, f"{split}/{label}"]
    if split_of(split) == "validation":
        folders += [f"{other}/{part}" for other in NAMES["validation"] for part in ("", label)]
    return row._replace(path=tuple(f"{folder}/{name}".strip("/") for folder in folders))


def check_columns(where: str, columns: Columns, known: list[str], labelled: bool = True) -> None:
    """Raise UserError where a column is missing that must be there: path, label, or one that the user named."""
    always = ("path", "label") if labelled else ("path",)
    for field, name in columns._asdict().items():
        needed = field in always or name != getattr(COLUMNS, field)
        if needed and name not in known:
            raise bad(where, "column", name, f"one of {', '.join(map(str, known))}", map(str, known))


def to_clip(row: Row) -> Clip:
    """Check what a row says of its clip.

    Raises:
        UserError: no path, seconds that are none, a start that is not before the end.
    """
    if row.problem is not None:
        raise UserError(f"{row.where}: {row.problem}")
    if not isinstance(row.path, str) or not row.path or "\0" in row.path:
        raise UserError(f"{row.where}: path, got {row.path!r:.60}; expected the path of a video")
    clip = Clip(row.path, _seconds(row.where, "start", row.start), _seconds(row.where, "end", row.end))
    if clip.end is not None and (clip.start or 0.0) >= clip.end:
        raise bad(row.where, "start and end", (clip.start, clip.end), "a start before the end")
    return clip


def _seconds(where: str, what: str, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise bad(where, what, value, "seconds from 0 up")
    return seconds


def walk(folder: str, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Paths of all videos under a folder in sorted order, links followed.

    What cannot be opened comes too, so that it gets reported: a folder named x.mp4, a dangling link, a folder that
    may not be listed.
    """
    real = os.path.realpath(folder)
    if real in seen:  # a link to a folder that it lies in
        return
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        yield folder
        return
    for name in names:
        path = os.path.join(folder, name)
        if is_video(name):
            yield path
        elif os.path.isdir(path):
            yield from walk(path, seen | {real})


def find_clips(inputs: list[str], columns: Columns = COLUMNS) -> list[Clip]:
    """Clips to score: videos, folders of them, patterns such as "*/*.mp4", and lists (csv, jsonl, txt).

    In the order of the inputs, each sorted, lists as they stand; what comes twice is taken once. What cannot be
    opened is kept, so that it gets reported.

    Raises:
        UserError: an input that is not there or has no videos, a row of a list that names none.
    """
    clips = [clip for given in inputs for clip in _clips(given, columns)]
    return list(dict.fromkeys(clips))


def _clips(given: str, columns: Columns) -> Iterator[Clip]:
    if not os.path.lexists(given):
        yield from _matches(given, columns)
    elif os.path.isdir(given) and not is_video(given):
        found = [Clip(path) for path in walk(given)]
        if not found:
            raise bad("score", "input", given, f"a folder with files ending in {', '.join(ENDINGS)}")
        yield from found
    elif given.lower().endswith(LISTS):
        file = Path(given)
        yield from (to_clip(row) for row in read_list(file, columns, file.parent, labelled=False))
    else:
        yield Clip(given)


def _matches(pattern: str, columns: Columns) -> Iterator[Clip]:
    """What a pattern matches; lists only where it asks for them by their ending, and other files not at all."""
    found = False
    for match in sorted(glob.glob(pattern, recursive=True)):
        if is_video(match) or pattern.lower().endswith(LISTS):
            found = True
            yield from _clips(match, columns)
        elif os.path.isdir(match):
            for path in walk(match):
                found = True
                yield Clip(path)
    if not found:
        raise bad("score", "input", pattern, "a file or folder that exists, or a pattern that matches videos")
