"""Recording what the loop does: laid out densely, it is the same reading again."""

from __future__ import annotations

import pytest
import torch

from temporal.agents.base import Agent
from temporal.agents.controls import Prefix, Random, Sifting
from temporal.agents.policy import PolicyAgent
from temporal.agents.rollout import SpanRecorder, Trajectories, TrajectoryRecorder, roll_out
from temporal.decisions import Halt, Jump, Mode, Sift
from temporal.episodes import Outcome, Plan
from temporal.readers import Reader, TransformerReader
from temporal.reading import read
from tests.needle import NEEDLE, TASK, make_policy, make_reader

CHUNK = 4
SOURCE = NEEDLE.split("train")
CLOSE = 1e-5  # float32 sums in another order; read-outs are near 1


def transformer() -> Reader:
    torch.manual_seed(0)
    return TransformerReader(TASK, width=8, num_heads=2, ratio=2).eval()


READERS = {"gru": make_reader(), "lstm": make_reader(cell="lstm"), "transformer": transformer()}
each_reader = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)


def driver(reader: Reader) -> PolicyAgent:
    """An agent that halts, jumps, sifts, and reads in every mode."""
    agent = make_policy(reader, Halt(), Jump((0, 3)), Mode(reader.modes), Sift((0.0, 0.4)), peek_size=2)
    with torch.no_grad():
        agent.heads.bias[0] += 2  # rarely halts
    return agent


def plan_of(num: int = 24) -> Plan:
    price = torch.logspace(-2, 1, num, dtype=torch.double)
    budget = torch.tensor([float("inf"), 9.0, 3.0]).double().repeat(num // 3)
    return Plan.of(torch.arange(num) * 2, price, budget)


def drawn(reader: Reader, num_slots: int = 7, seed: int = 0) -> Trajectories:
    agent = driver(reader)
    with agent.sampling(torch.Generator().manual_seed(seed)):
        return roll_out(SOURCE, reader, agent, plan_of(), num_slots, CHUNK)


@each_reader
def test_replaying_what_was_read_gives_the_recorded_read_outs(reader: Reader) -> None:
    episodes = drawn(reader)
    assert set(episodes.reads.modes[episodes.reads.counts > 0].tolist()) == set(range(1, len(reader.modes)))
    assert (episodes.reads.counts[episodes.valid] == 0).any()  # copies and halts leave gaps
    with torch.no_grad():
        replayed = reader.replay(episodes.reads)
        answers = reader.predict(replayed[:, -1]).softmax(-1)
    before = episodes.valid[..., None]
    torch.testing.assert_close(
        replayed[:, :-1] * before, episodes.observation.summary * before, atol=CLOSE, rtol=CLOSE
    )
    torch.testing.assert_close(answers, episodes.answers, atol=CLOSE, rtol=CLOSE)


@each_reader
def test_steps_add_up_to_outcomes(reader: Reader) -> None:
    episodes = drawn(reader)
    torch.testing.assert_close(episodes.cost.sum(1), episodes.flops)
    assert torch.equal(episodes.reads.counts.sum(1), episodes.tokens)
    assert not episodes.cost[~episodes.valid].any()
    assert not episodes.reads.counts[~episodes.valid].any()
    last = episodes.valid.sum(1) - 1
    rows = torch.arange(len(last))
    assert torch.equal(episodes.actions[rows, last, 0] == 1, episodes.halted)
    halts = (episodes.actions[..., 0] == 1) & episodes.valid
    assert torch.equal(halts.sum(1), episodes.halted.long())  # never before the last step


def test_what_is_recorded_is_what_was_there() -> None:
    episodes = drawn(READERS["gru"])
    assert torch.equal(episodes.sequence, plan_of().sequences)
    assert torch.equal(episodes.observation.price[:, 0], plan_of().price)
    for row, sequence in enumerate(episodes.sequence.tolist()):
        real = episodes.reads.valid()[row]
        places = episodes.reads.positions[row][real]
        whole = SOURCE.fetch(torch.tensor([sequence]), torch.tensor([0]), torch.tensor([20]), 20).tokens[0]
        assert torch.equal(episodes.reads.tokens[row][real], whole[places])
        assert places.tolist() == sorted(set(places.tolist()))
        steps = episodes.observation.episode[row][episodes.valid[row]]
        assert steps.unique().tolist() == [row]


@each_reader
def test_trajectories_do_not_depend_on_the_number_of_slots(reader: Reader) -> None:
    agents: list[Agent] = [driver(reader), Random(8, CHUNK, 20, seed=1), Sifting(Prefix(7), 0.4)]
    for agent in agents:
        first, *others = (roll_out(SOURCE, reader, agent, plan_of(), slots, CHUNK) for slots in (24, 1, 5))
        for other in others:
            for name, column in first.observation._asdict().items():
                torch.testing.assert_close(getattr(other.observation, name), column, atol=CLOSE, rtol=CLOSE)
            torch.testing.assert_close(other.answers, first.answers, atol=CLOSE, rtol=CLOSE)
            for name in ("actions", "cost", "valid", "sequence", "halted", "flops", "tokens"):
                assert torch.equal(getattr(other, name), getattr(first, name)), name
            assert all(torch.equal(a, b) for a, b in zip(other.reads, first.reads, strict=True))


def test_the_same_draws_make_the_same_trajectories() -> None:
    one, same, other = (drawn(READERS["gru"], seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.actions, same.actions)
    assert torch.equal(one.answers, same.answers)
    assert one.actions.shape != other.actions.shape or not torch.equal(one.actions, other.actions)


def test_parts_are_rows() -> None:
    episodes = drawn(READERS["gru"])
    rows = torch.tensor([5, 2, 11])
    part = episodes.part(rows)
    assert torch.equal(part.actions, episodes.actions[rows])
    assert torch.equal(part.reads.tokens, episodes.reads.tokens[rows])
    assert torch.equal(part.observation.summary, episodes.observation.summary[rows])
    assert (
        episodes._replace(observation=episodes.observation._replace(peek=None)).part(rows).observation.peek
        is None
    )


def test_summaries_can_be_left_out() -> None:
    recorder = TrajectoryRecorder(keep_summary=False)
    agent = driver(READERS["gru"])
    read(SOURCE, READERS["gru"], agent, plan_of(), 7, CHUNK, recorder)
    lean, full = recorder.trajectories(), roll_out(SOURCE, READERS["gru"], agent, plan_of(), 7, CHUNK)
    assert lean.observation.summary.shape[-1] == 0
    assert full.observation.summary.shape[-1] == READERS["gru"].summary_size
    assert torch.equal(lean.cost, full.cost)


def test_nothing_recorded_needs_gradients() -> None:
    episodes = drawn(READERS["gru"])
    assert not episodes.observation.summary.requires_grad
    assert not episodes.answers.requires_grad


def test_spans_are_the_places_read() -> None:
    reader = READERS["gru"]
    spans, recorder = SpanRecorder(24), TrajectoryRecorder()
    for each in (spans, recorder):
        outcome = read(SOURCE, reader, Sifting(Prefix(7), 0.4), plan_of(), 5, CHUNK, each)
    assert isinstance(outcome, Outcome)
    assert [len(places) for places in spans.positions] == outcome.tokens.tolist()
    reads = recorder.trajectories().reads
    for row, places in enumerate(spans.positions):
        assert list(places) == reads.positions[row][reads.valid()[row]].tolist()
