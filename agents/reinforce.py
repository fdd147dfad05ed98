"""REINFORCE (Williams 1992) with a learned or a group baseline, and A2C (arXiv 1602.01783)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from temporal.agents.policy import Judgement, PolicyAgent
from temporal.agents.returns import advantages, group_baseline, to_go
from temporal.agents.rollout import Trajectories
from temporal.errors import bad
from temporal.ranges import Checked, Few, NonNegative, Share


class Learner(Checked, ABC):
    """A policy-gradient method: turns episodes and rewards into losses, one for each update.

    Attributes:
        group_size: episodes drawn of each sequence at the same price.
    """

    group_size: int = 1

    @abstractmethod
    def losses(
        self, agent: PolicyAgent, episodes: Trajectories, reward: Tensor, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield losses; the caller takes an optimiser's step after each, before asking for the next.

        Args:
            agent: as it acted, that is in evaluation mode.
            episodes: recorded with the agent as it was.
            reward: (episodes, steps), 0 where padded.
            generator: for shuffling.
        """


def mean_over(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over steps that happened."""
    return (values * valid).sum() / valid.sum()


class Reinforce(Learner):
    """Monte-Carlo policy gradient.

    Args:
        baseline: learned (the value head), group (other episodes of the same sequence), none.
        group_size: episodes of each sequence; 2 or more for the group baseline.
        entropy_weight: bonus for entropy of the decisions, 0 or more.
        value_weight: of the value head's squared error, 0 or more; of the learned baseline only.
    """

    def __init__(
        self,
        baseline: Literal["learned", "group", "none"] = "group",
        group_size: Few = 4,
        entropy_weight: NonNegative = 0.003,
        value_weight: NonNegative = 0.5,
    ) -> None:
        if baseline == "group" and group_size < 2:
            raise bad("Reinforce", "group_size", group_size, "2 or more for a group baseline")
        self.baseline, self.group_size = baseline, group_size
        self.entropy_weight, self.value_weight = entropy_weight, value_weight

    def losses(
        self, agent: PolicyAgent, episodes: Trajectories, reward: Tensor, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """One update: minus log-probability times advantage."""
        judgement = agent.judge(episodes.observation)
        returns = to_go(reward)
        advantage = returns - self._baseline(returns, judgement)
        loss = policy_loss(agent, judgement, episodes, advantage, self.entropy_weight)
        if self.baseline == "learned":  # a value that nothing uses would only disturb the layers it shares
            loss = loss + self.value_weight * mean_over((judgement.value - returns) ** 2, episodes.valid)
        yield loss

    def _baseline(self, returns: Tensor, judgement: Judgement) -> Tensor:
        if self.baseline == "learned":
            return judgement.value.detach()
        if self.baseline == "none":
            return torch.zeros_like(returns)
        total = returns[:, 0]
        # what was paid before a step is known by then and not the step's doing
        return group_baseline(total, self.group_size)[:, None] - (total[:, None] - returns)


def policy_loss(
    agent: PolicyAgent, judgement: Judgement, episodes: Trajectories, advantage: Tensor, entropy_weight: float
) -> Tensor:
    """The score-function loss over all steps, less the entropy bonus."""
    log_probability, entropy = agent.log_probability(judgement, episodes.actions)
    return mean_over(-log_probability * advantage.detach() - entropy_weight * entropy, episodes.valid)


class A2C(Learner):
    """Advantage actor-critic on whole episodes, with generalised advantage estimates.

    Args:
        decay: lambda of the estimates, 0 to 1.
        entropy_weight: bonus for entropy of the decisions, 0 or more.
        value_weight: of the value head's squared error, 0 or more.
    """

    def __init__(
        self, decay: Share = 0.95, entropy_weight: NonNegative = 0.003, value_weight: NonNegative = 0.5
    ) -> None:
        self.decay, self.entropy_weight, self.value_weight = decay, entropy_weight, value_weight

    def losses(
        self, agent: PolicyAgent, episodes: Trajectories, reward: Tensor, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """One update."""
        judgement = agent.judge(episodes.observation)
        advantage = advantages(reward, judgement.value.detach().to(reward.dtype), episodes.valid, self.decay)
        target = advantage + judgement.value.detach()
        yield policy_loss(
            agent, judgement, episodes, advantage, self.entropy_weight
        ) + self.value_weight * mean_over((judgement.value - target) ** 2, episodes.valid)
