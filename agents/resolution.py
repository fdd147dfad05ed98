"""How thoroughly to look at each frame: AR-Net (arXiv 2007.15796).

Frames come in order; for each the policy chooses a resolution, or to skip the next few. It sees cheap features of the
frames to come and what the reader remembers. The reader encodes every resolution with the same network, each with its
own adapter.

Deviations. Policy gradients (the paper's code has them beside Gumbel-softmax) and one agent over all prices in place of
one for each weight of the cost; no penalty for uneven use of the resolutions. Two resolutions by default in place of
four. The policy has no recurrent state of its own: it sees the reader's.
"""

from __future__ import annotations

from temporal.agents.policy import PolicyAgent
from temporal.decisions import Jump, Mode
from temporal.ranges import Price, Text, TokensOrNone, Units, UnitsOrNone
from temporal.readers.base import Reader, Task


class ResolutionAgent(PolicyAgent):
    """Chooses how far to skip and the view of the frame there.

    Args:
        task: what the data set says (filled in by the program).
        reader: the reader that it drives (filled in by the program).
        views: modes of the reader to choose from.
        skips: frames passed over by each option.
        ahead: frames whose previews it sees.
        hidden_size: units of each of the two hidden layers.
        summary_size: units that the reader's read-out is squeezed into.
        lowest_price: prices at or below look alike to the agent; above 0.
        highest_price: prices at or above look alike.
    """

    def __init__(
        self,
        task: Task,
        reader: Reader,
        views: tuple[Text, ...] = ("64px", "128px"),
        skips: tuple[TokensOrNone, ...] = (0, 1, 3, 7),
        ahead: UnitsOrNone = 8,
        hidden_size: Units = 64,
        summary_size: UnitsOrNone = 32,
        lowest_price: Price = 0.01,
        highest_price: Price = 30.0,
    ) -> None:
        scheme = (Jump(tuple(skips)), Mode(tuple(views)))
        super().__init__(
            task, reader, scheme, hidden_size, summary_size, 0, True, ahead, lowest_price, highest_price
        )
