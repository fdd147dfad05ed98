"""Choosing places: what an agent makes of previews, of what it has seen, and of what is left."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from temporal.agents.base import Agent
from temporal.agents.places import PlaceHead
from temporal.agents.policy import BLOCKED, NUM_PROMISES, PolicyAgent
from temporal.agents.rollout import SpanRecorder, roll_out
from temporal.cost import module_flops
from temporal.decisions import Halt, Jump, Mode, Place
from temporal.episodes import Observation, Plan
from temporal.errors import UserError
from temporal.readers import Reader, Task
from temporal.reading import read
from tests.contracts.agent import shown
from tests.needle import make_policy
from tests.test_looking import LENGTHS, TASK, FrameAgentContract, clips, first_frames, noise_reader
from tests.test_policy import spread_out

READER = noise_reader()
SOURCE = clips(*LENGTHS)


def looker(
    reader: Reader = READER, num_places: int = 20, spread: bool = True, preview: bool = True
) -> PolicyAgent:
    """An agent that goes anywhere."""
    agent = make_policy(reader, Halt(), Place(num_places), preview=preview)
    return spread_out(agent) if spread else agent


def never_halting(agent: PolicyAgent) -> PolicyAgent:
    with torch.no_grad():
        agent.heads.bias[:2] += torch.tensor([1e6, -1e6])
    return agent


class TestPlaces(FrameAgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return looker(reader)


class TestMorePlacesThanFramesInModes(FrameAgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return spread_out(make_policy(reader, Mode(("8px", "16px")), Place(33), Halt(), dropout=0.5))


class TestWithoutPreviews(FrameAgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return looker(reader, preview=False)


class TestLookingAhead(FrameAgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return spread_out(make_policy(reader, Halt(), Jump((0, 2)), ahead=3))


def seeing(*seen: int, length: int = 20, position: int = 0, num: int = 1) -> Observation:
    """What is known when those positions were read."""
    observation = first_frames(num)
    mask = torch.zeros(num, TASK.max_length, dtype=torch.bool)
    mask[:, list(seen)] = True
    here = torch.ones(num, dtype=torch.long)
    return observation._replace(
        seen=mask, length=length * here, position=position * here, tokens=len(seen) * here,
        observations=len(seen) * here,
    )  # fmt: skip


def place_logits(agent: PolicyAgent, observation: Observation) -> Tensor:
    return agent.judge(shown(observation, agent)).logits[1].detach()


# Where it goes.


@pytest.mark.parametrize("preview", [True, False])
@pytest.mark.parametrize("num_places", [20, 64, 8])
def test_no_place_is_seen_twice(num_places: int, preview: bool) -> None:
    agent = never_halting(looker(num_places=num_places, preview=preview))
    plan = Plan.of(torch.arange(len(LENGTHS)).repeat(6))
    with agent.sampling(torch.Generator().manual_seed(0)):
        spans = SpanRecorder(len(plan))
        read(SOURCE, READER, agent, plan, 16, 1, spans)
    orders = set()
    for found, length in zip(spans.positions, LENGTHS * 6, strict=True):
        reachable = {i * length // num_places for i in range(num_places)} if length else set()
        first = found[: len(reachable)]
        assert sorted(first) == sorted(reachable)  # all before any is seen again
        orders.add(tuple(first))
    assert len(orders) > 12  # and they are drawn


def test_what_was_seen_has_no_chance_unless_all_was() -> None:
    agent = looker()
    logits = place_logits(agent, seeing(0, 7, 19, num=3))
    assert (logits[:, [0, 7, 19]] == BLOCKED).all()
    free = [i for i in range(20) if i not in (0, 7, 19)]
    assert (logits[:, free] > BLOCKED / 2).all()
    assert (logits.softmax(-1)[:, [0, 7, 19]] == 0).all()
    everything = place_logits(agent, seeing(*range(20)))
    assert (everything > BLOCKED / 2).all()


def test_several_places_of_one_position_are_taken_together() -> None:
    logits = place_logits(looker(), seeing(1, length=5))[0]
    assert (logits[4:8] == BLOCKED).all()  # 20 places are 4 for each of 5 positions
    assert (logits[[*range(4), *range(8, 20)]] > BLOCKED / 2).all()


def test_it_starts_in_the_order_of_the_previews() -> None:
    agent = never_halting(looker(spread=False))
    spans = SpanRecorder(len(LENGTHS))
    read(SOURCE, READER, agent, Plan.of(torch.arange(len(LENGTHS))), 3, 1, spans)
    for row, found in enumerate(spans.positions):
        size = torch.tensor([LENGTHS[row]])
        ids = SOURCE.fetch(torch.tensor([row]), torch.tensor([0]), size, 20).tokens
        promise = READER.preview(ids)[0, : LENGTHS[row], 0]
        assert list(found) == promise.argsort(descending=True).tolist()


def test_without_previews_it_starts_without_a_wish() -> None:
    logits = place_logits(looker(spread=False, preview=False), seeing(3))[0]
    assert logits[[i for i in range(20) if i != 3]].unique().tolist() == [0]


def test_the_head_knows_what_was_seen_and_where_it_looked_last() -> None:
    torch.manual_seed(0)
    head = PlaceHead(20, 0, 4, reach=5)
    nn.init.normal_(head.score.weight)

    def scores(*seen: int, position: int) -> Tensor:
        found: Tensor = head(seeing(*seen, position=position)._replace(preview=None), torch.zeros(1, 4))
        return found[0]

    start, last, more = scores(3, position=0), scores(3, position=13), scores(3, 6, position=13)
    # it had read up to 13, so that it looked at 12: what stands within two of it is changed, and no more
    assert (start != last).nonzero()[:, 0].tolist() == [10, 11, 12, 13, 14]
    assert (last != more).nonzero()[:, 0].tolist() == [4, 5, 6, 7, 8]


# What it costs and how it learns.


@pytest.mark.parametrize("preview_size", [0, 1, 5])
@pytest.mark.parametrize("reach", [1, 5])
def test_the_heads_costs_are_what_the_operator_counter_sees(preview_size: int, reach: int) -> None:
    head = PlaceHead(20, preview_size, 12, channels=6, reach=reach)
    observation = first_frames(3)
    preview = torch.randn(3, 20, preview_size) if preview_size else None
    with FlopCounterMode(display=False) as counter:
        scores = head(observation._replace(preview=preview), torch.randn(3, 12))
    assert scores.shape == (3, 20)
    assert counter.get_total_flops() == 3 * head.flops
    assert head.flops == 20 * 2 * (6 * (preview_size + 3) * reach + 6) + 2 * 12 * 6


def test_an_agents_decision_costs_its_head_too() -> None:
    agent = looker(spread=False)
    assert agent.places is not None
    others = [agent.squeeze, agent.trunk, agent.heads]
    products = agent.places.flops + sum(module_flops(m) for m in others if m is not None)
    assert agent.decision_flops == products + agent.look_up_flops
    assert agent.look_up_flops == 2 * 20  # it looks through the previews of all positions for the best


def gradients(agent: PolicyAgent) -> dict[str, float]:
    """Largest entry of the gradient that a policy gradient gives each part of the head."""
    with agent.sampling(torch.Generator().manual_seed(0)):
        episodes = roll_out(SOURCE, READER, agent, Plan.of(torch.arange(len(LENGTHS))), 8, 1)
    judgement = agent.judge(episodes.observation)
    log_probability, _ = agent.log_probability(judgement, episodes.actions)
    weight = torch.randn(log_probability.shape, generator=torch.Generator().manual_seed(0))
    (log_probability * weight * episodes.valid).sum().backward()
    assert agent.places is not None
    return {
        name: 0.0 if p.grad is None else float(p.grad.abs().max())
        for name, p in agent.places.named_parameters()
    }


def test_gradients_reach_every_part_of_the_head() -> None:
    # the last layer starts at 0 and lets nothing through to those before it until it has moved
    begun = gradients(never_halting(looker(spread=False)))
    assert {name for name, size in begun.items() if size > 1e-5} == {"trust", "score.weight"}
    moved = gradients(never_halting(looker()))
    assert {name for name, size in moved.items() if size > 1e-5} >= {
        "trust", "score.weight", "around.weight", "around.bias", "whole.weight", "whole.bias",
    }  # fmt: skip


def test_the_convolution_learns_what_previews_do_not_say() -> None:
    """Truth stands two positions after the highest preview: an order that only the neighbourhood gives away."""
    torch.manual_seed(0)
    head = PlaceHead(20, 1, 4)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    generator = torch.Generator().manual_seed(0)

    start = first_frames(1)._replace(
        seen=torch.zeros(64, 20, dtype=torch.bool), position=torch.zeros(64, dtype=torch.long)
    )

    def problem() -> tuple[Observation, Tensor]:
        peak = torch.randint(0, 18, (64,), generator=generator)
        return start._replace(preview=4 * nn.functional.one_hot(peak, 20)[..., None].float()), peak + 2

    observation, truth = problem()
    assert (head(observation, torch.zeros(64, 4)).argmax(1) == truth - 2).all()
    for _ in range(150):
        observation, truth = problem()
        loss = nn.functional.cross_entropy(head(observation, torch.zeros(64, 4)), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    observation, truth = problem()
    assert (head(observation, torch.zeros(64, 4)).argmax(1) == truth).double().mean() > 0.95


# What it says of what is known.


@pytest.mark.parametrize("preview", [True, False])
def test_judging_many_steps_is_judging_each(preview: bool) -> None:
    agent = never_halting(looker(preview=preview))
    with agent.sampling(torch.Generator().manual_seed(0)):
        episodes = roll_out(SOURCE, READER, agent, Plan.of(torch.arange(len(LENGTHS))), 8, 1)
    together = agent.judge(episodes.observation)
    for step in range(episodes.valid.shape[1]):
        here = Observation(*(None if c is None else c[:, step] for c in episodes.observation))  # type: ignore[arg-type]
        alone = agent.judge(here)
        for whole, one in zip([*together.logits, together.value], [*alone.logits, alone.value], strict=True):
            torch.testing.assert_close(whole[:, step], one, atol=1e-5, rtol=1e-5)


def test_entropy_is_that_of_the_places_that_are_left() -> None:
    agent = looker()
    observation = seeing(*range(4, 20))
    judgement = agent.judge(observation)
    going = torch.tensor([[0, 2]])
    log_probability, entropy = agent.log_probability(judgement, going)
    halt, place = (logits[0] for logits in judgement.logits)
    halt, place = halt.softmax(0), place[:4].softmax(0)
    torch.testing.assert_close(entropy[0], torch.special.entr(halt).sum() + torch.special.entr(place).sum())
    torch.testing.assert_close(log_probability[0], halt[0].log() + place[2].log())
    (entropy + log_probability).sum().backward()
    assert all(p.grad.isfinite().all() for p in agent.parameters() if p.grad is not None)
    only, none = agent.judge(seeing(*range(1, 20))), agent.judge(seeing(*range(20)))
    assert only.logits[1].softmax(-1)[0, 0] == 1
    assert agent.log_probability(only, going * 0)[1].isfinite().all()
    assert agent.log_probability(none, going)[0] > BLOCKED / 2


@pytest.mark.parametrize("order", [(Halt(), Place(20)), (Place(20), Mode(("8px", "16px")), Halt())])
def test_halting_is_the_difference_of_judges_logits(order: tuple[Halt | Place | Mode, ...]) -> None:
    agent = spread_out(make_policy(READER, *order))
    observation = seeing(2, 9, position=10, num=4)
    index = agent.scheme.halt_index
    assert index is not None
    logits = agent.judge(observation).logits[index]
    assert torch.equal(agent.halting(observation), logits[:, 1] - logits[:, 0])
    assert agent.halting(observation).unique().numel() > 1


def test_promises_are_the_best_previews_left() -> None:
    agent = looker()
    preview = torch.arange(20.0).flip(0)[None, :, None].repeat(1, 1, 2) / 4
    left = agent._best_left(seeing(0, 2, length=6)._replace(preview=preview))
    torch.testing.assert_close(left, torch.tanh(torch.tensor([[18.0, 16.0, 15.0, 14.0]]) / 16))
    few = agent._best_left(seeing(0, 2, length=4)._replace(preview=preview))
    torch.testing.assert_close(few, torch.tensor([[math.tanh(18 / 16), math.tanh(16 / 16), -1, -1]]))
    assert agent._best_left(seeing(length=0)).tolist() == [[-1] * NUM_PROMISES]


def test_promises_of_clips_shorter_than_their_number() -> None:
    reader = noise_reader(Task(1, TASK.class_names, 2, 3))
    agent = make_policy(reader, Halt(), Place(3))
    source = clips(3, 1, 2)
    outcome = read(source, reader, never_halting(agent), Plan.of(torch.arange(3)), 3, 1)
    assert outcome is not None
    assert outcome.tokens.tolist() == [3, 1, 2]
    observation = first_frames(2)
    short = observation._replace(
        seen=torch.zeros(2, 3, dtype=torch.bool), length=torch.tensor([3, 1]), preview=torch.ones(2, 3, 2)
    )
    one = math.tanh(1 / 4)
    torch.testing.assert_close(agent._best_left(short), torch.tensor([[one] * 3 + [-1], [one] + [-1] * 3]))


def test_what_comes_next_is_shown_up_to_the_end() -> None:
    agent = make_policy(READER, Halt(), Jump((0, 2)), ahead=3)
    observation = first_frames(4)._replace(
        length=torch.tensor([20, 20, 6, 0]), position=torch.tensor([5, 18, 6, 0])
    )
    assert observation.preview is not None
    found = agent._coming(observation).view(4, 3, 3)
    assert found[..., 2].tolist() == [[1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(found[0, :, :2], torch.tanh(observation.preview[0, 5:8] / 4))
    torch.testing.assert_close(found[1, :2, :2], torch.tanh(observation.preview[1, 18:] / 4))
    assert not found[1:][found[1:, :, 2] == 0].any()


def test_no_previews_are_asked_for_where_none_are_used() -> None:
    halting = make_policy(READER, Halt(), Jump((0, 2)))
    assert halting.needs == {"probabilities"}
    assert looker(preview=False).needs == {"probabilities", "seen"}
    assert looker().needs == {"probabilities", "seen", "preview"}
    assert looker(noise_reader(preview=False)).needs == {"probabilities", "seen"}
    with pytest.raises(UserError) as error:
        make_policy(noise_reader(preview=False), Halt(), ahead=2)
    assert str(error.value) == "PolicyAgent: ahead, got 2; expected 0, for the reader has no previews"
