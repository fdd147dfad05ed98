"""What every agent must do: subclass `AgentContract`, implement `make_agent`, and get all its checks."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from temporal.agents.base import Agent
from temporal.decisions import READ_ON
from temporal.episodes import Observation, Outcome, Plan
from temporal.readers import Reader
from temporal.reading import Slots, read
from tests.needle import NEEDLE, TASK, make_reader

CHUNK = 4
PREVIEW_SIZE = 2
EPISODES = 64  # agents are made for these

few = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    # One method serves all subclasses, which is the point of a contract.
    suppress_health_check=[HealthCheck.differing_executors],
)


@st.composite
def observations(draw: st.DrawFn, max_rows: int = 5, summary_size: int = 20) -> Observation:
    """Whatever the loop can show an agent, and its extremes: no length, nothing left, no bounds, any price."""
    rows = []
    for _ in range(draw(st.integers(1, max_rows))):
        length = draw(st.integers(0, TASK.max_length))
        position = draw(st.integers(0, length))
        tokens = draw(st.integers(0, position))
        seen = draw(st.integers(0, tokens))
        rows.append(
            (length, position, tokens, seen, draw(st.integers(0, seen)), draw(st.integers(0, EPISODES - 1)))
        )
    length, position, tokens, seen, streak, episode = torch.tensor(rows).T
    num = len(rows)

    def column(*options: float) -> torch.Tensor:
        values = draw(st.lists(st.sampled_from(options), min_size=num, max_size=num))
        return torch.tensor(values, dtype=torch.float64)

    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    spread = column(0.0, 1.0, 1000.0).float()[:, None]  # no idea, some idea, entirely sure
    return Observation(
        summary=column(0.0, 1.0, 1e6).float()[:, None] * torch.randn(num, summary_size, generator=generator),
        probabilities=(spread * torch.randn(num, TASK.num_classes, generator=generator)).softmax(-1),
        streak=streak,
        position=position,
        length=length,
        tokens=tokens,
        observations=seen,
        flops=column(0.0, 1.0, 1e15),
        price=column(0.0, 1e-9, 0.003, 1.0, 30.0, 1e9, float("inf")),
        tokens_left=column(0.0, 1.0, 7.0, 1e9, float("inf")),
        flops_left=column(0.0, 1.0, 1e5, 1e15, float("inf")),
        peek=torch.randint(0, TASK.vocabulary_size, (num, CHUNK), generator=generator),
        episode=episode,
        seen=torch.rand(num, TASK.max_length, generator=generator) < 0.2,
        preview=torch.randn(num, TASK.max_length, PREVIEW_SIZE, generator=generator),
    )


def shown(observation: Observation, agent: Agent) -> Observation:
    """The observation as the loop hands it to an agent: without what it does not need."""
    costly = ("probabilities", "peek", "seen", "preview")
    return observation._replace(**{name: None for name in costly if name not in agent.needs})


def rows_of(observation: Observation, rows: list[int]) -> Observation:
    """Some rows."""
    return Observation(*(None if c is None else c[rows] for c in observation))  # type: ignore[arg-type]


class AgentContract(ABC):
    """The checks; `make_agent` is called anew for each of them."""

    @abstractmethod
    def make_agent(self, reader: Reader) -> Agent:
        """A small agent for chunks of `CHUNK` tokens, for the episodes 0 to `EPISODES` exclusive."""

    def agent(self) -> Agent:
        """The agent as it is evaluated."""
        torch.manual_seed(0)
        agent = self.make_agent(make_reader())
        return agent.eval() if isinstance(agent, nn.Module) else agent

    @few
    @given(observations())
    def test_actions_have_shape_type_and_range(self, observation: Observation) -> None:
        agent = self.agent()
        actions = agent.act(shown(observation, agent))
        assert actions.shape == (len(observation.episode), len(agent.scheme.num_options))
        assert actions.dtype == torch.int64
        assert (actions >= 0).all()
        assert (actions < torch.tensor(agent.scheme.num_options)).all()

    @few
    @given(observations(), st.randoms(use_true_random=False))
    def test_rows_do_not_know_of_each_other(self, observation: Observation, random: object) -> None:
        agent = self.agent()
        given = shown(observation, agent)
        actions = agent.act(given)
        order = list(range(len(observation.episode)))
        random.shuffle(order)  # type: ignore[attr-defined]
        assert torch.equal(agent.act(rows_of(given, order)), actions[order])
        for row in order:
            assert torch.equal(agent.act(rows_of(given, [row])), actions[[row]])

    @few
    @given(observations())
    def test_evaluation_draws_nothing_and_keeps_nothing(self, observation: Observation) -> None:
        agent = self.agent()
        given = shown(observation, agent)
        before = [None if c is None else c.clone() for c in given]
        torch.manual_seed(1)
        first = agent.act(given)
        torch.manual_seed(2)
        assert torch.equal(agent.act(given), first)
        for old, new in zip(before, given, strict=True):
            assert (old is None and new is None) or torch.equal(old, new)

    def test_decisions_cost_what_the_operator_counter_sees(self) -> None:
        agent = self.agent()
        observation = shown(first_observation(7), agent)
        with FlopCounterMode(display=False) as counter:
            agent.act(observation)
        # The counter sees products; what is looked up comes on top.
        assert counter.get_total_flops() + 7 * agent.look_up_flops == 7 * agent.decision_flops

    def test_needs_are_parts_of_an_observation(self) -> None:
        assert self.agent().needs <= {"probabilities", "peek"}

    @pytest.mark.parametrize("budget", [None, 9])
    def test_outcomes_do_not_depend_on_the_number_of_slots(self, budget: int | None) -> None:
        agent, reader = self.agent(), make_reader()
        rows = torch.randperm(EPISODES, generator=torch.Generator().manual_seed(0))[:17]
        plan = Plan.of(rows, torch.logspace(-3, 1, 17, dtype=torch.double), budget)
        outcomes = [read(NEEDLE.split("train"), reader, agent, plan, slots, CHUNK) for slots in (64, 1, 5)]
        first = outcomes[0]
        assert isinstance(first, Outcome)
        assert (first.tokens <= (budget or TASK.max_length)).all()
        for other in outcomes[1:]:
            assert isinstance(other, Outcome)
            torch.testing.assert_close(other.probabilities, first.probabilities, atol=1e-6, rtol=0)
            for name in ("sequence", "flops", "tokens", "observations", "halted"):
                assert torch.equal(getattr(other, name), getattr(first, name)), name


def first_observation(num: int) -> Observation:
    """What the loop shows before the first decision about `num` sequences."""
    needs = frozenset({"probabilities", "peek"})
    plan = Plan.of(torch.arange(num))
    return Slots(NEEDLE.split("train"), make_reader(), READ_ON, plan, num, CHUNK, needs).observe()
