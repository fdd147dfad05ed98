"""Classifies videos within a budget of frames or FLOPs; broken ones are listed, and a killed run goes on."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from temporal.agents.rollout import SpanRecorder
from temporal.data.clips import Span, VideoSequences
from temporal.data.decoders import Decoders, Request, VideoError
from temporal.data.live import LiveFrames
from temporal.data.manifests import Clip, find_clips
from temporal.display import Advance
from temporal.episodes import Outcome, Plan
from temporal.errors import UserError, bad, reason
from temporal.readers.video import FrameReader
from temporal.reading import read
from temporal.runs import Run

BATCH = 32  # videos read side by side
AHEAD = 32  # files that are opened before their turn
FORMAT = 1

SCHEMA = pa.schema(
    [
        ("input", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("label", pa.string()),
        ("probabilities", pa.list_(pa.float32())),
        ("frames_total", pa.int64()),
        ("frames_looked_at", pa.int64()),
        ("frames", pa.list_(pa.int64())),
        ("frame_seconds", pa.list_(pa.float64())),
        ("frames_decoded", pa.int64()),
        ("flops", pa.float64()),
        ("seconds", pa.float64()),
        ("stopped", pa.string()),
    ]
)


class Budget(NamedTuple):
    """What each video may take: frames looked at, FLOPs; None for no limit. `price` is shown to the agent."""

    frames: int | None
    flops: float | None
    price: float


class Opened(NamedTuple):
    """A clip whose file can be opened."""

    clip: Clip
    span: Span
    num_frames: int


class Failure(NamedTuple):
    """A clip that cannot be scored, and why."""

    input: str
    start: float | None
    end: float | None
    reason: str


def score_videos(
    run: Run,
    inputs: Sequence[str],
    out: Path,
    budget: Budget,
    num_workers: int,
    seconds_per_file: float,
    progress: Advance,
) -> str:
    """Score every video of some inputs; results are kept batch by batch, in the order of the inputs.

    The rows of the file `out` do not depend on the number of workers, nor on which other inputs are broken: a batch
    is filled with videos that can be read, and read anew without those that turn out damaged.

    Args:
        run: a trained reader of frames and its agent.
        inputs: video files, folders, globs, manifests.
        out: parquet; what could not be scored goes to `<out without ending>.errors.jsonl`.
        budget: never exceeded.
        num_workers: processes that decode.
        seconds_per_file: longest wait for one answer of the decoder.
        progress: takes what is done, of how many videos.

    Returns:
        One line that says what was done.

    Raises:
        UserError: inputs that do not exist, a budget that does not pay for one answer, no video that can be scored,
            an output that cannot be written.
    """
    assert isinstance(run.reader, FrameReader)
    _check_budget(run, budget)
    if out.is_dir() or out.suffix != ".parquet":
        raise bad("score", "--out", str(out), "a file ending in .parquet")
    clips = find_clips(list(inputs))
    try:
        parts = Parts(out, _fingerprint(run, clips, budget))
        done = parts.done
        progress("", done, len(clips))
        with Decoders(num_workers, seconds_per_file) as decoders:
            for part in _score_all(run, clips, done, decoders, budget):
                parts.add(part)
                progress("", parts.done, len(clips))
        return _summary(out, parts.finish(), run)
    except OSError as error:
        raise bad("score", "--out", str(out), f"a file that can be written ({reason(error)})") from None


def _check_budget(run: Run, budget: Budget) -> None:
    if budget.flops is not None:
        previews = run.reader.preview_flops * run.task.max_length if "preview" in run.agent.needs else 0
        least = run.reader.predict_flops + previews
        if budget.flops < least:
            what = "one answer and the previews" if previews else "one answer"
            raise bad("score", "--flops", budget.flops, f"{least} or more, the cost of {what}")


def _fingerprint(run: Run, clips: list[Clip], budget: Budget) -> str:
    """Of all that decides about the rows: what was kept of a run with another is of no use."""
    weights = sha256((run.folder / "model.safetensors").read_bytes()).hexdigest()
    settings = [FORMAT, BATCH, weights, [list(clip) for clip in clips], list(budget)]
    return sha256(json.dumps(settings).encode(errors="surrogateescape")).hexdigest()[:12]


class Part(NamedTuple):
    """What became of some consecutive clips."""

    stop: int  # clips up to here, exclusive
    columns: dict[str, list[Any]]
    failures: list[Failure]


class Totals(NamedTuple):
    """What all parts hold together."""

    num_scored: int
    flops: float
    num_decoded: int
    failures: list[Failure]


class Parts:
    """Finished batches in a folder beside the output, one file each, put together at the end.

    A file is written under another name and renamed, so that it is whole or not there; it says up to which clip the
    inputs are dealt with. The folder's name holds the fingerprint, so that another command has one of its own.

    Args:
        out: the output.
        fingerprint: of all that decides about the rows.
    """

    def __init__(self, out: Path, fingerprint: str) -> None:
        self._out = out
        self._folder = out.with_name(f"{out.name}.{fingerprint}.parts")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stops = sorted(int(path.stem) for path in self._folder.glob("*.parquet"))

    @property
    def done(self) -> int:
        """Clips that are dealt with."""
        return self._stops[-1] if self._stops else 0

    def add(self, part: Part) -> None:
        """Keep one more batch."""
        failures = json.dumps([failure._asdict() for failure in part.failures])
        table = pa.Table.from_pydict(part.columns, SCHEMA).replace_schema_metadata({"failures": failures})
        path = self._folder / f"{part.stop:09d}.parquet"
        unfinished = path.with_suffix(".part")
        pq.write_table(table, unfinished, compression="zstd")
        os.replace(unfinished, path)
        self._stops.append(part.stop)

    def finish(self) -> Totals:
        """Put all together in the output, beside it what failed, and remove the parts."""
        failures: list[Failure] = []
        num, flops, num_decoded = 0, 0.0, 0
        unfinished = self._out.with_name(f"{self._out.name}.{os.getpid()}.part")
        with pq.ParquetWriter(str(unfinished), SCHEMA, compression="zstd") as writer:
            for stop in self._stops:
                table = pq.read_table(self._folder / f"{stop:09d}.parquet")
                told = json.loads((table.schema.metadata or {})[b"failures"])
                failures += [Failure(**each) for each in told]
                writer.write_table(table.replace_schema_metadata(None))
                num += len(table)
                flops += math.fsum(table["flops"].to_pylist())
                num_decoded += sum(table["frames_decoded"].to_pylist())
        self._list(failures)
        if num:
            os.replace(unfinished, self._out)
        else:
            unfinished.unlink()
        shutil.rmtree(self._folder, ignore_errors=True)
        return Totals(num, flops, num_decoded, failures)

    def _list(self, failures: list[Failure]) -> None:
        path = self._out.with_suffix(".errors.jsonl")
        if not failures:
            path.unlink(missing_ok=True)
            return
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
        lines = (json.dumps(failure._asdict()) + "\n" for failure in failures)
        unfinished.write_text("".join(lines), encoding="utf-8")
        os.replace(unfinished, path)


def _summary(out: Path, totals: Totals, run: Run) -> str:
    errors = out.with_suffix(".errors.jsonl")
    if not totals.num_scored:
        first = totals.failures[0]
        got = f"{first.reason} in {first.input}"
        raise UserError(f"score: inputs, got {got}; expected one video or more that can be scored")
    share = totals.flops / totals.num_scored / run.reader.full_flops()
    summary = (
        f"{out}: {totals.num_scored} videos scored at {share:.1%} of a full reading on average, "
        f"{totals.num_decoded / totals.num_scored:.1f} frames decoded of each"
    )
    return summary + (f"; {len(totals.failures)} could not be, see {errors}" if totals.failures else "")


def _score_all(run: Run, clips: list[Clip], first: int, decoders: Decoders, budget: Budget) -> Iterator[Part]:
    """Score the clips from `first` on, as many at a time as make a batch of readable ones."""
    opening = _Opening(run, clips, first, decoders)
    batch: list[Opened] = []
    failures: list[Failure] = []
    while True:
        while len(batch) < BATCH and opening.left:
            found = opening.take()
            if isinstance(found, Opened):
                batch.append(found)
            else:
                failures.append(found)
        if not batch and not failures:
            return
        columns, damaged = _score_batch(run, batch, decoders, budget) if batch else (_no_columns(), {})
        if damaged:  # read anew without them, filled up with the next
            failures += [_failure(batch[i].clip, why) for i, why in damaged.items()]
            batch = [opened for i, opened in enumerate(batch) if i not in damaged]
            continue
        yield Part(opening.next, columns, failures)
        batch, failures = [], []


class _Opening:
    """Opens files in turn, some of them before it is theirs."""

    def __init__(self, run: Run, clips: list[Clip], first: int, decoders: Decoders) -> None:
        self._clips, self._decoders = clips, decoders
        self._num_positions = run.task.max_length
        self.next = first
        self._asked = first
        self._tickets: deque[int] = deque()

    @property
    def left(self) -> int:
        """Clips whose turn is to come."""
        return len(self._clips) - self.next

    def take(self) -> Opened | Failure:
        """What became of the next clip."""
        while self._asked < min(self.next + AHEAD, len(self._clips)):
            clip = self._clips[self._asked]
            self._tickets.append(self._decoders.submit(Request(clip.path, start=clip.start, end=clip.end)))
            self._asked += 1
        clip = self._clips[self.next]
        self.next += 1
        try:
            probe = self._decoders.result(self._tickets.popleft()).probe
            return Opened(clip, Span(*probe.span), probe.num_frames)
        except VideoError as error:
            return _failure(clip, str(error))


def _failure(clip: Clip, why: str) -> Failure:
    return Failure(clip.path, clip.start, clip.end, why)


def _no_columns() -> dict[str, list[Any]]:
    return {name: [] for name in SCHEMA.names}


def _score_batch(
    run: Run, batch: list[Opened], decoders: Decoders, budget: Budget
) -> tuple[dict[str, list[Any]], dict[int, str]]:
    """The columns of some videos, or which of them turned out damaged."""
    reader = run.reader
    assert isinstance(reader, FrameReader)
    started = time.perf_counter()
    source = VideoSequences([o.clip for o in batch], [o.span for o in batch], run.task.max_length)
    preview = reader.thumbnail
    size = (1, 1) if preview is None else (preview.height, preview.width)
    frames = LiveFrames(decoders, source, reader.frame_size, size)
    reader.frames = frames
    recorder = SpanRecorder(len(batch))
    plan = Plan.of(torch.arange(len(batch)), budget.price, budget.frames, budget.flops)
    outcome = read(source, reader, run.agent, plan, len(batch), run.chunk, recorder)
    assert outcome is not None
    if frames.failed:
        return {}, frames.failed
    seconds = time.perf_counter() - started
    return _columns(run, batch, source, frames, outcome, recorder.positions, seconds, budget), {}


def _columns(
    run: Run, batch: list[Opened], source: VideoSequences, frames: LiveFrames, outcome: Outcome,
    positions: list[list[int]], seconds: float, budget: Budget,
) -> dict[str, list[Any]]:  # fmt: skip
    probabilities = outcome.probabilities.cpu()
    flops = outcome.flops.tolist()
    spent = [frames.spent(i) for i in range(len(batch))]
    # Decoding is measured for each; the rest of the batch's time goes by FLOPs.
    rest = max(seconds - math.fsum(s.seconds for s in spent), 0.0) / max(math.fsum(flops), 1.0)
    return {
        "input": [o.clip.path for o in batch],
        "start": [o.clip.start for o in batch],
        "end": [o.clip.end for o in batch],
        "label": [run.task.class_names[i] for i in probabilities.argmax(-1).tolist()],
        "probabilities": probabilities.tolist(),
        "frames_total": [o.num_frames for o in batch],
        "frames_looked_at": outcome.tokens.tolist(),
        "frames": [source.frame_indices(i)[np.array(p, dtype=int)].tolist() for i, p in enumerate(positions)],
        "frame_seconds": [[frames.seconds[i, p] for p in places] for i, places in enumerate(positions)],
        "frames_decoded": [s.num_decoded for s in spent],
        "flops": flops,
        "seconds": [s.seconds + rest * f for s, f in zip(spent, flops, strict=True)],
        "stopped": _reasons(outcome, source, budget),
    }


def _reasons(outcome: Outcome, source: VideoSequences, budget: Budget) -> list[str]:
    """Why each reading stopped: by the agent's choice, at the end of the video, or out of budget."""
    found = []
    for halted, looked, length in zip(
        outcome.halted.tolist(), outcome.tokens.tolist(), source.lengths.tolist(), strict=True
    ):
        limited = budget.flops is not None or (budget.frames is not None and looked >= budget.frames)
        found.append("agent" if halted else "budget" if limited and looked < length else "end")
    return found
