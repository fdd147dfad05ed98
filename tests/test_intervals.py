"""Intervals: against their formula worked out by hand, and against what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student

from benchmarks.coverage import World, cover
from temporal.curve import AgentRun, Curve, area, frontier, wilson
from temporal.errors import UserError
from temporal.intervals import Bootstrap, _counts, band, compare, estimate_area
from temporal.points import Outcomes
from tests.outcomes import FLOOR, FULL, runs_of, saved_outcomes

QUICK = Bootstrap(resamples=200)


def near_ties(num: int, n: int = 50, num_validation: int = 40, seed: int = 0) -> list[AgentRun]:
    """Runs whose settings cost about the same, so that resamples swap their order and choose others."""
    rng = np.random.default_rng(seed)
    difficulty = {size: rng.random(size) for size in (num_validation, n)}

    def draw(size: int) -> Outcomes:
        correct = (difficulty[size] < [[0.1], [0.5], [0.9]]) ^ (rng.random((3, size)) < 0.05)
        return Outcomes((1.0, 2.0, 3.0), correct, rng.uniform(500, 1500, (3, size)))

    return [AgentRun(draw(num_validation), draw(n)) for _ in range(num)]


def one_by_one(runs: list[AgentRun], value: Callable[[Curve], float]) -> tuple[np.ndarray, np.ndarray]:
    """The value of each seed, and in each resample (resamples, seeds), each curve drawn by itself."""
    drawn = []
    for test, validation in zip(_counts(0, 200, 50).T, _counts(1, 200, 40).T, strict=True):
        row = []
        for run in runs:
            chosen = frontier(
                run.validation.flops @ validation / 40, run.validation.correct @ validation / 40
            )
            right = (run.test.correct @ test / 50).clip(0, 1)
            row.append(value(Curve((run.test.flops @ test / 50)[chosen], right[chosen])))
        drawn.append(row)
    return np.array([value(run.curve) for run in runs]), np.array(drawn)


def shared_of(drawn: np.ndarray) -> float:
    """Mean covariance of two seeds over resamples."""
    num, covariances = drawn.shape[1], np.cov(drawn.T)
    return max(float((covariances.sum() - np.trace(covariances)) / (num * (num - 1))), 0.0)


class TestFormula:
    def test_difference(self) -> None:
        pair = near_ties(3), near_ties(3, seed=1)
        both = [one_by_one(runs, lambda c: area(c, 500, 2000)) for runs in pair]
        values, drawn = (one - other for one, other in zip(*both, strict=True))
        found = compare(*pair, 500, 2000, QUICK)
        reach = student.ppf(0.975, 2) * values.std(ddof=1) / math.sqrt(3)
        half = math.hypot(reach, student.ppf(0.975, 49) * math.sqrt(shared_of(drawn)))
        assert half > 1.01 * reach
        assert found[:3] == pytest.approx(
            (values.mean(), values.mean() - half, values.mean() + half), abs=2e-3
        )

    def test_area_and_band(self) -> None:
        runs = near_ties(3)
        found = estimate_area(runs, 500, 2000, QUICK)
        drawn = band(runs, np.array([900.0, 1100.0]), QUICK)
        cases = [(found, lambda c: area(c, 500, 2000))]
        for i, flops in enumerate((900.0, 1100.0)):
            ends = (drawn.accuracy[i], drawn.low[i], drawn.high[i])
            cases.append((ends, lambda c, flops=flops: float(c.accuracy_at(flops))))  # type: ignore[misc]
        for (value, low, high), of in cases:
            values, resampled = one_by_one(runs, of)
            mean, shared = values.mean(), shared_of(resampled)
            share = student.ppf(0.975, 49) ** 2 * shared / (mean * (1 - mean))
            centre = (mean + share / 2) / (1 + share)
            half = math.sqrt(share * mean * (1 - mean) + share**2 / 4) / (1 + share)
            reach = student.ppf(0.975, 2) * values.std(ddof=1) / math.sqrt(3)
            assert value == pytest.approx(mean)
            # The resamples are float32 products, right to 1e-7; steep lines between near costs lose three digits.
            assert low == pytest.approx(max(mean - math.hypot(mean - centre + half, reach), 0), abs=2e-3)
            assert high == pytest.approx(min(mean + math.hypot(centre + half - mean, reach), 1), abs=2e-3)

    def test_one_seed_has_sequences_alone(self) -> None:
        (run,) = near_ties(1)
        values, resampled = one_by_one([run], lambda c: area(c, 500, 2000))
        nothing = replace(run.test, correct=np.zeros_like(run.test.correct))
        found = compare([run], [AgentRun(run.validation, nothing)], 500, 2000, QUICK)
        half = student.ppf(0.975, 49) * resampled.std(ddof=1)
        assert found[:3] == pytest.approx((values[0], values[0] - half, values[0] + half), abs=1e-4)


class TestPromise:
    def test_few_seeds_are_covered(self) -> None:
        found = cover(World(3, 0.25, num_validation=60, num_test=150), replications=150, resamples=50)
        # 95 % of 150 are known to 1.8; the bootstrap over three seeds reaches 75.
        assert min(found.area, found.difference, found.cheap, found.dear) >= 91
        assert found.percentile < 85

    def test_a_small_validation_split_is_counted(self) -> None:
        sure = [
            AgentRun(
                replace(
                    run.validation,
                    correct=np.tile(run.validation.correct, 50),
                    flops=np.tile(run.validation.flops, 50),
                ),
                run.test,
            )
            for run in near_ties(1)
        ]
        unsure, surer = (estimate_area(some, 500, 2000, QUICK) for some in (near_ties(1), sure))
        assert unsure.value == surer.value
        assert unsure.high - unsure.low > 1.05 * (surer.high - surer.low)

    def test_pairing_by_sequence_narrows_the_difference(self) -> None:
        agent = runs_of(0, n=1000)[0]
        # The control errs where the agent errs, and on a few sequences more.
        worse = agent.test.correct & (np.random.default_rng(1).random(agent.test.correct.shape) < 0.98)
        control = AgentRun(agent.validation, replace(agent.test, correct=worse))
        paired = compare([agent], [control], FLOOR, FULL, QUICK)
        alone = [estimate_area([run], FLOOR, FULL, QUICK) for run in (agent, control)]
        unpaired = math.hypot(*(each.high - each.low for each in alone))
        assert paired.high - paired.low < 0.5 * unpaired
        assert paired.low > 0

    def test_better_agent_lies_above(self) -> None:
        found = compare(runs_of(0, 3, shift=0.1), runs_of(1, 3), FLOOR, FULL, QUICK)
        assert 0 < found.low < found.difference < found.high < 0.2
        assert found.difference == pytest.approx(found.area_agent - found.area_control)

    def test_same_agent_differs_by_nothing(self) -> None:
        runs = runs_of(0, num=3)
        assert compare(runs, runs, FLOOR, FULL, QUICK)[:3] == (0.0, 0.0, 0.0)

    def test_same_seed_same_interval(self) -> None:
        runs = runs_of(0, num=2)
        first, again, other = (
            estimate_area(runs, FLOOR, FULL, Bootstrap(50, seed=seed)) for seed in (4, 4, 5)
        )
        assert first == again
        assert first != other


class TestEnds:
    def test_area_is_that_of_the_curves(self) -> None:
        runs = runs_of(0, num=3)
        found = estimate_area(runs, FLOOR, FULL, QUICK)
        assert found.value == pytest.approx(np.mean([area(run.curve, FLOOR, FULL) for run in runs]))
        assert found.low < found.value < found.high

    def test_band_holds_the_mean_curve(self) -> None:
        runs, grid = runs_of(0, num=3), np.geomspace(10, FULL, 40)
        found = band(runs, grid, QUICK)
        np.testing.assert_array_equal(found.flops, grid)
        np.testing.assert_allclose(found.accuracy, np.mean([run.curve.accuracy_at(grid) for run in runs], 0))
        assert (found.low < found.accuracy).all()
        assert (found.accuracy < found.high).all()

    def test_band_of_one_run_is_wilsons_interval_of_its_accuracy(self) -> None:
        (run,) = runs_of(0, n=1000)
        found = band([run], np.array([FULL]), Bootstrap(2000))
        right = int(run.test.correct[run.chosen[-1]].sum())
        expected = np.subtract(*wilson(right, 1000)[::-1])
        assert found.high[0] - found.low[0] == pytest.approx(expected, rel=0.25)
        assert found.high[0] - found.low[0] >= 0.9 * expected

    @pytest.mark.parametrize("num", [1, 3])
    def test_all_right_answers_are_no_certainty(self, num: int) -> None:
        runs = runs_of(0, num, shift=2.0, n=60)
        dearest = max(run.curve.flops[-1] for run in runs)
        # What the first costs varies from resample to resample.
        drawn = band(runs, np.array([dearest, 3000.0]), QUICK)
        assert drawn.accuracy.tolist() == drawn.high.tolist() == [1.0, 1.0]
        # Wilson's, with a quantile of t instead of the normal.
        assert drawn.low[1] == pytest.approx(wilson(60, 60)[0], abs=0.004)
        assert 0.5 < drawn.low[0] <= drawn.low[1]

    def test_one_sequence_says_next_to_nothing(self) -> None:
        one = Outcomes((1.0, 2.0), np.array([[False], [True]]), np.array([[50.0], [700.0]]))
        found = estimate_area([AgentRun(one, one)], FLOOR, FULL, QUICK)
        assert found.low < 0.01
        assert found.high > 0.99

    @pytest.mark.parametrize(
        "settings", [[(1000.0, 0.8)], [(500.0, 0.5), (500.0, 0.5)], [(500.0, 1.0), (900.0, 1.0)]]
    )
    def test_degenerate_agents_have_an_area(self, settings: list[tuple[float, float]]) -> None:
        rng = np.random.default_rng(0)
        run = AgentRun.of(saved_outcomes(rng, settings), "agent")
        found = estimate_area([run], FLOOR, FULL, QUICK)
        assert 0.4 < found.low <= found.value <= found.high <= 1

    def test_seeds_may_have_different_numbers_of_settings(self) -> None:
        rng = np.random.default_rng(0)
        two, three = (AgentRun.of(saved_outcomes(rng, [(800.0, 0.7)] * k), "agent") for k in (2, 3))
        both = estimate_area([two, three], FLOOR, FULL, QUICK)
        assert both.value == pytest.approx(
            np.mean([estimate_area([run], FLOOR, FULL, QUICK).value for run in (two, three)])
        )


def test_uneven_runs_are_refused() -> None:
    with pytest.raises(UserError) as error:
        compare(runs_of(0, 2), runs_of(1, 3), FLOOR, FULL, QUICK)
    assert str(error.value) == "compare: runs of agent and control, got (2, 3); expected as many of both"
    with pytest.raises(UserError, match=r"bootstrap: numbers of test sequences, got \[200, 300\]"):
        compare(runs_of(0, 1), runs_of(1, 1, n=200), FLOOR, FULL, QUICK)
    with pytest.raises(UserError, match="expected one or more runs"):
        estimate_area([], FLOOR, FULL, QUICK)
    (run,) = runs_of(0)
    fewer = AgentRun(runs_of(0, n=200)[0].validation, run.test)
    with pytest.raises(UserError, match=r"bootstrap: numbers of validation sequences, got \[200, 300\]"):
        compare([run], [fewer], FLOOR, FULL, QUICK)


@pytest.mark.parametrize("settings", [{"resamples": 1}, {"confidence": 0.0}, {"confidence": 1.0}])
def test_impossible_bootstraps_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError):
        Bootstrap(**settings)  # type: ignore[arg-type]
