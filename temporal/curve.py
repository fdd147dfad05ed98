"""Curves of accuracy against FLOPs, their area, and intervals; numpy only.

A curve is drawn through settings of one agent (prices, thresholds, numbers of tokens). Which settings it goes
through is chosen on the validation split, where it lies is measured on the test split. Between two settings a coin
can decide which of them a sequence gets, so every point on the straight line between them, in linear FLOPs, can be
had.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from temporal.errors import bad
from temporal.points import Outcomes, Saved

FREE = "free"
"""The agent that reads nothing and gives the commonest answer; every curve starts at its point."""

FLOOR_SHARE = 0.02
"""Where areas start, as a share of the cost of full reading."""


def frontier(
    flops: Float[np.ndarray, " points"], accuracy: Float[np.ndarray, " points"]
) -> Int[np.ndarray, " chosen"]:
    """Which points form the best curve that time-sharing between them allows, by rising cost.

    The curve is the upper concave hull in linear FLOPs from the cheapest point up to the most accurate: it rises
    strictly, bends down strictly, and no point lies above it. Of equal points the first is taken. Put the free
    point among them: without it the curve starts at the cheapest setting.

    >>> frontier(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.6, 0.9, 0.8])).tolist()
    [0, 2]
    """
    chain: list[int] = []
    for i in np.lexsort((-accuracy, flops)).tolist():
        if chain and accuracy[i] <= accuracy[chain[-1]]:
            continue  # dearer than what is there and no better
        while len(chain) > 1 and _slope(flops, accuracy, chain[-2], chain[-1]) <= _slope(
            flops, accuracy, chain[-1], i
        ):
            chain.pop()
        chain.append(i)
    return np.array(chain, dtype=np.int64)


def _slope(flops: np.ndarray, accuracy: np.ndarray, i: int, j: int) -> float:
    return float((accuracy[j] - accuracy[i]) / (flops[j] - flops[i]))


@dataclass(frozen=True, eq=False)
class Curve:
    """Accuracy against mean FLOPs: straight between points in linear FLOPs, constant outside them.

    Constant to the left is what can be had where the first point is the free one, since the commonest answer can
    be given for nothing at all. Points need not rise in accuracy: on the test split a setting may disappoint.

    Args:
        flops: in any order (sorted here), 0 or more.
        accuracy: 0 to 1.
    """

    flops: Float[np.ndarray, " points"]
    accuracy: Float[np.ndarray, " points"]

    def __post_init__(self) -> None:
        flops, accuracy = np.asarray(self.flops, np.float64), np.asarray(self.accuracy, np.float64)
        if flops.ndim != 1 or flops.shape != accuracy.shape or flops.size == 0:
            got = (flops.shape, accuracy.shape)
            raise bad("curve", "shapes of flops and accuracy", got, "as many of both, one or more")
        if not (np.isfinite(flops).all() and flops.min() >= 0):
            raise bad("curve", "flops", flops.tolist(), "finite numbers from 0 up")
        if not (accuracy.min() >= 0 and accuracy.max() <= 1):
            raise bad("curve", "accuracy", accuracy.tolist(), "numbers from 0 to 1")
        order = np.argsort(flops, kind="stable")
        object.__setattr__(self, "flops", flops[order])
        object.__setattr__(self, "accuracy", accuracy[order])

    def accuracy_at(self, flops: Float[np.ndarray, " grid"] | float) -> Float[np.ndarray, " grid"]:
        """Accuracy at these mean FLOPs."""
        return np.asarray(np.interp(flops, self.flops, self.accuracy))


def flops_for(curve: Curve, accuracy: float) -> float | None:
    """The least mean FLOPs at which a curve reaches an accuracy; None where it never does.

    >>> flops_for(Curve(np.array([0.0, 10.0]), np.array([0.5, 1.0])), 0.75)
    5.0
    """
    reached = np.flatnonzero(curve.accuracy >= accuracy)
    if reached.size == 0:
        return None
    i = int(reached[0])
    if i == 0:
        return float(curve.flops[0])
    share = (accuracy - curve.accuracy[i - 1]) / (curve.accuracy[i] - curve.accuracy[i - 1])
    return float(curve.flops[i - 1] + share * (curve.flops[i] - curve.flops[i - 1]))


def area(curve: Curve, floor: float, full: float) -> float:
    """Mean accuracy over the logarithm of FLOPs from `floor` to `full`, exact; 0 to 1.

    1 / ln(full / floor) times the integral of accuracy d ln(flops): each halving of the cost weighs the same.
    Both ends are fixed for a task: `full` is the cost of full reading, `floor` is FLOOR_SHARE of it.

    Raises:
        UserError: unless 0 < floor < full.
    """
    _check_range(floor, full)
    return float(_areas(curve.flops, curve.accuracy, floor, full))


def _check_range(floor: float, full: float) -> None:
    if not 0 < floor < full < math.inf:
        raise bad("area", "floor, full", (floor, full), "FLOPs with 0 < floor < full")


def _areas(
    flops: Float[np.ndarray, "*batch points"],
    accuracy: Float[np.ndarray, "*batch points"],
    floor: float,
    full: float,
) -> Float[np.ndarray, "*batch"]:
    """Areas of many curves at once; points sorted by FLOPs."""
    left, right = flops[..., :-1], flops[..., 1:]
    rise, width = np.diff(accuracy), right - left
    slope = np.divide(rise, width, out=np.zeros_like(width), where=width > 0)
    a, b = np.clip(left, floor, full), np.clip(right, floor, full)
    start = accuracy[..., :-1] + slope * (a - left)
    log = np.log1p((b - a) / a)
    # From a to b accuracy is start + slope (c - a); over d ln c: start ln(b/a) + slope (b - a - a ln(b/a)).
    total = (start * log + slope * (b - a - a * log)).sum(-1)
    total += accuracy[..., 0] * np.log(np.clip(flops[..., 0], floor, full) / floor)
    total += accuracy[..., -1] * np.log(full / np.clip(flops[..., -1], floor, full))
    return np.asarray(total / math.log(full / floor))


@dataclass(frozen=True, eq=False)
class AgentRun:
    """One agent of one run (one seed): its outcomes on both splits, the free point among its settings."""

    validation: Outcomes
    test: Outcomes

    def __post_init__(self) -> None:
        if self.validation.settings != self.test.settings:
            got = (self.validation.settings, self.test.settings)
            raise bad("run", "settings on validation and test", got, "the same on both")

    @classmethod
    def of(cls, saved: Saved, agent: str) -> AgentRun:
        """An agent's outcomes from those of a run on `validation` and `test`, joined to the free point."""
        parts = []
        for split in ("validation", "test"):
            known = saved.get(split, {})
            for name in (FREE, agent):
                if name not in known:
                    expected = f"one of {', '.join(known)}"
                    raise bad("run", f"agent in the outcomes on {split}", name, expected, known)
            parts.append(known[FREE].joined(known[agent]))
        return cls(*parts)

    @cached_property
    def chosen(self) -> Int[np.ndarray, " chosen"]:
        """Settings that form the curve: the frontier on validation."""
        return frontier(self.validation.flops_mean, self.validation.accuracy)

    @cached_property
    def curve(self) -> Curve:
        """The curve on the test split."""
        return Curve(self.test.flops_mean[self.chosen], self.test.accuracy[self.chosen])

    @cached_property
    def validation_curve(self) -> Curve:
        """The curve on the validation split; optimistic, for its settings were chosen there."""
        return Curve(self.validation.flops_mean[self.chosen], self.validation.accuracy[self.chosen])


def wilson(num_correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of an accuracy of `num_correct` out of `n` (Wilson 1927, JASA 22).

    >>> [round(end, 4) for end in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    if not (n > 0 and 0 <= num_correct <= n):
        raise bad(
            "wilson", "num_correct, n", (num_correct, n), "whole numbers with 0 <= num_correct <= n, n > 0"
        )
    z, p = NormalDist().inv_cdf(0.5 + _check_confidence(confidence) / 2), num_correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def _check_confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise bad("interval", "confidence", confidence, "a number between 0 and 1")
    return confidence


class Estimate(NamedTuple):
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """How far an agent's area lies above a control's, with the interval of the difference."""

    difference: float
    low: float
    high: float
    area_agent: float
    area_control: float


class Band(NamedTuple):
    """The mean curve over seeds on a grid, with its interval; accuracies from 0 to 1."""

    flops: Float[np.ndarray, " grid"]
    accuracy: Float[np.ndarray, " grid"]
    low: Float[np.ndarray, " grid"]
    high: Float[np.ndarray, " grid"]


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: resamples of seeds and, the same for all seeds and agents, of test sequences.

    The choice of settings stays as validation made it. Percentile intervals over both factors at once (Owen 2007,
    The pigeonhole bootstrap): somewhat wide where what happens is particular to one seed and one sequence, for that
    part of the variance is counted up to three times; somewhat narrow where seeds differ as a whole and are few, for
    the variance between S of them comes out as (S - 1) / S of what it is. With one seed they hold for it alone.

    Args:
        resamples: how many; 1 or more.
        confidence: of two-sided intervals, between 0 and 1.
        seed: the same seed gives the same intervals.
    """

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        _check_confidence(self.confidence)
        if self.resamples < 1:
            raise bad("bootstrap", "resamples", self.resamples, "a whole number from 1 up")

    def draw(self, num_seeds: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights (resamples, seeds) and (n, resamples) float32; those of one resample add up to 1."""
        rng = np.random.default_rng(self.seed)
        seeds = _counts(rng, self.resamples, num_seeds).astype(np.float64) / num_seeds
        sequences = _counts(rng, self.resamples, n).T
        return seeds, sequences / np.float32(n)

    def interval(self, values: Float[np.ndarray, "resamples ..."]) -> Float[np.ndarray, "two ..."]:
        """Low and high ends over the resamples."""
        tail = (1 - self.confidence) / 2
        return np.asarray(np.quantile(values, [tail, 1 - tail], axis=0))


DEFAULT = Bootstrap()


def _counts(rng: np.random.Generator, rows: int, n: int) -> Float[np.ndarray, "rows n"]:
    """How often each of n things is drawn in n draws with replacement; float32."""
    counts = np.empty((rows, n), np.float32)
    for row in counts:  # one at a time, for all draws together would take many times the room of the counts
        row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
    return counts


def estimate_area(
    runs: Sequence[AgentRun], floor: float, full: float, bootstrap: Bootstrap = DEFAULT
) -> Estimate:
    """Area averaged over seeds, which is the area under the mean curve, with its interval."""
    _check_range(floor, full)
    seeds, sequences = bootstrap.draw(len(runs), _num_sequences(runs))
    low, high = bootstrap.interval(_resampled_areas(runs, seeds, sequences, floor, full))
    return Estimate(_mean_area(runs, floor, full), float(low), float(high))


def compare(
    agent_runs: Sequence[AgentRun],
    control_runs: Sequence[AgentRun],
    floor: float,
    full: float,
    bootstrap: Bootstrap = DEFAULT,
) -> Comparison:
    """Area of an agent less that of a control, paired by seed (run i with run i) and by test sequence.

    Raises:
        UserError: numbers of runs or of test sequences that differ.
    """
    _check_range(floor, full)
    if len(agent_runs) != len(control_runs):
        got = (len(agent_runs), len(control_runs))
        raise bad("compare", "runs of agent and control", got, "as many of both")
    seeds, sequences = bootstrap.draw(len(agent_runs), _num_sequences([*agent_runs, *control_runs]))
    areas = [_resampled_areas(runs, seeds, sequences, floor, full) for runs in (agent_runs, control_runs)]
    low, high = bootstrap.interval(areas[0] - areas[1])
    agent, control = _mean_area(agent_runs, floor, full), _mean_area(control_runs, floor, full)
    return Comparison(agent - control, float(low), float(high), agent, control)


def band(runs: Sequence[AgentRun], grid: Float[np.ndarray, " grid"], bootstrap: Bootstrap = DEFAULT) -> Band:
    """The mean of the test curves over seeds at the FLOPs of a grid, with pointwise intervals."""
    seeds, sequences = bootstrap.draw(len(runs), _num_sequences(runs))
    drawn = np.zeros((bootstrap.resamples, len(grid)))
    for run, weight in zip(runs, seeds.T, strict=True):
        flops, accuracy = _resampled_points(run, sequences)
        rows = [np.interp(grid, x, y) for x, y in zip(flops, accuracy, strict=True)]
        drawn += weight[:, None] * np.array(rows)
    low, high = bootstrap.interval(drawn.clip(0.0, 1.0))
    mean = np.mean([run.curve.accuracy_at(grid) for run in runs], 0)
    return Band(grid, mean, low, high)


def _num_sequences(runs: Sequence[AgentRun]) -> int:
    counts = sorted({run.test.correct.shape[1] for run in runs})
    if len(counts) != 1:
        raise bad("bootstrap", "numbers of test sequences", counts, "one or more runs, the same for all")
    return int(counts[0])


def _mean_area(runs: Sequence[AgentRun], floor: float, full: float) -> float:
    return float(np.mean([area(run.curve, floor, full) for run in runs]))


def _resampled_areas(
    runs: Sequence[AgentRun], seeds: np.ndarray, sequences: np.ndarray, floor: float, full: float
) -> Float[np.ndarray, " resamples"]:
    areas = [_areas(*_resampled_points(run, sequences), floor, full) for run in runs]
    return np.asarray((seeds * np.stack(areas, 1)).sum(1))


def _resampled_points(run: AgentRun, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FLOPs and accuracy (resamples, points) of a run's test curve in each resample, sorted by FLOPs."""
    # float32 products: errors of 1e-6 are nothing beside the spread of resamples, and it is twice as fast.
    flops = (run.test.flops[run.chosen].astype(np.float32) @ sequences).T.astype(np.float64)
    accuracy = (run.test.correct[run.chosen].astype(np.float32) @ sequences).T.astype(np.float64)
    order = np.argsort(flops, axis=1, kind="stable")
    accuracy = np.take_along_axis(accuracy, order, 1).clip(
        0.0, 1.0
    )  # where all are right, rounding may go beyond
    return np.take_along_axis(flops, order, 1), accuracy
