"""Where to look within a frame: AdaFocus (arXiv 2105.03245).

A glance at each frame decides which patch of it is encoded in full resolution. The policy is trained by PPO.

Deviations. The glance is the reader's preview, which scores the cells of a grid, in place of a light network on the
whole frame; the patch is one of a grid of overlapping windows in place of a continuous centre, and what the glance saw
is not given to the classifier. Frames may be passed over, as in AdaFocus+, and reading may stop. The reward is that of
the answer less the price in place of the rise of confidence over a random patch.
"""

from __future__ import annotations

from temporal.agents.policy import PolicyAgent
from temporal.decisions import Halt, Mode
from temporal.errors import bad
from temporal.ranges import Price, Text, Units, UnitsOrNone
from temporal.readers.base import Reader, Task


class FocusAgent(PolicyAgent):
    """For each frame in order, passes over it, encodes one patch, or stops.

    Args:
        task: what the data set says (filled in by the program).
        reader: the reader that it drives (filled in by the program).
        patches: the grid of crops among the reader's views, such as 64px_3x3.
        hidden_size: units of each of the two hidden layers.
        summary_size: units that the reader's read-out is squeezed into.
        lowest_price: prices at or below look alike to the agent; above 0.
        highest_price: prices at or above look alike.
    """

    def __init__(
        self,
        task: Task,
        reader: Reader,
        patches: Text = "64px_3x3",
        hidden_size: Units = 64,
        summary_size: UnitsOrNone = 32,
        lowest_price: Price = 0.01,
        highest_price: Price = 30.0,
    ) -> None:
        windows = tuple(mode for mode in reader.modes if mode.startswith(f"{patches}_"))
        if not windows:
            raise bad(
                "FocusAgent", "patches", patches, f"a grid among the views {', '.join(reader.modes[1:])}"
            )
        scheme = (Halt(), Mode(("copy", *windows)))
        super().__init__(
            task, reader, scheme, hidden_size, summary_size, 0, True, 1, lowest_price, highest_price
        )
