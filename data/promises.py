"""What a container and a stream promise, against the packets that came: what is missing, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import Int

# A duration in a header is often rounded, and sound ends a little before or after; a file cut short misses more.
MISSING_SECONDS, MISSING_SHARE = 0.5, 0.02
# In these a duration is, by most writers, that from zero on; elsewhere that from the first time on.
FROM_ZERO = ("matroska", "nut", "asf")


# A rate is even where so many intervals are the same, give or take a tick; a longer one among them is a gap.
EVEN_SHARE, LEAST_FRAMES, GAP = 0.9, 8, 1.6


class Stamp(NamedTuple):
    """What one packet says of itself, its content apart."""

    stream: int
    pts: int | None
    dts: int | None
    duration: int
    is_key: bool
    is_hidden: bool
    """Decoded and not shown."""
    is_corrupt: bool
    size: int = 0
    """Bytes."""

    @property
    def end(self) -> int:
        """When it has been shown."""
        return max(self.pts or 0, self.dts or 0) + self.duration


def find_missing(
    container: InputContainer, stream: VideoStream, stamps: Sequence[Stamp], video: Sequence[Stamp]
) -> list[str]:
    """What was promised and did not come.

    Args:
        container: passed over to its end.
        stream: the one that is decoded.
        stamps: of all packets, in the order in which they are stored.
        video: those of the stream.
    """
    found = [
        _corrupt(video),
        # Frames promised by number need no other stream to be compared with; a duration is that of the longest.
        _too_few(len(video), len(stream.index_entries))
        if is_counted(container)
        else _too_short(container, stamps),
        _without_key(video),
    ]
    return [each for each in found if each is not None]


def is_counted(container: InputContainer) -> bool:
    """Whether it has a list of all frames; those that an edit list leaves out are not on it."""
    return "mov" in container.format.name.split(",")


def _corrupt(video: Sequence[Stamp]) -> str | None:
    corrupt = [stamp.is_corrupt for stamp in video]
    return f"damaged or cut off at frame {corrupt.index(True)}" if any(corrupt) else None


def _too_few(num: int, promised: int) -> str | None:
    return f"cut off: {num} of {promised} frames are there" if num < promised else None


def _too_short(container: InputContainer, stamps: Sequence[Stamp]) -> str | None:
    """Compare the latest end of a packet with what the header says."""
    if container.duration is None:
        return None
    latest: dict[int, int] = {}
    for stamp in stamps:
        latest[stamp.stream] = max(latest.get(stamp.stream, stamp.end), stamp.end)
    bases = {s.index: s.time_base for s in container.streams}
    last = max(float(end * (bases[stream] or 0)) for stream, end in latest.items())
    start = 0 if container.format.name.split(",")[0] in FROM_ZERO else container.start_time or 0
    promised = (start + container.duration) / av.time_base
    if promised - last > max(MISSING_SECONDS, MISSING_SHARE * promised):
        return f"cut off: ends at {last:.1f} of {promised:.1f} s"
    return None


def _without_key(video: Sequence[Stamp]) -> str | None:
    """Frames stored before the first key frame hang on one that is missing or no longer marked as such."""
    num = next((i for i, stamp in enumerate(video) if stamp.is_key), len(video))
    return f"no key frame before frame {num}" if num else None


def find_doubts(shown: Int[np.ndarray, " frames"], tick_seconds: float) -> str | None:
    """Where an otherwise even rate has gaps: perhaps frames were lost, perhaps there never were any.

    Args:
        shown: when each frame is shown, ascending, in ticks.
        tick_seconds: of one tick.
    """
    steps = np.diff(shown)
    if len(steps) < LEAST_FRAMES:
        return None
    usual = float(np.median(steps))
    gaps = np.flatnonzero(steps > GAP * usual)
    even = (np.abs(steps - usual) <= 1 + usual / 50) & (steps <= GAP * usual)
    if not len(gaps) or even.mean() < EVEN_SHARE:
        return None
    num = int(np.rint(steps[gaps] / steps[even].mean() - 1).sum())
    at = float(shown[gaps[0]] - shown[0]) * tick_seconds
    return f"perhaps {num} frames, the first after {at:.2f} s"
