"""The policy network: what it sees, how it draws, and that price and budget reach its decisions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from scipy import stats
from torch import Tensor, nn

from temporal.agents.base import Agent
from temporal.agents.policy import PolicyAgent
from temporal.decisions import Halt, Jump, Mode, Sift
from temporal.episodes import Observation, Outcome, Plan
from temporal.errors import UserError
from temporal.readers import Reader
from temporal.reading import read
from tests.contracts.agent import CHUNK, AgentContract, few, first_observation, observations
from tests.needle import NEEDLE, TASK, make_policy, make_reader

READER = make_reader()


def spread_out(agent: PolicyAgent) -> PolicyAgent:
    """With larger weights, so that its decisions differ from row to row."""
    for layer in agent.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
    return agent


class TestHalting(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return spread_out(make_policy(reader))


class TestJumpingInModes(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return spread_out(make_policy(reader, Halt(), Jump((0, 3, 9)), Mode(("copy", "skim", "full"))))


class TestSiftingWithPreview(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return spread_out(make_policy(reader, Sift((0.0, 0.5)), Halt(), peek_size=3, dropout=0.5))


class TestWithoutSummary(AgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return spread_out(make_policy(reader, Halt(), summary_size=0))


def test_a_seed_makes_the_weights() -> None:
    one, same, other = (make_policy(READER, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


@few
@given(observations())
def test_inputs_are_bounded_whatever_is_observed(observation: Observation) -> None:
    agent = spread_out(make_policy(READER, Halt(), Jump((0, 4)), peek_size=3))
    inputs = agent.inputs(observation)
    peek = inputs[:, -3:]
    assert inputs.isfinite().all()
    assert inputs[:, :-3].abs().max() <= 2 + 1e-6
    largest = agent.peek.weight.abs().max() if agent.peek is not None else 0
    assert (peek.abs() <= largest + 1e-6).all()
    judgement = agent.judge(observation)
    assert all(logits.isfinite().all() for logits in judgement.logits)
    assert judgement.value.isfinite().all()
    log_probability, entropy = agent.log_probability(judgement, agent.act(observation)[:, :2])
    assert (log_probability <= 0).all()
    assert log_probability.isfinite().all()
    assert entropy.isfinite().all()


def test_judging_many_steps_is_judging_each() -> None:
    agent = spread_out(make_policy(READER, Halt(), Jump((0, 4)), peek_size=3))
    one = first_observation(6)
    both = Observation(*(None if c is None else torch.stack([c, c.flip(0)]) for c in one))  # type: ignore[union-attr]
    together, alone = agent.judge(both), agent.judge(one)
    for logits, expected in zip(
        [*together.logits, together.value], [*alone.logits, alone.value], strict=True
    ):
        torch.testing.assert_close(logits[0], expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(logits[1], expected.flip(0), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "field",
    ["price", "tokens_left", "flops_left", "length", "probabilities", "summary", "streak", "tokens", "peek"],
)
def test_everything_that_is_known_reaches_the_decision(field: str) -> None:
    agent = spread_out(make_policy(READER, peek_size=3))
    observation = first_observation(1)._replace(
        price=torch.tensor([0.3], dtype=torch.double),
        tokens_left=torch.tensor([9.0], dtype=torch.double),
        flops_left=torch.tensor([READER.full_flops(12)], dtype=torch.double),
    )
    if field == "flops_left":
        observation = observation._replace(tokens_left=torch.tensor([math.inf], dtype=torch.double))

    def logit(given: Observation) -> Tensor:
        logits = agent.judge(given).logits[0]
        return (logits[..., 1] - logits[..., 0])[0]

    value = getattr(observation, field)
    if value.is_floating_point():
        value.requires_grad_(True)
        [gradient] = torch.autograd.grad(logit(observation), [value])
        assert gradient.abs().max() > 0
    else:
        other = value // 2 + 1
        assert logit(observation._replace(**{field: other})) != logit(observation)


def test_prices_beyond_the_range_look_alike() -> None:
    agent = make_policy(READER, Halt(), lowest_price=0.01, highest_price=1.0)
    prices = torch.tensor([0.0, 0.01, 0.1, 1.0, 50.0], dtype=torch.double)
    column = agent.inputs(first_observation(5)._replace(price=prices))[:, 0]
    assert column.tolist() == pytest.approx([-1, -1, 0, 1, 1], abs=1e-6)


def test_drawing_follows_the_probabilities_and_the_generator() -> None:
    agent = make_policy(READER, Halt(), Jump((0, 4, 9)))
    with torch.no_grad():
        agent.heads.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 1.0, -1.0]))
    num = 6000
    row = first_observation(1)
    observation = Observation(*(None if c is None else c.expand(num, *c.shape[1:]) for c in row))  # type: ignore[union-attr]
    with agent.sampling(torch.Generator().manual_seed(0)):
        actions = agent.act(observation)
    with agent.sampling(torch.Generator().manual_seed(0)):
        assert torch.equal(agent.act(observation), actions)
    assert torch.equal(agent.act(observation), agent.act(observation))  # drawing ended
    chances = [each.softmax(-1)[0].double() for each in agent.judge(row).logits]
    joint = (chances[0][:, None] * chances[1]).flatten()
    counts = torch.bincount(actions[:, 0] * 3 + actions[:, 1], minlength=6)
    expected = (joint / joint.sum() * num).detach().numpy()
    assert stats.chisquare(counts.numpy(), expected).pvalue > 1e-3


def test_drawing_ends_with_an_error_as_well() -> None:
    agent = make_policy(READER)
    with pytest.raises(RuntimeError), agent.sampling(torch.Generator()):
        raise RuntimeError
    assert agent._draw is None


def test_the_value_head_is_not_charged() -> None:
    small, large = make_policy(READER, hidden_size=12), make_policy(READER, hidden_size=24)
    inputs = 11 + TASK.num_classes + 3
    assert small.decision_flops == 2 * (READER.summary_size * 3 + inputs * 12 + 12 * 12 + 12 * 2)
    assert large.decision_flops == 2 * (READER.summary_size * 3 + inputs * 24 + 24 * 24 + 24 * 2)


def test_decisions_are_charged_where_they_are_taken() -> None:
    agent = make_policy(READER)
    with torch.no_grad():
        agent.heads.bias.copy_(torch.tensor([50.0, -50.0]))  # never halts
    outcome = read(NEEDLE.split("train"), READER, agent, Plan.of(torch.arange(3)), 3, CHUNK)
    assert isinstance(outcome, Outcome)
    reading = READER.full_flops() - READER.predict_flops
    expected = (
        reading + 6 * READER.predict_flops + 5 * agent.decision_flops
    )  # 5 decisions; an answer at each and at the end
    assert outcome.flops.tolist() == [expected] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lowest_price": 2.0, "highest_price": 1.0},
            "PolicyAgent: lowest_price, got 2.0; expected below highest_price (1.0)",
        ),
        ({"hidden_size": 0}, "PolicyAgent: hidden_size, got 0; expected a whole number from 1 to 8,192"),
        ({"peek_size": -1}, "PolicyAgent: peek_size, got -1; expected a whole number from 0 to 8,192"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as error:
        make_policy(READER, Halt(), **settings)
    assert str(error.value) == message


def test_modes_that_the_reader_lacks() -> None:
    with pytest.raises(UserError) as error:
        make_policy(READER, Halt(), Mode(("skimm",)))
    assert str(error.value) == (
        "Mode: name, got 'skimm'; expected one of the reader's modes copy, skim, full; did you mean 'skim'?"
    )


def test_no_decision_is_an_error() -> None:
    with pytest.raises(UserError) as error:
        PolicyAgent(TASK, READER, ())
    assert str(error.value) == "scheme: decisions, got []; expected one or more, each kind at most once"
