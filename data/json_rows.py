"""Values out of jsonl files and lists in json files, one at a time, so that memory does not grow with the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

from temporal.data.csv_rows import MAX_LETTERS, FaultError, read_line, too_long

STEP = 1 << 16  # letters read at a time
BLANK = " \t\r\n"


class Unreadable(NamedTuple):
    """A line that is no value, and why."""

    why: str | None  # None: it is no JSON


def parse(text: str) -> Any:
    """The value of a JSON text; raises ValueError or RecursionError. Numbers of thousands of digits become 0."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # Python converts no such numbers, and no text is one
        return json.loads(text, parse_int=_none)


def _none(digits: str) -> int:
    return 0


def read_lines(file: TextIO) -> Iterator[tuple[int, Any]]:
    """Line number, from 0, and value of each line that is not empty; Unreadable where it has none."""
    number = -1
    while (line := read_line(file)) != "":
        number += 1
        if line is None:
            yield number, Unreadable(too_long("line"))
        elif line.strip():
            try:
                yield number, parse(line)
            except (ValueError, RecursionError):
                yield number, Unreadable(None)


def read_list(file: TextIO) -> Iterator[Any]:
    """The values of a list.

    Raises:
        FaultError: the rest of the file is no such list.
    """
    buffer = _Buffer(file)
    buffer.take("[", "a list")
    if buffer.peek() != "]":
        yield buffer.value()
        while buffer.peek() != "]":
            buffer.take(",", "a comma or the end of the list")
            yield buffer.value()
    buffer.take("]", "the end of the list")
    if buffer.peek():
        raise FaultError("no JSON: expected nothing after the list")


class _Buffer:
    """The text of a file from the next value on."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._place = file, "", 0
        self._decoders = (json.JSONDecoder(), json.JSONDecoder(parse_int=_none))

    def _more(self) -> bool:
        step = self._file.read(max(STEP, len(self._text) - self._place))  # doubled, for values that are long
        self._text, self._place = self._text[self._place :] + step, 0
        return bool(step)

    def peek(self) -> str:
        """The next letter that is no blank; empty at the end."""
        while True:
            while self._place < len(self._text):
                if self._text[self._place] not in BLANK:
                    return self._text[self._place]
                self._place += 1
            if not self._more():
                return ""

    def take(self, letter: str, what: str) -> None:
        """Pass over a letter that must come."""
        if self.peek() != letter:
            raise FaultError(f"no JSON: expected {what}")
        self._place += 1

    def value(self) -> Any:
        """The next value."""
        if not self.peek():
            raise FaultError("no JSON: expected a value")
        while True:
            decoded = self._decode()
            # What stands at the end of what was read may go on, as a number does.
            if decoded is not None and decoded[1] < len(self._text):
                self._place = decoded[1]
                return decoded[0]
            if len(self._text) - self._place > MAX_LETTERS:
                raise FaultError(too_long("row"))
            if not self._more():
                raise FaultError("no JSON: expected a value" if decoded is None else "no JSON: expected more")

    def _decode(self) -> tuple[Any, int] | None:
        for decoder in self._decoders:
            try:
                return decoder.raw_decode(self._text, self._place)
            except json.JSONDecodeError:
                return None
            except ValueError:  # a number of thousands of digits
                continue
            except RecursionError:
                raise FaultError("no JSON: too deep") from None
        return None
