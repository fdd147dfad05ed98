"""Rules that look at frames out of order: where each goes, each frame once, and what its looks are worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from temporal.agents.base import Agent
from temporal.agents.controls import Confidence, Prefix, ReadAll
from temporal.agents.looking import Coarse, PreviewFirst, RandomFrames, TruthFirst, UniformFrames
from temporal.agents.rollout import SpanRecorder, roll_out
from temporal.cost import search_flops
from temporal.data.base import Sequences
from temporal.decisions import coarse_to_fine
from temporal.episodes import Observation, Outcome, Plan
from temporal.errors import UserError
from temporal.readers import Reader, Task
from temporal.readers.frames import Thumbnail
from temporal.readers.video import AttentiveFrameReader, FrameReader
from temporal.reading import Slots, read
from tests.contracts.agent import EPISODES, PREVIEW_SIZE, AgentContract, shown
from tests.footage import SIDE, THUMBNAIL, NeedleClips, NoiseFrames, TinyEncoder, make_frame_reader
from tests.needle import TASK as TEXTS

TASK = Task(1, TEXTS.class_names, 9, TEXTS.max_length)
LENGTHS = (20, 3, 8, 1, 17, 12, 0, 5)
TRUTH = torch.rand(EPISODES, TASK.max_length, generator=torch.Generator().manual_seed(1))

few = settings(max_examples=12, deadline=None, derandomize=True)


def clips(*lengths: int) -> Sequences:
    """Clips of so many frames of noise, each frame another."""
    return Sequences(
        np.arange(1, sum(lengths) + 1), np.cumsum([0, *lengths]), np.arange(len(lengths)) % TASK.num_classes
    )


def noise_reader(
    task: Task = TASK, preview: bool = True, views: tuple[str, ...] = ("8px", "16px")
) -> FrameReader:
    """An untrained reader of noise, with read-outs and previews of the sizes that the agents' contract shows."""
    torch.manual_seed(0)
    tiny = Thumbnail(*THUMBNAIL, extra=PREVIEW_SIZE - 1, channels=(4, 4)) if preview else None
    reader = AttentiveFrameReader(task, TinyEncoder(), views, SIDE, 10, 2, tiny)
    reader.frames = NoiseFrames()
    return reader.eval()


def colour_reader(source: NeedleClips) -> FrameReader:
    """Knows the class once it has seen the needle, in either view, and else nothing: weights set by hand."""
    torch.manual_seed(0)
    reader = make_frame_reader(source.task)
    assert isinstance(reader, AttentiveFrameReader)
    colours, rest = torch.eye(3), torch.tensor([10.0] * 4 + [-10.0] * 5)
    with torch.no_grad():
        for name, parameter in reader.named_parameters():
            if not name.startswith("thumbnail."):
                parameter.zero_()
        reader.encoder.network.weight[:3] = colours[..., None, None] / 16  # the mean of each colour
        reader.encoder.network.bias.fill_(1)  # -0.6 for noise, about 3 for a needle
        for adapter in reader.adapters:
            weight, bias = adapter.parameters()
            weight[:3, :3] = colours
            bias[3:] = rest  # so that normalising leaves the colours as they are
        reader.norm.weight.fill_(7)
        reader.values.weight[:3, :3] = colours
        reader.values.bias.fill_(-0.3)
        reader.head.weight[:, 12:15] = 20 * colours
    source.equip(reader)
    return reader.eval()


class FrameAgentContract(AgentContract):
    """The checks of every agent, on clips of all lengths read frame by frame; readers have previews."""

    def reader(self) -> FrameReader:
        """What the agent drives."""
        return noise_reader()

    def agent(self) -> Agent:
        torch.manual_seed(0)
        agent = self.make_agent(self.reader())
        return agent.eval() if isinstance(agent, nn.Module) else agent

    def test_decisions_cost_what_the_operator_counter_sees(self) -> None:
        agent = self.agent()
        observation = shown(first_frames(7), agent)
        with FlopCounterMode(display=False) as counter:
            agent.act(observation)
        # The counter sees products; what is looked up comes on top.
        assert counter.get_total_flops() + 7 * agent.look_up_flops == 7 * agent.decision_flops

    def test_needs_are_parts_of_an_observation(self) -> None:
        assert self.agent().needs <= {"probabilities", "seen", "preview"}

    @pytest.mark.parametrize("budget", [None, 4])
    def test_outcomes_do_not_depend_on_the_number_of_slots(self, budget: int | None) -> None:
        agent, reader, source = self.agent(), self.reader(), clips(*LENGTHS)
        rows = torch.randperm(8, generator=torch.Generator().manual_seed(0))
        plan = Plan.of(rows, torch.logspace(-2, 1, 8, dtype=torch.double), budget)
        first, *others = (read(source, reader, agent, plan, slots, 1) for slots in (64, 1, 3))
        assert isinstance(first, Outcome)
        assert (first.tokens <= source.lengths[rows].clamp(max=budget or TASK.max_length)).all()
        for other in others:
            assert isinstance(other, Outcome)
            torch.testing.assert_close(other.probabilities, first.probabilities, atol=1e-6, rtol=0)
            for name in ("sequence", "flops", "tokens", "observations", "halted"):
                assert torch.equal(getattr(other, name), getattr(first, name)), name


def first_frames(num: int) -> Observation:
    """What the loop shows before the first decision about clips of 20 frames."""
    needs = frozenset({"probabilities", "seen", "preview"})
    what = clips(*[20] * num), noise_reader(), UniformFrames(1, 20).scheme
    return Slots(*what, Plan.of(torch.arange(num)), num, 1, needs).observe()


class TestCoarse(FrameAgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return Coarse(Confidence(0.5))


class TestUniformFrames(FrameAgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return UniformFrames(5, reader.task.max_length)


class TestRandomFrames(FrameAgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return RandomFrames(5, reader.task.max_length, seed=3)


class TestPreviewFirst(FrameAgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return PreviewFirst(Confidence(0.5), reader.task.max_length)


class TestTruthFirst(FrameAgentContract):
    def make_agent(self, reader: Reader) -> Agent:
        return TruthFirst(5, TRUTH, reader.task.max_length)


# Where they go.


def places(agent: Agent, source: Sequences, slots: int = 3, times: int = 1) -> list[list[int]]:
    """Which positions of each clip are looked at, in order."""
    plan = Plan.of(torch.arange(len(source)).repeat(times))
    spans = SpanRecorder(len(plan))
    read(source, noise_reader(), agent, plan, slots, 1, spans)
    return list(map(list, spans.positions))


def by_score(score: torch.Tensor, length: int, num: int) -> list[int]:
    order: list[int] = score[:length].argsort(descending=True).tolist()
    return order[:num]


lengths = st.lists(st.integers(0, TASK.max_length), min_size=1, max_size=5)
counts = st.sampled_from([0, 1, 2, 5, 19, 20, 30])


@few
@given(lengths, counts)
def test_uniform_frames_stand_in_the_middle_of_their_shares(sizes: list[int], num: int) -> None:
    for size, found in zip(sizes, places(UniformFrames(num, TASK.max_length), clips(*sizes)), strict=True):
        few = min(num, size)
        assert found == [int((i + 0.5) * size / few) for i in range(few)]
        assert len(set(found)) == few


@few
@given(lengths, counts, st.integers(0, 1000))
def test_random_frames_are_different_and_in_reading_order(sizes: list[int], num: int, seed: int) -> None:
    agent = RandomFrames(num, TASK.max_length, seed)
    for size, found in zip(sizes, places(agent, clips(*sizes)), strict=True):
        assert found == sorted(set(found))
        assert set(found) <= set(range(size))
        assert len(found) == min(num, size)


def test_random_frames_are_the_same_whatever_the_batch_and_others_for_another_seed() -> None:
    source = clips(*[20] * 30)
    one = places(RandomFrames(4, 20, seed=1), source, slots=64)
    assert one == places(RandomFrames(4, 20, seed=1), source, slots=1)
    assert one != places(RandomFrames(4, 20, seed=2), source, slots=64)
    assert len(set(map(tuple, one))) > 20


@pytest.mark.parametrize("seed", [0, 1])
def test_every_pair_of_frames_is_drawn_equally_often(seed: int) -> None:
    found = places(RandomFrames(2, TASK.max_length, seed), clips(6), slots=256, times=3000)
    pairs = [[a, b] for b in range(6) for a in range(b)]
    drawn = [found.count(pair) for pair in pairs]
    assert sum(drawn) == 3000
    assert stats.chisquare(drawn).pvalue > 1e-3


@few
@given(lengths, counts)
def test_coarse_goes_through_halves_quarters_eighths(sizes: list[int], num: int) -> None:
    found = places(Coarse(Prefix(num)), clips(*sizes))
    assert found == [list(coarse_to_fine(size)[:num]) for size in sizes]


@few
@given(lengths, counts)
def test_preview_first_goes_by_the_first_number_of_the_previews(sizes: list[int], num: int) -> None:
    source, reader = clips(*sizes), noise_reader()
    for row, found in enumerate(places(PreviewFirst(Prefix(num), TASK.max_length), source)):
        size = torch.tensor([sizes[row]])
        ids = source.fetch(torch.tensor([row]), torch.tensor([0]), size, TASK.max_length).tokens
        assert found == by_score(reader.preview(ids)[0, :, 0], sizes[row], num)


@few
@given(lengths, counts)
def test_the_oracle_goes_by_the_truth(sizes: list[int], num: int) -> None:
    found = places(TruthFirst(num, TRUTH, TASK.max_length), clips(*sizes))
    assert found == [by_score(TRUTH[row], size, num) for row, size in enumerate(sizes)]


@pytest.mark.parametrize("follow", [Coarse, lambda rule: PreviewFirst(rule, TASK.max_length)])
def test_a_rule_that_follows_an_order_halts_as_it_says(follow: Callable[[Agent], Agent]) -> None:
    source, never = clips(*LENGTHS), Confidence(1.0)
    never.threshold = 2.0  # no probability reaches it
    everything = places(follow(never), source)
    assert [sorted(found) for found in everything] == [list(range(size)) for size in LENGTHS]
    assert places(follow(ReadAll()), source) == everything
    at_once = places(follow(Confidence(0.0)), source)  # sure of anything, once it has seen a frame
    assert at_once == [found[:1] for found in everything]


# What it costs and what it is worth.


def outcome_of(agent: Agent, source: NeedleClips, reader: FrameReader) -> Outcome:
    part = source.split("test")
    outcome = read(part, reader, agent, Plan.of(torch.arange(len(part))), 32, 1)
    assert isinstance(outcome, Outcome)
    return outcome


def accuracy_of(agent: Agent, source: NeedleClips, reader: FrameReader) -> float:
    labels = source.split("test").labels
    assert labels is not None
    return float((outcome_of(agent, source, reader).probabilities.argmax(1) == labels).double().mean())


def test_the_oracle_beats_all_other_orders_until_all_is_seen() -> None:
    source = NeedleClips()
    reader, truth = colour_reader(source), source.split("test").truth
    assert truth is not None
    assert reader.thumbnail is not None
    for parameter in reader.thumbnail.parameters():
        nn.init.zeros_(parameter)  # a preview that says nothing
    agents: dict[str, Callable[[int], Agent]] = {
        "uniform": lambda num: UniformFrames(num, 8),
        "random": lambda num: RandomFrames(num, 8),
        "coarse": lambda num: Coarse(Prefix(num)),
        "preview": lambda num: PreviewFirst(Prefix(num), 8),
    }
    for num in (1, 2, 4):
        assert accuracy_of(TruthFirst(num, truth, 8), source, reader) == 1
        # the needle is among so many of 8 frames, and a third of the rest is guessed
        expected = num / 8 + (1 - num / 8) / 3
        found = {name: accuracy_of(make(num), source, reader) for name, make in agents.items()}
        assert found == pytest.approx(dict.fromkeys(agents, expected), abs=0.15)
    assert {accuracy_of(make(8), source, reader) for make in agents.values()} == {1}
    assert accuracy_of(TruthFirst(0, truth, 8), source, reader) == accuracy_of(
        UniformFrames(0, 8), source, reader
    )


def test_looks_cost_the_same_wherever_they_go_and_previews_are_extra() -> None:
    source = NeedleClips(num=6)
    reader, truth = colour_reader(source), source.split("test").truth
    assert truth is not None
    for num in (0, 3, 8):
        looks = reader.full_flops(num) if num else reader.predict_flops
        for agent in (
            UniformFrames(num, 8),
            RandomFrames(num, 8),
            Coarse(Prefix(num)),
            TruthFirst(num, truth, 8),
        ):
            assert set(outcome_of(agent, source, reader).flops.tolist()) == {looks}
        seen = outcome_of(PreviewFirst(Prefix(num), 8), source, reader)
        decisions = min(num + 1, 8)  # none is taken where nothing is left
        assert set(seen.flops.tolist()) == {looks + 8 * reader.preview_flops + decisions * search_flops(8)}
        assert set(seen.observations.tolist()) == {num}


@pytest.mark.parametrize("kind", [UniformFrames, RandomFrames])
def test_a_number_of_frames_below_zero_is_refused(kind: type[UniformFrames]) -> None:
    with pytest.raises(UserError) as error:
        kind(-1, 8)
    assert str(error.value) == f"{kind.__name__}: num, got -1; expected a whole number from 0 up"


def test_previews_that_the_reader_lacks() -> None:
    reader = noise_reader(preview=False)
    with pytest.raises(UserError) as error:
        read(clips(3), reader, PreviewFirst(ReadAll(), TASK.max_length), Plan.of(torch.tensor([0])), 1, 1)
    assert str(error.value) == "reading: preview, got 'a reader without'; expected a reader that has previews"


# Which mode is full.


VIEWS = {
    "crops last": ("8px", "16px", "8px_2x2"),
    "whole first": ("16px", "8px_2x2", "8px"),
    "one": ("8px_2x2", "16px"),
}


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
def test_rules_look_at_the_whole_frame_at_full_price_whatever_the_order_of_views(
    views: tuple[str, ...],
) -> None:
    reader, source = noise_reader(views=views), clips(*LENGTHS)
    rules = [
        ReadAll(),
        UniformFrames(20, 20),
        PreviewFirst(ReadAll(), 20),
        Coarse(ReadAll()),
        RandomFrames(20, 20),
    ]
    for rule in rules:
        episodes = roll_out(source, reader, rule, Plan.of(torch.arange(len(LENGTHS))), 3, 1)
        read_in = episodes.reads.modes[episodes.reads.counts > 0]
        assert {reader.modes[mode] for mode in read_in.tolist()} == {"16px"}
        assert episodes.tokens.tolist() == list(LENGTHS)
    frame = reader.encoder.flops(16)
    assert 9 * frame < reader.full_flops() < 9 * (frame + 5000)  # the mean length is 9


def test_a_reader_of_crops_alone_has_no_full_mode() -> None:
    with pytest.raises(UserError) as error:
        noise_reader(views=("8px_2x2", "4px_2x2"))
    assert str(error.value) == (
        "AttentiveFrameReader: views, got ['8px_2x2', '4px_2x2']; expected one of the whole frame among them, as 128px"
    )
