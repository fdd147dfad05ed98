"""All frames chosen at once from previews: OCSampler (arXiv 2201.04388) and SCSampler (arXiv 1904.04289).

One look at the previews of all frames settles which are read and how many; what the reader makes of the first has no
influence on the others. SCSampler takes those with the highest score, which is where this agent starts; OCSampler
learns from there by policy gradients, with the probability of the truth less that of another draw as reward.

Deviations. The frames are drawn one after the other from one distribution without replacement, which is the same as
drawing the set at once. Their number is a decision of its own, by the price, in place of a fixed number or of a budget
network. The baseline is the mean of the other draws for the same video (training.learner: Reinforce with a group) in
place of one uniform draw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from temporal.agents.policy import PolicyAgent
from temporal.decisions import Halt, Place
from temporal.episodes import Observation
from temporal.ranges import Places, Price, Units
from temporal.readers.base import Reader, Task


class SamplerAgent(PolicyAgent):
    """Chooses places from previews alone, and how many of them by the price.

    Args:
        task: what the data set says (filled in by the program).
        reader: the reader that it drives (filled in by the program); it must have previews.
        num_places: evenly spread over the sequence.
        hidden_size: units of each of the two hidden layers.
        lowest_price: prices at or below look alike to the agent; above 0.
        highest_price: prices at or above look alike.
    """

    def __init__(
        self,
        task: Task,
        reader: Reader,
        num_places: Places = 64,
        hidden_size: Units = 64,
        lowest_price: Price = 0.01,
        highest_price: Price = 30.0,
    ) -> None:
        scheme = (Halt(), Place(num_places))
        super().__init__(task, reader, scheme, hidden_size, 0, 0, True, 0, lowest_price, highest_price)
        self.needs = self.needs - {"probabilities"} | {"preview"}

    def inputs(self, observation: Observation) -> Tensor:
        """As for any policy, but as if the answer were even and had never changed."""
        shape = (*observation.position.shape, self.num_classes)
        even = torch.full(shape, 1.0 / self.num_classes, device=observation.position.device)
        nothing = torch.zeros_like(observation.streak)
        # where it last looked is its own doing, but how far that is along the sequence says nothing of what is left
        blind = observation._replace(probabilities=even, streak=nothing, position=observation.tokens)
        return super().inputs(blind)
