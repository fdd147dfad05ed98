import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binomtest

from temporal.curve import (
    FREE,
    AgentRun,
    Bootstrap,
    Curve,
    area,
    band,
    compare,
    estimate_area,
    flops_for,
    frontier,
    wilson,
)
from temporal.errors import UserError
from temporal.points import Outcomes

costs = st.integers(0, 10**7).map(float)
accuracies = st.integers(0, 1000).map(lambda k: k / 1000)
settings_of_an_agent = st.lists(st.tuples(costs, accuracies), min_size=1, max_size=12)


def columns(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    flops, accuracy = np.array(points).T
    return flops, accuracy


def best_curve(points: list[tuple[float, float]]) -> Curve:
    flops, accuracy = columns(points)
    chosen = frontier(flops, accuracy)
    return Curve(flops[chosen], accuracy[chosen])


class TestFrontier:
    @given(settings_of_an_agent)
    def test_no_setting_lies_above(self, points: list[tuple[float, float]]) -> None:
        flops, accuracy = columns(points)
        assert (accuracy <= best_curve(points).accuracy_at(flops) + 1e-12).all()

    @given(settings_of_an_agent)
    def test_curve_rises_and_bends_down(self, points: list[tuple[float, float]]) -> None:
        curve = best_curve(points)
        width, rise = np.diff(curve.flops), np.diff(curve.accuracy)
        assert (width > 0).all()
        assert (rise > 0).all()
        assert (np.diff(rise / width) < 0).all()

    @given(settings_of_an_agent, st.randoms())
    def test_order_of_settings_does_not_matter(self, points: list[tuple[float, float]], random) -> None:
        shuffled = random.sample(points, len(points))
        one, other = best_curve(points), best_curve(shuffled)
        np.testing.assert_array_equal(one.flops, other.flops)
        np.testing.assert_array_equal(one.accuracy, other.accuracy)

    @given(settings_of_an_agent)
    def test_starts_at_the_cheapest_and_ends_at_the_best(self, points: list[tuple[float, float]]) -> None:
        flops, accuracy = columns(points)
        curve = best_curve(points)
        assert curve.flops[0] == flops.min()
        assert curve.accuracy[-1] == accuracy.max()

    def test_equal_costs_leave_the_best(self) -> None:
        assert frontier(np.array([5.0, 5.0, 5.0]), np.array([0.2, 0.7, 0.4])).tolist() == [1]

    def test_constant_accuracy_leaves_the_cheapest(self) -> None:
        assert frontier(np.array([7.0, 5.0, 6.0]), np.array([0.5, 0.5, 0.5])).tolist() == [1]


class TestArea:
    @given(settings_of_an_agent, st.integers(1, 10**6), st.floats(1.01, 1000))
    def test_equals_quadrature(self, points: list[tuple[float, float]], floor: int, ratio: float) -> None:
        flops, accuracy = columns(points)
        curve, full = Curve(flops, accuracy), floor * ratio
        ends = np.array([floor, *(c for c in curve.flops if floor < c < full), full], float)
        parts = [
            quad(lambda u: float(curve.accuracy_at(math.exp(u))), a, b)[0]
            for a, b in zip(np.log(ends[:-1]), np.log(ends[1:]), strict=True)
        ]
        # Quadrature promises 1.5e-8 for each part.
        assert area(curve, floor, full) == pytest.approx(sum(parts) / math.log(ratio), abs=1e-6)

    @given(settings_of_an_agent)
    def test_lies_between_lowest_and_highest_accuracy(self, points: list[tuple[float, float]]) -> None:
        curve = Curve(*columns(points))
        found = area(curve, 2e4, 1e6)
        assert curve.accuracy.min() - 1e-12 <= found <= curve.accuracy.max() + 1e-12

    @given(settings_of_an_agent, st.tuples(costs, accuracies))
    def test_one_more_setting_never_lowers_it(
        self, points: list[tuple[float, float]], more: tuple[float, float]
    ) -> None:
        points = [(0.0, 0.1), *points]
        assert area(best_curve([*points, more]), 2e4, 1e6) >= area(best_curve(points), 2e4, 1e6) - 1e-12

    def test_nearly_equal_costs_do_not_lose_digits(self) -> None:
        first = 3e8
        curve = Curve(np.array([first, np.nextafter(first, 1e9)]), np.array([0.2, 0.8]))
        share = math.log(first / 1e8) / math.log(10)
        assert area(curve, 1e8, 1e9) == pytest.approx(0.2 * share + 0.8 * (1 - share), abs=1e-12)

    def test_one_setting_gives_its_accuracy(self) -> None:
        assert area(Curve(np.array([5.0]), np.array([0.7])), 1.0, 100.0) == pytest.approx(0.7, abs=1e-15)

    @pytest.mark.parametrize(
        ("floor", "full"), [(0.0, 1.0), (2.0, 2.0), (3.0, 2.0), (1.0, math.nan), (1.0, math.inf)]
    )
    def test_impossible_range_is_refused(self, floor: float, full: float) -> None:
        with pytest.raises(
            UserError, match=r"area: floor, full, got .*; expected FLOPs with 0 < floor < full"
        ):
            area(Curve(np.array([5.0]), np.array([0.7])), floor, full)


class TestCurve:
    @given(settings_of_an_agent, accuracies)
    def test_flops_for_is_where_the_accuracy_is_first_reached(
        self, points: list[tuple[float, float]], accuracy: float
    ) -> None:
        curve = best_curve(points)
        flops = flops_for(curve, accuracy)
        if flops is None:
            assert accuracy > curve.accuracy.max()
            return
        assert curve.accuracy_at(flops) >= accuracy - 1e-9
        assert flops == curve.flops[0] or curve.accuracy_at(0.999 * flops) < accuracy

    def test_flops_for_takes_the_first_of_several_crossings(self) -> None:
        curve = Curve(np.array([0.0, 10.0, 20.0, 30.0]), np.array([0.2, 0.6, 0.3, 0.7]))
        assert flops_for(curve, 0.5) == pytest.approx(7.5)
        assert flops_for(curve, 0.1) == 0.0
        assert flops_for(curve, 0.8) is None

    def test_time_sharing_starts_at_the_free_point(self) -> None:
        run = AgentRun.of(saved_outcomes(np.random.default_rng(0), [(1000.0, 0.8)]), "agent")
        assert run.curve.flops.tolist() == [10.0, 1000.0]
        middle = run.curve.accuracy[[0, 1]].mean()
        assert run.curve.accuracy_at(505.0) == pytest.approx(middle)
        assert run.curve.accuracy_at(1.0) == run.curve.accuracy[0]
        assert run.curve.accuracy_at(1e9) == run.curve.accuracy[1]

    def test_settings_come_from_validation_and_values_from_test(self) -> None:
        # On validation the dearer setting is better; on test it is cheaper, and worse.
        def outcomes(flops: list[float], right: list[int]) -> Outcomes:
            correct = np.array([[i < k for i in range(10)] for k in right])
            return Outcomes((1.0, 2.0, 3.0), correct, np.array(flops)[:, None] * np.ones((3, 10)))

        run = AgentRun(outcomes([1, 5, 6], [2, 7, 1]), outcomes([1, 7, 2], [3, 4, 9]))
        assert run.chosen.tolist() == [0, 1]
        assert run.curve.flops.tolist() == [1, 7]
        assert run.curve.accuracy.tolist() == [0.3, 0.4]
        assert run.validation_curve.accuracy.tolist() == [0.2, 0.7]

    def test_unknown_agent_lists_the_known(self) -> None:
        saved = saved_outcomes(np.random.default_rng(0), [(1000.0, 0.8)])
        with pytest.raises(UserError) as error:
            AgentRun.of(saved, "agnet")
        assert str(error.value) == (
            "run: agent in the outcomes on validation, got 'agnet'; expected one of free, agent; did you mean 'agent'?"
        )

    @pytest.mark.parametrize(
        ("flops", "accuracy"),
        [([], []), ([1.0], [0.1, 0.2]), ([-1.0], [0.5]), ([math.nan], [0.5]), ([1.0], [1.5])],
    )
    def test_impossible_curves_are_refused(self, flops: list[float], accuracy: list[float]) -> None:
        with pytest.raises(UserError, match="curve: "):
            Curve(np.array(flops), np.array(accuracy))


class TestWilson:
    @given(st.integers(1, 500), st.data())
    def test_equals_scipy(self, n: int, data: st.DataObject) -> None:
        k = data.draw(st.integers(0, n))
        expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
        low, high = wilson(k, n)
        assert 0 <= low <= k / n <= high <= 1

    @pytest.mark.parametrize(
        ("k", "n", "confidence"), [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)]
    )
    def test_impossible_counts_are_refused(self, k: int, n: int, confidence: float) -> None:
        with pytest.raises(UserError):
            wilson(k, n, confidence)


FLOOR, FULL = 100.0, 5000.0
SETTINGS = [(200.0, 0.6), (800.0, 0.75), (3000.0, 0.85)]
QUICK = Bootstrap(resamples=200)


def saved_outcomes(
    rng: np.random.Generator, settings: list[tuple[float, float]], n: int = 300
) -> dict[str, dict[str, Outcomes]]:
    """Outcomes drawn independently around given mean costs and accuracies; reading nothing costs 10."""

    def draw(some: list[tuple[float, float]], spread: float) -> Outcomes:
        flops, accuracy = (column[:, None] for column in columns(some))
        correct = rng.random((len(some), n)) < accuracy
        return Outcomes(
            tuple(flops[:, 0]), correct, flops * (1 + spread * rng.uniform(-1, 1, (len(some), n)))
        )

    return {
        split: {FREE: draw([(10.0, 0.5)], 0.0), "agent": draw(settings, 0.5 if len(settings) > 1 else 0.0)}
        for split in ("validation", "test")
    }


def runs_of(
    seed: int, num: int = 1, shift: float = 0.0, between: float = 0.0, n: int = 300
) -> list[AgentRun]:
    """Runs whose true accuracies are SETTINGS' plus a shift, and vary between runs."""
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(num):
        offset = shift + between * rng.normal()
        runs.append(AgentRun.of(saved_outcomes(rng, [(c, a + offset) for c, a in SETTINGS], n), "agent"))
    return runs


def _draws(bootstrap: Bootstrap, num_seeds: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of seeds and of sequences, one row a resample, rounding taken out."""
    seeds, sequences = bootstrap.draw(num_seeds, n)
    return np.round(seeds * num_seeds) / num_seeds, np.round(sequences.T * n) / n


class TestBootstrap:
    def test_same_agent_differs_by_nothing(self) -> None:
        runs = runs_of(0, num=3)
        assert compare(runs, runs, FLOOR, FULL, QUICK)[:3] == (0.0, 0.0, 0.0)

    def test_better_agent_lies_above(self) -> None:
        found = compare(runs_of(0, 3, shift=0.1), runs_of(1, 3), FLOOR, FULL, QUICK)
        assert 0 < found.low < found.difference < found.high < 0.15
        assert found.difference == pytest.approx(found.area_agent - found.area_control)

    @pytest.mark.parametrize(("num", "between"), [(1, 0.0), (12, 0.03)])
    def test_interval_is_as_wide_as_the_spread_of_repetitions(self, num: int, between: float) -> None:
        # With a single seed only sequences vary; with spread between runs, that has to be in the interval too.
        found = [
            compare(
                runs_of(2 * i, num, 0.0, between), runs_of(2 * i + 1, num, 0.0, between), FLOOR, FULL, QUICK
            )
            for i in range(60)
        ]
        difference, low, high = np.array(found)[:, :3].T
        ratio = float(np.mean(high - low) / (2 * 1.96 * np.std(difference)))
        # The spread of 60 repetitions is known to 9 %; two and a half times that, and (S - 1) / S for the seeds.
        assert 0.77 < ratio < 1.25
        assert np.mean((low <= 0) & (high >= 0)) >= 0.85

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

    def test_area_is_that_of_the_curves(self) -> None:
        runs = runs_of(0, num=3)
        found = estimate_area(runs, FLOOR, FULL, QUICK)
        assert found.value == pytest.approx(np.mean([area(run.curve, FLOOR, FULL) for run in runs]))
        assert found.low < found.value < found.high

    def test_resampling_nothing_but_one_sequence_gives_the_area_itself(self) -> None:
        # One run over one sequence: every resample is the sample.
        one = Outcomes((1.0, 2.0), np.array([[False], [True]]), np.array([[50.0], [700.0]]))
        run = AgentRun(one, one)
        found = estimate_area([run], FLOOR, FULL, QUICK)
        assert found.low == pytest.approx(found.value, abs=1e-6)
        assert found.high == pytest.approx(found.value, abs=1e-6)
        assert found.value == pytest.approx(area(run.curve, FLOOR, FULL))

    def test_intervals_equal_those_of_curves_drawn_one_by_one(self) -> None:
        # Costs so near each other that resamples swap their order; accuracies far apart, so that order matters.
        rng = np.random.default_rng(0)
        runs = []
        for _ in range(2):
            correct = rng.random((3, 50)) < np.array([[0.1], [0.5], [0.9]])
            outcomes = Outcomes((1.0, 2.0, 3.0), correct, rng.uniform(500, 1500, (3, 50)))
            runs.append(AgentRun(outcomes, outcomes))
            runs[-1].__dict__["chosen"] = np.arange(3)
        grid = np.array([900.0, 1000.0, 1100.0])
        areas, heights, swapped = [], [], 0
        for seeds, weights in zip(*(draws.tolist() for draws in _draws(QUICK, 2, 50)), strict=True):
            flops = [run.test.flops @ weights for run in runs]
            swapped += any((np.diff(row) < 0).any() for row in flops)
            curves = [Curve(x, run.test.correct @ weights) for x, run in zip(flops, runs, strict=True)]
            areas.append(sum(w * area(c, 500, 2000) for w, c in zip(seeds, curves, strict=True)))
            heights.append(sum(w * c.accuracy_at(grid) for w, c in zip(seeds, curves, strict=True)))
        assert swapped > 20
        # The resamples are float32 products, right to 1e-7; steep lines between near costs lose three digits more.
        assert estimate_area(runs, 500, 2000, QUICK)[1:] == pytest.approx(
            np.quantile(areas, [0.025, 0.975]), abs=1e-4
        )
        found = band(runs, grid, QUICK)
        np.testing.assert_allclose(
            [found.low, found.high], np.quantile(heights, [0.025, 0.975], axis=0), atol=1e-3
        )

    def test_same_seed_same_interval(self) -> None:
        runs = runs_of(0, num=2)
        first, again, other = (
            estimate_area(runs, FLOOR, FULL, Bootstrap(50, seed=seed)) for seed in (4, 4, 5)
        )
        assert first == again
        assert first != other

    def test_band_holds_the_mean_curve(self) -> None:
        runs, grid = runs_of(0, num=3), np.geomspace(10, FULL, 40)
        found = band(runs, grid, QUICK)
        np.testing.assert_array_equal(found.flops, grid)
        np.testing.assert_allclose(found.accuracy, np.mean([run.curve.accuracy_at(grid) for run in runs], 0))
        assert (found.low <= found.accuracy).all()
        assert (found.accuracy <= found.high).all()

    def test_band_of_one_run_is_the_interval_of_its_accuracy(self) -> None:
        run = runs_of(0, n=1000)[0]
        found = band([run], np.array([FULL]), Bootstrap(2000))
        p = run.curve.accuracy[-1]
        wide = 2 * 1.96 * math.sqrt(p * (1 - p) / 1000)
        # 2000 resamples know each end to about 3 % of the width.
        assert found.high[0] - found.low[0] == pytest.approx(wide, rel=0.12)

    @pytest.mark.parametrize(
        "settings", [[(1000.0, 0.8)], [(500.0, 0.5), (500.0, 0.5)], [(500.0, 1.0), (900.0, 1.0)]]
    )
    def test_degenerate_agents_have_an_area(self, settings: list[tuple[float, float]]) -> None:
        rng = np.random.default_rng(0)
        run = AgentRun.of(saved_outcomes(rng, settings), "agent")
        found = estimate_area([run], FLOOR, FULL, QUICK)
        assert 0.4 < found.low <= found.value <= found.high <= 1

    def test_uneven_runs_are_refused(self) -> None:
        with pytest.raises(UserError) as error:
            compare(runs_of(0, 2), runs_of(1, 3), FLOOR, FULL, QUICK)
        assert str(error.value) == "compare: runs of agent and control, got (2, 3); expected as many of both"
        with pytest.raises(UserError, match=r"bootstrap: numbers of test sequences, got \[200, 300\]"):
            compare(runs_of(0, 1), runs_of(1, 1, n=200), FLOOR, FULL, QUICK)
        with pytest.raises(UserError, match="expected one or more runs"):
            estimate_area([], FLOOR, FULL, QUICK)


def test_a_band_of_all_right_answers_ends_at_one() -> None:
    # weights of resamples in float32 add up to a little more than 1
    runs = runs_of(0, shift=2.0, n=60)
    drawn = band(runs, np.geomspace(200, 3000, 20), QUICK)
    assert drawn.high.max() == 1.0
    assert drawn.accuracy.max() == 1.0
