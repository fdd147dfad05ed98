"""What the benchmarks share: ragged texts, rivals timed in turns, and a table of ratios."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from temporal.data.base import Sequences
from temporal.readers.base import Task

VOCABULARY, CLASSES = 20_000, 2
MEDIAN_LENGTH, SPREAD, MAX_LENGTH = 160, 0.8, 600


def ragged_lengths(rng: np.random.Generator, num: int) -> NDArray[np.int64]:
    """Tokens of texts about as long as mails are: log-normal, median 160, cut at 600."""
    return rng.lognormal(np.log(MEDIAN_LENGTH), SPREAD, num).astype(np.int64).clip(1, MAX_LENGTH)


def ragged_texts(num: int, seed: int = 0) -> tuple[Sequences, Task]:
    """Random token ids and labels."""
    rng = np.random.default_rng(seed)
    lengths = ragged_lengths(rng, num)
    offsets = np.concatenate([[0], lengths.cumsum()])
    flat = rng.integers(1, VOCABULARY, int(offsets[-1])).astype(np.int32)
    labels = rng.integers(0, CLASSES, num)
    task = Task(VOCABULARY, tuple(f"class{i}" for i in range(CLASSES)), float(lengths.mean()), MAX_LENGTH)
    return Sequences(flat, offsets, labels), task


def seconds_of(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each way, after one warm-up, timed in turns so that a busy machine slows all alike."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) for name, each in taken.items()}


def parse(description: str, **counts: int) -> argparse.Namespace:
    """Arguments that every benchmark takes, and whole numbers of its own by name and default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    add_json(parser)
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    return parser.parse_args()


def add_json(parser: argparse.ArgumentParser) -> None:
    """Where rows go besides the table."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="append each row as one JSON line")


def thread_counts(wanted: list[int]) -> Iterator[int]:
    """Each count in turn, set for torch while it lasts."""
    for num in wanted:
        torch.set_num_threads(num)
        yield num


class Report:
    """Rows as they are found: a table on stdout at the end, and JSON lines in a file if there is one."""

    def __init__(self, title: str, file: Path | None) -> None:
        self._title, self._file = title, file
        self._rows: list[dict[str, Any]] = []

    def add(self, **row: Any) -> None:
        """Keep one row; numbers that are no counts are shown with three digits."""
        self._rows.append(row)
        print(" ".join(f"{k}={_shown(v)}" for k, v in row.items()), file=sys.stderr)
        if self._file is not None:
            with self._file.open("a") as out:
                out.write(json.dumps({"benchmark": self._title, **row}) + "\n")

    def show(self) -> None:
        """Print the table."""
        load = "/".join(f"{x:.1f}" for x in os.getloadavg())
        table = Table(title=f"{self._title} (torch {torch.__version__}, {os.cpu_count()} cores, load {load})")
        for name in self._rows[0]:
            table.add_column(name.replace("_", " "))
        for row in self._rows:
            table.add_row(*(_shown(value) for value in row.values()))
        Console(width=150).print(table)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
