"""Rules over pairs, CALIMERA and Economy-gamma, on readings whose best stops are known."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch

from temporal.agents.base import Agent
from temporal.agents.calimera import Calimera, fit_calimera
from temporal.agents.controls import Confidence, Sifting
from temporal.agents.economy import Economy, fit_economy
from temporal.agents.fitted import Candidates
from temporal.agents.recordings import Recording, record_all
from temporal.agents.ways import LEVELS, all_ways, forward
from temporal.data.base import Sequences
from temporal.decisions import Halt, Sift
from temporal.episodes import Outcome, Plan
from temporal.readers import Reader
from temporal.reading import read
from tests.contracts.agent import CHUNK, AgentContract
from tests.needle import NEEDLE, TASK, NeedleReader, make_policy, make_reader, needle_steps

TRAIN, TEST = NEEDLE.split("train"), NEEDLE.split("test")
PRICES = torch.tensor([0.3, 100.0])
Fit = type[Calimera] | type[Economy]
KINDS: list[Fit] = [Calimera, Economy]


def record(reader: Reader, source: Sequences = TRAIN, level: float = 0.0) -> Recording:
    follow = partial(Sifting, level=level) if level else forward
    return record_all(reader, source, torch.arange(len(source)), 64, CHUNK, follow)


def fitted(kind: Fit, index: int, recording: Recording) -> Agent:
    if kind is Calimera:
        models = fit_calimera(recording, PRICES, 1.0)
        assert models is not None
        return Calimera(models, index, CHUNK)
    groups = fit_economy(recording, PRICES, 5)
    assert groups is not None
    return Economy(groups, index, CHUNK)


def outcome_of(agent: Agent, reader: Reader, source: Sequences = TEST) -> Outcome:
    outcome = read(source, reader, agent, Plan.of(torch.arange(len(source))), 64, CHUNK)
    assert isinstance(outcome, Outcome)
    return outcome


def telling(of_needles: float, of_noise: float) -> NeedleReader:
    """A reader by whose salience needles tell so much, and all else so much."""
    reader = NeedleReader()
    reader.salience = torch.full((TASK.vocabulary_size,), of_noise)
    reader.salience[1 : 1 + TASK.num_classes] = of_needles
    return reader


@cache
def contracted(kind: Fit) -> Agent:
    return fitted(kind, 0, record(make_reader()))


class TestCalimera(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return contracted(Calimera)


class TestEconomy(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return contracted(Economy)


@pytest.mark.parametrize("kind", KINDS)
def test_fitted_rules_stop_once_the_needle_is_seen(kind: Fit) -> None:
    reader = NeedleReader()
    rows = torch.arange(len(TEST))
    needle = needle_steps(TEST.fetch(rows, 0 * rows, TEST.lengths, 20).tokens, 3, CHUNK)
    assert len(set(needle.tolist())) > 3
    recording = record(reader)
    assert torch.equal(outcome_of(fitted(kind, 0, recording), reader).observations, needle)
    at_once = outcome_of(
        fitted(kind, 1, recording), reader
    )  # where reading costs more than any answer is worth
    assert set(at_once.observations.tolist()) == {1}


@pytest.mark.parametrize("kind", KINDS)
def test_fitted_rules_pay_for_their_decisions(kind: Fit) -> None:
    reader = NeedleReader()
    agent = fitted(kind, 0, record(reader))
    outcome = outcome_of(agent, reader)
    # It decides before every observation and once more to halt; at the end there is nothing to decide.
    decisions = torch.minimum(outcome.observations + 1, torch.tensor(20 // CHUNK))
    answers = outcome.observations + 1
    expected = outcome.tokens * reader.token_flops + answers * reader.predict_flops
    assert torch.equal(outcome.flops, expected + decisions * agent.decision_flops)
    assert agent.decision_flops > 0


@pytest.mark.parametrize("level", [0.0, 0.4])
def test_recordings_foretell_what_reading_does(level: float) -> None:
    reader = make_reader()
    validation, train = record(reader, TEST, level), record(reader, TRAIN, level)
    follow = partial(Sifting, level=level) if level else forward
    candidates = Candidates(reader.full_flops(), CHUNK)
    candidates.add(follow, validation, train)
    assert set(candidates._pairs) == {"confidence_joint", "calimera", "economy"}
    for pairs in candidates._pairs.values():
        for pair in pairs[:: len(pairs) // 6]:
            outcome = outcome_of(pair.agent, reader)
            right = (outcome.probabilities.argmax(1) == TEST.labels).double().mean()
            assert float(right) == pair.accuracy
            assert float(outcome.flops.mean()) / reader.full_flops() == pytest.approx(pair.cost)


@pytest.mark.parametrize(("needles", "noise", "sifts"), [(1.0, 0.1, True), (0.1, 1.0, False)])
def test_pairs_take_the_level_that_helps(needles: float, noise: float, sifts: bool) -> None:
    reader = telling(needles, noise)
    ways = all_ways(reader, make_policy(reader, Halt(), Sift((0.0, 0.4))))
    assert list(ways) == ["", *(f"_sift_{level:g}" for level in sorted({0.4, *LEVELS}))]
    candidates = Candidates(reader.full_flops(), CHUNK)
    for level in (0.0, 0.4):
        follow = ways["_sift_0.4" if level else ""]
        candidates.add(follow, record(reader, TEST, level), record(reader, TRAIN, level))
    for name, agents in candidates.chosen().items():
        best = agents[-1]
        outcome = outcome_of(best, reader)
        assert torch.equal(outcome.probabilities.argmax(1), TEST.labels), name
        assert isinstance(best, Sifting) == sifts, name
        assert outcome.tokens.tolist() == [1] * 16 or not sifts, name


def test_pairs_rise_in_cost_and_accuracy() -> None:
    reader = make_reader()
    candidates = Candidates(reader.full_flops(), CHUNK)
    candidates.add(forward, record(reader, TEST), None)
    [(name, agents)] = candidates.chosen().items()
    assert name == "confidence_joint"
    assert all(isinstance(agent, Confidence) for agent in agents)
    outcomes = [outcome_of(agent, reader) for agent in agents]
    right = [int((o.probabilities.argmax(1) == TEST.labels).sum()) for o in outcomes]
    costs = [float(o.flops.mean()) for o in outcomes]
    assert len(agents) > 1
    assert right == sorted(set(right))
    assert costs == sorted(set(costs))


def test_too_few_readings_fit_nothing() -> None:
    recording = record_all(NeedleReader(), TRAIN, torch.arange(5), 64, CHUNK, forward)
    assert fit_calimera(recording, PRICES, 1.0) is None
    assert fit_economy(recording, PRICES, 5) is None
    candidates = Candidates(1.0, CHUNK)
    candidates.add(forward, recording, recording)
    assert list(candidates.chosen()) == ["confidence_joint"]
