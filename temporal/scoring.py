"""Classifies texts from files within a budget; what cannot be scored is listed with its reason."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Encoding, Tokenizer

from temporal.agents.rollout import SpanRecorder
from temporal.data.base import Sequences
from temporal.data.inputs import Problem, Row, find_inputs, read_rows
from temporal.data.tokens import token_ids
from temporal.display import Advance
from temporal.episodes import Outcome, Plan
from temporal.errors import UserError, bad, reason
from temporal.reading import read
from temporal.runs import Run

BATCH = 1024
BATCH_LETTERS = 1 << 20  # bounds memory where texts are long

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
    encodings: list[Encoding]
    outcome: Outcome
    positions: list[list[int]]


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
        progress: takes what is done; how much there is to do is not known.

    Returns:
        One line that says what was done.

    Raises:
        UserError: inputs that do not exist, a budget that does not pay for one answer, no text that can be scored,
            an output that cannot be written.
    """
    tokenizer = run.tokenizer()
    price = run.prices[0] if price is None else price
    least = run.reader.predict_flops
    if flops is not None and flops < least:
        raise bad("score", "--flops", flops, f"{least} or more, the cost of one answer")
    num_scored, spent = 0, 0.0
    with _Results(out) as results:
        files = find_inputs(inputs, results.names)
        for rows, problems in _batches(read_rows(files, column)):
            scored, unread = _score(run, tokenizer, rows, price, tokens, flops)
            results.list_problems(problems + unread)
            if scored is not None:
                results.write(_columns(run, scored))
                num_scored += len(scored.rows)
                spent += float(scored.outcome.flops.sum())
            progress("", num_scored + results.num_problems, 0)
        if not num_scored:
            first = results.first_problem
            got = f"{first.reason} in {first.input} row {first.row}" if first else "no row"
            raise UserError(f"score: inputs, got {got}; expected one text or more that can be scored")
        progress("", num_scored + results.num_problems, num_scored + results.num_problems)
    share = spent / num_scored / run.reader.full_flops()
    summary = f"{out}: {num_scored} texts scored at {share:.1%} of a full reading on average"
    return summary + (
        f"; {results.num_problems} could not be, see {results.errors}" if results.num_problems else ""
    )


def _batches(rows: Iterator[Row | Problem]) -> Iterator[tuple[list[Row], list[Problem]]]:
    good: list[Row] = []
    problems: list[Problem] = []
    letters = 0
    for row in rows:
        if isinstance(row, Row):
            good.append(row)
            letters += len(row.text)
        else:
            problems.append(row)
        if len(good) + len(problems) >= BATCH or letters >= BATCH_LETTERS:
            yield good, problems
            good, problems, letters = [], [], 0
    if good or problems:
        yield good, problems


def _score(
    run: Run, tokenizer: Tokenizer, rows: list[Row], price: float, tokens: float | None, flops: float | None
) -> tuple[Scored | None, list[Problem]]:
    encoded = tokenizer.encode_batch([row.text for row in rows], add_special_tokens=False)
    unread = [
        Problem(r.input, r.row, "no token in the text")
        for r, e in zip(rows, encoded, strict=True)
        if not len(e)
    ]
    pairs = [(r, e) for r, e in zip(rows, encoded, strict=True) if len(e)]
    if not pairs:
        return None, unread
    offsets = np.cumsum([0, *(len(e) for _, e in pairs)], dtype=np.int64)
    source = Sequences(np.concatenate([token_ids(e) for _, e in pairs]), offsets, None)
    recorder = SpanRecorder(len(pairs))
    plan = Plan.of(torch.arange(len(pairs)), price, tokens, flops)
    outcome = read(source, run.reader, run.agent, plan, run.num_slots, run.chunk, recorder)
    assert outcome is not None
    return Scored([r for r, _ in pairs], [e for _, e in pairs], outcome, recorder.positions), unread


def _columns(run: Run, scored: Scored) -> dict[str, list[Any]]:
    probabilities = scored.outcome.probabilities.cpu()
    names = run.task.class_names
    words = [
        " ".join(_word(row, encoding, p) for p in places)
        for row, encoding, places in zip(scored.rows, scored.encodings, scored.positions, strict=True)
    ]
    return {
        "input": [r.input for r in scored.rows],
        "row": [r.row for r in scored.rows],
        "label": [names[i] for i in probabilities.argmax(-1).tolist()],
        "probabilities": probabilities.tolist(),
        "tokens_total": [len(e) for e in scored.encodings],
        "tokens_read": scored.outcome.tokens.tolist(),
        "positions": scored.positions,
        "words": words,
        "flops": scored.outcome.flops.tolist(),
        "halted": scored.outcome.halted.tolist(),
    }


def _word(row: Row, encoding: Encoding, position: int) -> str:
    span = encoding.token_to_chars(position)
    return row.text[slice(*span)] if span else ""


class _Results:
    """The parquet file of scores, and beside it a jsonl file of problems where there are any.

    Both are written under other names and take their own when closed, so that earlier results stay until then; a
    device or a pipe is written as it is.
    """

    def __init__(self, out: Path) -> None:
        self.errors = out.with_suffix(".errors.jsonl")
        self.names = {out.resolve(), self.errors.resolve()}
        self.num_problems = 0
        self.first_problem: Problem | None = None
        self._out = out
        self._direct = out.exists() and not out.is_file()
        self._part = out if self._direct else out.with_name(f"{out.name}.{os.getpid()}.part")
        self._errors_part = self.errors.with_name(f"{self.errors.name}.{os.getpid()}.part")
        self._num_batches = 0

    def __enter__(self) -> _Results:
        if self._out.is_dir() or (self._out.suffix != ".parquet" and not self._direct):
            raise bad("score", "--out", str(self._out), "a file ending in .parquet")
        parent = self._out.parent
        try:
            if parent.exists() and not parent.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "")
            parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(str(self._part), SCHEMA, compression="zstd")
        except OSError as error:
            raise self._unwritable(error) from None
        return self

    def _unwritable(self, error: OSError, kept: str = "") -> UserError:
        return bad("score", "--out", str(self._out), f"a file that can be written ({reason(error)}){kept}")

    def write(self, columns: dict[str, list[Any]]) -> None:
        """Append one batch."""
        try:
            self._writer.write_table(pa.Table.from_pydict(columns, SCHEMA))
        except OSError as error:
            raise self._unwritable(error) from None
        self._num_batches += 1

    def list_problems(self, problems: list[Problem]) -> None:
        """Append lines to the file of problems."""
        if not problems:
            return
        self.first_problem = self.first_problem or problems[0]
        self.num_problems += len(problems)
        with self._errors_part.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(problem._asdict()) + "\n" for problem in problems)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the files; where nothing was scored or the end cannot be written, what was there before stays."""
        try:
            self._writer.close()
            if self._num_batches and not self._direct:
                os.replace(self._part, self._out)
        except OSError as error:
            if kind is None:
                raise self._unwritable(error, "; what was there before is kept") from None
        finally:
            if not self._direct:
                self._part.unlink(missing_ok=True)
            self._finish_errors()

    def _finish_errors(self) -> None:
        if self.num_problems:
            os.replace(self._errors_part, self.errors)
        elif self._num_batches:
            self.errors.unlink(missing_ok=True)
