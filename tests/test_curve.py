import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binomtest

from temporal.curve import (
    AgentRun,
    Curve,
    area,
    flops_for,
    frontier,
    frontiers,
    wilson,
)
from temporal.errors import UserError
from temporal.points import Outcomes
from tests.outcomes import saved_outcomes

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

    @settings(max_examples=40)
    @given(st.lists(st.lists(st.tuples(costs, accuracies), min_size=5, max_size=5), min_size=1, max_size=8))
    def test_many_at_once_are_those_one_by_one(self, agents: list[list[tuple[float, float]]]) -> None:
        flops, accuracy = (np.array([columns(points)[i] for points in agents]) for i in range(2))
        chosen = frontiers(flops, accuracy)
        for i, row in enumerate(chosen):
            one = frontier(flops[i], accuracy[i])
            assert row[0] == one[0]
            assert set(row) == set(one)
            assert (np.diff(flops[i][row]) >= 0).all()


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
