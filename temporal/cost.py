"""What reading costs, from formulas; 1 multiply-accumulate = 2 FLOPs.

Two things are counted, and both are called FLOPs.

- Matrix products: 2 for each multiply-accumulate, as torch.utils.flop_counter counts them, so that the two can be
  compared to the last digit.
- Look-ups, which multiply nothing and are not free: one operation for each number touched, and one more for each
  number that is then added, multiplied or compared. A token's row of an embedding of width E costs E; summed into
  a preview of the next chunk it costs 2 E, for every token peeked at; sifting looks up and compares the salience of
  every token of the chunk, those it then drops too, at 2 each; a token of a bag of words costs 2 for each class.
  Scores of positions that are looked through cost 2 each: every position counts, at every decision. The index of a
  look-up is the token's id, and making ids of text is charged to nobody.

Not counted is elementwise work inside a network: activations, normalisation, read-outs, the softmax of an answer and
comparing it with a threshold (under 2 % of a cell at width 128).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

SIFT_FLOPS = 2
"""Of each token that sifting examines: its salience is looked up and compared."""


def look_up_flops(numbers: int) -> int:
    """Operations of looking up a row of `numbers`."""
    return numbers


def added_flops(numbers: int) -> int:
    """Operations of looking up a row of `numbers` and adding it to a sum.

    >>> added_flops(20)
    40
    """
    return look_up_flops(numbers) + numbers


def search_flops(scores: int) -> int:
    """Operations of looking through `scores` for the highest: each is looked up and compared."""
    return 2 * scores


def linear_flops(inputs: int, outputs: int) -> int:
    """FLOPs of one vector through a linear layer.

    >>> linear_flops(3, 5)
    30
    """
    return 2 * inputs * outputs


def cell_flops(cell: str, inputs: int, hidden: int) -> int:
    """FLOPs of one step of a recurrent cell: 3 (gru) or 4 (lstm) gates over input and state.

    Source: Skip RNN (arXiv 1708.06834) prints 2.46e6 MACs for an LSTM of 110 over 50 steps of 2 inputs:

    >>> cell_flops("lstm", 2, 110) * 50 / 2
    2464000.0
    """
    gates = {"gru": 3, "lstm": 4}[cell]
    return gates * linear_flops(inputs + hidden, hidden)


def transformer_token_flops(width: int, ratio: int) -> int:
    """FLOPs of one token through a pre-norm transformer layer, attention scores left out.

    Four projections of width x width and a perceptron of `ratio` x width (Vaswani et al., arXiv 1706.03762).
    """
    return 4 * linear_flops(width, width) + 2 * linear_flops(width, ratio * width)


def attention_flops(width: int, context: Tensor) -> Tensor:
    """FLOPs of one query over `context` keys, itself included: scores and weighted sum."""
    return 4.0 * width * context.double()  # whole numbers times a float would be float32, exact to 1.7e7 only


def resize_flops(source: int, target: int) -> int:
    """FLOPs of making a small picture of a large one: one for each number touched, of the source and of the target."""
    return source + target


def module_flops(module: nn.Module) -> int:
    """FLOPs of one vector through every linear layer of a feed-forward module, once each."""
    return sum(
        linear_flops(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)
    )


@dataclass
class Meter:
    """What each busy slot has spent so far.

    Shapes: all (slots,). FLOPs are float64: exact to 9e15. Observations are chunks read in any mode but copy.
    """

    flops: Tensor
    tokens: Tensor
    observations: Tensor

    @classmethod
    def zeros(cls, num: int, device: torch.device | str = "cpu") -> Meter:
        """A meter for `num` slots that have spent nothing."""
        return cls(
            torch.zeros(num, dtype=torch.float64, device=device),
            torch.zeros(num, dtype=torch.long, device=device),
            torch.zeros(num, dtype=torch.long, device=device),
        )

    def charge(self, flops: Tensor | float) -> None:
        """Add FLOPs, one number for each slot or one for all."""
        self.flops = self.flops + flops

    def charge_reading(self, flops: Tensor, tokens: Tensor) -> None:
        """Add one observation of `tokens` tokens to each slot that read any."""
        self.charge(flops)
        self.tokens = self.tokens + tokens
        self.observations = self.observations + (tokens > 0)
