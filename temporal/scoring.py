"""Classifies texts from files within a budget; what cannot be scored is listed, and a killed run goes on."""

from __future__ import annotations

import io
import json
import os
from array import array
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer

from temporal.agents.rollout import SpanRecorder
from temporal.data.base import Sequences
from temporal.data.inputs import Problem, Row, find_inputs, read_rows
from temporal.data.tokens import BLOCK_LETTERS, Tokens, encode
from temporal.display import Advance
from temporal.episodes import Plan
from temporal.errors import UserError, bad, reason
from temporal.parts import Part, Parts, Totals, check_out, errors_file, state_of
from temporal.reading import read
from temporal.runs import Run

BATCH = 1024
BATCH_TOKENS = 1 << 18  # bounds memory where texts are long
BATCH_ANSWERS = 1 << 20  # likewise where there are many classes
BLOCK = 256  # texts encoded side by side
PROBLEMS = 1 << 15  # listed at once where there is nothing to score between them
FORMAT = 1

SCHEMA = pa.schema(
    [
        ("input", pa.string()),
        ("row", pa.int64()),
        ("label", pa.string()),
        ("probabilities", pa.list_(pa.float32())),
        ("tokens_total", pa.int64()),  # of the text, where it is not cut
        ("cut", pa.bool_()),  # it is longer
        ("tokens_read", pa.int64()),
        ("positions", pa.list_(pa.int32())),
        ("words", pa.large_string()),
        ("flops", pa.float64()),
        ("full_flops", pa.float64()),  # of a full reading of this text
        ("halted", pa.bool_()),
    ]
)


class Limits(NamedTuple):
    """What each text may take, and what the agent is shown."""

    tokens: float | None  # most tokens read; None for no limit
    flops: float | None  # most FLOPs; None for no limit
    price: float
    max_tokens: int  # texts are cut after so many


class Text(NamedTuple):
    """A text to be read: where it stands, and its tokens."""

    row: Row
    tokens: Tokens


def score_inputs(
    run: Run,
    inputs: list[Path],
    out: Path,
    tokens: float | None,
    flops: float | None,
    price: float | None,
    column: str,
    progress: Advance,
    max_tokens: int | None = None,
) -> str:
    """Score every text of some files; results are kept batch by batch, in the order of the inputs.

    The rows of the file `out` do not depend on which others are bad: a batch is filled with texts that can be read.
    Where the same command was stopped before it was done, it goes on where it was.

    Args:
        run: a trained reader and agent.
        inputs: files or folders.
        out: parquet, its columns as in `SCHEMA`; what could not be scored goes to
            `<out without ending>.errors.jsonl`.
        tokens: most tokens of each text, None for no limit.
        flops: most FLOPs of each text, None for no limit.
        price: shown to the agent; None takes the lowest it was trained on.
        column: of texts in tables.
        progress: takes what is done; how much there is to do is not known.
        max_tokens: texts are cut after so many tokens; None for as many as in training.

    Returns:
        One line that says what was done.

    Raises:
        UserError: inputs that do not exist, a budget that does not pay for one answer, more tokens than the run can
            take, no text that can be scored, an output that cannot be written.
    """
    tokenizer = run.tokenizer()
    least = run.reader.predict_flops
    if flops is not None and flops < least:
        raise bad("score", "--flops", flops, f"{least} or more, the cost of one answer")
    price = run.prices[0] if price is None else price
    limits = Limits(tokens, flops, price, _max_tokens(run, max_tokens))
    check_out(out)
    try:
        files = find_inputs(inputs, {out.resolve(), errors_file(out).resolve()})
        with Parts(out, _fingerprint(run, files, column, limits), SCHEMA) as parts:
            if parts.done:
                progress("", parts.done, 0)
            rows = islice(read_rows(files, column), parts.done, None)
            for part in _score_all(run, tokenizer, rows, parts.done, limits):
                parts.add(part)
                progress("", parts.done, 0)
            summary = _summary(out, parts.finish("flops", "full_flops", "cut"), limits)
            progress("", parts.done, parts.done)
            return summary
    except OSError as error:
        raise bad("score", "--out", str(out), f"a file that can be written ({reason(error)})") from None


def _max_tokens(run: Run, asked: int | None) -> int:
    """After how many tokens texts are cut: as in training, unless asked otherwise."""
    limits = {"what the reader holds": run.reader.capacity}
    if run.agent.needs & {"seen", "preview"}:
        limits["the places that the agent knows"] = run.task.max_length
    if asked is None:
        return min(run.task.max_length, run.reader.capacity or run.task.max_length)
    for what, most in limits.items():
        if most is not None and asked > most:
            raise bad("score", "--max-tokens", asked, f"at most {most}, {what}")
    return asked


def _fingerprint(run: Run, files: list[Path], column: str, limits: Limits) -> str:
    """Of all that decides about the rows: what was kept of a run with another is of no use."""
    weights, words = (
        sha256((run.folder / n).read_bytes()).hexdigest() for n in ("model.safetensors", "tokenizer.json")
    )
    known = [FORMAT, BATCH, BATCH_TOKENS, weights, words, run.config, column, list(limits)]
    total = sha256(json.dumps(known, default=str).encode())
    for file in files:
        total.update(os.fsencode(file) + b"\0" + state_of(file).encode() + b"\0")
    return total.hexdigest()[:12]


def _summary(out: Path, totals: Totals, limits: Limits) -> str:
    first = totals.first_failure
    if not totals.num_scored:
        got = f"{first['reason']} in {first['input']} row {first['row']}" if first else "no row"
        raise UserError(f"score: inputs, got {got}; expected one text or more that can be scored")
    share = totals.sums["flops"] / totals.sums["full_flops"]
    summary = f"{out}: {totals.num_scored} texts scored at {share:.1%} of a full reading on average"
    if totals.sums["cut"]:
        summary += f"; {totals.sums['cut']:.0f} are longer than max_tokens {limits.max_tokens} and were cut"
    return summary + (
        f"; {totals.num_failed} could not be, see {errors_file(out)}" if totals.num_failed else ""
    )


def _score_all(
    run: Run, tokenizer: Tokenizer, rows: Iterator[Row | Problem], num_done: int, limits: Limits
) -> Iterator[Part]:
    """Score what is left, as many at a time as make a batch of readable ones."""
    texts: list[Text] = []
    problems: list[Problem] = []
    num_tokens, most = 0, min(BATCH, max(BATCH_ANSWERS // run.task.num_classes, 1))
    for each in chain.from_iterable(_encode(tokenizer, block, limits.max_tokens) for block in _blocks(rows)):
        num_done += 1
        if isinstance(each, Problem):
            problems.append(each)
        else:
            texts.append(each)
            num_tokens += len(each.tokens.ids)
        if len(texts) >= most or num_tokens >= BATCH_TOKENS or len(problems) >= PROBLEMS:
            yield Part(num_done, _score(run, texts, limits), problems)
            texts, problems, num_tokens = [], [], 0
    if texts or problems:
        yield Part(num_done, _score(run, texts, limits), problems)


def _blocks(rows: Iterator[Row | Problem]) -> Iterator[list[Row | Problem]]:
    block: list[Row | Problem] = []
    letters = 0
    for row in rows:
        block.append(row)
        letters += len(row.text) if isinstance(row, Row) else 0
        if len(block) >= BLOCK or letters >= BLOCK_LETTERS:
            yield block
            block, letters = [], 0
    yield block


def _encode(tokenizer: Tokenizer, block: list[Row | Problem], max_tokens: int) -> Iterator[Text | Problem]:
    """The rows of a block in their order, encoded, without the letters that are not read."""
    encoded = encode(tokenizer, [row.text for row in block if isinstance(row, Row)], max_tokens, spans=True)
    for row in block:
        if isinstance(row, Problem):
            yield row
            continue
        tokens = next(encoded)
        if len(tokens.ids):
            yield Text(row._replace(text=row.text[: int(tokens.spans[:, 1].max())]), tokens)
        else:
            yield Problem(row.input, row.row, None, "no token in the text")


def _score(run: Run, texts: list[Text], limits: Limits) -> dict[str, Any]:
    """The columns of some texts."""
    if not texts:
        return {name: [] for name in SCHEMA.names}
    lengths = [len(text.tokens.ids) for text in texts]
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    source = Sequences(np.concatenate([text.tokens.ids for text in texts]), offsets, None)
    recorder = SpanRecorder(len(texts))
    plan = Plan.of(torch.arange(len(texts)), limits.price, limits.tokens, limits.flops)
    outcome = read(source, run.reader, run.agent, plan, run.num_slots, run.chunk, recorder)
    assert outcome is not None
    probabilities = outcome.probabilities.cpu()
    names = run.task.class_names
    full_flops = {length: run.reader.full_flops(length) for length in set(lengths)}
    return {
        "input": [text.row.input for text in texts],
        "row": [text.row.row for text in texts],
        "label": [names[i] for i in probabilities.argmax(-1).tolist()],
        "probabilities": probabilities.tolist(),
        "tokens_total": lengths,
        "cut": [text.tokens.is_cut for text in texts],
        "tokens_read": outcome.tokens.tolist(),
        "positions": _column(recorder.positions),
        "words": [_words(text, places) for text, places in zip(texts, recorder.positions, strict=True)],
        "flops": outcome.flops.tolist(),
        "full_flops": [full_flops[length] for length in lengths],
        "halted": outcome.halted.tolist(),
    }


def _column(positions: Sequence[array[int]]) -> pa.ListArray:
    """The places of all texts."""
    offsets = np.cumsum([0, *map(len, positions)], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, np.concatenate([np.asarray(p, np.int32) for p in positions]))


def _words(text: Text, positions: Sequence[int]) -> str:
    """What was read, with spaces between."""
    letters, written = text.row.text, io.StringIO()
    for index, position in enumerate(positions):
        start, stop = text.tokens.spans[position].tolist()
        written.write(" " * (index > 0) + letters[start:stop])
    return written.getvalue()
