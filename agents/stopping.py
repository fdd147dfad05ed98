"""Halting as optimal stopping: on recorded readings the worth of having stopped anywhere is known.

Read some sequences to the end once; the reward that halting after each observation would have brought is then
known, so the best rule can be fitted backwards without a single drawn action. Three ways, all in one network over all
prices:

- regression (Longstaff and Schwartz 2001, as American options are priced): the halting logit estimates how much more
  halting now is worth than what the present rule gets by going on; by least squares on that difference as it is, for
  bounding what is unlikely but large could turn the sign of its mean;
- expected: the expected reward of the stochastic rule is summed exactly over all stopping times, sum_t S_t h_t u_t
  with S_t the chance of having come that far, and its gradient followed (policy gradient without sampling);
- classification: halting or going on is a class, and a mistake weighs what it costs, with the present stochastic rule
  from there on (classification-based policy iteration, Lagoudakis and Parr 2003). A logit that is far on the wrong
  side still has its whole gradient, where the expectation's has vanished: so halting follows the price over a wide
  range even where for most prices the same is best.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from temporal.agents.base import Agent
from temporal.agents.policy import PolicyAgent
from temporal.agents.rollout import Trajectories, roll_out
from temporal.agents.scene import Scene
from temporal.episodes import Observation, Plan
from temporal.ranges import Batch, Checked, Count, Rate, Share, Updates
from temporal.reward import answer_reward

Method = Literal["regression", "expected", "classification"]


class Recorded(NamedTuple):
    """Readings that never halted: observations (n, steps, ...), the worth of each answer, and spending.

    Each was read within the budget in tokens that its observations show, which may end it in the middle of a chunk.
    `utility` (n, steps + 1) is the task's reward for halting before step t, the last column for the end; `cost`
    (n, steps + 1) what had been spent by then, in units of full reading; `num_steps` (n,) decisions until the end.
    """

    observation: Observation
    utility: Tensor
    cost: Tensor
    num_steps: Tensor

    def at(self, price: Tensor) -> Observation:
        """The observations as if each reading had been at a price (n,)."""
        return self.observation._replace(price=price[:, None].expand_as(self.observation.price))

    def part(self, rows: Tensor) -> Recorded:
        """Some readings."""
        observation = Observation(*(None if c is None else c[rows] for c in self.observation))  # type: ignore[arg-type]
        return Recorded(observation, self.utility[rows], self.cost[rows], self.num_steps[rows])


class NeverHalts(Agent):
    """Observes and pays as a policy does, but reads to the end; each episode keeps the other decisions drawn for it.

    Decisions that mean nothing by themselves, such as places, are the policy's own at every step.

    Args:
        policy: whose observations are recorded.
        options: (episodes, decisions) actions, halting ignored.
    """

    def __init__(self, policy: PolicyAgent, options: Tensor) -> None:
        self._policy, self._options = policy, options.clone()
        self.scheme, self.needs = policy.scheme, policy.needs | {"probabilities"}  # whose worth is recorded
        if policy.scheme.halt_index is not None:
            self._options[:, policy.scheme.halt_index] = 0

    @property
    def decision_flops(self) -> float:
        """What the policy's decisions cost."""
        return self._policy.decision_flops

    @property
    def peek_flops(self) -> float:
        """What its peeking costs."""
        return self._policy.peek_flops

    def act(self, observation: Observation) -> Tensor:
        """What was drawn for the episode."""
        options = self._options.to(observation.episode.device)[observation.episode]
        if not any(d.every_step for d in self.scheme.decisions):
            return options
        own = self._policy.act(observation)
        anew = [d.every_step for d in self.scheme.decisions]
        return torch.where(torch.tensor(anew, device=own.device), own, options)


class StoppingFit(Checked):
    """How halting is fitted on recorded readings.

    Args:
        updates: of the agent; 0 leaves this phase out.
        batch_size: readings of one update.
        sequences: readings recorded at most; bounds memory.
        learning_rate: of AdamW, at its peak.
        weight_decay: of AdamW, 0 to 1.
        method: expected (exact expectation over stopping times), classification or regression (Longstaff-Schwartz).
        variety: share of readings recorded with random other decisions (sifting, skimming, jumping), 0 to 1.
    """

    def __init__(
        self,
        updates: Updates = 800,
        batch_size: Batch = 256,
        sequences: Count = 4000,
        learning_rate: Rate = 2e-3,
        weight_decay: Share = 1e-2,
        method: Method = "expected",
        variety: Share = 0.5,
    ) -> None:
        self.updates, self.batch_size, self.sequences = updates, batch_size, sequences
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.method, self.variety = method, variety

    def record(self, scene: Scene, generator: torch.Generator) -> Recorded:
        """Read the agent's sequences to the end, no more than `sequences` of them."""
        rows = scene.agent_rows
        rows = rows[torch.randperm(len(rows), generator=generator)[: self.sequences]]
        sizes = scene.agent.scheme.num_options
        options = torch.stack([torch.randint(0, n, (len(rows),), generator=generator) for n in sizes], 1)
        plain = torch.tensor(scene.agent.scheme.plain_action)
        varied = torch.rand(len(rows), 1, generator=generator) < self.variety
        options = torch.where(varied, options, plain)
        scene.reader.eval()
        scene.agent.eval()  # its own decisions, where it takes any, are those that it would take
        agent = NeverHalts(scene.agent, options)
        plan = Plan.of(rows, tokens=scene.draw_budgets(len(rows), generator))
        episodes = roll_out(scene.source, scene.reader, agent, plan, scene.num_slots, scene.chunk)
        extra = 0 if "probabilities" in scene.agent.needs else scene.reader.predict_flops
        labels, full = scene.labels(episodes.sequence), scene.reader.full_flops()
        return record(episodes, labels, scene.task_reward, full, extra)

    def loss(self, agent: PolicyAgent, recorded: Recorded, price: Tensor) -> Tensor:
        """See `stopping_loss`."""
        return stopping_loss(agent, recorded, price, self.method)


def record(
    trajectories: Trajectories, labels: Tensor, task_reward: str, full_flops: float, extra_flops: float = 0.0
) -> Recorded:
    """What halting at each step of some full readings would have brought.

    Args:
        trajectories: readings to the end.
        labels: of the episodes.
        task_reward: what an answer is worth.
        full_flops: one unit of cost.
        extra_flops: of each answer but the last, where the policy does without and they were given to be recorded.
    """
    observation = trajectories.observation
    assert observation.probabilities is not None
    num_steps = trajectories.valid.sum(1)
    answers = torch.cat([observation.probabilities, trajectories.answers[:, None]], 1)
    rows = torch.arange(len(num_steps), device=num_steps.device)
    answers[rows, num_steps] = trajectories.answers
    utility = answer_reward(answers, labels[:, None].expand(answers.shape[:2]), task_reward)
    total = trajectories.flops - extra_flops * (trajectories.reads.counts > 0).sum(1)
    cost = torch.cat([observation.flops - extra_flops * observation.observations, total[:, None]], 1)
    cost[rows, num_steps] = total
    return Recorded(observation, utility, cost / full_flops, num_steps)


def stopping_loss(agent: PolicyAgent, recorded: Recorded, price: Tensor, method: Method) -> Tensor:
    """What is minimised so that the halting head becomes the best rule for each price.

    Args:
        agent: with a halting decision.
        recorded: full readings.
        price: (n,) one for each reading.
        method: expected, classification or regression.
    """
    steps = recorded.num_steps
    score = agent.halting(recorded.at(price)).double()
    # The best rule for a price is the same at any scale, and unscaled the highest prices drown all others.
    worth = (recorded.utility - price[:, None] * recorded.cost) / (1 + price)[:, None]
    going = torch.arange(score.shape[1], device=score.device) < steps[:, None]
    final = worth.gather(1, steps[:, None])[:, 0]
    if method == "expected":
        return -expected_worth(score, worth[:, :-1], final, going).mean()
    if method == "classification":
        gain = worth[:, :-1] - worth_of_going_on(score.detach(), worth[:, :-1], final, going)
        wrong = F.softplus(-torch.sign(gain) * score)
        return (gain.abs() * wrong * going).sum() / going.sum()
    realised = realised_worth(score.detach() > 0, worth[:, :-1], final, going)
    return (F.mse_loss(score, worth[:, :-1] - realised, reduction="none") * going).sum() / going.sum()


def expected_worth(score: Tensor, worth: Tensor, final: Tensor, going: Tensor) -> Tensor:
    """Exact expected worth (n,) of halting with chance sigmoid(score) at each step.

    Args:
        score: (n, steps) halting logits.
        worth: (n, steps) of halting there.
        final: (n,) of reaching the end.
        going: (n, steps) false beyond the end.
    """
    stay = F.logsigmoid(-score) * going
    come = stay.cumsum(1)  # log of the chance of passing each step
    reach = (come - stay).exp()
    halted = (reach * torch.sigmoid(score) * worth * going).sum(1)
    return halted + come[:, -1].exp() * final


def worth_of_going_on(score: Tensor, worth: Tensor, final: Tensor, going: Tensor) -> Tensor:
    """Expected worth (n, steps) of going on at each step and then halting with chance sigmoid(score) at each."""
    value, found = final, []
    halts = torch.sigmoid(score) * going
    for t in range(score.shape[1] - 1, -1, -1):
        found.append(value)
        value = value + halts[:, t] * (worth[:, t] - value)
    return torch.stack(found[::-1], 1)


def realised_worth(stops: Tensor, worth: Tensor, final: Tensor, going: Tensor) -> Tensor:
    """What going on at each step (n, steps) really brings under a deterministic rule, backwards in time."""
    value, found = final, []
    for t in range(stops.shape[1] - 1, -1, -1):
        found.append(value)
        value = torch.where(going[:, t] & stops[:, t], worth[:, t], value)
    return torch.stack(found[::-1], 1)
