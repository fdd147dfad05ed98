"""The loop over refilling slots: what it does, what it charges, what it never exceeds."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from temporal.agents.base import Agent
from temporal.agents.controls import Prefix, ReadAll
from temporal.agents.rollout import roll_out
from temporal.data.base import Sequences
from temporal.data.generated import NeedleSource
from temporal.decisions import Decision, Halt, Jump, Mode, Scheme, Sift
from temporal.episodes import Observation, Outcome, Plan, Transition
from temporal.errors import UserError
from temporal.readers import Reader, RecurrentReader, Task, TransformerReader
from temporal.reading import Slots, read

NEEDLE = NeedleSource(num_sequences=66, length=21)  # more than 64 slots hold
SOURCE = NEEDLE.split("train")
EVERYTHING = frozenset({"probabilities", "peek"})
NOTHING: frozenset[str] = frozenset()


def make_reader(kind: str, task: Task = NEEDLE.task, capacity: int | None = None) -> Reader:
    torch.manual_seed(0)
    reader: Reader
    if kind == "transformer":
        reader = TransformerReader(task, width=8, num_heads=2, ratio=2, capacity=capacity)
    else:
        reader = RecurrentReader(task, "lstm" if kind == "lstm" else "gru", 8, 12, skim_size=3)
    torch.nn.init.normal_(reader.get_submodule("embedding").weight)  # type: ignore[arg-type]
    reader.salience = torch.linspace(0, 1, task.vocabulary_size)
    return reader.eval()


READERS = {kind: make_reader(kind) for kind in ("gru", "lstm", "transformer")}
each_reader = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)


class Dice(Agent):
    """Draws every option from the episode and the place alone, so that the batch has no say in it."""

    peek_flops = 3.0

    def __init__(
        self, reader: Reader, seed: int = 0, needs: frozenset[str] = NOTHING, decision_flops: float = 0.0
    ) -> None:
        self.scheme = Scheme((Halt(), Jump((0, 3, 30)), Mode(reader.modes), Sift((0.0, 0.5))))
        often = ([0] * 9 + [1], [0] * 12 + [1] * 7 + [2], list(range(len(reader.modes))), [0, 1])
        self.tables = [torch.tensor(options) for options in often]
        self.seed, self.needs, self._decision_flops = seed, needs, decision_flops
        self.rows = 0

    @property
    def decision_flops(self) -> float:
        return self._decision_flops

    def act(self, observation: Observation) -> Tensor:
        self.rows += len(observation.episode)
        state = observation.episode * 1_000_003 + observation.position * 10_007 + self.seed
        columns = []
        for table in self.tables:
            state = state * 6364136223846793005 + 1442695040888963407  # Knuth's MMIX generator, modulo 2^64
            columns.append(table[(state >> 33) % len(table)])
        return torch.stack(columns, 1)


class Script(Agent):
    """Takes the same action at every step."""

    def __init__(
        self, *pairs: tuple[Decision, int], needs: frozenset[str] = NOTHING, cost: float = 0.0
    ) -> None:
        self.scheme = Scheme(tuple(decision for decision, _ in pairs))
        self.action = [option for _, option in pairs]
        self.needs, self.cost = needs, cost

    @property
    def decision_flops(self) -> float:
        return self.cost

    def act(self, observation: Observation) -> Tensor:
        return torch.tensor([self.action]).expand(len(observation.episode), -1)


class Notes:
    """A recorder that keeps what each episode did."""

    def __init__(self) -> None:
        self.cost: dict[int, float] = defaultdict(float)
        self.decisions: dict[int, int] = defaultdict(int)
        self.reads: dict[int, list[tuple[int, int]]] = defaultdict(list)  # (mode, tokens) of each step
        self.tokens: dict[int, list[int]] = defaultdict(list)
        self.positions: dict[int, list[int]] = defaultdict(list)
        self.peeked: dict[int, int] = defaultdict(int)
        self.sifted: dict[int, int] = defaultdict(int)  # tokens that sifting examined, by Dice in chunks of 4

    def add(self, observation: Observation, actions: Tensor, transition: Transition) -> None:
        chunk = transition.chunk
        for row, episode in enumerate(observation.episode.tolist()):
            count = int(chunk.counts[row])
            self.cost[episode] += float(transition.cost[row])
            self.decisions[episode] += int(observation.length[row] > 0)
            self.reads[episode].append((int(transition.mode[row]), count))
            self.tokens[episode] += chunk.tokens[row, :count].tolist()
            self.positions[episode] += chunk.positions[row, :count].tolist()
            left = int(observation.length[row] - observation.position[row])
            self.peeked[episode] += min(left, 4)
            if actions.shape[1] == 4 and int(actions[row, 3]) and int(transition.mode[row]):
                self.sifted[episode] += min(max(left - (0, 3, 30)[int(actions[row, 1])], 0), 4)


def run(
    source: Sequences,
    reader: Reader,
    agent: Agent,
    plan: Plan,
    num_slots: int = 64,
    chunk: int = 4,
    notes: Notes | None = None,
) -> Outcome:
    outcome = read(source, reader, agent, plan, num_slots, chunk, notes)
    assert outcome is not None
    assert outcome.episode.tolist() == list(range(len(plan)))
    return outcome


def texts(*lengths: int) -> Sequences:
    """Texts of those lengths whose tokens count from 1 to 20, over and over."""
    flat = (
        np.concatenate([np.arange(n) % 20 + 1 for n in lengths]) if lengths else np.zeros(0, dtype=np.int64)
    )
    return Sequences(flat, np.cumsum([0, *lengths]), None)


def all_of(source: Sequences, **budgets: float) -> Plan:
    return Plan.of(torch.arange(len(source)), **budgets)


# Slots.


@each_reader
def test_outcomes_do_not_depend_on_the_number_of_slots(reader: Reader) -> None:
    plan = Plan.of(torch.randperm(len(SOURCE), generator=torch.Generator().manual_seed(0)))
    agents = [Dice(reader, needs=EVERYTHING, decision_flops=7) for _ in range(3)]
    first, *others = (
        run(SOURCE, reader, agent, plan, slots) for agent, slots in zip(agents, (64, 1, 3), strict=True)
    )
    assert first.sequence.tolist() == plan.sequences.tolist()
    assert first.tokens.unique().numel() > 5  # the dice do not read all texts alike
    for other in others:
        torch.testing.assert_close(other.probabilities, first.probabilities, atol=1e-6, rtol=0)
        for name in ("sequence", "flops", "tokens", "observations", "halted"):
            assert torch.equal(getattr(other, name), getattr(first, name)), name
    assert len({agent.rows for agent in agents}) == 1  # no slot ever stepped without a sequence


@each_reader
def test_a_sequence_may_be_read_more_than_once(reader: Reader) -> None:
    outcome = run(SOURCE, reader, ReadAll(), Plan.of(torch.tensor([5, 3, 5, 5])), num_slots=2)
    assert outcome.sequence.tolist() == [5, 3, 5, 5]
    torch.testing.assert_close(
        outcome.probabilities[[2, 3]], outcome.probabilities[[0, 0]], atol=1e-6, rtol=0
    )


def test_episodes_added_later_go_on_counting() -> None:
    reader = READERS["gru"]
    slots = Slots(SOURCE, reader, ReadAll.scheme, Plan.of(torch.tensor([0, 1, 2])), num_slots=2, chunk=8)
    assert (slots.busy, slots.waiting) == (2, 1)
    slots.extend(Plan.of(torch.tensor([9, 8])))
    assert slots.waiting == 3
    ended: list[tuple[int, int]] = []
    while slots.busy:
        outcome = slots.step(ReadAll().act(slots.observe())).outcome
        if outcome is not None:
            ended += zip(outcome.episode.tolist(), outcome.sequence.tolist(), strict=True)
    assert sorted(ended) == [(0, 0), (1, 1), (2, 2), (3, 9), (4, 8)]


def test_outcomes_can_be_taken_as_they_end() -> None:
    taken: list[Outcome] = []
    plan = all_of(SOURCE)
    assert read(SOURCE, READERS["gru"], Prefix(3), plan, 10, 4, done=taken.append) is None
    together = run(SOURCE, READERS["gru"], Prefix(3), plan, 10, 4)
    assert len(taken) > 1
    torch.testing.assert_close(Outcome.join(taken), together)


# What is read.


@each_reader
@pytest.mark.parametrize("chunk", [1, 4, 50])
def test_reading_all_reads_every_token_once(reader: Reader, chunk: int) -> None:
    source = texts(1, 3, 8, 0, 20, 9)
    notes = Notes()
    outcome = run(source, reader, ReadAll(), all_of(source), 2, chunk, notes)
    for episode, length in enumerate(source.lengths.tolist()):
        assert notes.tokens[episode] == list(range(1, length + 1))
        assert notes.positions[episode] == list(range(length))
    assert outcome.tokens.tolist() == source.lengths.tolist()
    assert outcome.observations.tolist() == [-(-n // chunk) for n in source.lengths.tolist()]
    assert not outcome.halted.any()


def test_jumps_pass_over_tokens_unread() -> None:
    notes = Notes()
    source = texts(20)
    outcome = run(source, READERS["gru"], Script((Jump((0, 3)), 1)), all_of(source), 1, 4, notes)
    assert notes.positions[0] == [3, 4, 5, 6, 10, 11, 12, 13, 17, 18, 19]
    assert float(outcome.tokens) == 11


@each_reader
@pytest.mark.parametrize("jump", [5, 6, 1000])
def test_a_jump_beyond_the_end_ends_without_reading(reader: Reader, jump: int) -> None:
    outcome = run(texts(5), reader, Script((Jump((jump,)), 0)), all_of(texts(5)))
    assert (int(outcome.tokens), int(outcome.observations), bool(outcome.halted)) == (0, 0, False)
    assert float(outcome.flops) == reader.predict_flops
    expected = reader.predict(reader.summary(reader.initial(1))).softmax(-1)
    torch.testing.assert_close(outcome.probabilities, expected)


@each_reader
def test_halting_at_once_costs_an_answer_and_a_decision(reader: Reader) -> None:
    outcome = run(SOURCE, reader, Script((Halt(), 1), cost=5), all_of(SOURCE))
    assert outcome.halted.all()
    assert not outcome.tokens.any()
    assert (outcome.flops == reader.predict_flops + 5).all()


@each_reader
def test_copying_reads_nothing_and_costs_nothing(reader: Reader) -> None:
    outcome = run(SOURCE, reader, Script((Mode(("copy", "full")), 0)), all_of(SOURCE))
    assert not outcome.tokens.any()
    assert (outcome.flops == reader.predict_flops).all()


def test_sifting_reads_the_telling_tokens_only() -> None:
    reader, notes = READERS["gru"], Notes()
    run(SOURCE, reader, Script((Sift((0.0, 0.5)), 1)), all_of(SOURCE), 5, 4, notes)
    rows = torch.arange(len(SOURCE))
    tokens = SOURCE.fetch(rows, 0 * rows, SOURCE.lengths, 21).tokens
    for episode in range(len(SOURCE)):
        text = tokens[episode].tolist()
        telling = [(place, token) for place, token in enumerate(text) if reader.salience[token] >= 0.5]
        assert list(zip(notes.positions[episode], notes.tokens[episode], strict=True)) == telling


@each_reader
@pytest.mark.parametrize("needs", [NOTHING, EVERYTHING], ids=["bare", "everything"])
def test_answers_are_those_of_replay(reader: Reader, needs: frozenset[str]) -> None:
    with torch.no_grad():
        trajectories = roll_out(
            SOURCE, reader, Dice(reader, needs=needs), all_of(SOURCE), num_slots=7, chunk=4
        )
        replayed = reader.predict(reader.replay(trajectories.reads)).softmax(-1)
    torch.testing.assert_close(replayed[:, -1], trajectories.answers, atol=1e-5, rtol=0)
    if needs:  # and so is what the agent was shown before every step
        shown = trajectories.observation.probabilities
        assert shown is not None
        valid = trajectories.valid
        torch.testing.assert_close(replayed[:, :-1][valid], shown[valid], atol=1e-5, rtol=0)


# What is observed.


def test_what_an_agent_is_shown() -> None:
    source = texts(6, 11)
    plan = Plan.of(torch.tensor([1]), price=0.5, tokens=9, flops=1e6)
    slots = Slots(source, READERS["gru"], ReadAll.scheme, plan, 4, 4, EVERYTHING, 7.0)
    start = slots.observe()
    assert start.peek is not None
    assert start.peek.tolist() == [[1, 2, 3, 4]]
    transition = slots.step(torch.tensor([[0]]))
    slots.step(torch.tensor([[0]]))
    seen = slots.observe()
    assert seen.peek is not None
    assert seen.peek.tolist() == [[9, 10, 11, 0]]
    names = ("position", "length", "tokens", "observations", "price", "tokens_left", "episode")
    assert [float(getattr(seen, name)) for name in names] == [8, 11, 8, 2, 0.5, 1, 0]
    assert float(start.flops) == READERS["gru"].predict_flops + 7
    assert float(seen.flops + seen.flops_left) == 1e6
    assert float(transition.cost) == float(start.flops) + 4 * (8 + 3 * 2 * 12 * (8 + 12))
    assert start.probabilities is not None
    torch.testing.assert_close(start.probabilities.sum(-1), torch.ones(1))


def test_streak_counts_observations_of_one_guess() -> None:
    slots = Slots(texts(40), READERS["gru"], Scheme((Mode(("copy", "full")),)), all_of(texts(40)), 1, 1)
    guesses, streaks = [], []
    for step in range(40):
        observation = slots.observe()
        assert observation.probabilities is not None
        guesses.append(int(observation.probabilities.argmax()))
        streaks.append(int(observation.streak))
        slots.step(torch.tensor([[int(step % 3 > 0)]]))  # a copied token is no observation
    expected = [0]
    for step in range(1, 40):
        same = expected[-1] + 1 if guesses[step] == guesses[step - 1] else 0
        expected.append(same if (step - 1) % 3 > 0 else expected[-1])
    assert streaks == expected
    assert len(set(guesses)) > 1


# What is charged.


@each_reader
@pytest.mark.parametrize("needs", [NOTHING, EVERYTHING], ids=["bare", "everything"])
def test_costs_of_steps_add_up_to_the_formula(reader: Reader, needs: frozenset[str]) -> None:
    notes = Notes()
    agent = Dice(reader, needs=needs, decision_flops=7)
    outcome = run(SOURCE, reader, agent, all_of(SOURCE), 5, 4, notes)
    for episode in range(len(SOURCE)):
        reading, before = 0.0, 0
        for mode, count in notes.reads[episode]:
            one = (torch.tensor([value]) for value in (mode, count, before))
            reading += float(reader.read_flops(*one))
            before += count
        observations = sum(count > 0 for _, count in notes.reads[episode])
        answers = 1 + observations if needs else 1  # before the first and after each, or at the end alone
        expected = reading + answers * reader.predict_flops + 7 * notes.decisions[episode]
        expected += 2 * notes.sifted[episode] + 3 * notes.peeked[episode] * ("peek" in needs)
        assert notes.cost[episode] == expected == float(outcome.flops[episode])
        assert int(outcome.tokens[episode]) == before == len(notes.tokens[episode])
        assert int(outcome.observations[episode]) == observations
    assert min(sum(notes.sifted.values()), sum(notes.peeked.values())) > 20


@each_reader
def test_reading_all_costs_what_full_reading_is_said_to(reader: Reader) -> None:
    outcome = run(SOURCE, reader, ReadAll(), all_of(SOURCE))
    assert (outcome.flops == reader.full_flops()).all()  # all texts are of the mean length


# Budgets.


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(list(READERS)),
    seed=st.integers(0, 10**6),
    extra=st.one_of(st.integers(0, 300), st.floats(0, 60_000)),
    tokens=st.one_of(st.just(math.inf), st.floats(1, 25)),
    chunk=st.integers(1, 9),
    needs=st.sampled_from([NOTHING, EVERYTHING]),
    decision=st.sampled_from([0.0, 7.0, 3000.5]),  # a trifle beside a token, or more than it
)
def test_budgets_are_never_exceeded(
    kind: str, seed: int, extra: float, tokens: float, chunk: int, needs: frozenset[str], decision: float
) -> None:
    reader = READERS[kind]
    spread = torch.linspace(0, 1, 50, dtype=torch.float64)  # slots of unlike means side by side
    flops = reader.predict_flops + extra * spread
    plan = Plan.of(torch.arange(50), tokens=tokens, flops=flops)
    outcome = run(SOURCE, reader, Dice(reader, seed, needs, decision), plan, num_slots=20, chunk=chunk)
    assert (outcome.flops <= flops).all()
    assert (outcome.flops >= reader.predict_flops).all()
    assert (outcome.tokens <= tokens).all()


@pytest.mark.parametrize("budget", [1, 5, 8, 20, 21, 1000])
@each_reader
def test_a_budget_in_tokens_is_used_up(reader: Reader, budget: int) -> None:
    outcome = run(SOURCE, reader, ReadAll(), all_of(SOURCE, tokens=budget))
    assert (outcome.tokens == min(budget, 21)).all()


@pytest.mark.parametrize("decision", [11.0, 5000.5])  # much less and much more than a token
@pytest.mark.parametrize("needs", [NOTHING, EVERYTHING], ids=["bare", "everything"])
@each_reader
def test_a_budget_in_flops_is_used_up(reader: Reader, needs: frozenset[str], decision: float) -> None:
    chunk, num, notes = 4, 500, Notes()
    agent = Script((Mode(reader.modes[1:]), 0), needs=needs, cost=decision)  # the cheapest way to read
    enough = reader.full_flops() + 7 * (decision + reader.predict_flops)
    budget = torch.linspace(reader.predict_flops, enough, num, dtype=torch.float64)
    plan = Plan.of(torch.zeros(num, dtype=torch.long), flops=budget)
    outcome = run(SOURCE, reader, agent, plan, chunk=chunk, notes=notes)
    assert (outcome.flops <= budget).all()
    assert outcome.tokens.unique().numel() > 10  # a little more buys a little more
    # What is left would not pay for one more token at the end of a chunk, its decision and answers.
    cheapest = torch.ones(num, dtype=torch.long)
    more = reader.read_flops(cheapest, torch.ones_like(cheapest), outcome.tokens + chunk - 1)
    assert (
        (budget - outcome.flops < more + decision + 2 * reader.predict_flops) | (outcome.tokens == 21)
    ).all()
    # No decision was paid for that left nothing to read with.
    assert [notes.decisions[i] for i in range(num)] == outcome.observations.tolist()


def test_a_budget_that_pays_for_all_changes_nothing() -> None:
    for reader in READERS.values():
        free, paid = (
            run(SOURCE, reader, Dice(reader, 3, EVERYTHING), all_of(SOURCE, **budget))
            for budget in ({}, {"tokens": 21, "flops": 1e9})
        )
        torch.testing.assert_close(free, paid)


@each_reader
def test_a_budget_of_one_answer_buys_one_answer(reader: Reader) -> None:
    for agent in (ReadAll(), Dice(reader, 0, EVERYTHING, 7)):
        outcome = run(SOURCE, reader, agent, all_of(SOURCE, flops=reader.predict_flops))
        assert (outcome.flops == reader.predict_flops).all()
        assert not outcome.tokens.any()


def test_more_than_a_reader_holds_is_refused_and_never_left_unread() -> None:
    reader = make_reader("transformer", capacity=NEEDLE.task.max_length)
    longer = texts(21, 22)
    with pytest.raises(UserError) as error:
        run(longer, reader, ReadAll(), all_of(longer))
    assert (
        str(error.value)
        == "reading: tokens of a sequence, got 22; expected at most the reader's capacity (21)"
    )
    assert run(longer, reader, ReadAll(), all_of(longer, tokens=21)).tokens.tolist() == [21, 21]
    unbound = make_reader("transformer")
    assert run(longer, unbound, ReadAll(), all_of(longer)).tokens.tolist() == [21, 22]


def test_slots_that_ran_empty_take_what_is_added() -> None:
    reader = READERS["transformer"]  # its memories are as wide as the longest text read
    slots = Slots(SOURCE, reader, ReadAll.scheme, Plan.of(torch.arange(3)), num_slots=2)

    def finish() -> list[int]:
        found: list[int] = []
        while slots.busy:
            slots.observe()
            ended = slots.step(torch.zeros(slots.busy, 1, dtype=torch.long)).outcome
            found += [] if ended is None else ended.episode.tolist()
        return found

    assert finish() == [0, 1, 2]
    slots.extend(Plan.of(torch.arange(2)))
    assert slots.busy == 2
    slots.observe()
    slots.step(torch.ones(2, 1, dtype=torch.long) * torch.tensor([[0], [1]]))  # one of two is left
    slots.extend(Plan.of(torch.arange(2)))
    assert slots.busy == 2
    assert finish() == [3, 5, 6]


def test_money_for_a_mode_that_the_scheme_lacks_buys_nothing() -> None:
    reader = READERS["gru"]  # can skim, for much less than it reads
    skim, full = (
        float(reader.read_flops(torch.tensor([mode]), torch.tensor([1]), torch.tensor([0])))
        for mode in (1, 2)
    )
    budget = 2 * reader.predict_flops + 5 + (skim + full) / 2
    skims = Script((Mode(("skim", "full")), 0), cost=5)
    assert (run(SOURCE, reader, skims, all_of(SOURCE, flops=budget)).tokens > 0).all()
    reads = Script((Jump((0,)), 0), cost=5)
    outcome = run(SOURCE, reader, reads, all_of(SOURCE, flops=budget))
    assert (outcome.flops == reader.predict_flops).all()  # not even a decision


# Edges.


@each_reader
def test_an_empty_plan(reader: Reader) -> None:
    assert read(SOURCE, reader, ReadAll(), Plan.of(torch.zeros(0, dtype=torch.long))) is None


@each_reader
@pytest.mark.parametrize("length", [0, 1, 3])
def test_short_texts(reader: Reader, length: int) -> None:
    source = texts(length)
    outcome = run(source, reader, ReadAll(), all_of(source), 64, 8)
    assert int(outcome.tokens) == length
    assert float(outcome.flops) == (reader.full_flops(length) if length else reader.predict_flops)
    assert outcome.probabilities.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"price": -1}, "plan: price, got -1.0; expected a number from 0 up"),
        ({"price": math.nan}, "plan: price, got nan; expected a number from 0 up"),
        ({"price": torch.tensor([0.0, -0.5])}, "plan: price, got -0.5; expected a number from 0 up"),
        ({"tokens": 0}, "plan: budget in tokens, got 0.0; expected a number from 1 up"),
        ({"tokens": math.nan}, "plan: budget in tokens, got nan; expected a number from 1 up"),
        ({"flops": -3}, "plan: budget in FLOPs, got -3.0; expected a number from 1 up"),
        ({"flops": math.nan}, "plan: budget in FLOPs, got nan; expected a number from 1 up"),
    ],
)
def test_a_plan_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as error:
        Plan.of(torch.tensor([0, 1]), **settings)
    assert str(error.value) == message


def test_a_budget_below_one_answer() -> None:
    reader = READERS["gru"]
    plan = Plan.of(torch.tensor([0, 1]), flops=torch.tensor([1e9, reader.predict_flops - 1.0]))
    message = "reading: budget in FLOPs, got 191.0; expected 192 or more, the cost of one answer"
    with pytest.raises(UserError) as error:
        read(SOURCE, reader, ReadAll(), plan)
    assert str(error.value) == message
    slots = Slots(SOURCE, reader, ReadAll.scheme, Plan.of(torch.tensor([0])))
    with pytest.raises(UserError) as error:
        slots.extend(plan)
    assert str(error.value) == message


@pytest.mark.parametrize(("num_slots", "chunk"), [(0, 8), (64, 0), (-1, 8)])
def test_no_slots_or_no_tokens(num_slots: int, chunk: int) -> None:
    with pytest.raises(UserError) as error:
        read(SOURCE, READERS["gru"], ReadAll(), all_of(SOURCE), num_slots, chunk)
    expected = f"reading: num_slots and chunk, got {(num_slots, chunk)}; expected whole numbers from 1 up"
    assert str(error.value) == expected


def test_a_mode_that_the_reader_lacks() -> None:
    with pytest.raises(UserError) as error:
        read(SOURCE, READERS["transformer"], Script((Mode(("skim", "full")), 0)), all_of(SOURCE))
    assert str(error.value) == "Mode: name, got 'skim'; expected one of the reader's modes copy, full"
