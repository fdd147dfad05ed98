"""Curves of accuracy against FLOPs and the area under them; numpy only.

A curve is drawn through settings of one agent (prices, thresholds, numbers of tokens). Which settings it goes
through is chosen on the validation split, where it lies is measured on the test split. Between two settings a coin
can decide which of them a sequence gets, so every point on the straight line between them, in linear FLOPs, can be
had.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

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


def frontiers(
    flops: Float[np.ndarray, "batch points"], accuracy: Float[np.ndarray, "batch points"]
) -> Int[np.ndarray, "batch chosen"]:
    """The `frontier` of each row; the last setting of a row is repeated where others go through more.

    By gift wrapping (Jarvis 1973, Information Processing Letters 2): from a point the curve goes on to the one in the
    steepest direction, of several to the farthest.

    >>> frontiers(np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[0.5, 0.6, 0.9, 0.8]])).tolist()
    [[0, 2]]
    """
    rows = np.arange(len(flops))
    chain = [np.lexsort((-accuracy, flops))[:, 0]]
    while True:
        last = chain[-1]
        run = flops - flops[rows, last][:, None]
        rise = accuracy - accuracy[rows, last][:, None]
        slope = np.divide(rise, run, out=np.zeros_like(run), where=(rise > 0) & (run > 0))
        steepest = slope.max(1)
        if not steepest.any():
            return np.stack(chain, 1)
        farthest = np.where(slope == steepest[:, None], flops, -1.0).argmax(1)
        chain.append(np.where(steepest > 0, farthest, last))


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
    check_range(floor, full)
    return float(areas(curve.flops, curve.accuracy, floor, full))


def check_range(floor: float, full: float) -> None:
    """Raise UserError unless 0 < floor < full, as areas need."""
    if not 0 < floor < full < math.inf:
        raise bad("area", "floor, full", (floor, full), "FLOPs with 0 < floor < full")


def areas(
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
    z = NormalDist().inv_cdf(0.5 + check_confidence(confidence) / 2)
    low, high = score_interval(np.array(num_correct / n), np.array(float(n)), z)
    return float(low), float(high)


def score_interval(
    accuracy: Float[np.ndarray, "*grid"], n: Float[np.ndarray, "*grid"], quantile: float
) -> tuple[Float[np.ndarray, "*grid"], Float[np.ndarray, "*grid"]]:
    """Ends of Wilson's interval of accuracies out of `n`, which need not be whole, at a quantile of its deviation."""
    share = quantile**2 / n
    centre = (accuracy + share / 2) / (1 + share)
    half = np.sqrt(share * accuracy * (1 - accuracy) + share**2 / 4) / (1 + share)
    # rounding may leave the accuracy itself, or 0 to 1, by a bit
    low, high = np.minimum(accuracy, centre - half), np.maximum(accuracy, centre + half)
    return low.clip(0.0, 1.0), high.clip(0.0, 1.0)


def check_confidence(confidence: float) -> float:
    """The confidence of an interval, which must lie between 0 and 1."""
    if not 0 < confidence < 1:
        raise bad("interval", "confidence", confidence, "a number between 0 and 1")
    return confidence
