"""The published schemes on frames: each trains, keeps its promises, and pays for its previews once."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from temporal.agents.base import Agent
from temporal.agents.calimera import LEAST
from temporal.agents.evaluate import evaluate
from temporal.agents.focus import FocusAgent
from temporal.agents.frame_exit import FrameExitAgent, GateFit
from temporal.agents.glimpse import GlimpseAgent
from temporal.agents.policy import PolicyAgent
from temporal.agents.ppo import PPO
from temporal.agents.preview import PreviewFit
from temporal.agents.reinforce import Learner, Reinforce
from temporal.agents.resolution import ResolutionAgent
from temporal.agents.rollout import SpanRecorder, Trajectories, roll_out
from temporal.agents.sampler import SamplerAgent
from temporal.agents.stopping import NeverHalts, Recorded, StoppingFit, record
from temporal.agents.train import Training
from temporal.agents.train import train as run_training
from temporal.agents.trials import BUDGETED, POLICY, Bench, Evaluation
from temporal.agents.warmup import Warmup
from temporal.decisions import Halt, Jump, Mode, Order, Place, coarse_to_fine
from temporal.episodes import Observation, Plan
from temporal.errors import UserError
from temporal.readers import Reader
from temporal.readers.video import FrameReader
from temporal.reading import read
from tests.footage import NeedleClips
from tests.test_looking import LENGTHS, TASK, FrameAgentContract, clips, colour_reader, noise_reader
from tests.test_policy import spread_out

VIEWS = ("8px", "16px", "8px_2x2")
SOURCE = clips(*LENGTHS)
READER = noise_reader(views=VIEWS)
SMALL = {"hidden_size": 12, "lowest_price": 0.01, "highest_price": 30.0}
MAKE: dict[str, Callable[[Reader], PolicyAgent]] = {
    "glimpse": lambda r: GlimpseAgent(r.task, r, r.task.max_length, summary_size=4, **SMALL),  # type: ignore[arg-type]
    "glimpse without previews": lambda r: GlimpseAgent(
        r.task, r, r.task.max_length, preview=False, summary_size=4, **SMALL,  # type: ignore[arg-type]
    ),
    "sampler": lambda r: SamplerAgent(r.task, r, r.task.max_length, **SMALL),  # type: ignore[arg-type]
    "frame exit": lambda r: FrameExitAgent(r.task, r, summary_size=4, **SMALL),  # type: ignore[arg-type]
    "resolution": lambda r: ResolutionAgent(
        r.task, r, ("8px", "16px"), (0, 1, 3), ahead=3, summary_size=4, **SMALL,  # type: ignore[arg-type]
    ),
    "focus": lambda r: FocusAgent(r.task, r, "8px_2x2", summary_size=4, **SMALL),  # type: ignore[arg-type]
}  # fmt: skip
each_scheme = pytest.mark.parametrize("kind", MAKE)


def lively(agent: PolicyAgent) -> PolicyAgent:
    """With larger weights than it starts with, so that decisions differ from clip to clip; halts seldom."""
    spread_out(agent)
    with torch.no_grad():
        agent.heads.weight *= 0.2
        if agent.scheme.halt_index == 0:
            agent.heads.bias[0] += 4
    return agent


def make_agent(kind: str, reader: Reader = READER) -> PolicyAgent:
    torch.manual_seed(0)
    return lively(MAKE[kind](reader)).eval()


class _SchemeContract(FrameAgentContract):
    kind: str

    def reader(self) -> FrameReader:
        return noise_reader(views=VIEWS)

    def make_agent(self, reader: Reader) -> Agent:
        return lively(MAKE[self.kind](reader))


class TestGlimpse(_SchemeContract):
    kind = "glimpse"


class TestSampler(_SchemeContract):
    kind = "sampler"


class TestFrameExit(_SchemeContract):
    kind = "frame exit"


class TestResolution(_SchemeContract):
    kind = "resolution"


class TestFocus(_SchemeContract):
    kind = "focus"


# What every scheme does.


def drawn(agent: PolicyAgent, plan: Plan, reader: Reader = READER, seed: int = 0) -> Trajectories:
    with agent.sampling(torch.Generator().manual_seed(seed)):
        return roll_out(SOURCE, reader, agent, plan, 12, 1)


def all_of(times: int = 2, **budgets: Tensor) -> Plan:
    num = len(LENGTHS) * times
    return Plan.of(
        torch.arange(len(LENGTHS)).repeat(times), torch.logspace(-2, 1, num, dtype=torch.double), **budgets
    )


def test_schemes_are_those_of_their_papers() -> None:
    found = {kind: [type(d) for d in make_agent(kind).scheme.decisions] for kind in MAKE}
    assert found == {
        "glimpse": [Halt, Place],
        "glimpse without previews": [Halt, Place],
        "sampler": [Halt, Place],
        "frame exit": [Halt, Order],
        "resolution": [Jump, Mode],
        "focus": [Halt, Mode],
    }
    previews = {kind for kind in MAKE if "preview" in make_agent(kind).needs}
    assert previews == {"glimpse", "sampler", "resolution", "focus"}


@each_scheme
def test_what_is_spent_is_previews_once_looks_answers_and_decisions(kind: str) -> None:
    agent = make_agent(kind)
    episodes = drawn(agent, all_of())
    modes, counts = episodes.reads.modes, episodes.reads.counts
    looks = READER.read_flops(modes, counts, torch.zeros_like(counts))
    assert torch.equal(looks > 0, counts > 0)
    lengths = SOURCE.lengths[episodes.sequence]
    previews = lengths * READER.preview_flops * ("preview" in agent.needs)
    answers = 1 + (counts > 0).sum(1) if "probabilities" in agent.needs else torch.ones_like(lengths)
    decisions = episodes.valid.sum(1) * (lengths > 0)
    expected = previews + looks.sum(1) + answers * READER.predict_flops + decisions * agent.decision_flops
    torch.testing.assert_close(episodes.flops, expected.double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(episodes.cost.sum(1), expected.double(), rtol=1e-12, atol=0)
    later = episodes.cost[:, 1:] - looks[:, 1:] - agent.decision_flops
    assert (later <= 2 * READER.predict_flops).all()
    assert len(set(episodes.tokens.tolist())) > 2


@each_scheme
def test_budgets_in_frames_are_never_exceeded(kind: str) -> None:
    agent = make_agent(kind)
    budgets = torch.tensor([1.0, 3.0, 7.0, math.inf], dtype=torch.double)
    found = drawn(agent, all_of(4, tokens=budgets.repeat_interleave(len(LENGTHS)))).tokens.view(4, -1)
    assert (found <= budgets[:, None]).all()
    assert found.amax(1)[:3].tolist() == [1, 3, 7]
    assert int(found[3].max()) > 7


@each_scheme
def test_budgets_in_flops_are_never_exceeded(kind: str) -> None:
    agent = make_agent(kind)
    least = READER.predict_flops + READER.preview_flops * TASK.max_length
    looks = torch.tensor([0.0, 1.5, 4.0], dtype=torch.double).repeat_interleave(len(LENGTHS))
    limit = least + looks * (READER.full_flops(1) + agent.decision_flops)
    assert (drawn(agent, all_of(3, flops=limit)).flops <= limit).all()


@each_scheme
def test_replaying_what_was_read_gives_the_recorded_answers(kind: str) -> None:
    episodes = drawn(make_agent(kind), all_of())
    with torch.no_grad():
        answers = READER.predict(READER.replay(episodes.reads)[:, -1]).softmax(-1)
    torch.testing.assert_close(answers, episodes.answers, atol=1e-5, rtol=0)


# Training.


CLIPS = NeedleClips(num=24)


def train(
    kind: str, folder: Path, learner: Learner, stopping: StoppingFit
) -> tuple[FrameReader, PolicyAgent, list[tuple[str, int]]]:
    """Two updates of every phase."""
    torch.manual_seed(0)
    reader = noise_reader(CLIPS.task, views=VIEWS)
    CLIPS.equip(reader)
    agent = MAKE[kind](reader)
    training = Training(
        Warmup(epochs=2, batch_size=19, shuffle_share=0.5, view_share=0.5),
        stopping, learner, 2, 8, 1e-2, task_reward="log_likelihood",
        stopping_weight=0.5 if agent.scheme.halt_index is not None else 0.0,
        preview=PreviewFit(updates=2, batch_size=4),
    )  # fmt: skip
    scene = training.scene(CLIPS.split("train"), reader, agent, 1, 8, 0)
    done: list[tuple[str, int]] = []

    def log(record: dict[str, float | str]) -> None:
        assert all(math.isfinite(v) for v in record.values() if isinstance(v, float))
        done.append((str(record["phase"]), int(record["update"])))

    run_training(training, scene, folder, 0, log=log)
    return reader, agent, done


LEARNERS = {kind: Reinforce(group_size=2) for kind in MAKE} | {
    "glimpse": PPO(passes=1, parts=2),
    "focus": PPO(passes=1, parts=2),
}


@each_scheme
def test_every_phase_trains_and_what_comes_out_can_be_traced(kind: str, tmp_path: Path) -> None:
    fit = GateFit if kind == "frame exit" else StoppingFit
    reader, agent, done = train(kind, tmp_path, LEARNERS[kind], fit(updates=2, batch_size=8))
    stopping = 2 if agent.scheme.halt_index is not None else 0
    expected = {"warmup": 2, "preview": 2, "stopping": stopping, "policy": 2}
    assert done == [(phase, update) for phase, num in expected.items() for update in range(1, num + 1)]
    torch.manual_seed(0)
    fresh = noise_reader(CLIPS.task, views=VIEWS)
    begun = dict(MAKE[kind](fresh).named_parameters())
    moved = {name for name, p in agent.named_parameters() if not torch.equal(p, begun[name])}
    assert {"trunk.0.weight", "heads.weight"} <= moved
    assert ("places.trust" in moved) == (kind in ("glimpse", "sampler"))
    assert all(p.isfinite().all() for p in [*agent.parameters(), *reader.parameters()])

    learning = CLIPS.split("train")
    bench = Bench("needle", reader, agent, (0.01, 30.0), 0, 1, 8, 0, learning, torch.arange(len(learning)))
    evaluation = Evaluation(num_settings=2, limit=5)
    traced = evaluate(evaluation, bench, CLIPS.split("validation"), CLIPS.split("test"), lambda *_: None)
    points = traced["test"].points
    names = {point.agent for point in points}
    assert names >= {POLICY, BUDGETED, "read_all", "uniform", "random", "middle", "preview_top", "oracle"}
    assert {"confidence", "confidence_coarse", "confidence_preview", "confidence_joint"} <= names
    assert {"calimera", "economy"} <= names or len(learning) < LEAST
    assert names.isdisjoint({"naive_bayes", "logistic", "bag_of_words"})  # frames are no words
    for point in points:
        assert point.n == 5
        assert point.tokens_mean <= (point.budget or 8)
        assert point.flops_mean >= reader.predict_flops


# The sampler.


def others_answers(reader: FrameReader) -> FrameReader:
    """The same reader with the same previews and other answers."""
    other = copy.deepcopy(reader)
    other.frames = reader.frames
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if not name.startswith("thumbnail."):
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    return other


def test_a_samplers_decisions_do_not_depend_on_what_the_reader_answers() -> None:
    other = others_answers(READER)
    changed = {}
    for kind in ("sampler", "glimpse"):
        one, two = (drawn(make_agent(kind), all_of(), reader) for reader in (READER, other))
        assert not torch.allclose(one.answers, two.answers, atol=1e-2)
        changed[kind] = one.actions.shape != two.actions.shape or not torch.equal(one.actions, two.actions)
    assert changed == {"sampler": False, "glimpse": True}


@pytest.mark.parametrize("name", ["summary", "probabilities", "streak"])
def test_a_samplers_judgement_does_not_depend_on_what_the_reader_made_of_frames(name: str) -> None:
    episodes = drawn(make_agent("glimpse"), all_of())
    agent = make_agent("sampler")
    value = getattr(episodes.observation, name)
    other = value.flip(-1) + 1 if value.is_floating_point() else value + 5
    with torch.no_grad():
        first, second = (
            agent.judge(o) for o in (episodes.observation, episodes.observation._replace(**{name: other}))
        )
        glimpses = make_agent("glimpse")
        seen, changed = (
            glimpses.judge(o) for o in (episodes.observation, episodes.observation._replace(**{name: other}))
        )
    for a, b in zip([*first.logits, first.value], [*second.logits, second.value], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(seen.value, changed.value)


def test_a_sampler_pays_for_one_answer() -> None:
    outcome = read(SOURCE, READER, make_agent("sampler"), Plan.of(torch.tensor([6])), 1, 1)
    assert outcome is not None
    assert float(outcome.flops) == READER.predict_flops
    assert make_agent("sampler").needs == {"seen", "preview"}


def test_a_sampler_learns_how_many_frames_a_price_is_worth() -> None:
    reader = colour_reader(CLIPS)  # its preview happens to prefer needles
    agent = SamplerAgent(reader.task, reader, 8, hidden_size=12)
    scene = Training(held_out=0.0).scene(CLIPS.split("train"), reader, agent, 1, 24, 0)
    fit, generator = StoppingFit(), torch.Generator().manual_seed(0)
    readings = fit.record(scene, generator)
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-2)
    for _ in range(150):
        price = scene.draw_prices(24, generator)
        loss = fit.loss(agent, readings, price)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    part = CLIPS.split("test")
    assert part.labels is not None
    for worth, frames in ((0.5, 1), (30.0, 0)):
        outcome = read(part, reader, agent.eval(), Plan.of(torch.arange(24), worth), 24, 1)
        assert outcome is not None
        assert set(outcome.tokens.tolist()) == {frames}
        right = float((outcome.probabilities.argmax(1) == part.labels).double().mean())
        assert (right > 0.9) if frames else (right < 0.5)


# Halting.


def recorded(kind: str = "frame exit") -> tuple[PolicyAgent, Recorded]:
    """An agent and plain readings to the end, in the order of the clips."""
    agent, rows = make_agent(kind), torch.arange(len(LENGTHS))
    plain = torch.tensor(agent.scheme.plain_action).expand(len(rows), -1)
    episodes = roll_out(SOURCE, READER, NeverHalts(agent, plain), Plan.of(rows), 8, 1)
    assert SOURCE.labels is not None
    extra = 0 if "probabilities" in agent.needs else READER.predict_flops
    return agent, record(episodes, SOURCE.labels, "log_likelihood", READER.full_flops(), extra)


class HaltsAfter(Agent):
    """Halts as many steps after the start as it is told; its places are the policy's own."""

    def __init__(self, policy: PolicyAgent, stop: int) -> None:
        self.policy, self.stop = policy, stop
        self.scheme, self.needs = policy.scheme, policy.needs

    @property
    def decision_flops(self) -> float:
        return self.policy.decision_flops

    def act(self, observation: Observation) -> Tensor:
        actions = self.policy.act(observation)
        if isinstance(self.scheme.decisions[1], Mode):
            actions[:, 1] = self.scheme.decisions[1].plain
        actions[:, 0] = (observation.observations >= self.stop).long()
        return actions


@pytest.mark.parametrize("kind", [kind for kind in MAKE if kind != "resolution"])
def test_what_is_recorded_is_what_halting_there_costs_and_brings(kind: str) -> None:
    agent, readings = recorded(kind)
    rows = torch.arange(len(LENGTHS))
    assert SOURCE.labels is not None
    for step in (0, 1, 2, 7, 20):
        outcome = read(SOURCE, READER, HaltsAfter(agent, step), Plan.of(rows), 3, 1)
        assert outcome is not None
        column = readings.num_steps.clamp(max=step)  # a clip that has ended stays at its end
        assert torch.equal(readings.cost[rows, column], outcome.flops / READER.full_flops())
        truth = outcome.probabilities[rows, SOURCE.labels].double()
        torch.testing.assert_close(readings.utility[rows, column], truth.clamp_min(1e-3).log())


# Gates.


def test_gates_are_recorded_from_coarse_to_fine() -> None:
    agent = make_agent("frame exit")
    never = NeverHalts(agent, torch.zeros(len(LENGTHS), 2, dtype=torch.long))
    spans = SpanRecorder(len(LENGTHS))
    read(SOURCE, READER, never, Plan.of(torch.arange(len(LENGTHS))), 3, 1, spans)
    assert list(map(list, spans.positions)) == [list(coarse_to_fine(length)) for length in LENGTHS]


def test_the_loss_of_gates_is_that_of_their_targets_by_hand() -> None:
    agent, readings = recorded()
    num = len(LENGTHS)
    price = torch.linspace(0.1, 40, num, dtype=torch.double)
    fit = GateFit(scale=0.1)
    observation = readings.observation._replace(price=price[:, None].expand_as(readings.cost[:, 1:]))
    with torch.no_grad():
        chance = torch.sigmoid(agent.halting(observation)).double()
    total, targets = [], []
    for row in range(num):
        for t in range(1, int(readings.num_steps[row])):  # from the first frame on
            limit = 0.1 * float(price[row]) * math.exp(math.log2(1 + t) / 2)
            opens = -float(readings.utility[row, t]) < limit
            targets.append(opens)
            total.append(-math.log(float(chance[row, t]) if opens else 1 - float(chance[row, t])))
    assert 0.2 < sum(targets) / len(targets) < 0.8
    loss = fit.loss(agent, readings, price)
    assert loss.item() == pytest.approx(sum(total) / len(total), rel=1e-4)


def test_a_gates_target_worked_out() -> None:
    """One clip of three frames, an answer of loss 1 before and 0.6, 0.2 after frames, at scale x price = 0.3."""
    agent = FrameExitAgent(TASK, READER, hidden_size=4, summary_size=0)
    nn.init.zeros_(agent.heads.weight)
    with torch.no_grad():
        agent.heads.bias.copy_(torch.tensor([0.0, 2.0, 0.0]))  # opens with chance sigmoid(2)
    column = torch.tensor([[0, 1, 2]])
    observation = Observation(
        summary=torch.zeros(1, 3, 20), probabilities=torch.full((1, 3, 3), 1 / 3), streak=column,
        position=column, length=torch.full((1, 3), 3), tokens=column, observations=column,
        flops=column.double(), price=column.double(), tokens_left=column.double(),
        flops_left=torch.full((1, 3), math.inf), peek=None, episode=column * 0,
    )  # fmt: skip
    utility = -torch.tensor([[1.0, 0.6, 0.2, 0.1]], dtype=torch.double)
    readings = Recorded(observation, utility, -utility, torch.tensor([3]))
    # limits: 0.3 exp(1/2) = 0.49 after one frame, 0.3 exp(log2(3)/2) = 0.66 after two; so shut, then open
    loss = GateFit(scale=0.1).loss(agent, readings, torch.tensor([3.0]).double())
    opens = 1 / (1 + math.exp(-2))
    assert loss.item() == pytest.approx(-(math.log(1 - opens) + math.log(opens)) / 2, rel=1e-6)


def test_gates_can_be_fitted() -> None:
    reader = colour_reader(CLIPS)
    agent = FrameExitAgent(reader.task, reader, hidden_size=24, summary_size=4)
    scene = Training(task_reward="log_likelihood", held_out=0.0, prices=(0.01, 10.0)).scene(
        CLIPS.split("train"), reader, agent, 1, 24, 0
    )
    fit, generator = GateFit(scale=0.1), torch.Generator().manual_seed(0)
    readings = fit.record(scene, generator)
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-2)

    def loss() -> Tensor:
        return fit.loss(agent, readings, scene.draw_prices(len(readings.num_steps), generator))

    before = loss().item()
    for _ in range(150):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    after = sum(loss().item() for _ in range(5)) / 5
    assert after < 0.1 < before
    # at a low price a gate opens once the answer is sure, which is once the needle was looked at
    part = CLIPS.split("test")
    outcome = read(part, reader, agent.eval(), Plan.of(torch.arange(24), 0.05), 24, 1)
    assert outcome is not None
    assert part.truth is not None
    needles = part.truth.argmax(1).tolist()
    expected = [coarse_to_fine(8).index(needle) + 1 for needle in needles]
    assert outcome.tokens.tolist() == expected


def test_a_scale_of_nothing_is_refused() -> None:
    with pytest.raises(UserError) as error:
        GateFit(scale=0.0)
    assert str(error.value) == "GateFit: scale, got 0.0; expected a number above 0, at most 1,000,000"


def test_gates_need_losses_to_open_by() -> None:
    agent = make_agent("frame exit")
    scene = Training(task_reward="correctness").scene(SOURCE, READER, agent, 1, 8, 0)
    with pytest.raises(UserError) as error:
        GateFit().record(scene, torch.Generator())
    assert str(error.value) == (
        "GateFit: training.task_reward, got 'correctness'; "
        "expected log_likelihood, for gates open by the loss of the answer"
    )


# Resolutions and patches.


def test_resolutions_pass_over_frames_and_read_in_both_views() -> None:
    episodes = drawn(make_agent("resolution"), all_of())
    read_in = episodes.reads.modes[episodes.reads.counts > 0]
    assert set(read_in.tolist()) == {READER.modes.index(name) for name in ("8px", "16px")}
    for row in range(len(episodes.sequence)):
        found = episodes.reads.positions[row, :, 0][episodes.reads.counts[row] > 0].tolist()
        assert found == sorted(set(found))
        assert all(
            after - before - 1 in (0, 1, 3) for before, after in zip([-1, *found], found, strict=False)
        )


def test_a_focus_reads_patches_or_passes_over() -> None:
    agent = make_agent("focus")
    patches = [f"8px_2x2_{i}" for i in range(4)]
    mode = agent.scheme.decisions[1]
    assert isinstance(mode, Mode)
    assert mode.names == ("copy", *patches)
    episodes = drawn(agent, all_of())
    read_in = episodes.reads.modes[episodes.reads.counts > 0]
    assert set(read_in.tolist()) == {READER.modes.index(name) for name in patches}
    assert (episodes.tokens[~episodes.halted] < SOURCE.lengths[episodes.sequence][~episodes.halted]).any()


def test_a_grid_that_the_reader_lacks() -> None:
    with pytest.raises(UserError) as error:
        FocusAgent(TASK, READER, "8px_3x3")
    assert str(error.value) == (
        "FocusAgent: patches, got '8px_3x3'; expected a grid among the views "
        "8px, 16px, 8px_2x2_0, 8px_2x2_1, 8px_2x2_2, 8px_2x2_3"
    )


def test_a_sampler_needs_previews() -> None:
    with pytest.raises(UserError) as error:
        read(SOURCE, noise_reader(preview=False), make_agent("sampler"), all_of(), 3, 1)
    assert str(error.value) == "reading: preview, got 'a reader without'; expected a reader that has previews"
