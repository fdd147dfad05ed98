"""Proximal policy optimisation (arXiv 1707.06347), clipped form."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from temporal.agents.policy import PolicyAgent
from temporal.agents.reinforce import Learner, mean_over
from temporal.agents.returns import advantages
from temporal.agents.rollout import Trajectories
from temporal.ranges import Few, NonNegative, Positive, Share


class PPO(Learner):
    """Several passes over the same episodes, the change of the policy clipped.

    Args:
        clip: the probability ratio counts within 1 - clip to 1 + clip, above 0.
        passes: over each batch of episodes, 1 or more.
        parts: updates in each pass, 1 or more.
        decay: lambda of the advantage estimates, 0 to 1.
        entropy_weight: bonus for entropy of the decisions, 0 or more.
        value_weight: of the value head's squared error, 0 or more.
    """

    def __init__(
        self,
        clip: Positive = 0.2,
        passes: Few = 3,
        parts: Few = 2,
        decay: Share = 0.95,
        entropy_weight: NonNegative = 0.003,
        value_weight: NonNegative = 0.5,
    ) -> None:
        self.clip, self.passes, self.parts, self.decay = clip, passes, parts, decay
        self.entropy_weight, self.value_weight = entropy_weight, value_weight

    def losses(
        self, agent: PolicyAgent, episodes: Trajectories, reward: Tensor, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """`passes` times `parts` updates."""
        with torch.no_grad():
            judgement = agent.judge(episodes.observation)
            before, _ = agent.log_probability(judgement, episodes.actions)
            advantage = advantages(reward, judgement.value.to(reward.dtype), episodes.valid, self.decay)
            target = advantage + judgement.value
            spread = advantage[episodes.valid]
            advantage = (advantage - spread.mean()) / (
                spread.std(correction=0) + 1e-6
            )  # of one step the spread is 0
        for _ in range(self.passes):
            order = torch.randperm(len(reward), generator=generator)
            for rows in order.chunk(self.parts):
                yield self._loss(agent, episodes.part(rows), before[rows], advantage[rows], target[rows])

    def _loss(
        self, agent: PolicyAgent, episodes: Trajectories, before: Tensor, advantage: Tensor, target: Tensor
    ) -> Tensor:
        judgement = agent.judge(episodes.observation)
        now, entropy = agent.log_probability(judgement, episodes.actions)
        ratio = (now - before).exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        gain = torch.minimum(ratio * advantage, clipped * advantage)
        loss = mean_over(-gain - self.entropy_weight * entropy, episodes.valid)
        return loss + self.value_weight * mean_over((judgement.value - target) ** 2, episodes.valid)
