"""How often intervals hold the true value, on simulated agents of which it is known.

    python -m benchmarks.coverage [--replications 1000] [--resamples 100] [--workers 2]

An agent has eight settings, some of which nearly tie. A sequence has a length, which scales what it costs, and a
difficulty, the same for all agents, seeds and settings; seeds differ as a whole and in each setting. Every replication
draws seeds, validation and test sequences anew and makes the intervals as `temporal evaluate` does. The truth is the
mean over seeds and draws of validation of what the chosen settings are worth on endless sequences.

Columns: trainings (seeds), test and validation sequences; variance of one seed over the variance that all share, of the
area and of the difference; per cent of replications whose 95 % interval holds the truth: of the area, of the difference
to the control, of the accuracy at a tenth and at a half of full reading; mean width of the difference's interval over
that of a normal interval by the true standard deviation; and the coverage of the percentile bootstrap over seeds and
test sequences, settings as they were chosen.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import Pool
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from temporal.curve import AgentRun, area, areas, frontiers
from temporal.intervals import Bootstrap, band, compare, estimate_area
from temporal.points import Outcomes

COSTS = np.array([1e-4, 0.03, 0.06, 0.12, 0.25, 0.35, 0.5, 0.7, 1.0])  # the first is the free point
# Neighbours nearly tie, so that which of them is chosen is often chance.
AGENT = np.array([0.50, 0.70, 0.78, 0.84, 0.88, 0.88, 0.89, 0.885, 0.89])
CONTROL = np.array([0.50, 0.62, 0.70, 0.76, 0.82, 0.83, 0.86, 0.87, 0.89])
FLOOR, FULL = 0.02, 1.0
GRID = np.array([0.1, 0.5])
SHARED_DIFFICULTY = 0.5  # share of the variance of what decides on an answer that is the sequence's own


@dataclass(frozen=True)
class World:
    """What is simulated.

    Args:
        num_seeds: trainings of each agent.
        seed_spread: standard deviation between seeds, of what decides on an answer (probits).
        num_validation: sequences that settings are chosen on.
        num_test: sequences that are reported.
        better: added to all accuracies in probits, to come near 100 %.
    """

    num_seeds: int
    seed_spread: float
    num_validation: int = 460
    num_test: int = 300
    better: float = 0.0

    def strengths(self, rng: np.random.Generator, accuracy: np.ndarray, num: int) -> np.ndarray:
        """What decides on right answers (num, settings) of as many seeds; the free point is none of theirs."""
        common, own = rng.normal(size=(num, 1)), rng.normal(size=(num, len(COSTS)))
        strengths = ndtri(accuracy) + self.better + self.seed_spread * (common + 0.5 * own)
        strengths[:, 0] = ndtri(accuracy[0])
        return np.asarray(strengths)

    def outcomes(
        self, rng: np.random.Generator, strengths: np.ndarray, difficulty: np.ndarray, costs: np.ndarray
    ) -> Outcomes:
        """Of one seed on some sequences."""
        own = rng.standard_normal((len(COSTS), len(difficulty)), np.float32)
        noise = SHARED_DIFFICULTY**0.5 * difficulty + (1 - SHARED_DIFFICULTY) ** 0.5 * own
        noise[0] = difficulty[::-1]
        return Outcomes(tuple(COSTS), noise < strengths[:, None], costs)

    def draw(self, rng: np.random.Generator) -> tuple[list[AgentRun], list[AgentRun]]:
        """The runs of agent and control."""
        splits = []
        for n in (self.num_validation, self.num_test):
            length = rng.gamma(4.0, 0.25, size=n)
            splits.append((rng.normal(size=n).astype(np.float32), COSTS[:, None] * length))
        return tuple(  # type: ignore[return-value]
            [
                AgentRun(*(self.outcomes(rng, row, *split) for split in splits))
                for row in self.strengths(rng, accuracy, self.num_seeds)
            ]
            for accuracy in (AGENT, CONTROL)
        )

    def truth(self, rng: np.random.Generator, accuracy: np.ndarray, num: int = 6000) -> np.ndarray:
        """Expected area, and accuracies on the grid."""
        total = np.zeros(1 + len(GRID))
        for _ in range(num // 1000):
            strengths = self.strengths(rng, accuracy, 1000)
            difficulty = rng.standard_normal((1000, 1, self.num_validation), np.float32)
            own = rng.standard_normal((1000, len(COSTS), self.num_validation), np.float32)
            noise = SHARED_DIFFICULTY**0.5 * difficulty + (1 - SHARED_DIFFICULTY) ** 0.5 * own
            noise[:, 0] = difficulty[:, 0, ::-1]
            right = (noise < strengths[:, :, None]).mean(2)
            length = rng.gamma(4.0 * self.num_validation, 0.25 / self.num_validation, size=(1000, 1))
            chosen = frontiers(COSTS * length, right)
            flops, known = COSTS[chosen], np.take_along_axis(ndtr(strengths), chosen, 1)
            total[0] += areas(flops, known, FLOOR, FULL).sum()
            for x, y in zip(flops, known, strict=True):
                total[1:] += np.interp(GRID, x, y)
        return total / (num // 1000 * 1000)


class Found(NamedTuple):
    """What one world showed: coverages in per cent, ratios of variances and of widths."""

    ratio_area: float
    ratio_difference: float
    area: float
    difference: float
    cheap: float
    dear: float
    width: float
    percentile: float


@lru_cache(maxsize=1)
def _draws(n: int, num_seeds: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of sequences and of seeds."""
    rng = np.random.default_rng(0)
    drawn = [
        [np.bincount(rng.integers(num, size=num), minlength=num) / num for _ in range(resamples)]
        for num in (n, num_seeds)
    ]
    return np.array(drawn[0]).T, np.array(drawn[1])


def percentile(agent: list[AgentRun], control: list[AgentRun], resamples: int) -> tuple[float, float]:
    """The bootstrap over seeds and test sequences with settings as chosen, for comparison."""
    n, num = agent[0].test.correct.shape[1], len(agent)
    sequences, seeds = _draws(n, num, resamples)
    gaps = np.zeros(resamples)
    for sign, runs in ((1, agent), (-1, control)):
        for run, weight in zip(runs, seeds.T, strict=True):
            flops, right = ((x[run.chosen] @ sequences).T for x in (run.test.flops, run.test.correct))
            order = np.argsort(flops, 1)
            found = areas(
                np.take_along_axis(flops, order, 1), np.take_along_axis(right, order, 1), FLOOR, FULL
            )
            gaps += sign * weight * found
    low, high = np.quantile(gaps, [0.025, 0.975])
    return float(low), float(high)


def cover(world: World, replications: int, resamples: int, seed: int = 0) -> Found:
    """Simulate one world."""
    rng = np.random.default_rng(seed)
    truth = world.truth(rng, AGENT)
    gap = float(truth[0] - world.truth(rng, CONTROL)[0])
    hits, widths = np.zeros(5), []
    areas_of_seeds = np.empty((replications, 2, world.num_seeds))
    for i in range(replications):
        agent, control = world.draw(rng)
        bootstrap = Bootstrap(
            resamples, seed=i
        )  # what few resamples say wrongly must not be the same each time
        one = estimate_area(agent, FLOOR, FULL, bootstrap)
        two = compare(agent, control, FLOOR, FULL, bootstrap)
        drawn = band(agent, GRID, bootstrap)
        before = percentile(agent, control, resamples)
        hits += [
            one.low <= truth[0] <= one.high,
            two.low <= gap <= two.high,
            *((drawn.low <= truth[1:]) & (truth[1:] <= drawn.high)),
            before[0] <= gap <= before[1],
        ]
        areas_of_seeds[i] = [[area(run.curve, FLOOR, FULL) for run in runs] for runs in (agent, control)]
        widths.append(two.high - two.low)
    difference = areas_of_seeds[:, 0] - areas_of_seeds[:, 1]
    width = float(np.mean(widths) / (3.92 * difference.mean(1).std()))
    shares = 100 * hits / replications
    return Found(_ratio(areas_of_seeds[:, 0]), _ratio(difference), *shares[:4], width, shares[4])


def _ratio(values: np.ndarray) -> float:
    """Variance particular to one seed over the variance shared by all, from (replications, seeds) values."""
    num = values.shape[1]
    if num == 1:
        return 0.0
    own = values.var(1, ddof=1).mean()
    shared = values.mean(1).var() - own / num
    return float(own / shared) if shared > 0.01 * own else np.inf


def worlds() -> Iterator[World]:
    """All that is simulated."""
    yield World(1, 0.0)
    for num_seeds in (3, 5, 10):
        for spread in (0.0, 0.05, 0.1, 0.25):
            yield World(num_seeds, spread)
    for num_validation in (40, 160):
        for num_seeds in (3, 5, 10):
            yield World(num_seeds, 0.05, num_validation)
    for num_seeds in (1, 5):  # accuracies near 100 %
        yield World(num_seeds, 0.0 if num_seeds == 1 else 0.05, 160, 100, better=1.2)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replications", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    print("| seeds | test | validation | seed / shared variance: area, difference | area | difference | at 10 % |"
          " at 50 % | width | percentile |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    simulate = partial(cover, replications=options.replications, resamples=options.resamples)
    with Pool(options.workers) as pool:
        for world, found in zip(worlds(), pool.imap(simulate, worlds()), strict=True):
            print(_row(world, found), flush=True)


def _row(world: World, found: Found) -> str:
    cells = [f"{world.num_seeds}", f"{world.num_test}" + " (near 100 %)" * (world.better > 0)]
    cells += [f"{world.num_validation}", f"{found.ratio_area:.1f}, {found.ratio_difference:.1f}"]
    cells += [f"{x:.1f}" for x in (found.area, found.difference, found.cheap, found.dear)]
    return f"| {' | '.join([*cells, f'{found.width:.2f}', f'{found.percentile:.1f}'])} |"


if __name__ == "__main__":
    main()
