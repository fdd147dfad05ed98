"""Classifies texts from files within a budget; what cannot be scored is listed with its reason."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer

from temporal.agents.rollout import SpanRecorder
from temporal.data.base import Sequences
from temporal.data.inputs import Problem, Row, find_inputs, read_rows
from temporal.data.tokens import encode
from temporal.display import Advance
from temporal.errors import UserError, bad
from temporal.reading import Outcome, Plan, read
from temporal.runs import Run

BATCH = 1024

SCHEMA = pa.schema(
    [
        ("input", pa.string()),
        ("row", pa.int64()),
        ("label", pa.string()),
        ("probabilities", pa.list_(pa.float32())),
        ("tokens_total", pa.int64()),
        ("tokens_read", pa.int64()),
        ("positions", pa.list_(pa.int32())),
        ("words", pa.string()),
        ("flops", pa.float64()),
        ("halted", pa.bool_()),
    ]
)


class Scored(NamedTuple):
    """One batch of rows and what was found."""

    rows: list[Row]
    outcome: Outcome
    positions: list[list[int]]
    totals: list[int]


def score_inputs(
    run: Run,
    inputs: list[Path],
    out: Path,
    tokens: float | None,
    flops: float | None,
    price: float | None,
    column: str,
    progress: Advance,
) -> str:
    """Score every text of some files; results are written batch by batch, in the order of the inputs.

    Ctrl-C keeps the batches that are finished: the file is closed and takes its name.

    Args:
        run: a trained reader and agent.
        inputs: files or folders.
        out: parquet; rows that could not be scored go to `<out without ending>.errors.jsonl`.
        tokens: most tokens of each text, None for no limit.
        flops: most FLOPs of each text, None for no limit.
        price: shown to the agent; None takes the lowest it was trained on.
        column: of texts in tables.
        progress: takes what is done.

    Returns:
        One line that says what was done.
    """
    tokenizer = _tokenizer(run)
    prices = run.config["training"]["init_args"]["prices"]
    price = float(prices[0]) if price is None else price
    Plan.of(torch.zeros(1, dtype=torch.long), price, tokens, flops)
    least = run.reader.predict_flops
    if flops is not None and flops < least:
        raise bad("score", "--flops", flops, f"{least} or more, the cost of one answer")
    files = find_inputs(inputs)
    errors = out.with_suffix(".errors.jsonl")
    num_scored = num_failed = 0
    spent = 0.0
    with _Table(out) as table, _Lines(errors) as failed:
        for rows, problems in _batches(read_rows(files, column)):
            for problem in problems:
                failed.write({"input": problem.input, "row": problem.row, "reason": problem.reason})
            scored, unread = _score(run, tokenizer, rows, price, tokens, flops)
            for problem in unread:
                failed.write({"input": problem.input, "row": problem.row, "reason": problem.reason})
            num_failed += len(problems) + len(unread)
            if scored is not None:
                table.write(_columns(run, tokenizer, scored))
                num_scored += len(scored.rows)
                spent += float(scored.outcome.flops.sum())
            progress("", num_scored + num_failed, num_scored + num_failed)
    share = spent / max(num_scored, 1) / run.reader.full_flops()
    summary = f"{out}: {num_scored} texts scored at {share:.1%} of a full reading on average"
    return summary + (f"; {num_failed} could not be, see {errors}" if num_failed else "")


def _tokenizer(run: Run) -> Tokenizer:
    path = run.folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise bad("run", "tokenizer.json", str(error).splitlines()[0], f"the tokenizer of a run on texts, in {run.folder}") from None


def _batches(rows: Iterator[Row | Problem]) -> Iterator[tuple[list[Row], list[Problem]]]:
    good: list[Row] = []
    bad_ones: list[Problem] = []
    for row in rows:
        if isinstance(row, Row):
            good.append(row)
        else:
            bad_ones.append(row)
        if len(good) + len(bad_ones) >= BATCH:
            yield good, bad_ones
            good, bad_ones = [], []
    if good or bad_ones:
        yield good, bad_ones


def _score(
    run: Run, tokenizer: Tokenizer, rows: list[Row], price: float, tokens: float | None, flops: float | None
) -> tuple[Scored | None, list[Problem]]:
    encoded = encode(tokenizer, [row.text for row in rows])
    unread = [Problem(r.input, r.row, "no token in the text") for r, ids in zip(rows, encoded, strict=True) if not len(ids)]
    pairs = [(r, ids) for r, ids in zip(rows, encoded, strict=True) if len(ids)]
    if not pairs:
        return None, unread
    totals = [len(ids) for _, ids in pairs]
    offsets = np.concatenate([[0], np.cumsum(totals)]).astype(np.int64)
    source = Sequences(np.concatenate([ids for _, ids in pairs]), offsets, None)
    recorder = SpanRecorder(len(pairs))
    plan = Plan.of(torch.arange(len(pairs)), price, tokens, flops)
    outcome = read(source, run.reader, run.agent, plan, run.num_slots, run.chunk, recorder)
    assert outcome is not None
    return Scored([r for r, _ in pairs], outcome, recorder.positions, totals), unread


def _columns(run: Run, tokenizer: Tokenizer, scored: Scored) -> dict[str, list[Any]]:
    probabilities = scored.outcome.probabilities.cpu()
    names = run.task.class_names
    words = []
    for row, places in zip(scored.rows, scored.positions, strict=True):
        spans = tokenizer.encode(row.text, add_special_tokens=False).offsets if places else []
        words.append(" ".join(row.text[slice(*spans[p])] for p in places))
    return {
        "input": [r.input for r in scored.rows],
        "row": [r.row for r in scored.rows],
        "label": [names[i] for i in probabilities.argmax(-1).tolist()],
        "probabilities": probabilities.tolist(),
        "tokens_total": scored.totals,
        "tokens_read": scored.outcome.tokens.tolist(),
        "positions": scored.positions,
        "words": words,
        "flops": scored.outcome.flops.tolist(),
        "halted": scored.outcome.halted.tolist(),
    }


class _Table:
    """A parquet file written batch by batch beside its name, and renamed once closed; empty ones are written too."""

    def __init__(self, path: Path) -> None:
        self._path, self._part = path, path.with_name(path.name + ".part")

    def __enter__(self) -> _Table:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._part, SCHEMA, compression="zstd")
        except OSError as error:
            raise bad("score", "--out", str(self._path), f"a file that can be written ({error.strerror or error})") from None
        return self

    def write(self, columns: dict[str, list[Any]]) -> None:
        """Append one batch."""
        try:
            self._writer.write_table(pa.Table.from_pydict(columns, SCHEMA))
        except OSError as error:
            raise UserError(f"score: writing {self._path} failed: {error}; what was written before is kept") from None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._writer.close()
            os.replace(self._part, self._path)
        except OSError as error:
            raise UserError(f"score: writing {self._path} failed: {error}") from None


class _Lines:
    """A jsonl file that exists only once something is written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Lines:
        self._path.unlink(missing_ok=True)
        return self

    def write(self, record: dict[str, Any]) -> None:
        """Append one line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""


