"""What the sizes of a video's packets tell of its frames, nothing being decoded; numpy only.

An encoder spends bytes on what the frames before do not show: where something comes into view, packets grow. Frames
of different kinds have different sizes whatever they show, so each is compared with its own kind.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

KEY, FORWARD, REORDERED = range(3)
"""Kinds of packets: decoded without another; predicted from earlier frames; shown before one that is stored before."""
AROUND = 4  # positions on each side that a size is compared with
BESIDE = 2  # positions on each side whose excess is seen too
NUM_NUMBERS = 2 * BESIDE + 4
EXCESS = BESIDE  # index of the position's own excess
LARGEST = 8.0  # of an excess; a factor of 3,000
NUMBERS_FLOPS = 64
"""Of one position's numbers: logarithms and sums over its packets, and the median of 9, which looks at each in turn;
an operation for each number touched, with room for 16 packets a position."""


def packet_numbers(
    sizes: Int[np.ndarray, " frames"], kinds: Int[np.ndarray, " frames"], num_positions: int
) -> Float[np.ndarray, "positions numbers"]:
    """What the packets around each position of a clip tell.

    A position stands for an equal part of the clip; its level is the mean over the part's packets of the logarithm of
    the size less the clip's median for packets of that kind. Of key frames nothing is known where there are others.
    Its excess is the level less the median level of the 4 positions on either side and itself.

    Args:
        sizes: bytes of each frame's packet, in the order in which frames are shown.
        kinds: KEY, FORWARD or REORDERED.
        num_positions: most positions; as many as frames, if those are fewer.

    Returns:
        The excess of the two positions before, this one and the two after; the level; the share of key frames; the
        share of the way through.
    """
    num = min(num_positions, len(sizes))
    if not num:
        return np.zeros((0, NUM_NUMBERS), np.float32)
    edges = np.arange(num) * len(sizes) // num
    counts = np.diff(np.append(edges, len(sizes)))
    known, logs = _compared(sizes, kinds)
    total = np.add.reduceat(np.where(known, logs, 0.0), edges)
    num_known = np.add.reduceat(known.astype(np.int64), edges)
    told = num_known > 0
    places = np.arange(num)
    level = np.interp(places, places[told], total[told] / num_known[told])
    wide = np.pad(level, AROUND, constant_values=np.nan)
    middle = np.nanmedian(np.lib.stride_tricks.sliding_window_view(wide, 2 * AROUND + 1), -1)
    excess = np.pad((level - middle).clip(-LARGEST, LARGEST), BESIDE)
    columns = [excess[i : i + num] for i in range(2 * BESIDE + 1)]
    keys = np.add.reduceat((kinds == KEY).astype(np.int64), edges) / counts
    return np.stack(
        [*columns, level.clip(-LARGEST, LARGEST), keys, (places + 0.5) / num], -1, dtype=np.float32
    )


def _compared(
    sizes: Int[np.ndarray, " frames"], kinds: Int[np.ndarray, " frames"]
) -> tuple[Bool[np.ndarray, " frames"], Float[np.ndarray, " frames"]]:
    """Which packets tell something, and the logarithm of each size less the median of its kind."""
    logs = np.log(np.maximum(sizes, 1).astype(np.float64))
    known = kinds != KEY
    if not known.any():
        known = ~known
    for kind in np.unique(kinds).tolist():
        logs[kinds == kind] -= np.median(logs[kinds == kind])
    return known, logs
