"""The simple rules: each reads exactly what its name says."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from temporal.agents.base import Agent
from temporal.agents.controls import (
    Confidence,
    Hindsight,
    Prefix,
    Random,
    ReadAll,
    Sifting,
    Uniform,
    best_stops,
)
from temporal.agents.recordings import Thresholds, record_all
from temporal.agents.rollout import SpanRecorder, TrajectoryRecorder
from temporal.agents.stopping import NeverHalts
from temporal.agents.trials import Bench, Evaluation, make_trials
from temporal.agents.ways import forward
from temporal.data.base import Sequences
from temporal.decisions import Halt, Jump, Mode, Sift
from temporal.episodes import Observation, Outcome, Plan
from temporal.errors import UserError
from temporal.readers import Reader
from temporal.reading import read
from tests.contracts.agent import CHUNK, EPISODES, AgentContract, first_observation
from tests.needle import NEEDLE, TASK, NeedleReader, make_policy, make_reader, ragged

NO_THRESHOLDS: dict[str, Thresholds] = {"": {"probability": [], "entropy": []}}
few = settings(max_examples=12, deadline=None, derandomize=True)
SOURCE = NEEDLE.split("train")
READER = make_reader()


class TestReadAll(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return ReadAll()


class TestPrefix(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return Prefix(9)


class TestConfidence(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return Confidence(0.5)


class TestEntropy(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return Confidence(0.1, "entropy")


class TestUniform(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return Uniform(8, CHUNK, reader.task.max_length)


class TestRandom(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return Random(8, CHUNK, reader.task.max_length, seed=3)


class TestSifting(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return Sifting(Confidence(0.5), 0.4)


class TestHindsight(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return Hindsight(torch.randint(0, 6, (EPISODES,), generator=torch.Generator().manual_seed(0)))


class TestNeverHalts(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        policy = make_policy(reader, Halt(), Jump((0, 4)), Mode(("skim", "full")))
        options = torch.randint(0, 2, (EPISODES, 3), generator=torch.Generator().manual_seed(0))
        return NeverHalts(policy, options)

    def test_decisions_cost_what_the_operator_counter_sees(self) -> None:
        # It decides nothing itself, and pays for the policy that it stands in for.
        assert (
            self.agent().decision_flops
            == make_policy(make_reader(), Halt(), Jump((0, 4)), Mode()).decision_flops
        )


def places(
    agent: Agent, source: Sequences, chunk: int = CHUNK, slots: int = 8, times: int = 1
) -> list[list[int]]:
    """Which places of each sequence are read, in order."""
    plan = Plan.of(torch.arange(len(source)).repeat(times))
    spans = SpanRecorder(len(plan))
    read(source, READER, agent, plan, slots, chunk, spans)
    return list(map(list, spans.positions))


def outcome_of(agent: Agent, reader: Reader = READER, source: Sequences = SOURCE) -> Outcome:
    outcome = read(source, reader, agent, Plan.of(torch.arange(len(source))), 64, CHUNK)
    assert isinstance(outcome, Outcome)
    return outcome


lengths = st.lists(st.integers(0, TASK.max_length), min_size=1, max_size=5)


@few
@given(lengths, st.integers(0, 25), st.integers(1, 7))
def test_prefix_reads_its_tokens_rounded_up_to_observations(
    sizes: list[int], tokens: int, chunk: int
) -> None:
    source = ragged(*sizes)
    found = places(Prefix(tokens), source, chunk)
    assert found == [list(range(min(-(-tokens // chunk) * chunk, n))) for n in sizes]


@few
@given(lengths, st.integers(0, 25), st.integers(1, 7))
def test_uniform_reads_its_tokens_evenly_spread(sizes: list[int], tokens: int, chunk: int) -> None:
    source = ragged(*sizes)
    num = -(-tokens // chunk)
    for size, found in zip(
        sizes, places(Uniform(tokens, chunk, TASK.max_length), source, chunk), strict=True
    ):
        if size <= num * chunk:
            assert found == list(range(size))
            continue
        starts = [i * size // num for i in range(num)]
        assert found == [start + j for start in starts for j in range(chunk)]


@few
@given(lengths, st.integers(0, 25), st.integers(1, 7), st.integers(0, 1000))
def test_random_reads_different_whole_observations_in_order(
    sizes: list[int], tokens: int, chunk: int, seed: int
) -> None:
    source = ragged(*sizes)
    num = -(-tokens // chunk)
    agent = Random(tokens, chunk, TASK.max_length, seed)
    for size, found in zip(sizes, places(agent, source, chunk), strict=True):
        slots = -(-size // chunk)
        assert found == sorted(set(found))
        drawn = {place // chunk for place in found}
        assert len(drawn) == min(num, slots)
        assert len(found) == sum(min(chunk, size - slot * chunk) for slot in drawn)


def test_random_draws_the_same_for_any_number_of_slots_and_another_for_another_seed() -> None:
    one = places(Random(8, CHUNK, TASK.max_length, seed=1), SOURCE, slots=64)
    assert one == places(Random(8, CHUNK, TASK.max_length, seed=1), SOURCE, slots=1)
    assert one != places(Random(8, CHUNK, TASK.max_length, seed=2), SOURCE, slots=64)


@pytest.mark.parametrize("num_slots", [5, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_draws_every_set_of_observations_equally_often(num_slots: int, seed: int) -> None:
    source = ragged(num_slots * 2)
    agent = Random(4, 2, num_slots * 2, seed)
    found = places(agent, source, chunk=2, slots=256, times=4000)
    sets = [(p[0] // 2, p[2] // 2) for p in found]
    pairs = [(a, b) for b in range(num_slots) for a in range(b)]
    counts = [sets.count(pair) for pair in pairs]
    assert sum(counts) == 4000
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("measure", ["probability", "entropy"])
def test_confidence_halts_at_the_first_sure_answer(measure: str) -> None:
    agent = Confidence(0.0, measure)  # type: ignore[arg-type]
    recorder = TrajectoryRecorder()
    agent.threshold = 2.0  # sees all
    read(SOURCE, READER, agent, Plan.of(torch.arange(len(SOURCE))), 16, CHUNK, recorder)
    probabilities = recorder.trajectories().observation.probabilities
    assert probabilities is not None
    sure = probabilities.amax(-1)
    if measure == "entropy":
        sure = 1 + (probabilities * probabilities.log()).sum(-1) / math.log(3)
    threshold = float(sure[:, 1:].quantile(0.7))
    # never before the first observation, and never after the last of 5
    expected = [next((t for t in range(1, 5) if row[t] >= threshold), 5) for row in sure.tolist()]
    assert len(set(expected)) > 3
    assert outcome_of(Confidence(threshold, measure)).observations.tolist() == expected  # type: ignore[arg-type]


def test_sureness_is_0_without_a_clue_and_1_with_certainty() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    assert Confidence.sureness(rows, "probability").tolist() == pytest.approx([1, 0.5, 1 / 3])
    expected = [1, 1 - math.log(2) / math.log(3), 0]
    assert Confidence.sureness(rows, "entropy").tolist() == pytest.approx(expected, abs=1e-6)
    for num in range(2, 60):  # rounding must not leave the range that thresholds have
        even = torch.full((1, num), 0.0).softmax(-1)
        assert 0 <= float(Confidence.sureness(even, "entropy")) <= 1e-6


def test_sifting_reads_telling_tokens_only() -> None:
    outcome = outcome_of(Sifting(ReadAll(), 0.4))
    every = torch.arange(len(SOURCE))
    tokens = SOURCE.fetch(every, 0 * every, SOURCE.lengths, TASK.max_length).tokens
    assert torch.equal(outcome.tokens, (READER.salience[tokens] >= 0.4).sum(1))
    assert 0 < int(outcome.tokens.sum()) < tokens.numel()
    assert torch.equal(outcome_of(Sifting(Prefix(0), 0.4)).tokens, torch.zeros(64, dtype=torch.long))


# The oracle.


@few
@given(st.integers(0, 1000), st.sampled_from([0.01, 0.3, 1.0, 5.0]))
def test_best_stops_are_those_of_trying_each(seed: int, price: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    correct = torch.rand(6, 5, generator=generator) < 0.5
    cost = torch.rand(6, 5, generator=generator, dtype=torch.double).cumsum(1)
    valid = torch.arange(5) <= torch.randint(0, 5, (6, 1), generator=generator)
    found = best_stops(correct, cost, valid, price)
    for row in range(6):
        worths = [float(correct[row, t]) - price * float(cost[row, t]) for t in range(5) if valid[row, t]]
        assert int(found[row]) == worths.index(max(worths))


class DearAnswers(NeedleReader):
    """An answer costs as much as half of the text."""

    @property
    def predict_flops(self) -> int:
        return 10 * self.token_flops


@pytest.mark.parametrize("reader", [READER, make_reader(5, cell="lstm"), NeedleReader(), DearAnswers()])
def test_no_rule_that_only_halts_beats_hindsight(reader: Reader) -> None:
    bench = Bench("needle", reader, make_policy(reader), (1, 1), 0, CHUNK, 64, 0)
    recording = record_all(reader, SOURCE, torch.arange(len(SOURCE)), 64, CHUNK, forward)
    trials = make_trials(Evaluation(num_settings=5), bench, SOURCE, recording, NO_THRESHOLDS, {})
    oracles = [
        (trial.price or float(trial.setting or 0), trial.agent)
        for trial in trials
        if trial.name == "hindsight"
    ]
    assert len(oracles) == 5
    rules: list[Agent] = [Prefix(k) for k in range(0, 24, 4)]
    rules += [Confidence(t) for t in torch.linspace(0.34, 1, 6).tolist()]
    rules += [Confidence(t, "entropy") for t in torch.linspace(0, 1, 6).tolist()]
    rules += [make_policy(reader, seed=s) for s in range(3)]
    outcomes = [outcome_of(rule, reader) for rule in rules]

    def worth(outcome: Outcome, price: float) -> float:
        right = (outcome.probabilities.argmax(1) == SOURCE.labels).double()
        return float((right - price * outcome.flops / reader.full_flops()).mean())

    for price, hindsight in oracles:
        best = worth(outcome_of(hindsight, reader), price)
        worths = [worth(outcome, price) for outcome in outcomes]
        assert max(worths) <= best + 1e-9
        assert min(worths) < best - 0.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prefix(-1), "Prefix: tokens, got -1; expected a whole number from 0 up"),
        (lambda: Uniform(-1, 4, 20), "Uniform: tokens, got -1; expected a whole number from 0 up"),
        (lambda: Random(-2, 4, 20), "Random: tokens, got -2; expected a whole number from 0 up"),
        (lambda: Confidence(1.2), "Confidence: threshold, got 1.2; expected a number from 0 to 1"),
        (
            lambda: Sifting(ReadAll(), 1.0),
            "Sift: levels, got [1.0]; expected a list of numbers from 0 to below 1",
        ),
    ],
)
def test_settings_out_of_range(make: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        make()  # type: ignore[operator]
    assert str(error.value) == message


# The contract itself must be able to fail: each of these agents breaks one promise.


class _LooksAtOthers(Prefix):
    def act(self, observation: Observation) -> Tensor:
        return (observation.price < observation.price.mean()).long()[:, None]


class _Draws(ReadAll):
    def act(self, observation: Observation) -> Tensor:
        return torch.randint(0, 2, (len(observation.episode), 1))


class _ForgetsItsPrice(Prefix):
    def act(self, observation: Observation) -> Tensor:
        torch.randn(1, 3) @ torch.randn(3, 3)
        return super().act(observation)


class _OutOfRange(ReadAll):
    def act(self, observation: Observation) -> Tensor:
        return 2 + super().act(observation)


class _Scribbles(Prefix):
    def act(self, observation: Observation) -> Tensor:
        observation.tokens.add_(1)
        return super().act(observation)


PRICED = first_observation(4)._replace(price=torch.tensor([0.1, 1.0, 3.0, 0.2], dtype=torch.double))
EXAMPLES: dict[str, tuple[object, ...]] = {  # for checks that otherwise draw, and shrink, their own
    "test_rows_do_not_know_of_each_other": (PRICED, random.Random(0)),
    "test_evaluation_draws_nothing_and_keeps_nothing": (PRICED,),
    "test_actions_have_shape_type_and_range": (PRICED,),
}


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (_LooksAtOthers(9), "test_rows_do_not_know_of_each_other"),
        (_LooksAtOthers(9), "test_outcomes_do_not_depend_on_the_number_of_slots"),
        (_Draws(), "test_evaluation_draws_nothing_and_keeps_nothing"),
        (_Scribbles(9), "test_evaluation_draws_nothing_and_keeps_nothing"),
        (_ForgetsItsPrice(9), "test_decisions_cost_what_the_operator_counter_sees"),
        (_OutOfRange(), "test_actions_have_shape_type_and_range"),
    ],
)
def test_the_contract_catches(broken: Agent, check: str) -> None:
    class Contract(AgentContract):
        def make_agent(self, reader: Reader) -> Agent:
            return broken

    method = getattr(AgentContract, check)
    plain = method.hypothesis.inner_test if check in EXAMPLES else method
    arguments = EXAMPLES.get(check, (None,) if "slots" in check else ())
    with pytest.raises(AssertionError):
        plain(Contract(), *arguments)


def test_schemes_of_rules_can_be_sifted() -> None:
    agent = Sifting(Confidence(0.5), 0.4)
    assert [type(d) for d in agent.scheme.decisions] == [Halt, Sift]
    assert agent.needs == {"probabilities"}
