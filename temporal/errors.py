"""What a user did wrong, said in one line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

LONGEST = 2000  # letters of a message


class UserError(ValueError):
    """A mistake in what the user gave; the command line prints its one line and exits with 2."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


def plain(text: str, longest: int = LONGEST) -> str:
    r"""One line that a terminal shows as it is: what is not printable is spelled out, the middle of long ones left out.

    Names of files, columns, tensors and classes come from others, who may have put escape sequences into them.

    >>> print(plain("a\x1b[2Jb\n"))
    a\x1b[2Jb\n
    """
    if len(text) > longest:
        text = f"{text[: longest // 2]} ... {text[-longest // 4 :]}"
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return "".join(escaped)


def bad(where: str, what: str, got: object, expected: str, known: Iterable[str] = ()) -> UserError:
    """Make the error `where: what, got X; expected Y`, with the nearest known name where there is one.

    >>> str(bad("score", "budget in tokens", -3, "a whole number from 1 up"))
    'score: budget in tokens, got -3; expected a whole number from 1 up'
    >>> str(bad("data", "column", "txt", "one of label, text", ["label", "text"]))
    "data: column, got 'txt'; expected one of label, text; did you mean 'text'?"
    """
    near = difflib.get_close_matches(str(got)[:100], list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"{where}: {what}, got {got!r}; expected {expected}{hint}")


def reason(error: OSError) -> str:
    """What the operating system says, without numbers and paths.

    >>> reason(OSError(28, "while writing bytes to a file"))
    'No space left on device'
    """
    return os.strerror(error.errno) if error.errno else str(error)
