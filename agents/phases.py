"""The three phases of a training: the reader warms up, halting is fitted, decisions learn by policy gradients."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from temporal.agents.reinforce import Learner
from temporal.agents.returns import rewards
from temporal.agents.rollout import Trajectories, roll_out
from temporal.agents.scene import Scene
from temporal.agents.stopping import Recorded, StoppingFit
from temporal.agents.warmup import Warmup, answer_losses, batches
from temporal.episodes import Plan
from temporal.reward import answer_reward

Metrics = dict[str, float]


class Phase(ABC):
    """A number of updates that can stop and go on between any two: nothing but weights, optimiser and step count.

    Args:
        scene: what is trained, on what.
        clip_norm: gradients are scaled down to this norm.
    """

    name: str

    def __init__(self, scene: Scene, clip_norm: float) -> None:
        self.scene, self.clip_norm = scene, clip_norm

    @property
    @abstractmethod
    def num_updates(self) -> int:
        """How many there are."""

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimiser over what learns in this phase."""

    def prepare(self, generator: torch.Generator) -> None:  # noqa: B027 - most phases need none
        """Called once in each process, also when resuming, with the weights that the phase began with."""

    @abstractmethod
    def losses(self, update: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Metrics]]:
        """Losses of one update, an optimiser's step after each."""

    @abstractmethod
    def learning_rate(self, update: int) -> float:
        """At this update."""


def cosine(peak: float, update: int, total: int, ramp: int = 50) -> float:
    """A learning rate that climbs over `ramp` updates and then falls to nothing along a cosine."""
    return (
        peak * min(1.0, (update + 1) / ramp) * 0.5 * (1 + math.cos(math.pi * min(update / max(total, 1), 1)))
    )


class WarmupPhase(Phase):
    """The reader learns to answer after any number of observations."""

    name = "warmup"

    def __init__(self, scene: Scene, warmup: Warmup, seed: int) -> None:
        super().__init__(scene, warmup.clip_norm)
        self.warmup, self._seed = warmup, seed
        self._epoch = -1
        self._batches: list[Tensor] = []

    @property
    def per_epoch(self) -> int:
        """Updates of one pass."""
        return -(-len(self.scene.reader_rows) // self.warmup.batch_size)

    @property
    def num_updates(self) -> int:
        """Epochs times batches."""
        return self.warmup.epochs * self.per_epoch

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over the reader."""
        parameters = self.scene.reader.parameters()
        return torch.optim.AdamW(
            parameters, lr=self.warmup.learning_rate, weight_decay=self.warmup.weight_decay
        )

    def learning_rate(self, update: int) -> float:
        """Ramp and cosine."""
        return cosine(self.warmup.learning_rate, update, self.num_updates)

    def losses(self, update: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Metrics]]:
        """Cross-entropy of one batch."""
        scene, (epoch, index) = self.scene, divmod(update, self.per_epoch)
        if epoch != self._epoch:
            order = torch.Generator().manual_seed(self._seed + epoch)
            self._batches = list(
                batches(scene.source.lengths, scene.reader_rows, self.warmup.batch_size, order)
            )
            self._epoch = epoch
        rows = self._batches[index]
        scene.reader.train()
        reads = self.warmup.reads(scene.reader, scene.source, rows, scene.chunk, generator)
        device = next(scene.reader.parameters()).device
        loss = self.warmup.loss(scene.reader, reads.to(device), scene.labels(rows).to(device))
        yield loss, {"loss": float(loss.detach())}


class StoppingPhase(Phase):
    """The halting head learns from recorded full readings, whose every stopping point has a known worth."""

    name = "stopping"

    def __init__(self, scene: Scene, fit: StoppingFit, clip_norm: float) -> None:
        super().__init__(scene, clip_norm)
        self.fit = fit
        self._recorded: Recorded | None = None

    @property
    def num_updates(self) -> int:
        """As configured; none where the agent cannot halt."""
        return self.fit.updates if self.scene.agent.scheme.halt_index is not None else 0

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over the agent."""
        return torch.optim.AdamW(
            self.scene.agent.parameters(), lr=self.fit.learning_rate, weight_decay=self.fit.weight_decay
        )

    def learning_rate(self, update: int) -> float:
        """Ramp and cosine."""
        return cosine(self.fit.learning_rate, update, self.num_updates)

    def prepare(self, generator: torch.Generator) -> None:
        """Record the readings."""
        self._recorded = self.fit.record(self.scene, generator)

    def losses(self, update: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Metrics]]:
        """Minus the expected worth, or the regression's error, on a random batch."""
        assert self._recorded is not None
        scene = self.scene
        rows = torch.randint(0, len(self._recorded.num_steps), (self.fit.batch_size,), generator=generator)
        part = self._recorded.part(rows)
        scene.agent.train()
        price = scene.draw_prices(len(rows), generator).to(part.cost.device)
        loss = self.fit.loss(scene.agent, part, price)
        yield loss, {"loss": float(loss.detach())}


class PolicyPhase(Phase):
    """All decisions learn by policy gradients on fresh roll-outs; the reader may learn along."""

    name = "policy"

    def __init__(
        self, scene: Scene, learner: Learner, updates: int, episodes: int, learning_rate: float,
        reader_learning_rate: float, fit: StoppingFit, stopping_weight: float, clip_norm: float,
    ) -> None:  # fmt: skip
        super().__init__(scene, clip_norm)
        self.learner, self._updates, self.episodes = learner, updates, episodes
        self._learning_rate, self._reader_rate = learning_rate, reader_learning_rate
        self._stopping = StoppingPhase(scene, fit, clip_norm) if stopping_weight > 0 else None
        self._stopping_weight = stopping_weight

    @property
    def num_updates(self) -> int:
        """As configured."""
        return self._updates

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam over the agent and, at its own rate, the reader."""
        groups: list[dict[str, Any]] = [{"params": list(self.scene.agent.parameters()), "share": 1.0}]
        if self._reader_rate > 0:
            share = self._reader_rate / self._learning_rate
            groups.append({"params": list(self.scene.reader.parameters()), "share": share})
        return torch.optim.AdamW(groups, lr=self._learning_rate, weight_decay=0.0)

    def learning_rate(self, update: int) -> float:
        """Ramp and cosine."""
        return cosine(self._learning_rate, update, self.num_updates)

    def prepare(self, generator: torch.Generator) -> None:
        """Record readings for the auxiliary loss, if there is one."""
        if self._stopping is not None:
            self._stopping.prepare(generator)

    def losses(self, update: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Metrics]]:
        """Roll out, replay, and the learner's losses."""
        scene, device = self.scene, next(self.scene.reader.parameters()).device
        episodes = self._roll_out(generator)
        labels = scene.labels(episodes.sequence)
        answer = answer_reward(episodes.answers, labels, scene.task_reward)
        price = episodes.observation.price[:, 0]
        reward = rewards(episodes.cost, episodes.valid, price, answer, scene.reader.full_flops())
        right = (episodes.answers.argmax(-1) == labels).double().mean()
        metrics = {
            "reward": float(reward.sum(1).mean()),
            "accuracy": float(right),
            "flops_mean": float(episodes.flops.mean()),
            "tokens_mean": float(episodes.tokens.double().mean()),
        }
        # The best policy for a price is the same at any scale, and unscaled the highest prices drown all others.
        scaled = (reward / (1 + price)[:, None]).float()
        # The policy is learnt as it acted, without dropout: else probabilities would differ before anything changed.
        for loss in self.learner.losses(scene.agent, episodes, scaled, generator):
            if self._stopping is not None:
                loss = loss + self._stopping_weight * next(self._stopping.losses(update, generator))[0]
                scene.agent.eval()
            if self._reader_rate > 0:
                loss = loss + self._reader_loss(episodes, labels.to(device))
            yield loss, metrics | {"loss": float(loss.detach())}

    def _roll_out(self, generator: torch.Generator) -> Trajectories:
        scene, group = self.scene, self.learner.group_size
        num = max(self.episodes // group, 1)
        rows = scene.agent_rows[torch.randint(0, len(scene.agent_rows), (num,), generator=generator)]
        price, budget = scene.draw_prices(num, generator), scene.draw_budgets(num, generator)
        plan = Plan.of(*(x.repeat_interleave(group) for x in (rows, price, budget)))
        scene.reader.eval()
        scene.agent.eval()
        with scene.agent.sampling(generator):
            return roll_out(scene.source, scene.reader, scene.agent, plan, scene.num_slots, scene.chunk)

    def _reader_loss(self, episodes: Trajectories, labels: Tensor) -> Tensor:
        """Cross-entropy of the answers along the same trajectories."""
        scene = self.scene
        scene.reader.train()
        each = answer_losses(scene.reader, episodes.reads, labels)
        seen = torch.cat([torch.ones_like(labels)[:, None].bool(), episodes.reads.counts > 0], 1)
        return (each * seen).sum() / seen.sum()
