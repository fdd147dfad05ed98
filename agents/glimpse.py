"""Where to look next and when to stop: AdaFrame (arXiv 1811.12432) and FrameGlimpse (arXiv 1511.06984).

AdaFrame's policy sees a memory of cheap features of the whole video, its own state, and chooses the next frame; a
predicted utility stops it. FrameGlimpse does without the memory. Both are trained by policy gradients.

Deviations. The memory is the reader's preview of every frame, scored by a convolution in place of soft attention. The
next frame is drawn from a distribution over places rather than from a Gaussian around one, and frames that were seen
are left out. Halting is a decision of its own, fitted first by its exact expectation on recorded readings and then
learnt with the places, in place of thresholds on the utility. The reward is that of the answer less the price of what
was spent, in place of the rise of the margin at each frame; one agent is trained for all prices.
"""

from __future__ import annotations

from temporal.agents.policy import PolicyAgent
from temporal.decisions import Halt, Place
from temporal.ranges import Places, Price, Units, UnitsOrNone
from temporal.readers.base import Reader, Task


class GlimpseAgent(PolicyAgent):
    """Chooses a place to look at, or stops.

    Args:
        task: what the data set says (filled in by the program).
        reader: the reader that it drives (filled in by the program).
        num_places: evenly spread over the sequence.
        preview: use the reader's previews, as AdaFrame its memory; without, it looks around as FrameGlimpse does.
        hidden_size: units of each of the two hidden layers.
        summary_size: units that the reader's read-out is squeezed into.
        lowest_price: prices at or below look alike to the agent; above 0.
        highest_price: prices at or above look alike.
    """

    def __init__(
        self,
        task: Task,
        reader: Reader,
        num_places: Places = 64,
        preview: bool = True,
        hidden_size: Units = 64,
        summary_size: UnitsOrNone = 32,
        lowest_price: Price = 0.01,
        highest_price: Price = 30.0,
    ) -> None:
        scheme = (Halt(), Place(num_places))
        super().__init__(
            task, reader, scheme, hidden_size, summary_size, 0, preview, 0, lowest_price, highest_price
        )
