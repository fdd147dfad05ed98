"""What all phases of a training share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from temporal.agents.policy import PolicyAgent
from temporal.data.base import Sequences
from temporal.readers.base import Reader
from temporal.reward import TaskReward


@dataclass
class Scene:
    """What all phases share: the data, the reader, the agent, and how readings are laid out."""

    source: Sequences
    reader_rows: Tensor  # sequences that the reader learns from
    agent_rows: Tensor  # sequences that the agent learns from
    reader: Reader
    agent: PolicyAgent
    chunk: int
    num_slots: int
    task_reward: TaskReward
    prices: tuple[float, float]
    token_budget_share: float

    def draw_prices(self, num: int, generator: torch.Generator) -> Tensor:
        """Prices (num,), log-uniform over the range."""
        low, high = self.prices
        u = torch.rand(num, generator=generator, dtype=torch.float64)
        return low * (high / low) ** u

    def draw_budgets(self, num: int, generator: torch.Generator) -> Tensor:
        """Budgets in tokens (num,): none for most, else log-uniform from one chunk to the longest sequence."""
        u = torch.rand(num, generator=generator, dtype=torch.float64)
        longest = max(self.reader.task.max_length, self.chunk + 1)
        drawn = (self.chunk * (longest / self.chunk) ** u).ceil()
        none = torch.rand(num, generator=generator) >= self.token_budget_share
        return torch.where(none, torch.full_like(drawn, math.inf), drawn)

    def labels(self, sequences: Tensor) -> Tensor:
        """True classes of some sequences."""
        assert self.source.labels is not None
        return self.source.labels[sequences.cpu()].to(sequences.device)
