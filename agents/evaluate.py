"""Traces the curve of a trained agent and of every control, on validation and on test."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from temporal.agents.decoding import Looks, RunUps
from temporal.agents.trials import (
    BUDGETED,
    POLICY,
    Bench,
    Evaluation,
    Thresholds,
    Trial,
    make_trials,
    orders,
    record_all,
    thresholds_of,
)
from temporal.curve import FREE, wilson
from temporal.data.base import Sequences, Split
from temporal.episodes import Outcome, Plan
from temporal.points import Outcomes, Point
from temporal.readers.video import FrameReader
from temporal.reading import read


class Traced(NamedTuple):
    """What was found on one split."""

    points: list[Point]
    outcomes: dict[str, Outcomes]


def evaluate(
    evaluation: Evaluation,
    bench: Bench,
    validation: Sequences,
    test: Sequences,
    progress: Callable[[str, int, int], None],
) -> dict[Split, Traced]:
    """Trace everything on both splits; thresholds are placed by what validation shows.

    Args:
        evaluation: settings.
        bench: what is evaluated.
        validation: labelled sequences that choose settings.
        test: labelled sequences that are reported.
        progress: called with a name, how many trials are done, and how many there are.
    """
    bench.reader.eval()
    bench.agent.eval()
    found: dict[Split, Traced] = {}
    thresholds: dict[str, Thresholds] = {}
    splits: list[tuple[Split, Sequences]] = [("validation", validation), ("test", test)]
    for split, source in splits:
        rows = torch.arange(min(len(source), evaluation.limit or len(source)))
        recording = record_all(bench, source, rows)
        if not thresholds and evaluation.controls:
            for ending, follow in orders(bench).items():
                recorded = record_all(bench, source, rows, follow) if ending else recording
                thresholds[ending] = thresholds_of(recorded, evaluation.num_settings)
        trials = list(make_trials(evaluation, bench, source, recording, thresholds))
        found[split] = _trace(bench, split, source, rows, trials, progress)
    return found


def _trace(
    bench: Bench,
    split: Split,
    source: Sequences,
    rows: Tensor,
    trials: list[Trial],
    progress: Callable[[str, int, int], None],
) -> Traced:
    assert source.labels is not None
    labels = source.labels[rows]
    points: list[Point] = []
    columns: dict[str, list[tuple[float | None, Tensor, Tensor]]] = {}
    run_ups = RunUps(bench.reader, source, rows) if isinstance(bench.reader, FrameReader) else None
    for done, trial in enumerate(trials):
        plan = Plan.of(rows, trial.price, trial.budget)
        looks = None if run_ups is None else Looks(len(rows), bench.reader.task.max_length)
        started = time.perf_counter()
        outcome = read(source, bench.reader, trial.agent, plan, bench.num_slots, bench.chunk, looks)
        seconds = time.perf_counter() - started
        assert outcome is not None
        correct = outcome.probabilities.argmax(-1).cpu() == labels
        decoded = None
        if run_ups is not None and looks is not None:
            every = run_ups.all_decoded() if _needs_all_frames(bench, trial) else run_ups.decoded(looks.seen)
            decoded = float(every.double().mean())
        points.append(_point(bench, split, trial, outcome, correct, seconds, decoded))
        columns.setdefault(trial.name, []).append((trial.setting, correct, outcome.flops.cpu()))
        progress(f"{split} {trial.name}", done + 1, len(trials))
    outcomes = {
        name: Outcomes(
            tuple(s for s, _, _ in parts),
            torch.stack([c for _, c, _ in parts]).numpy(),
            torch.stack([f for _, _, f in parts]).numpy(),
        )
        for name, parts in columns.items()
    }
    outcomes[FREE] = Outcomes.one((labels == bench.commonest).numpy(), float(bench.reader.predict_flops))
    return Traced(points, outcomes)


def _needs_all_frames(bench: Bench, trial: Trial) -> bool:
    """Thumbnails are made of all frames; the sizes of packets are had without any."""
    assert isinstance(bench.reader, FrameReader)
    return "preview" in trial.agent.needs and bench.reader.thumbnail is not None


def _point(
    bench: Bench, split: Split, trial: Trial, outcome: Outcome, correct: Tensor, seconds: float,
    decoded: float | None,
) -> Point:  # fmt: skip
    num = len(correct)
    low, high = wilson(int(correct.sum()), num)
    priced = trial.name in (POLICY, BUDGETED)
    return Point(
        task=bench.task_name,
        split=split,
        agent=trial.name,
        seed=bench.seed,
        price=trial.price if priced else None,
        budget=trial.budget,
        setting=None if priced else trial.setting,
        n=num,
        accuracy=float(correct.double().mean()),
        accuracy_low=low,
        accuracy_high=high,
        flops_mean=float(outcome.flops.mean()),
        flops_full=bench.reader.full_flops(),
        observations_mean=float(outcome.observations.double().mean()),
        tokens_mean=float(outcome.tokens.double().mean()),
        seconds_mean=None if isinstance(bench.reader, FrameReader) else seconds / num,
        batch=bench.num_slots,
        frames_decoded_mean=decoded,
    )
