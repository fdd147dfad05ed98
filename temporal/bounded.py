"""Files that strangers may have made, read within bounds: regular files of a folder, JSON and YAML of plain values."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from temporal.errors import bad, reason

MIB = 1 << 20
DEPTH = 20  # of lists and mappings in each other
NODES = 20_000  # of a YAML
DIGITS = 19  # of a whole number
ENTRIES = 100_000  # of a folder
KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
"""What is no regular file, by its type in a mode."""


def check_entries(folder: Path, where: str = "run") -> None:
    """Raise UserError unless a folder holds nothing but folders and regular files, no link leading out of it.

    Reading a pipe would wait for ever, and what is written through a link would end up elsewhere.
    """
    root, left = os.path.realpath(folder), ENTRIES
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    left -= 1
                    if left < 0:
                        raise bad(where, "folder", str(folder), f"at most {ENTRIES} files")
                    if why := _objection(entry, root):
                        raise bad(where, "file", entry.path, f"a file of a run ({why})")
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError as error:
            raise bad(where, "folder", str(folder), f"a folder that can be read ({reason(error)})") from None


def _objection(entry: os.DirEntry[str], root: str) -> str | None:
    """What is wrong with an entry of a folder, if anything is."""
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        return None if _within(target, root) and os.path.isfile(target) else "a link that leads elsewhere"
    kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
    return None if kind in (stat.S_IFREG, stat.S_IFDIR) else f"{KINDS.get(kind, 'no file')} is none"


def _within(target: str, root: str) -> bool:
    return os.path.commonpath([target, root]) == root


def check_file(file: Path, limit: int, where: str = "run") -> int:
    """The size of a regular file in bytes; opens nothing.

    Raises:
        UserError: it is missing, something else, a link out of its folder, or larger than `limit` bytes.
    """
    try:
        status = os.stat(file)
        kind = stat.S_IFMT(status.st_mode)
        if not _within(os.path.realpath(file), os.path.realpath(file.parent)):
            why = "a link that leads elsewhere"
        elif kind != stat.S_IFREG:
            why = f"{KINDS.get(kind, 'no file')} is none"
        elif status.st_size > limit:
            why = f"{status.st_size / MIB:,.0f} MiB; at most {limit / MIB:g}"
        else:
            return status.st_size
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
    raise bad(where, "file", str(file), f"a file of a run ({why})")


def read_text(file: Path, limit: int, where: str = "run") -> str:
    """The text of a regular file of at most `limit` bytes in UTF-8; raises UserError for any other."""
    check_file(file, limit, where)
    try:
        with open(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as opened:
            data = opened.read(limit + 1)
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "not UTF-8"
        raise bad(where, "file", str(file), f"a file of a run ({why})") from None


def load_json(text: str) -> Any:
    """JSON of plain values; raises ValueError for what is damaged or out of bounds, with the reason.

    Refused are numbers that are not finite or have more than 19 digits, keys that come twice, halves of characters.
    """
    try:
        value = json.loads(
            text, parse_constant=_no_number, parse_int=_whole, parse_float=_finite, object_pairs_hook=_mapping
        )
        _check_texts(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _whole(text: str) -> int:
    if len(text) > DIGITS + 1:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text) if len(text) <= 100 else math.inf
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _check_texts(value: Any) -> None:
    """Raise ValueError where a text holds half a character, which no file takes."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("half a character") from None
    elif isinstance(value, dict):
        for key, each in value.items():
            _check_texts(key)
            _check_texts(each)
    elif isinstance(value, list):
        for each in value:
            _check_texts(each)


def load_yaml(text: str) -> Any:
    """YAML of nothing but mappings, lists, texts, numbers, true, false and null; no anchors, aliases or tags.

    Raises:
        ValueError: anything else, or out of bounds: more than 20 levels or 20,000 values, numbers as in `load_json`.
    """
    try:
        events = _checked(yaml.parse(text, Loader=yaml.SafeLoader))
        value = _value(next(events), events)
        if not isinstance(next(events), yaml.DocumentEndEvent) or next(events, None) is not None:
            raise ValueError("more than one value")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ValueError(f"{problem}, line {mark.line + 1}" if mark else problem) from None
    except StopIteration:
        raise ValueError("nothing") from None
    _check_texts(value)
    return value


def _checked(events: Iterator[Any]) -> Iterator[Any]:
    """Events of one document, from its first value on, checked as they come."""
    depth, left = 0, NODES
    for event in events:
        left -= 1
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if left < 0 or depth > DEPTH:
            raise ValueError("nested too deeply" if depth > DEPTH else "too many values")
        if isinstance(event, yaml.NodeEvent) and (event.anchor or getattr(event, "tag", None)):
            raise ValueError(f"an anchor, alias or tag in line {event.start_mark.line + 1}")
        if not isinstance(event, (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent)):
            yield event


def _value(event: Any, events: Iterator[Any]) -> Any:
    """The value that begins with an event; the events that make it up are taken."""
    if isinstance(event, yaml.ScalarEvent):
        return event.value if event.style is not None else _scalar(event.value)
    if isinstance(event, yaml.SequenceStartEvent):
        return list(_until(yaml.SequenceEndEvent, events))
    if isinstance(event, yaml.MappingStartEvent):
        parts = list(_until(yaml.MappingEndEvent, events))
        if not all(isinstance(key, str) for key in parts[::2]):
            raise ValueError("a key that is no text")
        return _mapping(list(zip(parts[::2], parts[1::2], strict=True)))
    raise ValueError("nothing")


def _until(end: type, events: Iterator[Any]) -> Iterator[Any]:
    while not isinstance(event := next(events), end):
        yield _value(event, events)


WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
WHOLE = re.compile(r"[-+]?[0-9]+")
# As PyYAML writes and reads them: without a point 1e5 is a text.
NUMBER = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?")
NO_NUMBER = re.compile(r"[-+]?\.(inf|nan)", re.IGNORECASE)


def _scalar(text: str) -> Any:
    """What a plain scalar means; anything that is no word or number of JSON is a text."""
    if text in WORDS:
        return WORDS[text]
    if WHOLE.fullmatch(text):
        return _whole(text)
    if NO_NUMBER.fullmatch(text):
        return _no_number(text)
    return _finite(text) if NUMBER.fullmatch(text) else text
