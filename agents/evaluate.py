"""Traces the curve of a trained agent and of every control, on validation and on test."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from temporal.agents.bags import Bag, Bags
from temporal.agents.controls import ReadAll
from temporal.agents.decoding import Looks, RunUps
from temporal.agents.fitted import Candidates, Chosen
from temporal.agents.recordings import Recording, Thresholds, record_all, thresholds_of
from temporal.agents.trials import (
    BUDGETED,
    POLICY,
    Bench,
    Evaluation,
    Trial,
    make_trials,
    single_ways,
)
from temporal.agents.ways import Follow, all_ways, forward
from temporal.curve import FREE, wilson
from temporal.data.base import Sequences, Split
from temporal.episodes import Plan
from temporal.points import Outcomes, Point
from temporal.readers.video import FrameReader
from temporal.reading import read

FIT_ROWS = 2000  # sequences that stopping rules are fitted on, at most; bounds memory and time


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
        bench: what is evaluated; with `train`, rules are fitted on its `agent_rows`, and bags of words on all of it.
        validation: labelled sequences that choose settings.
        test: labelled sequences that are reported.
        progress: called with a name, how many trials are done, and how many there are.
    """
    bench.reader.eval()
    bench.agent.eval()
    found: dict[Split, Traced] = {}
    rows = _first_rows(evaluation, validation)
    recording = _record(bench, validation, rows, forward)
    thresholds: dict[str, Thresholds] = {}
    chosen: Chosen = {}
    bags = None
    if evaluation.controls:
        thresholds, chosen = _choose(evaluation, bench, validation, rows, recording, progress)
        bags = _fit_bags(evaluation, bench, validation, rows)
    splits: list[tuple[Split, Sequences]] = [("validation", validation), ("test", test)]
    for split, source in splits:
        if source is not validation:
            rows = _first_rows(evaluation, source)
            recording = _record(bench, source, rows, forward)
        trials = list(make_trials(evaluation, bench, source, recording, thresholds, chosen))
        traced = _trace(bench, split, source, rows, trials, progress)
        found[split] = _add_bags(traced, bench, split, source, rows, bags)
    return found


def _first_rows(evaluation: Evaluation, source: Sequences) -> Tensor:
    return torch.arange(min(len(source), evaluation.limit or len(source)))


def _record(bench: Bench, source: Sequences, rows: Tensor, follow: Follow) -> Recording:
    return record_all(bench.reader, source, rows, bench.num_slots, bench.chunk, follow)


def _choose(
    evaluation: Evaluation,
    bench: Bench,
    validation: Sequences,
    rows: Tensor,
    recording: Recording,
    progress: Callable[[str, int, int], None],
) -> tuple[dict[str, Thresholds], Chosen]:
    """Thresholds, and pairs of a way and a setting, by what validation shows; each way is read once."""
    ways = all_ways(bench.reader, bench.agent)
    in_order = not isinstance(bench.reader, FrameReader)
    candidates = Candidates(bench.reader.full_flops(), bench.chunk if in_order else 0)
    thresholds: dict[str, Thresholds] = {}
    singles = single_ways(bench)
    fit_rows = None if bench.agent_rows is None else bench.agent_rows[:FIT_ROWS]
    for done, (ending, follow) in enumerate(ways.items()):
        recorded = recording if follow is forward else _record(bench, validation, rows, follow)
        if ending in singles:
            thresholds[ending] = thresholds_of(recorded, evaluation.num_settings)
        train = None
        if bench.train is not None and fit_rows is not None:
            train = _record(bench, bench.train, fit_rows, follow)
        candidates.add(follow, recorded, train)
        progress("choosing rules", done + 1, len(ways))
    return thresholds, candidates.chosen()


def _fit_bags(evaluation: Evaluation, bench: Bench, validation: Sequences, rows: Tensor) -> Bags | None:
    """Bag-of-words classifiers; None for frames, which are no words, and without texts to fit on."""
    if bench.train is None or isinstance(bench.reader, FrameReader):
        return None
    task = bench.reader.task
    prefixes = np.unique(
        np.geomspace(1, task.max_length, evaluation.num_settings).round().astype(int)
    ).tolist()
    parts = Bag.of(bench.train, torch.arange(len(bench.train))), Bag.of(validation, rows)
    return Bags(*parts, task.vocabulary_size, task.num_classes, prefixes, evaluation.num_settings)


def _add_bags(
    traced: Traced, bench: Bench, split: Split, source: Sequences, rows: Tensor, bags: Bags | None
) -> Traced:
    """With what the bag-of-words classifiers do; they have no reader, so nothing is traced."""
    points, columns = list(traced.points), _Columns()
    for told in bags.told(Bag.of(source, rows)) if bags is not None else ():
        trial = Trial(told.name, told.setting, ReadAll())
        points.append(_point(bench, split, trial, told.correct, told.flops, told.tokens, told.tokens, None))
        columns.setdefault(told.name, []).append((told.setting, told.correct, told.flops))
    return Traced(points, traced.outcomes | _stack(columns))


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
    columns = _Columns()
    run_ups = RunUps(bench.reader, source, rows) if isinstance(bench.reader, FrameReader) else None
    for done, trial in enumerate(trials):
        plan = Plan.of(rows, trial.price, trial.budget)
        looks = None if run_ups is None else Looks(len(rows), bench.reader.task.max_length)
        started = time.perf_counter()
        outcome = read(
            source, bench.reader, trial.agent, plan, bench.num_slots, trial.chunk or bench.chunk, looks
        )
        seconds = (time.perf_counter() - started) / len(rows) if run_ups is None else None
        assert outcome is not None
        correct = outcome.probabilities.argmax(-1).cpu() == labels
        decoded = None
        if run_ups is not None and looks is not None:
            every = run_ups.all_decoded() if _needs_all_frames(bench, trial) else run_ups.decoded(looks.seen)
            decoded = float(every.double().mean())
        spent = outcome.flops, outcome.observations, outcome.tokens
        points.append(_point(bench, split, trial, correct, *spent, seconds, decoded))
        columns.setdefault(trial.name, []).append((trial.setting, correct, outcome.flops.cpu()))
        progress(f"{split} {trial.name}", done + 1, len(trials))
    outcomes = _stack(columns)
    outcomes[FREE] = Outcomes.one((labels == bench.commonest).numpy(), float(bench.reader.predict_flops))
    return Traced(points, outcomes)


_Columns = dict[str, list[tuple[float | None, Tensor, Tensor]]]


def _stack(columns: _Columns) -> dict[str, Outcomes]:
    return {
        name: Outcomes(
            tuple(s for s, _, _ in parts),
            torch.stack([c for _, c, _ in parts]).numpy(),
            torch.stack([f for _, _, f in parts]).numpy(),
        )
        for name, parts in columns.items()
    }


def _needs_all_frames(bench: Bench, trial: Trial) -> bool:
    """Thumbnails are made of all frames; the sizes of packets are had without any."""
    assert isinstance(bench.reader, FrameReader)
    return "preview" in trial.agent.needs and bench.reader.thumbnail is not None


def _point(
    bench: Bench,
    split: Split,
    trial: Trial,
    correct: Tensor,
    flops: Tensor,
    observations: Tensor,
    tokens: Tensor,
    seconds: float | None,
    decoded: float | None = None,
) -> Point:
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
        flops_mean=float(flops.mean()),
        flops_full=bench.reader.full_flops(),
        observations_mean=float(observations.double().mean()),
        tokens_mean=float(tokens.double().mean()),
        seconds_mean=seconds,
        batch=bench.num_slots,
        frames_decoded_mean=decoded,
    )
