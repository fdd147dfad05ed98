"""The configuration of a run as it is stored: classes by short names out of a closed table, so that it names no code.

```yaml
reader:
  class: RecurrentReader
  settings: {cell: gru, embedding_size: 96}
```

What is read back is checked value by value against the types of the constructors before anything is built. A class of
the user's own is stored by its dotted path, which is imported only where the run is trusted.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import yaml
from jsonargparse import Namespace

from temporal.agents.preview import PreviewFit
from temporal.agents.stopping import StoppingFit
from temporal.agents.train import Training
from temporal.agents.trials import Evaluation
from temporal.agents.warmup import Warmup
from temporal.errors import UserError, bad
from temporal.experiment import (
    FILLED,
    KINDS,
    Experiment,
    check_ranges,
    complaint,
    concrete,
    dump,
    instantiate,
    make_parser,
)
from temporal.ranges import fits, words
from temporal.readers.frames import ImageModel, Thumbnail
from temporal.readers.packets import PacketSizes

BASES: tuple[type, ...] = (
    *KINDS.values(), Training, Evaluation, Warmup, PreviewFit, StoppingFit, Thumbnail, PacketSizes,
)  # fmt: skip
"""What settings can be objects of."""

PLAIN = (bool, int, float, str)
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def to_stored(parsed: Namespace) -> dict[str, Any]:
    """The resolved configuration in its stored form."""
    stored: dict[str, Any] = _shorten(yaml.safe_load(dump(parsed)))
    return stored


def _shorten(value: Any) -> Any:
    if isinstance(value, list):
        return [_shorten(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "class_path" not in value:
        return {key: _shorten(each) for key, each in value.items()}
    return {"class": _name(value["class_path"]), "settings": _shorten(value.get("init_args") or {})}


def _name(path: str) -> str:
    """The short name of a class of the project's own, else its dotted path."""
    named = _imported(path)
    return named.__name__ if any(named is c for base in BASES for c in concrete(base)) else path


def _imported(path: str) -> Any:
    """What a dotted path names in the modules that are imported already; None where that is nothing."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def foreign(config: Any) -> list[str]:
    """Dotted paths of classes from outside the project that a stored configuration names."""
    found: list[str] = []
    if isinstance(config, dict):
        name = config.get("class")
        found += [name] if isinstance(name, str) and "." in name else []
    if isinstance(config, (dict, list)):
        for each in config.values() if isinstance(config, dict) else config:
            found += foreign(each)
    return sorted(set(found))


def check(config: dict[str, Any], where: str, trust: bool = False) -> dict[str, Any]:
    """The stored configuration with full class paths, as an experiment's parser takes it.

    Args:
        config: plain values.
        where: named in errors.
        trust: import classes from outside the project, which runs their code, and read models that are named.

    Raises:
        UserError: a key, class or value that an experiment cannot have.
    """
    _check_keys(config, where)
    hints = typing.get_type_hints(Experiment)
    translation = _Translation(where, trust)
    return {key: translation.translate(config[key], hint, key) for key, hint in hints.items()}


def _check_keys(config: dict[str, Any], where: str) -> None:
    """Raise UserError unless there is everything that an experiment has, and nothing else."""
    known = [field.name for field in fields(Experiment)]
    # what is left of a file that was cut off may well be good YAML
    if missing := [name for name in known if name not in config]:
        raise UserError(f"{where}, got no {', '.join(missing)}; expected a whole configuration")
    for key in config:
        if key not in known:
            raise bad(where, "setting", key, f"one of {', '.join(known)}", known)


def check_part(config: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """One part of a stored configuration, as `check` gives it; classes from outside the project are refused."""
    _check_keys(config, where)
    hints = typing.get_type_hints(Experiment)
    part: dict[str, Any] = _Translation(where, False).translate(config.get(key), hints[key], key)
    return part


@dataclass(frozen=True)
class _Translation:
    where: str
    trust: bool

    def translate(self, value: Any, hint: Any, at: str) -> Any:
        """A value that is to be of a type, with classes by their paths."""
        origin, parts = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            return self.translate(value, parts[0], at)
        if origin in (typing.Union, types.UnionType):
            return self._one_of(value, parts, at)
        if origin is Callable:
            return self.translate(value, parts[-1], at)
        if origin in (tuple, list, Sequence):
            return self._items(value, parts, at)
        if origin is None and isinstance(hint, type) and issubclass(hint, BASES):
            return self._object(value, hint, at)
        if not (hint in PLAIN or origin is typing.Literal) or not fits(hint, value):
            raise bad(self.where, at, value, words(hint))
        return value

    def _one_of(self, value: Any, hints: Sequence[Any], at: str) -> Any:
        if value is None and type(None) in hints:
            return None
        errors: list[UserError] = []
        for hint in [each for each in hints if each is not type(None)]:
            try:
                return self.translate(value, hint, at)
            except UserError as error:
                errors.append(error)
        # the first of a class that is right, in which something else is wrong
        raise min(errors, key=lambda error: f": {at}.class, " in str(error))

    def _items(self, value: Any, hints: Sequence[Any], at: str) -> list[Any]:
        if not isinstance(value, list):
            raise bad(self.where, at, value, "a list")
        if len(hints) == 1 or hints[1] is Ellipsis:
            hints = [hints[0]] * len(value)
        if len(value) != len(hints):
            raise bad(self.where, at, value, f"a list of {len(hints)}")
        return [self.translate(each, hint, at) for each, hint in zip(value, hints, strict=True)]

    def _object(self, value: Any, base: type, at: str) -> dict[str, Any]:
        if not isinstance(value, dict) or set(value) != {"class", "settings"}:
            got = sorted(value) if isinstance(value, dict) else value
            raise bad(self.where, at, got, "class and settings")
        if not isinstance(value["settings"], dict):
            raise bad(self.where, f"{at}.settings", value["settings"], "a mapping")
        found = self._class(value["class"], base, at)
        if issubclass(found, ImageModel) and not self.trust:
            expected = (
                "an encoder whose network comes with the project; --trust reads the model that is named"
            )
            raise bad(self.where, f"{at}.class", value["class"], expected)
        settings = {
            name: self._setting(found, name, each, f"{at}.{name}") for name, each in value["settings"].items()
        }
        path = f"{found.__module__}.{found.__qualname__}"
        return {"class_path": path, "init_args": settings} if settings else {"class_path": path}

    def _class(self, name: Any, base: type, at: str) -> type:
        """A class by its short name, out of those that the place can hold."""
        known = {c.__name__: c for c in concrete(base)}
        if isinstance(name, str) and name in known:
            return known[name]
        if isinstance(name, str) and DOTTED.fullmatch(name):
            if self.trust:
                return self._import(name, base, at)
            expected = f"one of {', '.join(known)}; --trust imports others, which runs their code"
            raise bad(self.where, f"{at}.class", name, expected)
        raise bad(self.where, f"{at}.class", name, f"one of {', '.join(known)}", known)

    def _import(self, path: str, base: type, at: str) -> type:
        module, _, name = path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError as error:
            raise bad(self.where, f"{at}.class", path, f"a class that can be imported ({error})") from None
        if not isinstance(found, type) or not issubclass(found, base):
            raise bad(self.where, f"{at}.class", path, f"a {base.__name__}")
        return found

    def _setting(self, owner: type, name: str, value: Any, at: str) -> Any:
        """The value of one of a constructor's parameters."""
        parameters = inspect.signature(owner).parameters
        known = [each for each in parameters if each not in FILLED]
        own = any(owner is c for base in BASES for c in concrete(base))
        if name in known:
            hint = typing.get_type_hints(owner.__init__).get(name)  # type: ignore[misc]
        elif own or not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise bad(self.where, "setting", at, f"one of {', '.join(known)}", known)
        else:
            hint = None
        # what a class from outside the project takes is its own affair
        return value if hint is None and not own else self.translate(value, hint, at)


def build(config: dict[str, Any], where: str) -> Experiment:
    """The experiment of a checked configuration; data are opened.

    Raises:
        UserError: a value that a constructor refuses; a class that is none of those checked.
    """
    try:
        parsed = make_parser().parse_object(config)
    except UserError:
        raise
    except Exception as error:  # jsonargparse raises its own error and argparse's
        raise UserError(f"{where}: {complaint(str(error) or type(error).__name__)}") from None
    allowed = {_imported(path) for path in _paths(config)} - {None}
    for path in _paths(parsed.as_dict()):
        if _imported(path) not in allowed:
            raise bad(where, "class", path, "one that was checked")
    check_ranges(parsed, where)
    return instantiate(parsed)


def _paths(value: Any) -> Iterator[str]:
    """Every class path in a configuration."""
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _paths(each)
