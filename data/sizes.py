"""Sizes and kinds of a video's packets in the order in which frames are shown; nothing is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from temporal.packet_sizes import FORWARD, KEY, REORDERED, packet_numbers


class Packets(NamedTuple):
    """What the packets of some frames tell without decoding, in the order in which frames are shown."""

    sizes: Int[np.ndarray, " frames"]
    """Bytes."""
    kinds: Int[np.ndarray, " frames"]
    """As `temporal.packet_sizes` numbers them."""
    run_ups: Int[np.ndarray, " frames"]
    """Frames that are decoded to get each: from the key frame before it on, itself included."""

    def rows(self, places: Int[np.ndarray, " positions"]) -> Float[np.ndarray, "positions numbers"]:
        """Of the frames at some places of a clip, evenly spread: what their packets tell, and where decoding starts.

        That is the place of the key frame, negative before the clip, and the frame's run-up.
        """
        run_ups = self.run_ups[places]
        numbers = packet_numbers(self.sizes, self.kinds, len(places))
        return np.column_stack([numbers, places - run_ups + 1, run_ups]).astype(np.float32)


class Ordered(NamedTuple):
    """Sizes and kinds of the packets of all frames of a file."""

    sizes: Int[np.ndarray, " frames"]
    kinds: Int[np.ndarray, " frames"]


def order_packets(
    times: Sequence[int | None],
    keys: Sequence[bool],
    sizes: Sequence[int],
    shown: Int[np.ndarray, " frames"],
) -> Ordered:
    """What is known of each frame's packet; where times do not tell, packets are taken in the order of storing.

    Args:
        times: when each packet is shown, in the order of storing; None where it does not say.
        keys: which packets are decoded without another.
        sizes: bytes.
        shown: times of the frames that are shown, ascending; as many as packets where some do not say theirs.
    """
    ticks = shown if None in times else np.array(times, dtype=np.int64)
    late = ticks < np.maximum.accumulate(ticks)
    kinds = np.where(keys, KEY, np.where(late, REORDERED, FORWARD))
    order = ticks.argsort(kind="stable")
    places = order[np.searchsorted(ticks[order], shown)]
    return Ordered(np.array(sizes, dtype=np.int64)[places], kinds[places])
