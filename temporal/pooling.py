"""Which runs may be averaged: different seeds of one configuration on the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple

from temporal.bounded import check_entries
from temporal.errors import UserError, bad
from temporal.fingerprints import differing
from temporal.runs import flat, read_about, read_config

FREE_SETTINGS = ("seed", "device", "data.path", "data.root")
"""What may differ: where things lie and what computes change nothing, and fingerprints tell data apart."""

RULE = "runs that are averaged differ in nothing but their seed"


class _Known(NamedTuple):
    folder: Path
    about: dict[str, Any]
    settings: dict[str, object]


def check_pool(where: str, folders: Sequence[Path]) -> None:
    """Raise UserError, which names what is wrong, unless runs are different seeds of one configuration.

    Args:
        where: the command, for the message.
        folders: of runs, evaluated or not; one or more.
    """
    runs = []
    for folder in folders:
        about = read_about(folder)
        check_entries(folder)
        runs.append(_Known(folder, about, flat(read_config(folder))))
    _check_once(where, "folder", {run.folder: run.folder.resolve() for run in runs}, folders)
    _check_once(where, "weights", {run.folder: _weights(run.folder) for run in runs}, folders)
    for run in runs[1:]:
        _check_alike(where, runs[0], run)
    _check_once(where, "seed", {run.folder: run.settings.get("seed") for run in runs}, folders)


def _check_once(where: str, what: str, values: Mapping[Path, object], folders: Sequence[Path]) -> None:
    seen: dict[object, Path] = {}
    for folder in folders:
        value = values[folder]
        if value is not None and value in seen:
            got = f"the same {what} in {seen[value]} and {folder}"
            raise UserError(f"{where}: runs, got {got}; expected each run once: {RULE}")
        seen[value] = folder


def _check_alike(where: str, first: _Known, run: _Known) -> None:
    for key in sorted(first.settings.keys() | run.settings.keys()):
        then, now = first.settings.get(key), run.settings.get(key)
        if key not in FREE_SETTINGS and then != now:
            raise bad(where, f"{key} of {run.folder}", now, f"{then!r}, as in {first.folder}: {RULE}")
    taken = [each.about.get("reader_from") is not None for each in (first, run)]
    if taken[0] != taken[1]:
        got = f"{run.folder} {'with' if taken[1] else 'without'}"
        raise UserError(f"{where}: --reader-from, got {got}; expected all runs alike: {RULE}")
    what = differing(first.about.get("fingerprints"), run.about.get("fingerprints"))
    if what is not None:
        raise UserError(
            f"{where}: {what} of {run.folder}, got other data than in {first.folder}; expected the same"
        )


def _weights(folder: Path) -> str | None:
    """A hash of the weights; None where there are none."""
    try:
        with (folder / "model.safetensors").open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
