"""Halting as optimal stopping: against enumeration, against simulation, and where the best rule is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from temporal.agents.base import Agent
from temporal.agents.policy import PolicyAgent
from temporal.agents.rollout import roll_out
from temporal.agents.scene import Scene
from temporal.agents.stopping import (
    Method,
    NeverHalts,
    Recorded,
    StoppingFit,
    expected_worth,
    realised_worth,
    record,
    stopping_loss,
)
from temporal.decisions import Halt, Jump, Mode, Sift
from temporal.episodes import Observation, Outcome, Plan
from temporal.errors import UserError
from temporal.reading import read
from temporal.reward import TaskReward
from tests.needle import NEEDLE, HaltsAfter, NeedleReader, make_policy, make_reader, needle_steps, ragged

CHUNK = 4
SOURCE = NEEDLE.split("train")
few = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def problem(seed: int, num: int = 4, steps: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halting logits, worths, final worths, and steps that happen; padding holds noise."""
    generator = torch.Generator().manual_seed(seed)
    score = 3 * torch.randn(num, steps, generator=generator, dtype=torch.double)
    worth = torch.randn(num, steps, generator=generator, dtype=torch.double)
    final = torch.randn(num, generator=generator, dtype=torch.double)
    lengths = torch.randint(0, steps + 1, (num,), generator=generator)
    return score, worth, final, torch.arange(steps) < lengths[:, None]


@few
@given(seeds)
def test_expected_worth_is_the_sum_over_all_stopping_times(seed: int) -> None:
    score, worth, final, going = problem(seed)
    found = expected_worth(score, worth, final, going)
    for row in range(len(score)):
        come, total = 1.0, 0.0
        for t in range(int(going[row].sum())):
            halt = 1 / (1 + math.exp(-float(score[row, t])))
            total += come * halt * float(worth[row, t])
            come *= 1 - halt
        assert float(found[row]) == pytest.approx(total + come * float(final[row]), abs=1e-12)


def test_expected_worth_is_the_mean_of_drawn_readings() -> None:
    score, worth, final, _ = problem(1, num=2)
    going = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    num = 40_000
    draws = torch.rand(num, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    halts = (draws < score.sigmoid()) & going
    first = torch.where(halts.any(-1), halts.long().argmax(-1), 5)
    drawn = torch.cat([worth, final[:, None]], 1).expand(num, -1, -1).gather(2, first[..., None])[..., 0]
    error = drawn.std(0) / math.sqrt(num)
    assert ((drawn.mean(0) - expected_worth(score, worth, final, going)).abs() < 4 * error).all()


def test_expected_worth_and_its_gradient_stay_finite_when_all_is_certain() -> None:
    score = torch.tensor([[1e4, 1e4], [-1e4, -1e4], [1e4, -1e4]], dtype=torch.double, requires_grad=True)
    worth, final = (
        torch.tensor([[1.0, 2.0]] * 3, dtype=torch.double),
        torch.full((3,), 4.0, dtype=torch.double),
    )
    found = expected_worth(score, worth, final, torch.ones(3, 2, dtype=torch.bool))
    found.sum().backward()
    assert found.tolist() == [1.0, 4.0, 1.0]
    assert score.grad is not None
    assert score.grad.isfinite().all()


@few
@given(seeds)
def test_realised_worth_is_that_of_the_next_stop(seed: int) -> None:
    score, worth, final, going = problem(seed)
    found = realised_worth(score > 0, worth, final, going)
    for row in range(len(score)):
        for t in range(score.shape[1]):
            later = [s for s in range(t + 1, score.shape[1]) if going[row, s] and score[row, s] > 0]
            assert found[row, t] == (worth[row, later[0]] if later else final[row])


# What is recorded.


AGENTS = {
    "halt": lambda reader: make_policy(reader),
    "halt, sift": lambda reader: make_policy(reader, Sift((0.5, 0.0)), Halt()),
    "halt, jump, mode": lambda reader: make_policy(reader, Halt(), Jump((8, 0)), Mode(("skim", "full"))),
}


RAGGED = ragged(20, 3, 8, 17, 1, 12, 9, 5)


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("task_reward", ["correctness", "log_likelihood"])
def test_what_is_recorded_is_what_halting_there_brings(kind: str, task_reward: TaskReward) -> None:
    reader = make_reader()
    agent = AGENTS[kind](reader)
    rows = torch.arange(8)
    plain = torch.tensor(agent.scheme.plain_action).expand(8, -1)
    episodes = roll_out(RAGGED, reader, NeverHalts(agent, plain), Plan.of(rows), 5, CHUNK)
    labels = RAGGED.labels
    recorded = record(episodes, labels, task_reward, reader.full_flops())
    assert recorded.num_steps.tolist() == [5, 1, 2, 5, 1, 3, 3, 2]
    for step in range(6):
        outcome = read(RAGGED, reader, HaltsAfter(agent, torch.full((8,), step)), Plan.of(rows), 5, CHUNK)
        assert isinstance(outcome, Outcome)
        column = recorded.num_steps.clamp(max=step)  # a sequence that has ended stays at its end
        torch.testing.assert_close(recorded.cost[rows, column], outcome.flops / reader.full_flops())
        truth = outcome.probabilities[rows, labels].double()
        right = (outcome.probabilities.argmax(1) == labels).double()
        worth = right if task_reward == "correctness" else truth.clamp_min(1e-3).log()
        torch.testing.assert_close(recorded.utility[rows, column], worth, atol=1e-5, rtol=1e-5)


def test_readings_are_recorded_to_the_end_with_other_decisions_drawn() -> None:
    reader = make_reader()
    agent = make_policy(reader, Halt(), Sift((0.0, 0.5)))
    scene = make_scene(reader, agent)
    scene.token_budget_share = 0.0
    for variety in (0.0, 1.0):
        fit = StoppingFit(variety=variety, sequences=40)
        recorded = fit.record(scene, torch.Generator().manual_seed(0))
        assert len(recorded.num_steps) == 40
        assert (recorded.num_steps == 5).all()
        # of readings all whole every one costs the same; of sifted ones some cost less
        assert (recorded.cost[:, -1].unique().numel() > 1) == (variety == 1.0)


def test_recorded_readings_end_where_their_budgets_cut_them() -> None:
    reader = make_reader()
    agent = make_policy(reader)
    scene = make_scene(reader, agent)
    scene.token_budget_share = 1.0
    recorded = StoppingFit(variety=0.0).record(scene, torch.Generator().manual_seed(0))
    budget = recorded.observation.tokens_left[:, 0]
    assert (budget % CHUNK > 0).any()
    assert torch.equal(recorded.num_steps, (budget.clamp(max=20) / CHUNK).ceil().long())
    # what has been spent by the end is what as many tokens cost, and the decisions on the way
    tokens = budget.clamp(max=20).long()
    read_whole = reader.read_flops(torch.full_like(tokens, reader.full_mode), tokens, 0 * tokens)
    answers = reader.predict_flops * (1 + recorded.num_steps)
    spent = recorded.cost.gather(1, recorded.num_steps[:, None])[:, 0] * reader.full_flops()
    expected = read_whole + answers + agent.decision_flops * recorded.num_steps
    torch.testing.assert_close(spent, expected, rtol=1e-12, atol=0)


class _Constant(nn.Module):
    """Would as soon stop as its one number says, whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros(()))

    def halting(self, observation: Observation) -> Tensor:
        return self.score.expand(observation.position.shape)


def test_a_rare_heavy_loss_outweighs_frequent_small_gains() -> None:
    """Going on brings 0.3 nats in 9 of 10 readings and costs 6.9 in the tenth: by the mean, halting is better."""
    reader = make_reader()
    recorded = StoppingFit().record(make_scene(reader, make_policy(reader)), torch.Generator().manual_seed(0))
    part = recorded.part(torch.arange(10))
    utility = torch.zeros(10, 2, dtype=torch.double)
    utility[:, 1] = torch.tensor([0.3] * 9 + [-6.9])
    first = Observation(*(None if c is None else c[:, :1] for c in part.observation))
    one_step = Recorded(first, utility, torch.zeros_like(utility), torch.ones(10, dtype=torch.long))
    agent = _Constant()
    optimizer = torch.optim.SGD(agent.parameters(), lr=0.2)
    for _ in range(40):
        optimizer.zero_grad()
        stopping_loss(agent, one_step, torch.zeros(10).double(), "regression").backward()  # type: ignore[arg-type]
        optimizer.step()
    assert agent.score.item() == pytest.approx(0.69 - 0.27, abs=1e-3)


# Where the best rule is known.


def make_scene(reader: object, agent: PolicyAgent, source: object = SOURCE) -> Scene:
    rows = torch.arange(len(source))  # type: ignore[arg-type]
    return Scene(source, rows, rows, reader, agent, CHUNK, 64, "correctness", (0.01, 100.0), 0.2)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["expected", "regression"])
def test_learns_the_best_rule_for_every_price(method: Method) -> None:
    reader = NeedleReader()
    agent = make_policy(reader, hidden_size=24)
    scene = make_scene(reader, agent)
    recorded = StoppingFit().record(scene, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(agent.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        rows = torch.randint(0, len(recorded.num_steps), (128,), generator=generator)
        loss = stopping_loss(agent, recorded.part(rows), scene.draw_prices(128, generator), method)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    test = NEEDLE.split("test")
    every = torch.arange(len(test))
    tokens = test.fetch(every, 0 * every, test.lengths, 20).tokens
    needle = needle_steps(tokens, NEEDLE.task.num_classes, CHUNK)

    def stops(price: float) -> Outcome:
        outcome = read(test, reader, agent, Plan.of(every, price), 64, CHUNK)
        assert isinstance(outcome, Outcome)
        return outcome

    # a reading of 20 tokens costs 100 rewards: not even the first observation pays
    assert not stops(100.0).observations.any()
    # looking for the needle costs a quarter of what it brings, and reading on after it nothing but costs
    assert stops(0.3).observations.tolist() == needle.tolist()
    # never before the needle; where reading is next to free, reading on after it is no great fault
    cheap = stops(0.01)
    assert (cheap.observations >= needle).all()
    assert (cheap.probabilities.argmax(1) == test.labels).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updates": -1}, "StoppingFit: updates, got -1; expected a whole number from 0 to 10,000,000"),
        ({"variety": 1.5}, "StoppingFit: variety, got 1.5; expected a number from 0 to 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as error:
        StoppingFit(**settings)  # type: ignore[arg-type]
    assert str(error.value) == message


def test_never_halting_costs_and_sees_what_the_policy_does() -> None:
    agent = make_policy(make_reader(), Halt(), peek_size=4)
    never: Agent = NeverHalts(agent, torch.ones(3, 1, dtype=torch.long))
    assert never.decision_flops == agent.decision_flops > 0
    assert never.needs == {"probabilities", "peek"}


def test_parts_of_recordings_are_rows() -> None:
    reader = make_reader()
    recorded = StoppingFit(sequences=9).record(
        make_scene(reader, make_policy(reader)), torch.Generator().manual_seed(0)
    )
    part: Recorded = recorded.part(torch.tensor([4, 2]))
    assert torch.equal(part.cost, recorded.cost[[4, 2]])
    assert torch.equal(part.observation.summary, recorded.observation.summary[[4, 2]])
