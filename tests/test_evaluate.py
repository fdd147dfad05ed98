"""Tracing curves, on a reader whose every answer is known."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from temporal.agents.controls import Confidence, Random
from temporal.agents.evaluate import Traced, evaluate
from temporal.agents.policy import PolicyAgent
from temporal.agents.recordings import Thresholds, record_all
from temporal.agents.trials import BUDGETED, POLICY, Bench, Evaluation, make_trials
from temporal.agents.ways import forward
from temporal.curve import FREE
from temporal.data.base import Sequences
from temporal.decisions import Halt, Sift
from temporal.episodes import Outcome, Plan
from temporal.errors import UserError
from temporal.readers import Reader
from temporal.reading import read
from tests.needle import NEEDLE, NeedleReader, make_policy, make_reader, needle_steps, ragged

CHUNK = 4
VALIDATION, TEST = NEEDLE.split("validation"), NEEDLE.split("test")
SETTINGS = Evaluation(num_settings=4)


def make_bench(reader: Reader | None = None, agent: PolicyAgent | None = None, **settings: object) -> Bench:
    reader = reader or NeedleReader()
    agent = agent or make_policy(reader, Halt(), Sift((0.0, 0.4)))
    bench = Bench("needle", reader, agent, (0.01, 10.0), 2, CHUNK, 16, 5)
    return dataclasses.replace(bench, **settings)  # type: ignore[arg-type]


def quiet(name: str, done: int, total: int) -> None:
    pass


def trace(bench: Bench, evaluation: Evaluation = SETTINGS, test: Sequences = TEST) -> dict[str, Traced]:
    return evaluate(evaluation, bench, VALIDATION, test, quiet)  # type: ignore[return-value]


def settings_of(found: Traced) -> list[tuple[object, ...]]:
    return [(p.agent, p.price, p.budget, p.setting) for p in found.points]


@pytest.fixture(scope="module")
def traced() -> dict[str, Traced]:
    return trace(make_bench())


def test_every_trial_is_a_point_on_both_splits(traced: dict[str, Traced]) -> None:
    below = 3  # settings of less than a chunk
    expected = {POLICY: 4, BUDGETED: 4, "read_all": 1, "hindsight": 4}
    expected |= dict.fromkeys(("prefix", "uniform", "random"), 4 + below)
    for split, found in traced.items():
        names = Counter(point.agent for point in found.points)
        assert {name: names[name] for name in expected} == expected
        assert set(names) - set(expected) == {
            "confidence",
            "entropy",
            "confidence_sift_0.4",
            "confidence_joint",
        }
        assert {point.split for point in found.points} == {split}
        assert {point.n for point in found.points} == {16}
        assert {point.seed for point in found.points} == {5}
        assert len(set(settings_of(found))) == len(found.points)


def test_rules_are_fitted_where_there_is_something_to_fit_on() -> None:
    train = NEEDLE.split("train")
    fitted = {"calimera", "economy", "naive_bayes", "logistic", "bag_of_words"}
    found = trace(make_bench(train=train, agent_rows=torch.arange(len(train))), Evaluation(num_settings=2))
    assert settings_of(found["validation"]) == settings_of(found["test"])
    for traced in found.values():
        assert fitted <= set(traced.outcomes) == {*(point.agent for point in traced.points), FREE}
    whole = [p for p in found["test"].points if p.agent == "naive_bayes"][-1]
    assert (whole.accuracy, whole.tokens_mean, whole.seconds_mean) == (1.0, 20.0, None)
    alone = trace(make_bench(train=train, agent_rows=torch.arange(64)), Evaluation(2, controls=False))
    assert set(alone["test"].outcomes) == {POLICY, "read_all", FREE}


def test_both_splits_are_tried_at_the_same_settings(traced: dict[str, Traced]) -> None:
    assert settings_of(traced["validation"]) == settings_of(traced["test"])


def test_outcomes_and_points_agree(traced: dict[str, Traced]) -> None:
    for found in traced.values():
        by_agent: dict[str, list[object]] = {}
        for point in found.points:
            by_agent.setdefault(point.agent, []).append(point)
        assert set(found.outcomes) == {*by_agent, FREE}
        for name, points in by_agent.items():
            outcomes = found.outcomes[name]
            assert outcomes.correct.shape == (len(points), 16)
            assert [p.accuracy for p in points] == pytest.approx(outcomes.correct.mean(1).tolist())  # type: ignore[attr-defined]
            assert [p.flops_mean for p in points] == pytest.approx(outcomes.flops.mean(1).tolist())  # type: ignore[attr-defined]


def test_the_free_answer_is_the_commonest_class(traced: dict[str, Traced]) -> None:
    free = traced["test"].outcomes[FREE]
    assert free.correct.tolist() == [(TEST.labels == 2).tolist()]
    assert set(free.flops.ravel().tolist()) == {10.0}  # one answer


def test_points_say_what_reading_gives(traced: dict[str, Traced]) -> None:
    rows = torch.arange(len(TEST))
    tokens = TEST.fetch(rows, 0 * rows, TEST.lengths, 20).tokens
    needle = needle_steps(tokens, 3, CHUNK)
    full = 20 * NeedleReader.token_flops + 10
    for point in traced["test"].points:
        assert point.flops_full == full
        assert point.accuracy_low <= point.accuracy <= point.accuracy_high
        if point.agent == "read_all":
            assert (point.accuracy, point.flops_mean, point.tokens_mean, point.observations_mean) == (
                1,
                full,
                20,
                5,
            )
        if point.agent == "prefix":
            # what has not been seen is guessed to be class 0
            steps = needle_steps(tokens, 3, 1) if point.setting < CHUNK else needle * CHUNK
            right = (steps <= point.setting) | (TEST.labels == 0)
            assert point.accuracy == pytest.approx(float(right.double().mean()))
            assert point.flops_mean == point.setting * NeedleReader.token_flops + 10
        if point.agent == "hindsight" and point.setting == 0.01:
            seen = torch.where(TEST.labels == 0, torch.zeros_like(needle), needle)
            assert point.accuracy == 1
            assert point.observations_mean == pytest.approx(float(seen.double().mean()))
            assert (
                point.flops_mean == point.tokens_mean * NeedleReader.token_flops + 10
            )  # one answer, not one a step
        if point.agent == BUDGETED:
            assert point.tokens_mean <= (point.budget or 0)
            assert point.price == pytest.approx(0.01)


def test_settings_come_from_validation_alone(traced: dict[str, Traced]) -> None:
    flat = np.full(16 * 20, 5)  # noise only, all of one class
    other = Sequences(flat, np.arange(17) * 20, np.zeros(16, dtype=np.int64))
    changed = trace(make_bench(), test=other)
    assert settings_of(changed["test"]) == settings_of(traced["test"])
    for split, same in (("validation", True), ("test", False)):
        accuracies = [[p.accuracy for p in each[split].points] for each in (traced, changed)]
        assert (accuracies[0] == accuracies[1]) == same


def test_recordings_hold_every_stopping_point() -> None:
    reader = make_reader()
    source = ragged(20, 3, 8, 17, 1, 12, 9, 5)
    rows = torch.arange(8)
    recording = record_all(reader, source, rows, 16, CHUNK, forward)
    ends = torch.tensor([5, 1, 2, 5, 1, 3, 3, 2])
    assert torch.equal(recording.valid, torch.arange(6) <= ends[:, None])
    never = Confidence(0.0)
    never.threshold = 2.0
    for step in range(1, 6):
        outcome = read(source, reader, never, Plan.of(rows, tokens=step * CHUNK), 16, CHUNK)
        assert isinstance(outcome, Outcome)
        column = ends.clamp(max=step)  # a sequence that has ended stays at its end
        torch.testing.assert_close(recording.cost[rows, column], outcome.flops / reader.full_flops())
        assert torch.equal(recording.correct[rows, column], outcome.probabilities.argmax(1) == source.labels)
        sure = recording.sureness["probability"][rows, column]
        torch.testing.assert_close(sure, outcome.probabilities.amax(1))
    assert recording.cost[:, 0].tolist() == [reader.predict_flops / reader.full_flops()] * 8


def test_thresholds_spread_over_the_costs() -> None:
    reader = make_reader()  # its sureness varies
    found = trace(make_bench(reader, make_policy(reader)), Evaluation(num_settings=6))
    for name in ("confidence", "entropy"):
        costs = [p.flops_mean / p.flops_full for p in found["validation"].points if p.agent == name]
        assert len(costs) > 3
        assert min(costs) < 0.35
        assert max(costs) > 0.9


def test_a_reader_without_a_clue_can_be_evaluated() -> None:
    reader = NeedleReader()
    with torch.no_grad():
        reader.sureness.zero_()
    found = trace(make_bench(reader))
    guessed = float((TEST.labels == 0).double().mean())
    assert {p.accuracy for p in found["test"].points if p.agent != "hindsight"} == {guessed}


def test_seed_of_the_bench_draws_the_random_rule(traced: dict[str, Traced]) -> None:
    def flops(found: dict[str, Traced], name: str) -> list[float]:
        return [p.accuracy for p in found["test"].points if p.agent == name]

    assert flops(trace(make_bench(seed=5)), "random") == flops(traced, "random")
    assert flops(trace(make_bench(seed=6)), "random") != flops(traced, "random")
    recording = record_all(NeedleReader(), VALIDATION, torch.arange(16), 16, CHUNK, forward)
    nothing: Thresholds = {"probability": [], "entropy": []}
    thresholds = {"": nothing, "_sift_0.4": nothing}
    trials = make_trials(SETTINGS, make_bench(seed=9), VALIDATION, recording, thresholds, {})
    assert {trial.agent.seed for trial in trials if isinstance(trial.agent, Random)} == {9}


def test_points_do_not_depend_on_the_number_of_slots(traced: dict[str, Traced]) -> None:
    other = trace(make_bench(num_slots=3))
    for split in ("validation", "test"):
        for one, two in zip(traced[split].points, other[split].points, strict=True):
            assert one == dataclasses.replace(two, seconds_mean=one.seconds_mean, batch=one.batch)


def test_limit_reads_the_first_sequences_only() -> None:
    found = trace(make_bench(), Evaluation(num_settings=2, limit=5))
    assert {p.n for p in found["test"].points} == {5}
    assert found["validation"].outcomes[POLICY].correct.shape == (2, 5)


def test_a_fixed_price_is_one_point_of_the_agent() -> None:
    found = trace(make_bench(prices=(1.0, 1.0)))
    assert [p.price for p in found["test"].points if p.agent == POLICY] == [1.0]
    wider = trace(make_bench(prices=(1.0, 1.0)), Evaluation(num_settings=3, prices=(0.1, 10.0)))
    assert [p.price for p in wider["test"].points if p.agent == POLICY] == pytest.approx([0.1, 1.0, 10.0])


def test_progress_counts_every_trial() -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate(SETTINGS, make_bench(), VALIDATION, TEST, lambda *call: seen.append(call))
    for split in ("validation", "test"):
        calls = [call for call in seen if call[0].startswith(split)]
        assert [done for _, done, _ in calls] == list(range(1, len(calls) + 1))
        assert {total for _, _, total in calls} == {len(calls)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_settings": 1}, "num_settings, got 1; expected a whole number from 2 to 1,000"),
        ({"floor": 0.0}, "floor, got 0.0; expected a number above 0 and below 1"),
        ({"limit": 0}, "limit, got 0; expected a whole number from 1 to 1,000,000,000, or null"),
        ({"prices": (2.0, 1.0)}, "prices, got [2.0, 1.0]; expected the lower first"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as error:
        Evaluation(**settings)  # type: ignore[arg-type]
    assert str(error.value) == f"Evaluation: {message}"
