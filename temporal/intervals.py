"""Intervals of areas, differences and curves: over seeds, test sequences and the choice of settings on validation.

What is estimated is the mean over all seeds there could be, on all sequences there could be, with settings chosen on
a validation split of this size; the estimate is the mean over the S seeds at hand on the test sequences at hand. Its
variance has a part that each seed brings anew and a part that all seeds share, for they are tested on the same
sequences and their settings are chosen on the same sequences:

    s^2 / S + c

s^2 is the variance of the estimates between seeds, with S - 1 degrees of freedom. c is the mean covariance between two
different seeds over bootstrap resamples of test sequences and of validation sequences, the same for all seeds, the
choice of settings done anew in each. (The variance of one seed over resamples holds what is particular to this seed on
these sequences too, which is in s^2 already.) Each part has its own quantile of t, and they are put together as
Howe (1974, Journal of the American Statistical Association 69) does for a sum of two independent errors:

    estimate +- sqrt(t(S - 1)^2 s^2 / S + t(n - 1)^2 c)

Areas and accuracies lie within 0 to 1: theirs have the ends of Wilson's interval in place of t(n - 1) sqrt(c), at the
number of sequences that would have this variance, p (1 - p) / c (Dean and Pagano 2015, Journal of Survey Statistics
and Methodology 3), or at n where nothing varies at all; each end is joined with the part of the seeds as Zou and
Donner (2008, Statistics in Medicine 27) join ends, and cut at 0 and 1.

A single seed says nothing of others: its interval is over sequences alone, c being its variance over resamples.
`benchmarks/coverage.py` shows how often all of these cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from temporal.curve import AgentRun, area, areas, check_confidence, check_range, frontiers, score_interval
from temporal.errors import bad
from temporal.points import Outcomes


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
    """The mean curve over seeds on a grid, with its interval at each point; accuracies from 0 to 1."""

    flops: Float[np.ndarray, " grid"]
    accuracy: Float[np.ndarray, " grid"]
    low: Float[np.ndarray, " grid"]
    high: Float[np.ndarray, " grid"]


@dataclass(frozen=True)
class Bootstrap:
    """How sequences are resampled, the same for all seeds and agents; see above for what it is used for.

    Args:
        resamples: how many; 2 or more.
        confidence: of two-sided intervals, between 0 and 1.
        seed: the same seed gives the same intervals.
    """

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        if self.resamples < 2:
            raise bad("bootstrap", "resamples", self.resamples, "a whole number from 2 up")


DEFAULT = Bootstrap()
ROUNDING = 1e-12  # variances below this are none


@lru_cache(maxsize=4)
def _counts(seed: int, resamples: int, n: int) -> Float[np.ndarray, "n resamples"]:
    """How often each of n sequences is drawn in n draws with replacement."""
    rng = np.random.default_rng(seed)
    counts = np.empty((resamples, n), np.float32)
    for row in counts:  # one at a time, for all draws together would take many times the room of the counts
        row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
    return counts.T


class _Resampled(NamedTuple):
    """The test curves of runs in all resamples, sorted by FLOPs."""

    flops: Float[np.ndarray, "seeds resamples points"]
    accuracy: Float[np.ndarray, "seeds resamples points"]

    @classmethod
    @lru_cache(maxsize=32)  # what every other agent is compared with comes again and again
    def of(cls, runs: tuple[AgentRun, ...], bootstrap: Bootstrap) -> _Resampled:
        # Different streams, for splits of the same size must not be drawn alike.
        flops, accuracy = _means([run.test for run in runs], bootstrap, 2 * bootstrap.seed)
        drawn = _means([run.validation for run in runs], bootstrap, 2 * bootstrap.seed + 1)
        rows = (flops.shape[0] * flops.shape[1], flops.shape[2])
        chosen = frontiers(drawn[0].reshape(rows), drawn[1].reshape(rows)).reshape(*flops.shape[:2], -1)
        flops = np.take_along_axis(flops, chosen, 2)
        order = np.argsort(flops, axis=2, kind="stable")
        accuracy = np.take_along_axis(accuracy, chosen, 2)
        return cls(np.take_along_axis(flops, order, 2), np.take_along_axis(accuracy, order, 2))

    def at(self, grid: Float[np.ndarray, " grid"]) -> Float[np.ndarray, "seeds resamples grid"]:
        """Accuracy at the FLOPs of a grid: straight between points, constant outside them."""
        after = (self.flops[..., None] <= grid).sum(2)
        ends = [(after - 1).clip(0), after.clip(max=self.flops.shape[2] - 1)]
        (x, right_x), (y, right_y) = (
            [np.take_along_axis(values, end, 2) for end in ends] for values in (self.flops, self.accuracy)
        )
        share = np.divide(grid - x, right_x - x, out=np.zeros_like(x), where=right_x > x)
        return np.asarray(y + share * (right_y - y))


def _means(outcomes: Sequence[Outcomes], bootstrap: Bootstrap, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean FLOPs and accuracy (seeds, resamples, settings) of resampled sequences.

    Where one seed has fewer settings than another, its first stands for those that are missing.
    """
    n = outcomes[0].correct.shape[1]
    most = max(len(each.settings) for each in outcomes)
    rows = [np.arange(most) * (np.arange(most) < len(each.settings)) for each in outcomes]
    # float32 products, which are twice as fast: numbers of right answers stay exact, so that ties stay ties, and
    # errors of 1e-6 in FLOPs are nothing beside the spread of resamples.
    counts = _counts(seed, bootstrap.resamples, n)
    return tuple(  # type: ignore[return-value]
        np.stack(
            [
                (getattr(each, what)[row].astype(np.float32) @ counts).T.astype(np.float64) / n
                for each, row in zip(outcomes, rows, strict=True)
            ]
        )
        for what in ("flops", "correct")
    )


class _Parts(NamedTuple):
    """The variance of a mean over seeds in two parts; see the top of this file."""

    seeds: Float[np.ndarray, "*grid"]
    shared: Float[np.ndarray, "*grid"]
    num_seeds: int
    n: int

    @classmethod
    def of(
        cls,
        values: Float[np.ndarray, "seeds *grid"],
        resampled: Float[np.ndarray, "seeds resamples *grid"],
        n: int,
    ) -> _Parts:
        """From each seed's value, and each seed's in every resample of sequences, of which there are `n`."""
        num = len(values)
        together = np.asarray(resampled.mean(0).var(0, ddof=1))
        if num == 1:
            return cls(np.zeros_like(together), together, num, n)
        alone = np.asarray(resampled.var(1, ddof=1).mean(0))
        # The variance of the mean is (alone + (S - 1) c) / S, which is solved for c.
        shared = np.asarray(((num * together - alone) / (num - 1)).clip(0.0))
        return cls(np.asarray(values.var(0, ddof=1) / num), shared, num, n)

    def from_seeds(self, confidence: float) -> Float[np.ndarray, "*grid"]:
        """How far seeds alone let the interval reach to either side."""
        return np.asarray(_quantile(self.num_seeds - 1, confidence) * np.sqrt(self.seeds))

    def from_sequences(self, confidence: float) -> Float[np.ndarray, "*grid"]:
        """How far sequences alone do."""
        return np.asarray(_quantile(self.n - 1, confidence) * np.sqrt(self.shared))


def _quantile(freedom: int, confidence: float) -> float:
    return float(stdtrit(max(freedom, 1), 0.5 + confidence / 2))


def _around(value: float, parts: _Parts, confidence: float) -> tuple[float, float]:
    """The interval of what has no bounds."""
    half = float(np.hypot(parts.from_seeds(confidence), parts.from_sequences(confidence)))
    return value - half, value + half


def _within_bounds(
    mean: Float[np.ndarray, "*grid"], parts: _Parts, confidence: float
) -> tuple[Float[np.ndarray, "*grid"], Float[np.ndarray, "*grid"]]:
    """The interval of what lies within 0 to 1."""
    # Half an error stands for what was not seen where all answers are right, or all wrong. Then, and where nothing
    # varies, as many sequences as there are were seen, and no more.
    binomial = np.maximum(mean * (1 - mean), 0.5 / parts.n)
    n = np.divide(binomial, parts.shared, out=np.full_like(mean, np.inf), where=parts.shared > 0)
    bare = (mean * (1 - mean) < binomial) | (parts.shared + parts.seeds < ROUNDING)
    n = np.where(bare, np.minimum(n, parts.n), n)
    low, high = score_interval(mean, n, _quantile(parts.n - 1, confidence))
    reach = parts.from_seeds(confidence)
    low, high = mean - np.hypot(mean - low, reach), mean + np.hypot(high - mean, reach)
    return low.clip(0.0, 1.0), high.clip(0.0, 1.0)


def estimate_area(
    runs: Sequence[AgentRun], floor: float, full: float, bootstrap: Bootstrap = DEFAULT
) -> Estimate:
    """Area averaged over seeds, which is the area under the mean curve, with its interval."""
    n = _num_sequences(runs)
    values, resampled = _areas_of(runs, floor, full, bootstrap)
    mean = np.asarray(values.mean(0))
    low, high = _within_bounds(mean, _Parts.of(values, resampled, n), bootstrap.confidence)
    return Estimate(float(mean), float(low), float(high))


def compare(
    agent_runs: Sequence[AgentRun],
    control_runs: Sequence[AgentRun],
    floor: float,
    full: float,
    bootstrap: Bootstrap = DEFAULT,
) -> Comparison:
    """Area of an agent less that of a control, paired by seed (run i with run i) and by sequence.

    Raises:
        UserError: numbers of runs or of sequences that differ.
    """
    if len(agent_runs) != len(control_runs):
        got = (len(agent_runs), len(control_runs))
        raise bad("compare", "runs of agent and control", got, "as many of both")
    n = _num_sequences([*agent_runs, *control_runs])
    agent, control = (_areas_of(runs, floor, full, bootstrap) for runs in (agent_runs, control_runs))
    parts = _Parts.of(agent[0] - control[0], agent[1] - control[1], n)
    means = float(agent[0].mean()), float(control[0].mean())
    gap = means[0] - means[1]
    return Comparison(gap, *_around(gap, parts, bootstrap.confidence), *means)


def band(runs: Sequence[AgentRun], grid: Float[np.ndarray, " grid"], bootstrap: Bootstrap = DEFAULT) -> Band:
    """The mean of the test curves over seeds at the FLOPs of a grid, with an interval at each of them."""
    n = _num_sequences(runs)
    values = np.array([run.curve.accuracy_at(grid) for run in runs])
    resampled = _Resampled.of(tuple(runs), bootstrap).at(grid)
    mean = np.asarray(values.mean(0))
    low, high = _within_bounds(mean, _Parts.of(values, resampled, n), bootstrap.confidence)
    return Band(grid, mean, low, high)


def _areas_of(
    runs: Sequence[AgentRun], floor: float, full: float, bootstrap: Bootstrap
) -> tuple[Float[np.ndarray, " seeds"], Float[np.ndarray, "seeds resamples"]]:
    check_range(floor, full)
    values = np.array([area(run.curve, floor, full) for run in runs])
    return values, areas(*_Resampled.of(tuple(runs), bootstrap), floor, full)


def _num_sequences(runs: Sequence[AgentRun]) -> int:
    """Test sequences, of which all runs must have as many; of validation sequences likewise."""
    for split in ("test", "validation"):
        counts = sorted({getattr(run, split).correct.shape[1] for run in runs})
        if len(counts) != 1:
            raise bad(
                "bootstrap", f"numbers of {split} sequences", counts, "one or more runs, the same for all"
            )
    return int(runs[0].test.correct.shape[1])
