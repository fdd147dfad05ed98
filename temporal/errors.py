"""What a user did wrong, said in one line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave; the command line prints its one line and exits with 2."""


def bad(where: str, what: str, got: object, expected: str, known: Iterable[str] = ()) -> UserError:
    """Make the error `where: what, got X; expected Y`, with the nearest known name where there is one.

    >>> str(bad("score", "budget in tokens", -3, "a whole number from 1 up"))
    'score: budget in tokens, got -3; expected a whole number from 1 up'
    >>> str(bad("data", "column", "txt", "one of label, text", ["label", "text"]))
    "data: column, got 'txt'; expected one of label, text; did you mean 'text'?"
    """
    near = difflib.get_close_matches(str(got), list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"{where}: {what}, got {got!r}; expected {expected}{hint}")


def reason(error: OSError) -> str:
    """What the operating system says, without numbers and paths.

    >>> reason(OSError(28, "while writing bytes to a file"))
    'No space left on device'
    """
    return os.strerror(error.errno) if error.errno else str(error)
