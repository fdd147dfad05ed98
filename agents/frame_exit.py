"""When to stop on a fixed path from coarse to fine: FrameExit (arXiv 2104.13400).

Frames are looked at in an order that halves the gaps; after each a gate decides whether the answer stands. The paper
trains gates without rewards: a gate should open where the loss of the answer, known in training, lies below a limit
that rises with every frame, beta exp(t / 2). `GateFit` does that; the default fit (the exact expectation of the reward
over all stopping times) and policy gradients are the alternatives.

Deviations. One network over all prices in place of one gate a frame and one model a beta: beta is `scale` times the
price. The gate sees the answer's probabilities, how long they have stood, the read-out and the price. Frames are pooled
by the reader's attention in place of a maximum over frames. t counts doublings of the frames seen in place of frames,
for 64 frames would let the exponential open every gate.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from temporal.agents.policy import PolicyAgent
from temporal.agents.scene import Scene
from temporal.agents.stopping import Recorded, StoppingFit
from temporal.decisions import Halt, Order
from temporal.errors import bad
from temporal.ranges import Batch, Count, Positive, Price, Rate, Share, Units, UnitsOrNone, Updates
from temporal.readers.base import Reader, Task


class FrameExitAgent(PolicyAgent):
    """Looks from coarse to fine and decides when to stop.

    Args:
        task: what the data set says (filled in by the program).
        reader: the reader that it drives (filled in by the program).
        hidden_size: units of each of the two hidden layers.
        summary_size: units that the reader's read-out is squeezed into.
        lowest_price: prices at or below look alike to the agent; above 0.
        highest_price: prices at or above look alike.
    """

    def __init__(
        self,
        task: Task,
        reader: Reader,
        hidden_size: Units = 64,
        summary_size: UnitsOrNone = 32,
        lowest_price: Price = 0.01,
        highest_price: Price = 30.0,
    ) -> None:
        scheme = (Halt(), Order())
        super().__init__(
            task, reader, scheme, hidden_size, summary_size, 0, False, 0, lowest_price, highest_price
        )


class GateFit(StoppingFit):
    """FrameExit's own targets: a gate opens where the loss lies below scale x price x exp(t / 2).

    Needs `training.task_reward: log_likelihood`, so that the worth of an answer is minus its loss.

    Args:
        updates: of the agent; 0 leaves this phase out.
        batch_size: readings of one update.
        sequences: readings recorded at most; bounds memory.
        learning_rate: of AdamW, at its peak.
        weight_decay: of AdamW, 0 to 1.
        scale: of the limit; above 0.
    """

    def __init__(
        self,
        updates: Updates = 800,
        batch_size: Batch = 256,
        sequences: Count = 4000,
        learning_rate: Rate = 2e-3,
        weight_decay: Share = 1e-2,
        scale: Positive = 0.1,
    ) -> None:
        super().__init__(updates, batch_size, sequences, learning_rate, weight_decay)
        self.scale = scale

    def record(self, scene: Scene, generator: torch.Generator) -> Recorded:
        """As any fit; raises UserError where what an answer is worth is not minus its loss."""
        if scene.task_reward != "log_likelihood":
            expected = "log_likelihood, for gates open by the loss of the answer"
            raise bad("GateFit", "training.task_reward", scene.task_reward, expected)
        return super().record(scene, generator)

    def loss(self, agent: PolicyAgent, recorded: Recorded, price: Tensor) -> Tensor:
        """Cross-entropy of the gates over all steps after the first frame."""
        observation = recorded.at(price)
        score = agent.halting(observation)
        doublings = torch.log2(1.0 + observation.observations)
        limit = self.scale * price[:, None] * torch.exp(doublings / 2)
        opens = -recorded.utility[:, :-1] < limit
        steps = torch.arange(score.shape[1], device=score.device)
        counted = (steps < recorded.num_steps[:, None]) & (observation.observations > 0)
        each = F.binary_cross_entropy_with_logits(score, opens.to(score.dtype), reduction="none")
        return (each * counted).sum() / counted.sum().clamp_min(1)
