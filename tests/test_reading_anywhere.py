"""The loop over places out of order: what was seen, when it ends, what previews cost, what the environment shows."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import defaultdict
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from temporal.agents.base import Agent
from temporal.agents.controls import ReadAll
from temporal.agents.looking import Coarse
from temporal.agents.rollout import SpanRecorder
from temporal.data.base import Sequences
from temporal.decisions import Decision, Halt, Jump, Mode, Order, Place, Scheme, Sift, coarse_to_fine
from temporal.env import ReadEnv, ReadVectorEnv
from temporal.episodes import Observation, Outcome, Plan, Transition
from temporal.errors import UserError
from temporal.reading import Slots, read
from tests.test_looking import LENGTHS, TASK, clips, noise_reader

LONGEST = TASK.max_length
SOURCE = clips(*LENGTHS)
READER = noise_reader()
PREVIEWS = LONGEST * READER.preview_flops
NOTHING: frozenset[str] = frozenset()
EVERYTHING = frozenset({"probabilities", "seen", "preview"})
few = settings(max_examples=25, deadline=None, derandomize=True)


class Dice(Agent):
    """Goes where the episode and the number of looks say, so that the batch has no say in it; may look twice."""

    def __init__(self, seed: int = 0, needs: frozenset[str] = EVERYTHING, cost: float = 0.0) -> None:
        self.scheme = Scheme((Halt(), Place(LONGEST), Mode(("8px", "16px"))))
        self.seed, self.needs, self.cost = seed, needs, cost

    @property
    def decision_flops(self) -> float:
        return self.cost

    def act(self, observation: Observation) -> Tensor:
        state = observation.episode * 1_000_003 + observation.observations * 10_007 + self.seed
        columns = []
        for num in (16, LONGEST, 2):
            state = state * 6364136223846793005 + 1442695040888963407  # Knuth's MMIX generator, modulo 2^64
            columns.append((state >> 33) % num)
        columns[0] = (columns[0] == 0).long()  # halts rarely
        return torch.stack(columns, 1)


class Notes:
    """A recorder that keeps what each episode was shown, did and paid."""

    def __init__(self) -> None:
        self.cost: dict[int, list[float]] = defaultdict(list)
        self.looks: dict[int, list[tuple[int, int]]] = defaultdict(list)  # (position, mode)
        self.seen: dict[int, list[set[int]]] = defaultdict(list)
        self.decided: dict[int, int] = defaultdict(int)

    def add(self, observation: Observation, actions: Tensor, transition: Transition) -> None:
        for row, episode in enumerate(observation.episode.tolist()):
            self.cost[episode].append(float(transition.cost[row]))
            self.decided[episode] += int(observation.length[row] > 0)
            if observation.seen is not None:
                self.seen[episode].append(set(observation.seen[row].nonzero()[:, 0].tolist()))
            if int(transition.chunk.counts[row]):
                position, mode = int(transition.chunk.positions[row, 0]), int(transition.mode[row])
                self.looks[episode].append((position, mode))


def run(
    agent: Agent, plan: Plan, slots: int = 3, notes: Notes | None = None, source: Sequences = SOURCE
) -> Outcome:
    outcome = read(source, READER, agent, plan, slots, 1, notes)
    assert outcome is not None
    assert outcome.episode.tolist() == list(range(len(plan)))
    return outcome


def all_of(times: int = 1, **budgets: float | Tensor) -> Plan:
    return Plan.of(torch.arange(len(LENGTHS)).repeat(times), **budgets)


# Where it is and when it ends.


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_what_was_seen_is_what_was_looked_at(slots: int) -> None:
    notes = Notes()
    outcome = run(Dice(), all_of(4), slots, notes)
    for episode in range(len(LENGTHS) * 4):
        looks = [position for position, _ in notes.looks[episode]]
        # a halt looks at nothing, so that the last thing shown may be what all looks before left
        for shown, num in zip(notes.seen[episode], range(len(looks) + 1), strict=False):
            assert shown == set(looks[:num])
        assert int(outcome.tokens[episode]) == int(outcome.observations[episode]) == len(looks)
        assert all(position < LENGTHS[episode % len(LENGTHS)] for position in looks)
    everywhere = [p for looks in notes.looks.values() for p, _ in looks]
    assert any(a > b for looks in notes.looks.values() for (a, _), (b, _) in itertools.pairwise(looks))
    assert set(everywhere) == set(range(LONGEST))


def test_outcomes_do_not_depend_on_the_number_of_slots() -> None:
    plan = Plan.of(torch.randperm(40, generator=torch.Generator().manual_seed(0)) % len(LENGTHS))
    first, *others = (run(Dice(cost=7), plan, slots) for slots in (64, 1, 5))
    assert first.tokens.unique().numel() > 5
    for other in others:
        torch.testing.assert_close(other.probabilities, first.probabilities, atol=1e-6, rtol=0)
        for name in ("sequence", "flops", "tokens", "observations", "halted"):
            assert torch.equal(getattr(other, name), getattr(first, name)), name


def test_a_sequence_ends_when_as_many_were_read_as_there_are() -> None:
    notes = Notes()
    outcome = run(Coarse(ReadAll()), all_of(), 3, notes)
    assert outcome.tokens.tolist() == list(LENGTHS)
    assert not outcome.halted.any()
    for episode, length in enumerate(LENGTHS):
        assert [p for p, _ in notes.looks[episode]] == list(coarse_to_fine(length))
        assert notes.decided[episode] == length  # none after the last look
    # the last position is no end: the first look of all goes to the middle, the third beyond it
    assert notes.looks[0][2][0] > notes.looks[0][3][0]


def test_nothing_is_looked_at_twice() -> None:
    class Stares(Dice):
        def act(self, observation: Observation) -> Tensor:
            return super().act(observation) * 0

    notes = Notes()
    outcome = run(Stares(), all_of(), 3, notes)
    assert outcome.tokens.tolist() == list(LENGTHS)
    assert notes.looks[0] == [(position, 1) for position in range(20)]


@pytest.mark.parametrize(("decision", "chunk"), [(Place(5), 1), (Place(64), 1), (Place(5), 8), (Order(), 4)])
def test_whoever_never_halts_reads_everything_once(decision: Decision, chunk: int) -> None:
    class Anywhere(Dice):
        def __init__(self) -> None:
            self.scheme, self.needs, self.cost = Scheme((decision,)), NOTHING, 0.0

        def act(self, observation: Observation) -> Tensor:
            return (observation.episode + 7 * observation.observations)[:, None] % decision.num_options

    recorder = SpanRecorder(len(LENGTHS))
    outcome = read(SOURCE, READER, Anywhere(), all_of(), 3, chunk, recorder)
    assert outcome is not None
    assert outcome.tokens.tolist() == list(LENGTHS)
    assert [sorted(read) for read in recorder.positions] == [list(range(length)) for length in LENGTHS]


@few
@given(
    seed=st.integers(0, 10**6),
    tokens=st.one_of(st.just(math.inf), st.integers(1, 25)),
    looks=st.floats(0, 20),
    needs=st.sampled_from([NOTHING, frozenset({"probabilities"}), EVERYTHING]),
    decision=st.sampled_from([0.0, 7.0, 3000.5]),
)
def test_budgets_are_never_exceeded(
    seed: int, tokens: float, looks: float, needs: frozenset[str], decision: float
) -> None:
    least = READER.predict_flops + PREVIEWS * ("preview" in needs)
    spread = torch.linspace(0, 1, len(LENGTHS) * 3, dtype=torch.double)
    flops = least + looks * READER.full_flops(1) * spread
    outcome = run(Dice(seed, needs, decision), all_of(3, tokens=tokens, flops=flops), 10)
    assert (outcome.flops <= flops).all()
    assert (outcome.tokens <= tokens).all()


@pytest.mark.parametrize("budget", [1, 2, 7, 20, 50])
def test_a_budget_in_frames_is_used_up(budget: int) -> None:
    outcome = run(Coarse(ReadAll()), all_of(tokens=budget))
    assert outcome.tokens.tolist() == [min(budget, length) for length in LENGTHS]


# What it costs.


@pytest.mark.parametrize(
    "needs", [NOTHING, frozenset({"preview"}), EVERYTHING], ids=["bare", "preview", "all"]
)
def test_costs_of_steps_add_up_and_previews_are_charged_once_at_the_start(needs: frozenset[str]) -> None:
    notes = Notes()
    outcome = run(Dice(needs=needs, cost=7), all_of(4), 5, notes)
    for episode in range(len(LENGTHS) * 4):
        previews = LENGTHS[episode % len(LENGTHS)] * READER.preview_flops * ("preview" in needs)
        modes = torch.tensor([mode for _, mode in notes.looks[episode]], dtype=torch.long)
        looks = READER.read_flops(modes, torch.ones_like(modes), torch.zeros_like(modes)).tolist()
        answers = 1 + len(looks) if "probabilities" in needs else 1
        expected = previews + sum(looks) + answers * READER.predict_flops + 7 * notes.decided[episode]
        assert sum(notes.cost[episode]) == pytest.approx(expected, rel=1e-12)
        assert float(outcome.flops[episode]) == pytest.approx(expected, rel=1e-12)
        # none of the later steps pays for more than a decision, a look and answers
        most = 7 + 2 * READER.predict_flops + READER.full_flops(1)
        assert max(notes.cost[episode][1:], default=0) <= most
        assert previews <= notes.cost[episode][0] <= previews + most


def test_previews_are_in_what_is_shown_as_spent_before_the_first_decision() -> None:
    slots = Slots(SOURCE, READER, Dice().scheme, all_of(flops=1e9), 3, 1, EVERYTHING, 7.0)
    observation = slots.observe()
    expected = [n * READER.preview_flops + READER.predict_flops + 7 for n in LENGTHS[:3]]
    assert observation.flops.tolist() == expected
    assert (observation.flops + observation.flops_left).tolist() == [1e9] * 3


def test_previews_are_those_of_each_slots_own_clip() -> None:
    expected = []
    for row, length in enumerate(LENGTHS):
        chunk = SOURCE.fetch(torch.tensor([row]), torch.tensor([0]), torch.tensor([length]), LONGEST)
        expected.append(READER.preview(chunk.tokens)[0])
        assert not expected[-1][length:].any()
    slots = Slots(SOURCE, READER, Dice().scheme, all_of(), 3, 1, EVERYTHING)
    checked = set()
    while slots.busy:
        observation = slots.observe()
        assert observation.preview is not None
        for episode, found in zip(observation.episode.tolist(), observation.preview, strict=True):
            torch.testing.assert_close(found, expected[episode], atol=1e-6, rtol=1e-6)
            checked.add(episode)
        slots.step(Dice().act(observation))
    assert checked == set(range(len(LENGTHS)))  # refilled slots too


def test_nothing_that_is_not_needed_is_kept() -> None:
    observation = Slots(SOURCE, READER, Dice().scheme, all_of(), 3, 1, NOTHING).observe()
    assert observation.seen is observation.preview is observation.probabilities is None


@pytest.mark.parametrize("part", [0.0, 0.999])
def test_a_budget_below_an_answer_and_the_previews(part: float) -> None:
    least = READER.predict_flops + PREVIEWS
    plan = all_of(flops=max(math.floor(part * least), 1))
    with pytest.raises(UserError) as error:
        read(SOURCE, READER, Dice(), plan, 3, 1)
    assert str(error.value) == (
        f"reading: budget in FLOPs, got {float(plan.flops_budget[0])}; "
        f"expected {least} or more, the cost of one answer and of the previews"
    )
    run(Dice(needs=NOTHING), all_of(flops=READER.predict_flops))  # without previews it is enough


def test_a_budget_of_an_answer_and_the_previews_buys_just_that() -> None:
    outcome = run(Dice(cost=7), all_of(flops=READER.predict_flops + PREVIEWS))
    longest = outcome.sequence == LENGTHS.index(LONGEST)
    assert outcome.flops[longest].tolist() == [READER.predict_flops + PREVIEWS]
    assert not outcome.tokens[longest].any()


@pytest.mark.parametrize("move", [Place(LONGEST), Order()])
@pytest.mark.parametrize("skip", [Mode(("copy", "16px")), Sift((0.0, 0.5))])
def test_reading_nothing_in_any_order_would_never_end(move: Decision, skip: Decision) -> None:
    with pytest.raises(UserError) as error:
        Scheme((Halt(), move, skip))
    assert str(error.value) == (
        f"scheme: decisions, got ['halt', 'move', '{skip.name}']; "
        "expected no sift and no mode copy where places come in any order"
    )
    assert Scheme((Halt(), Jump((0,)), skip)).forward


# The environment.


DECISIONS = (Halt(), Place(LONGEST), Mode(("8px", "16px")))


def env_of(**arguments: object) -> ReadEnv:
    given = {"decisions": DECISIONS, "chunk": 1, "price": (0.01, 1.0), "preview": True} | arguments
    return ReadEnv(SOURCE, READER, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("peek", [False, True])
@pytest.mark.parametrize("preview", [False, True])
@pytest.mark.parametrize("decisions", [DECISIONS, (Halt(), Order()), (Halt(),)])
def test_gymnasium_finds_nothing_to_complain_about(
    decisions: tuple[Decision, ...], preview: bool, peek: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        what: dict[str, Any] = {"source": SOURCE, "reader": READER, "decisions": decisions}
        env = gymnasium.make("temporal.env:temporal/Read-v0", **what, preview=preview, peek=peek, chunk=1)
        check_env(env.unwrapped)
    assert isinstance(env.observation_space, gymnasium.spaces.Dict)
    shown = {"summary", "probabilities", "scalars"}
    shown |= {"preview"} if preview else set()
    shown |= {"peek"} if peek else set()
    shown |= {"seen"} if len(decisions) > 1 else set()
    assert set(env.observation_space) == shown


def test_a_reader_without_previews_can_be_peeked_with() -> None:
    env = ReadEnv(SOURCE, noise_reader(preview=False), (Halt(),), chunk=2, peek=True)
    observation, _ = env.reset(options={"sequence": 1})
    assert observation["peek"].tolist() == [21, 22]  # the ids of frames
    assert observation in env.observation_space


def test_the_environment_shows_what_was_seen_and_what_previews_say() -> None:
    env = env_of()
    chunk = SOURCE.fetch(torch.tensor([2]), torch.tensor([0]), torch.tensor([8]), LONGEST)
    preview = torch.tanh(READER.preview(chunk.tokens)[0]).detach().numpy()
    observation, _ = env.reset(options={"sequence": 2})
    assert not observation["seen"].any()
    places = [19, 0, 10]
    for num, place in enumerate(places, start=1):
        observation, reward, ended, _, _ = env.step(np.array([0, place, 1]))
        assert set(observation["seen"].nonzero()[0]) == {p * 8 // LONGEST for p in places[:num]}
        assert np.allclose(observation["preview"], preview, atol=1e-6)
        assert observation in env.observation_space
        assert reward < 0
        assert not ended
    observation, _, ended, _, info = env.step(np.array([1, 0, 0]))
    assert ended
    assert set(observation["seen"].nonzero()[0]) == {7, 0, 4}  # the last observation too
    assert np.allclose(observation["preview"], preview, atol=1e-6)
    expected = 8 * READER.preview_flops + READER.full_flops(3) + 3 * READER.predict_flops
    assert info["flops"] == pytest.approx(expected)
    assert (info["tokens"], info["halted"]) == (3, True)


def test_vector_environments_forget_what_the_clip_before_saw() -> None:
    env = ReadVectorEnv(SOURCE, READER, 3, decisions=DECISIONS, chunk=1, preview=True)
    observation, _ = env.reset(seed=3)
    generator = np.random.default_rng(0)
    ends = 0
    for _ in range(60):
        looked = observation["seen"].sum(1)
        actions = np.stack([generator.integers([2, LONGEST, 2]) for _ in range(3)])
        observation, _, ended, _, _ = env.step(actions)
        assert observation in env.observation_space
        assert not observation["seen"][ended].any()
        assert (observation["seen"][~ended].sum(1) >= looked[~ended]).all()
        ends += int(ended.sum())
    assert ends > 20


def test_previews_that_the_reader_lacks() -> None:
    with pytest.raises(UserError) as error:
        ReadEnv(SOURCE, noise_reader(preview=False), DECISIONS, chunk=1, preview=True)
    assert str(error.value) == "reading: preview, got 'a reader without'; expected a reader that has previews"
