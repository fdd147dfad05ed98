"""The cheapest preview there is: the sizes of a video's packets, which are had without decoding anything."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temporal.cost import linear_flops
from temporal.packet_sizes import EXCESS, NUM_NUMBERS, NUMBERS_FLOPS
from temporal.ranges import Checked, Units


class PacketSizes(Checked, nn.Module):
    """The preview of a frame without decoding it: the sizes of the packets around it through a tiny perceptron.

    It starts as the excess of the frame's own packet over those around it, which is a rule by itself.

    Args:
        hidden_size: units of the hidden layer.
    """

    size = 1

    def __init__(self, hidden_size: Units = 8) -> None:
        super().__init__()
        self.direct = nn.Linear(NUM_NUMBERS, 1)
        self.hidden, self.head = nn.Linear(NUM_NUMBERS, hidden_size), nn.Linear(hidden_size, 1)
        with torch.no_grad():
            self.direct.weight.zero_()[0, EXCESS] = 1.0
            for parameter in (self.direct.bias, self.head.weight, self.head.bias):
                parameter.zero_()

    def forward(self, numbers: Float[Tensor, "n numbers"]) -> Float[Tensor, "n 1"]:
        """The score of frames by `packet_numbers`."""
        score: Tensor = self.direct(numbers) + self.head(torch.relu(self.hidden(numbers)))
        return score

    @property
    def flops(self) -> int:
        """FLOPs of one preview: making its numbers, and three linear layers."""
        hidden = self.hidden.out_features
        layers = (NUM_NUMBERS, 1), (NUM_NUMBERS, hidden), (hidden, 1)
        return NUMBERS_FLOPS + sum(linear_flops(*layer) for layer in layers)
