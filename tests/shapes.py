"""Checks the shapes in annotations while tests run; the product itself pays nothing for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a fine float, as for the type checker


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check arguments and result of a function that states a shape; the type checker sees to all others."""
    annotations = getattr(function, "__annotations__", {})
    return _check(function) if any("Tensor, " in str(hint) for hint in annotations.values()) else function
