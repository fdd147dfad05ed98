"""Policy gradients against the exact gradient, found by enumerating every way that an episode can go."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from temporal.agents.policy import PolicyAgent
from temporal.agents.ppo import PPO
from temporal.agents.reinforce import A2C, Learner, Reinforce, policy_loss
from temporal.agents.returns import advantages, rewards
from temporal.agents.rollout import Trajectories, roll_out
from temporal.decisions import Decision, Halt, Jump, Mode
from temporal.episodes import Plan
from temporal.errors import UserError
from tests.needle import NEEDLE, HaltsAfter, make_policy, make_reader

READER = make_reader()
SOURCE = NEEDLE.split("train")
CHUNK = 7  # 20 tokens are three observations
NO_EXTRAS = {"entropy_weight": 0.0, "value_weight": 0.0}
GENERATOR = torch.Generator()

Gradients = dict[str, Tensor]


def doubled(episodes: Trajectories) -> Trajectories:
    """In double precision, so that gradients can be compared closely."""
    observation = episodes.observation
    assert observation.probabilities is not None
    precise = observation._replace(
        summary=observation.summary.double(), probabilities=observation.probabilities.double()
    )
    return episodes._replace(observation=precise, answers=episodes.answers.double())


def every_episode(agent: PolicyAgent) -> tuple[Trajectories, Tensor]:
    """All four ways to read one sequence (halt before, after one, after two observations, never), and their rewards."""
    plan = Plan.of(torch.zeros(4, dtype=torch.long), 0.7)
    episodes = doubled(roll_out(SOURCE, READER, HaltsAfter(agent, torch.arange(4)), plan, 4, CHUNK))
    answer = torch.tensor([0.2, -0.4, 0.9, 0.5], dtype=torch.double)  # any function of how it went
    price = episodes.observation.price[:, 0]
    return episodes, rewards(episodes.cost, episodes.valid, price, answer, READER.full_flops())


def sampled_episodes(agent: PolicyAgent, num: int = 40, seed: int = 0) -> tuple[Trajectories, Tensor]:
    """Episodes drawn from the agent, and noise for rewards."""
    generator = torch.Generator().manual_seed(seed)
    agent.float()
    with agent.sampling(generator):
        episodes = doubled(roll_out(SOURCE, READER, agent, Plan.of(torch.arange(num), 0.1), num, CHUNK))
    agent.double()
    return episodes, torch.randn(
        episodes.valid.shape, generator=generator, dtype=torch.double
    ) * episodes.valid


def make_agent(*decisions: Decision) -> PolicyAgent:
    return make_policy(READER, *decisions).double()


def gradients(loss: Tensor, agent: PolicyAgent) -> Gradients:
    """Of every parameter but those of the value head."""
    named = {n: p for n, p in agent.named_parameters() if not n.startswith("value")}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)
    }


def exact(agent: PolicyAgent, episodes: Trajectories, reward: Tensor) -> tuple[Gradients, Tensor]:
    """Minus the gradient of the expected return, and the chance of each episode."""
    log_probability, _ = agent.log_probability(agent.judge(episodes.observation), episodes.actions)
    chance = (log_probability * episodes.valid).sum(1).exp()
    return gradients(-(chance * reward.sum(1)).sum(), agent), chance.detach()


def one_loss(learner: Learner, agent: PolicyAgent, episodes: Trajectories, reward: Tensor) -> Tensor:
    return next(learner.losses(agent, episodes, reward, GENERATOR))


def assert_same(actual: Gradients, expected: Gradients) -> None:
    for name, gradient in expected.items():
        torch.testing.assert_close(
            actual[name], gradient, atol=1e-9, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-4  # they are not all nothing


@pytest.mark.parametrize(
    ("learner", "group"),
    [
        (Reinforce("none", 1, **NO_EXTRAS), 1),
        (Reinforce("learned", 1, **NO_EXTRAS), 1),
        (Reinforce("group", 2, **NO_EXTRAS), 2),
        (Reinforce("group", 3, **NO_EXTRAS), 3),
        (A2C(decay=1.0, **NO_EXTRAS), 1),
    ],
    ids=["none", "learned", "group of 2", "group of 3", "a2c"],
)
def test_the_expected_gradient_is_that_of_the_expected_return(learner: Learner, group: int) -> None:
    agent = make_agent()
    episodes, reward = every_episode(agent)
    expected, chance = exact(agent, episodes, reward)
    assert float(chance.sum()) == pytest.approx(1, abs=1e-9)
    assert float(chance.min()) > 0.02
    total = {name: torch.zeros_like(g) for name, g in expected.items()}
    for drawn in torch.cartesian_prod(*[torch.arange(4)] * group).view(-1, group):
        part = episodes.part(drawn)
        # the loss is a mean over steps; over episodes it is the gradient's estimate
        loss = one_loss(learner, agent, part, reward[drawn]) * part.valid.sum() / group
        for name, gradient in gradients(loss, agent).items():
            total[name] += chance[drawn].prod() * gradient
    assert_same(total, expected)


def test_the_group_is_compared_by_whole_returns() -> None:
    # What was paid before a step is no merit or fault of the step, and the baseline takes it out again.
    agent = make_agent()
    episodes, reward = every_episode(agent)
    total = reward.sum(1)
    advantage = (total - (total.sum() - total) / 3)[:, None].expand_as(reward)
    expected = policy_loss(agent, agent.judge(episodes.observation), episodes, advantage, 0.0)
    found = one_loss(Reinforce("group", 4, **NO_EXTRAS), agent, episodes, reward)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_actor_critic_bootstraps_from_values() -> None:
    agent = make_agent()
    episodes, reward = every_episode(agent)
    value = agent.judge(episodes.observation).value
    learner = A2C(decay=0.5, **NO_EXTRAS)
    advantage = advantages(reward, value.detach(), episodes.valid, 0.5)
    log_probability, _ = agent.log_probability(agent.judge(episodes.observation), episodes.actions)
    expected = gradients(-(log_probability * advantage)[episodes.valid].mean(), agent)
    assert_same(gradients(one_loss(learner, agent, episodes, reward), agent), expected)


def test_ppo_at_ratio_1_is_actor_critic_up_to_normalisation() -> None:
    agent = make_agent(Halt(), Jump((0, 4)))
    episodes, reward = sampled_episodes(agent)
    judgement = agent.judge(episodes.observation)
    advantage = advantages(reward, judgement.value.detach(), episodes.valid, 0.9)[episodes.valid]
    spread = advantage.std(correction=0) + 1e-6
    log_probability, _ = agent.log_probability(judgement, episodes.actions)
    # (A - mean) / spread is what PPO multiplies where A2C multiplies A
    centre = gradients(-log_probability[episodes.valid].mean(), agent)
    a2c = gradients(one_loss(A2C(0.9, **NO_EXTRAS), agent, episodes, reward), agent)
    expected = {name: (a2c[name] - advantage.mean() * centre[name]) / spread for name in a2c}
    ppo = PPO(passes=1, parts=1, decay=0.9, **NO_EXTRAS)
    assert_same(gradients(one_loss(ppo, agent, episodes, reward), agent), expected)


def test_ppo_makes_passes_times_parts_updates() -> None:
    agent = make_agent()
    episodes, reward = sampled_episodes(agent, 10)
    losses = PPO(passes=3, parts=4).losses(agent, episodes, reward, GENERATOR)
    assert len(list(losses)) == 12


def test_ppo_survives_a_single_step() -> None:
    agent = make_agent()
    episodes, reward = every_episode(agent)
    first = torch.tensor([0])  # halts at once
    assert int(episodes.valid[first].sum()) == 1
    assert one_loss(PPO(), agent, episodes.part(first), reward[first]).isfinite()


@pytest.mark.parametrize(
    ("shift", "advantage", "moves"),
    [
        (1.0, 1.0, False),
        (1.0, -1.0, True),
        (-1.0, 1.0, True),
        (-1.0, -1.0, False),
        (0.1, 1.0, True),
        (0.1, -1.0, True),
    ],
)
def test_ppo_clips_what_would_go_further(shift: float, advantage: float, moves: bool) -> None:
    agent = make_agent()
    episodes, _ = every_episode(agent)
    now, _ = agent.log_probability(agent.judge(episodes.observation), episodes.actions)
    ppo = PPO(clip=0.2, **NO_EXTRAS)
    before = now.detach() - shift  # the ratio is exp(shift)
    loss = ppo._loss(agent, episodes, before, torch.full_like(now, advantage), torch.zeros_like(now))
    ratio = math.exp(shift)
    assert loss.item() == pytest.approx(-min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage))
    found = gradients(loss, agent)
    assert any(bool(g.any()) for g in found.values()) == moves


# What must not leak.


LEARNERS = {
    "none": Reinforce("none", 1),
    "learned": Reinforce("learned", 1),
    "group": Reinforce("group", 2),
    "a2c": A2C(),
    "ppo": PPO(),
}
each_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)


@each_learner
def test_the_reader_gets_no_gradient_from_the_policy(learner: Learner) -> None:
    agent = make_agent()
    episodes, reward = sampled_episodes(agent)
    READER.zero_grad(set_to_none=True)
    assert not episodes.observation.summary.requires_grad
    for loss in learner.losses(agent, episodes, reward, GENERATOR):
        loss.backward()
    assert all(p.grad is None for p in READER.parameters())
    assert any(p.grad is not None and bool(p.grad.any()) for p in agent.parameters())


@each_learner
def test_the_value_head_learns_from_its_own_loss_only(learner: Learner) -> None:
    agent = make_agent()
    episodes, reward = sampled_episodes(agent)
    weight = learner.value_weight  # type: ignore[attr-defined]
    learner.value_weight = 0.0  # type: ignore[attr-defined]
    try:
        loss = one_loss(learner, agent, episodes, reward)
        [without] = torch.autograd.grad(loss, [agent.value.weight], allow_unused=True)
    finally:
        learner.value_weight = weight  # type: ignore[attr-defined]
    assert without is None or not without.any()


@pytest.mark.parametrize("learner", [Reinforce("learned", 1), A2C(), PPO()], ids=["learned", "a2c", "ppo"])
def test_the_value_head_learns_the_return(learner: Learner) -> None:
    agent = make_agent()
    episodes, _ = every_episode(agent)
    reward = torch.zeros_like(episodes.cost)
    reward[torch.arange(4), episodes.valid.sum(1) - 1] = 3.0  # every return is 3
    optimizer = torch.optim.Adam(agent.parameters(), lr=0.03)
    losses = (loss for _ in range(150) for loss in learner.losses(agent, episodes, reward, GENERATOR))
    for loss in itertools.islice(losses, 150):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    value = agent.judge(episodes.observation).value[episodes.valid]
    torch.testing.assert_close(value, torch.full_like(value, 3.0), atol=0.3, rtol=0)


@each_learner
def test_the_bonus_raises_entropy(learner: Learner) -> None:
    agent = make_agent(Halt(), Jump((0, 4)))
    with torch.no_grad():
        agent.heads.bias += torch.tensor([1.0, -1.0, 1.0, -1.0])  # rather sure
    episodes, reward = sampled_episodes(agent)

    def entropy() -> float:
        _, each = agent.log_probability(agent.judge(episodes.observation), episodes.actions)
        return float(each.detach()[episodes.valid].mean())

    before, weight = entropy(), learner.entropy_weight  # type: ignore[attr-defined]
    learner.entropy_weight = 1.0  # type: ignore[attr-defined]
    optimizer = torch.optim.SGD(agent.parameters(), lr=0.1)
    try:
        for _ in range(10):
            loss = one_loss(learner, agent, episodes, torch.zeros_like(reward))
            optimizer.zero_grad()
            loss.backward()
            agent.value.zero_grad()
            optimizer.step()
    finally:
        learner.entropy_weight = weight  # type: ignore[attr-defined]
    assert entropy() > before + 0.05


def test_where_the_agent_halted_its_other_heads_get_no_gradient() -> None:
    agent = make_agent(Jump((0, 4, 8)), Halt(), Mode(("skim", "full")))
    episodes, _ = sampled_episodes(agent)
    rows = {"move": range(3), "halt": range(3, 5), "mode": range(5, 7)}
    for halts in (True, False):
        steps = episodes.valid & (episodes.actions[..., 1] == int(halts))
        assert steps.any()
        log_probability, entropy = agent.log_probability(agent.judge(episodes.observation), episodes.actions)
        [found] = torch.autograd.grad((log_probability + entropy)[steps].sum(), [agent.heads.weight])
        touched = {name for name, where in rows.items() if bool(found[list(where)].any())}
        assert touched == ({"halt"} if halts else {"move", "halt", "mode"})


def test_probabilities_of_all_effects_add_up_to_1() -> None:
    agent = make_agent(Halt(), Jump((0, 4, 8)), Mode(("skim", "full")))
    episodes, _ = sampled_episodes(agent)
    judgement = agent.judge(episodes.observation)

    def of(*action: int) -> tuple[Tensor, Tensor]:
        actions = torch.tensor(action).expand_as(episodes.actions)
        log_probability, entropy = agent.log_probability(judgement, actions)
        return log_probability[episodes.valid], entropy[episodes.valid]

    logs = [of(0, jump, mode)[0] for jump in range(3) for mode in range(2)] + [of(1, 0, 0)[0]]
    chance = torch.stack(logs).exp()
    torch.testing.assert_close(chance.sum(0), torch.ones_like(chance[0]))
    torch.testing.assert_close(of(1, 2, 1)[0], of(1, 0, 0)[0])  # having halted, it went nowhere
    going = chance[:-1].sum(0)
    mean_entropy = going * of(0, 0, 0)[1] + (1 - going) * of(1, 0, 0)[1]
    torch.testing.assert_close(mean_entropy, torch.special.entr(chance).sum(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Reinforce("group", 1),
            "Reinforce: group_size, got 1; expected 2 or more for a group baseline",
        ),
        (lambda: A2C(decay=1.5), "A2C: decay, got 1.5; expected a number from 0 to 1"),
        (
            lambda: PPO(clip=0),
            "PPO: clip, got 0; expected a number above 0, at most 1,000,000",
        ),
    ],
)
def test_settings_out_of_range(make: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        make()  # type: ignore[operator]
    assert str(error.value) == message
