"""Points and per-sequence outcomes of evaluated agents, and the files they are kept in; numpy only."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Bool, Float

from temporal.arrays import read_arrays
from temporal.bounded import MIB, load_json, read_text
from temporal.errors import UserError, bad

MOST_BYTES = 16 * MIB  # of a file of points


@dataclass(frozen=True)
class Point:
    """What one agent reached on one split at one setting: a line of `points.jsonl`.

    `price` is in units of the average full reading, `budget` in tokens, `setting` the rule's own parameter (tokens
    or a threshold); each is None where it does not apply, as `seconds_mean` where features came from a cache.
    Accuracies are from 0 to 1 with a Wilson interval; means are over the `n` sequences; `flops_full` is the cost of
    reading the average sequence in full; `batch` the slots; `frames_decoded_mean` the frames that
    a decoder has to go through for those looked at and for previews, None for texts.

    Raises:
        UserError: a value of the wrong type or outside its range.
    """

    task: str
    split: str
    agent: str
    seed: int
    price: float | None
    budget: float | None
    setting: float | None
    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    flops_mean: float
    flops_full: float
    observations_mean: float
    tokens_mean: float
    seconds_mean: float | None
    batch: int
    frames_decoded_mean: float | None

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_field("point", field.name, str(field.type), getattr(self, field.name))
        if not 0 <= self.accuracy_low <= self.accuracy <= self.accuracy_high <= 1:
            got = (self.accuracy_low, self.accuracy, self.accuracy_high)
            raise bad("point", "accuracy_low, accuracy, accuracy_high", got, "rising numbers from 0 to 1")
        for name in ("n", "batch", "flops_full"):
            if getattr(self, name) <= 0:
                raise bad("point", name, getattr(self, name), "a number above 0")

    def to_json(self) -> str:
        """One line without its end."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str, where: str = "point") -> Point:
        """The point of one line; raises UserError that starts with `where` for anything else."""
        try:
            values = load_json(line)
        except ValueError:
            raise bad(where, "line", line[:40], "a point in JSON") from None
        names = [field.name for field in fields(cls)]
        if isinstance(values, dict) and set(names) - set(values) == {"frames_decoded_mean"}:
            expected = "points of this version; `temporal evaluate --again RUN` makes them anew"
            raise bad(where, "fields", "none named frames_decoded_mean", expected)
        if not isinstance(values, dict) or set(values) != set(names):
            got = sorted(values) if isinstance(values, dict) else values
            raise bad(where, "fields", got, ", ".join(names))
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _check_field(where: str, name: str, kind: str, value: object) -> None:
    """Raise unless `value` is of the annotated `kind`; numbers but the seed must be finite and 0 or more."""
    if value is None and kind.endswith("| None"):
        return
    known = {"str": (str,), "int": (int,), "float": (int, float)}[kind.removesuffix(" | None")]
    if not isinstance(value, known) or isinstance(value, bool):
        raise bad(where, name, value, f"a value of type {kind}")
    if isinstance(value, (int, float)) and name != "seed" and not 0 <= value < math.inf:
        raise bad(where, name, value, "a finite number from 0 up")


def write_points(path: str | Path, points: Iterable[Point]) -> None:
    """Write points, one a line; the file is never seen half written."""
    text = "".join(point.to_json() + "\n" for point in points)
    part = _part(path)
    part.unlink(missing_ok=True)  # not to write through a link
    with part.open("x", encoding="utf-8") as file:
        file.write(text)
    os.replace(part, path)


def read_points(path: str | Path) -> list[Point]:
    """The points of a file; raises UserError naming the file, and the line where one is no point."""
    lines = read_text(Path(path), MOST_BYTES, "points").splitlines()
    return [Point.from_json(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def _part(path: str | Path) -> Path:
    """Where a file is written before it takes its name."""
    return Path(path).with_name(f"{Path(path).name}.{os.getpid()}.part")


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What one agent did with each sequence of a split, at several settings.

    Args:
        settings: price, threshold or number of tokens of each row; None for a rule that has none.
        correct: whether the answer was right.
        flops: what was spent, the answer included; finite, 0 or more.

    Raises:
        UserError: shapes that differ, nothing in them, or a cost that is negative or no number.
    """

    settings: tuple[float | None, ...]
    correct: Bool[np.ndarray, "settings sequences"]
    flops: Float[np.ndarray, "settings sequences"]

    def __post_init__(self) -> None:
        got: object = (len(self.settings), self.correct.shape, self.flops.shape)
        shape = (len(self.settings), *self.correct.shape[1:2])
        if not (len(shape) == 2 and self.correct.shape == shape == self.flops.shape):
            raise bad(
                "outcomes", "settings, shapes of correct and flops", got, "settings x sequences in both"
            )
        if self.correct.size == 0 or self.correct.dtype != np.bool_:
            got = (self.correct.shape, str(self.correct.dtype))
            raise bad("outcomes", "correct", got, "one or more truth values")
        if not (np.isfinite(self.flops).all() and self.flops.min() >= 0):
            raise bad("outcomes", "flops", float(self.flops.min()), "finite numbers from 0 up")

    @classmethod
    def one(cls, correct: Bool[np.ndarray, " n"], flops: Float[np.ndarray, " n"] | float) -> Outcomes:
        """Outcomes at a single setting, for rules without a parameter; one cost may hold for all sequences.

        The free point, for labels and the commonest label of the train split:
        `Outcomes.one(labels == commonest, reader.predict_flops)`.
        """
        costs = np.broadcast_to(np.asarray(flops, np.float64), correct.shape)
        return cls((None,), correct[None], costs[None])

    @property
    def accuracy(self) -> Float[np.ndarray, " settings"]:
        """Mean accuracy at each setting, 0 to 1."""
        return np.asarray(self.correct.mean(1))

    @property
    def flops_mean(self) -> Float[np.ndarray, " settings"]:
        """Mean FLOPs of a sequence at each setting."""
        return np.asarray(self.flops.mean(1, dtype=np.float64))

    def joined(self, other: Outcomes) -> Outcomes:
        """These settings, then the other's, over the same sequences."""
        if self.correct.shape[1] != other.correct.shape[1]:
            counts = (self.correct.shape[1], other.correct.shape[1])
            raise bad("outcomes", "sequences", counts, "as many in both")
        return Outcomes(
            self.settings + other.settings,
            np.concatenate([self.correct, other.correct]),
            np.concatenate([self.flops, other.flops]),
        )


Saved = Mapping[str, Mapping[str, Outcomes]]
"""Outcomes of a run: by split, then by agent."""


def save_outcomes(path: str | Path, outcomes: Saved) -> None:
    """Write the outcomes of a run, by split and agent, as an npz without pickles; never seen half written."""
    arrays: dict[str, np.ndarray] = {}
    for split, agents in outcomes.items():
        for agent, each in agents.items():
            settings = [math.nan if setting is None else setting for setting in each.settings]
            arrays[f"{split}/{agent}/settings"] = np.array(settings, np.float64)
            arrays[f"{split}/{agent}/correct"] = each.correct
            arrays[f"{split}/{agent}/flops"] = each.flops
    part = _part(path)
    part.unlink(missing_ok=True)  # not to write through a link
    with part.open("xb") as file:
        _save_arrays(file, arrays)
    os.replace(part, path)


def _save_arrays(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    # Not np.savez: it takes names as keyword arguments, among which `file` is its own.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def load_outcomes(path: str | Path) -> dict[str, dict[str, Outcomes]]:
    """What `save_outcomes` wrote; raises UserError for any other file."""
    found: dict[str, dict[str, Outcomes]] = {}
    arrays = read_arrays(Path(path), "outcomes")
    try:
        for name in arrays:
            split, agent, what = name.split("/")
            if what == "settings":
                settings = tuple(None if math.isnan(x) else float(x) for x in arrays[name])
                columns = (arrays[f"{split}/{agent}/{each}"] for each in ("correct", "flops"))
                found.setdefault(split, {})[agent] = Outcomes(settings, *columns)
    except (ValueError, KeyError, TypeError) as error:  # arrays that are missing or of other shapes
        raise bad("outcomes", "file", str(path), f"a file of outcomes ({error})") from None
    return found
