"""Ranges of settings: stated once, in the types of constructors, and checked wherever one is called.

A setting's type says what may be given: `dropout: BelowOne = 0.0`. A class below `Checked` holds its constructor to
its types, from Python as from YAML; the same words tell what was expected. What one setting means for another, such as
low <= high, stays with the class. Upper ends keep a slip of the keyboard from filling the memory; they are generous.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Interval

from temporal.errors import bad

T = TypeVar("T")
Kind = Any
"""A type as it stands in an annotation: int, Annotated[float, Range(...)], tuple[str, ...], Literal["a"], a union."""


class Range(Interval):
    """Ends of a number; NaN lies in no range, and a range has both ends, so that infinity does not either.

    pydantic and hypothesis understand it as the Interval that it is; a class of its own, because jsonargparse hands
    what it knows from annotated_types to pydantic, which takes true for 1 and says it in words of its own.
    """

    __slots__ = ()

    def holds(self, value: Any) -> bool:
        """Whether a number lies within."""
        low, high = self.ge if self.gt is None else self.gt, self.le if self.lt is None else self.lt
        return bool((low <= value <= high) and value != self.gt and value != self.lt)

    def __str__(self) -> str:
        low, high = (_number(self.ge if self.gt is None else self.gt), _number(self.lt or self.le))
        if self.gt is None:
            return f"from {low} to {'' if self.lt is None else 'below '}{high}"
        return f"above {low}, at most {high}" if self.lt is None else f"above {low} and below {high}"


@dataclass(frozen=True)
class Printable:
    """Text of at most `longest` letters without control characters (such as NUL) and halves of characters."""

    longest: int = 4096

    def holds(self, value: str) -> bool:
        """Whether a text is such."""
        return len(value) <= self.longest and not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", value)

    def __str__(self) -> str:
        return f"of at most {_number(self.longest)} letters, none of them a control character"


Share = Annotated[float, Range(ge=0, le=1)]
BelowOne = Annotated[float, Range(ge=0, lt=1)]
Inner = Annotated[float, Range(gt=0, lt=1)]
Positive = Annotated[float, Range(gt=0, le=1e6)]
NonNegative = Annotated[float, Range(ge=0, le=1e6)]
Price = Annotated[float, Range(ge=1e-9, le=1e6)]
"""Of a full reading, where its logarithm is taken."""
Rate = Annotated[float, Range(gt=0, le=1)]
"""Of learning."""
RateOrNone = Annotated[float, Range(ge=0, le=1)]
"""Of learning; 0 stands still."""
Seconds = Annotated[float, Range(ge=0, le=1e9)]
Flops = Annotated[float, Range(ge=1, le=1e18)]

Seed = Annotated[int, Range(ge=0, le=2**63 - 1)]
Count = Annotated[int, Range(ge=1, le=1_000_000_000)]
Updates = Annotated[int, Range(ge=0, le=10_000_000)]
Batch = Annotated[int, Range(ge=1, le=65_536)]
"""Sequences side by side."""
Units = Annotated[int, Range(ge=1, le=8192)]
"""Width of a layer."""
UnitsOrNone = Annotated[int, Range(ge=0, le=8192)]
"""Width of a layer that 0 leaves out."""
Few = Annotated[int, Range(ge=1, le=256)]
"""Layers, heads, passes."""
Tokens = Annotated[int, Range(ge=1, le=1_000_000)]
"""Tokens, or frames, of one sequence."""
TokensOrNone = Annotated[int, Range(ge=0, le=1_000_000)]
"""Of one sequence; 0 is none."""
Chunk = Annotated[int, Range(ge=1, le=4096)]
Places = Annotated[int, Range(ge=1, le=65_536)]
Pixels = Annotated[int, Range(ge=1, le=1024)]
"""Of a side."""
Workers = Annotated[int, Range(ge=1, le=256)]

Text = Annotated[str, Printable()]


def _taken_apart(kind: Kind) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(kind), typing.get_args(kind)


def fits(kind: Kind, value: object) -> bool:
    """Whether a value is of a kind: true is no number, 2.0 no whole one, a text neither; classes are not looked at."""
    origin, parts = _taken_apart(kind)
    if origin is Annotated:
        limits: list[Any] = _limits(kind)
        return fits(parts[0], value) and all(limit.holds(value) for limit in limits)
    if origin in (typing.Union, types.UnionType):
        return any(fits(part, value) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin in (tuple, list, Sequence):
        return _fits_list(parts, value)
    if kind in (int, float):
        number = Integral if kind is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    if kind in (bool, str, type(None)):
        return isinstance(value, kind)
    return value is not None


def _limits(kind: Kind) -> list[Range | Printable]:
    return [limit for limit in kind.__metadata__ if isinstance(limit, (Range, Printable))]


def _fits_list(parts: tuple[Kind, ...], value: object) -> bool:
    if not isinstance(value, (tuple, list)):
        return False
    if len(parts) == 1 or parts[1:] == (...,):
        return all(fits(parts[0], each) for each in value)
    return len(parts) == len(value) and all(map(fits, parts, value))


def words(kind: Kind, many: bool = False) -> str:
    """What is expected where a kind stands.

    >>> words(tuple[Share, Share] | None)
    'a list of 2 numbers from 0 to 1, or null'
    """
    origin, parts = _taken_apart(kind)
    if origin is Annotated:
        return " ".join([words(parts[0], many), *map(str, kind.__metadata__)])
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(words(part) for part in parts)
    if origin is Literal:
        return f"{'some' if many else 'one'} of {', '.join(parts)}"
    if origin in (tuple, list, Sequence):
        number = "" if len(parts) == 1 or parts[1:] == (...,) else f"{len(parts)} "
        each = words(parts[0], many=True)
        return each if typing.get_origin(parts[0]) is Literal else f"a list of {number}{each}"
    one, several = NAMES.get(kind, (f"a {getattr(kind, '__name__', kind)}",) * 2)
    return several if many else one


NAMES: dict[Kind, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", "true or false"),
    type(None): ("null", "null"),
}


def check(where: str, what: str, kind: Kind, value: object) -> None:
    """Raise UserError unless a value is of a kind."""
    if not fits(kind, value):
        origin, parts = _taken_apart(kind)
        known = parts if origin is Literal else ()
        raise bad(where, what, list(value) if isinstance(value, tuple) else value, words(kind), known)


@functools.cache
def settings(of: Any) -> dict[str, Kind]:
    """What a class's constructor takes: name and kind of each argument that has one."""
    kinds = typing.get_type_hints(of.__init__, include_extras=True)
    return {name: kinds[name] for name in inspect.signature(of).parameters if name in kinds}


def parts(kind: Kind) -> Iterator[type]:
    """The classes that a kind names or, of a callable, what it makes."""
    origin, inner = _taken_apart(kind)
    if isinstance(kind, type) and kind not in NAMES:
        yield kind
    if origin not in (None, Annotated, Literal):
        for part in inner[-1:] if origin is Callable else inner:
            yield from parts(part)


def bare(kind: Kind) -> Iterator[type]:
    """Parts of a kind that state no range: int, float or str by themselves."""
    origin, parts = _taken_apart(kind)
    if kind in (int, float, str):
        yield kind
    if origin is not Literal and not (origin is Annotated and _limits(kind)):
        for part in parts:
            yield from bare(part)


def checked(kind: type[T]) -> type[T]:
    """Have a class's own constructor refuse what does not fit its types, with the class's name in the error."""
    plain = kind.__init__

    @functools.wraps(plain)
    def init(self: Any, *given: Any, **named: Any) -> None:
        try:
            arguments = inspect.signature(plain).bind(self, *given, **named).arguments
        except TypeError:
            arguments = {}  # the constructor says it better
        known: dict[str, Kind] = settings(typing.cast(Any, kind))
        for name, value in arguments.items():
            if name in known:
                check(type(self).__name__, name, known[name], value)
        plain(self, *given, **named)

    setattr(kind, "__init__", init)  # noqa: B010 - a type checker knows nothing of the new one
    return kind


def option(kind: Kind) -> Callable[[str], Any]:
    """What argparse makes an option's value of, so that it is of a kind of numbers; 1e6 is a whole one, too.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    whole = typing.get_args(kind)[0] is int

    def read(text: str) -> Any:
        try:
            value: Any = int(text) if whole and "e" not in text else float(text)
        except ValueError:
            value = text
        if whole and isinstance(value, float) and value.is_integer():
            value = int(value)
        if not fits(kind, value):
            raise argparse.ArgumentTypeError(f"got {value!r}; expected {words(kind)}")
        return value

    return read


class Checked:
    """Classes below it check what their constructors are given against its types."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "__init__" in cls.__dict__:
            checked(cls)


def _number(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{int(value):,}" if value.is_integer() and value < 1e12 else f"{value:g}"
