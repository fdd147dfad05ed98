"""Classifies videos within a budget of frames or FLOPs; broken ones are listed, and a killed run goes on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from temporal.agents.rollout import SpanRecorder
from temporal.data.decode import MAX_PIXELS
from temporal.data.decoders import Decoders, VideoError
from temporal.data.inputs import shown
from temporal.data.live import DamagedError, Footage, LiveFrames, Opening
from temporal.data.manifests import Clip, find_clips
from temporal.display import Advance
from temporal.episodes import Observation, Outcome, Plan, Transition
from temporal.errors import UserError, bad, reason
from temporal.parts import SCHEMA, Failure, Part, Parts, Totals, check_out, errors_file, state_of
from temporal.readers.base import COPY
from temporal.readers.video import FrameReader
from temporal.reading import read
from temporal.runs import Run

BATCH = 16  # videos read side by side; more are no faster on a CPU, and take memory
AHEAD = 16  # files that are opened before their turn
FORMAT = 2


class Budget(NamedTuple):
    """What each video may take: frames looked at, FLOPs; None for no limit. `price` is shown to the agent."""

    frames: int | None
    flops: float | None
    price: float


class Reading(NamedTuple):
    """How files are read: in how many processes, and what is let pass."""

    workers: int
    seconds_per_file: float
    """That the decoder may take for one file, from opening it until it is done with."""
    max_pixels: int = MAX_PIXELS
    """Of a frame; a file with more is listed as one that could not be scored."""
    lenient: bool = False
    """Score what is there of a damaged file, and say in its row what is missing."""


class Looks(SpanRecorder):
    """Keeps which positions of each video were looked at, and whether the budget did not pay for a look."""

    def __init__(self, num: int) -> None:
        super().__init__(num)
        self.refused = [False] * num

    def add(self, observation: Observation, actions: Tensor, transition: Transition) -> None:
        """Keep one step."""
        super().add(observation, actions, transition)
        refused = (transition.mode != COPY) & (transition.chunk.counts == 0)
        for episode in observation.episode[refused].tolist():
            self.refused[episode] = True


def score_videos(
    run: Run,
    inputs: Sequence[str],
    out: Path,
    budget: Budget,
    reading: Reading,
    progress: Advance,
) -> str:
    """Score every video of some inputs; results are kept batch by batch, in the order of the inputs.

    The rows of the file `out`, their seconds apart, do not depend on the number of workers, nor on which other inputs
    are broken: a batch is filled with videos that can be read, and read anew without those that turn out damaged.

    Args:
        run: a trained reader of frames and its agent.
        inputs: video files, folders, globs, manifests.
        out: parquet, its columns as in `temporal.parts.SCHEMA`; what could not be scored goes to
            `<out without ending>.errors.jsonl`.
        budget: never exceeded.
        reading: how files are read.
        progress: takes what is done, of how many videos.

    Returns:
        One line that says what was done.

    Raises:
        UserError: inputs that do not exist, a budget that does not pay for one answer, no video that can be scored,
            an output that cannot be written.
    """
    assert isinstance(run.reader, FrameReader)
    _check_budget(run, budget)
    check_out(out)
    clips = find_clips(list(inputs))
    try:
        with Parts(out, _fingerprint(run, clips, budget, reading)) as parts:
            progress("", parts.done, len(clips))
            # Files stay open while their batch is read.
            with Decoders(
                reading.workers, reading.seconds_per_file, BATCH + AHEAD,
                max_pixels=reading.max_pixels, lenient=reading.lenient,
            ) as decoders:  # fmt: skip
                for part in _score_all(run, clips, parts.done, decoders, budget):
                    parts.add(part)
                    progress("", parts.done, len(clips))
            return _summary(out, parts.finish("flops", "frames_decoded"), run)
    except OSError as error:
        raise bad("score", "--out", str(out), f"a file that can be written ({reason(error)})") from None


def _check_budget(run: Run, budget: Budget) -> None:
    if budget.frames is not None and budget.frames < 1:
        raise bad("score", "--frames", budget.frames, "a whole number from 1 up")
    if not 0 <= budget.price < math.inf:
        raise bad("score", "--price", budget.price, "a number from 0 up")
    if budget.flops is not None:
        previews = run.reader.preview_flops * run.task.max_length if "preview" in run.agent.needs else 0
        least = run.reader.predict_flops + previews
        if not budget.flops >= least:
            what = "one answer and the previews" if previews else "one answer"
            raise bad("score", "--flops", budget.flops, f"{least} or more, the cost of {what}")


def _fingerprint(run: Run, clips: list[Clip], budget: Budget, reading: Reading) -> str:
    """Of all that decides about the rows: what was kept of a run with another is of no use."""
    weights = sha256((run.folder / "model.safetensors").read_bytes()).hexdigest()
    let_pass = [reading.max_pixels, reading.lenient]
    states = {clip.path: state_of(clip.path) for clip in clips}
    files = [[list(clip) for clip in clips], states]
    settings = [FORMAT, BATCH, weights, run.config, files, list(budget), let_pass]
    return sha256(json.dumps(settings, default=str).encode()).hexdigest()[:12]


def _summary(out: Path, totals: Totals, run: Run) -> str:
    if not totals.num_scored:
        first = totals.first_failure or {}
        got = f"{first['reason']} in {first['input']}"
        raise UserError(f"score: inputs, got {got}; expected one video or more that can be scored")
    share = totals.sums["flops"] / totals.num_scored / run.reader.full_flops()
    summary = (
        f"{out}: {totals.num_scored} videos scored at {share:.1%} of a full reading on average, "
        f"{totals.sums['frames_decoded'] / totals.num_scored:.1f} frames decoded of each"
    )
    failed = f"; {totals.num_failed} could not be, see {errors_file(out)}" if totals.num_failed else ""
    return summary + failed


def _score_all(run: Run, clips: list[Clip], first: int, decoders: Decoders, budget: Budget) -> Iterator[Part]:
    """Score the clips from `first` on, as many at a time as make a batch of readable ones."""
    assert isinstance(run.reader, FrameReader)
    everything = "preview" in run.agent.needs and run.reader.thumbnail is not None  # packets need no decoding
    opening = Opening(decoders, clips, first, run.task.max_length, run.reader.frame_size, everything, AHEAD)
    batch: list[Footage] = []
    failures: list[Failure] = []
    while opening.left or batch or failures:
        while len(batch) < BATCH and opening.left:
            clip, found = clips[opening.next], opening.take()
            if isinstance(found, VideoError):
                failures.append(_failure(clip, str(found)))
            else:
                batch.append(found)
        try:
            columns = _score_batch(run, batch, decoders, budget) if batch else _no_columns()
        except DamagedError as damaged:  # read anew without them, filled up with the next
            failures += [_failure(batch[i].clip, why) for i, why in damaged.reasons.items()]
            batch = [footage for i, footage in enumerate(batch) if i not in damaged.reasons]
            continue
        for footage in batch:
            decoders.drop(footage.clip.path)
        yield Part(opening.next, columns, failures)
        batch, failures = [], []


def _failure(clip: Clip, why: str) -> Failure:
    return Failure(shown(clip.path), clip.start, clip.end, why)


def _no_columns() -> dict[str, list[Any]]:
    return {name: [] for name in SCHEMA.names}


def _score_batch(run: Run, batch: list[Footage], decoders: Decoders, budget: Budget) -> dict[str, list[Any]]:
    """The columns of some videos. Raises DamagedError."""
    reader = run.reader
    assert isinstance(reader, FrameReader)
    started = time.perf_counter()
    size = (1, 1) if reader.thumbnail is None else (reader.thumbnail.height, reader.thumbnail.width)
    frames = LiveFrames(decoders, batch, run.task.max_length, reader.frame_size, size)
    reader.frames = frames
    looks = Looks(len(batch))
    plan = Plan.of(torch.arange(len(batch)), budget.price, budget.frames, budget.flops)
    outcome = read(frames.clips, reader, run.agent, plan, len(batch), run.chunk, looks)
    assert outcome is not None
    reader.frames = None  # with it go the frames, before the next batch's come
    seconds = time.perf_counter() - started - frames.waited_seconds
    return _columns(run, batch, frames, outcome, looks, seconds, budget)


def _columns(
    run: Run, batch: list[Footage], frames: LiveFrames, outcome: Outcome, looks: Looks,
    seconds: float, budget: Budget,
) -> dict[str, list[Any]]:  # fmt: skip
    probabilities, flops = outcome.probabilities.cpu(), outcome.flops.tolist()
    spent = [frames.spent(i) for i in range(len(batch))]
    # Decoding is measured for each; the rest of the batch's time goes by FLOPs.
    each = seconds / max(math.fsum(flops), 1.0)
    looked = list(zip(batch, looks.positions, strict=True))
    return {
        "input": [shown(footage.clip.path) for footage in batch],
        "start": [footage.clip.start for footage in batch],
        "end": [footage.clip.end for footage in batch],
        "label": [run.task.class_names[i] for i in probabilities.argmax(-1).tolist()],
        "probabilities": probabilities.tolist(),
        "frames_total": [footage.span.stop - footage.span.first for footage in batch],
        "frames_looked_at": outcome.tokens.tolist(),
        "frames": [footage.indices[positions].tolist() for footage, positions in looked],
        "frame_seconds": [[footage.seconds(p) for p in positions] for footage, positions in looked],
        "frames_decoded": [s.num_decoded for s in spent],
        "flops": flops,
        "seconds": [s.seconds + each * f for s, f in zip(spent, flops, strict=True)],
        "stopped": _reasons(run, frames.clips.lengths, outcome, looks, budget),
        "missing": ["; ".join(footage.missing) or None for footage in batch],
    }


def _reasons(run: Run, lengths: Tensor, outcome: Outcome, looks: Looks, budget: Budget) -> list[str]:
    """Why each reading stopped: by the agent's choice, out of budget, or at the end of the video."""
    frames, flops, _ = budget
    poor = outcome.tokens.cpu() >= (math.inf if frames is None else frames)
    poor |= outcome.flops.cpu() + _least_step(run) > (math.inf if flops is None else flops)
    poor = (poor | torch.tensor(looks.refused)) & (outcome.tokens.cpu() < lengths)
    return [
        "agent" if halted else "budget" if is_poor else "end"
        for halted, is_poor in zip(outcome.halted.tolist(), poor.tolist(), strict=True)
    ]


def _least_step(run: Run) -> float:
    """FLOPs without which a reading does not go on: a decision, a look in the cheapest mode, an answer after it."""
    modes = torch.arange(1, len(run.reader.modes))
    looks = run.reader.read_flops(modes, torch.ones_like(modes), torch.zeros_like(modes))
    return run.agent.decision_flops + run.reader.predict_flops + float(looks.min())
