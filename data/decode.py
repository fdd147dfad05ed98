"""Frames of video files by index or time: RGB, at a size, provably those asked for, and what decoding them took.

A frame is known by its time stamp out of a pass over the packets, never by counting from a guess: so edit lists,
reordering and uneven rates cannot give a wrong frame. What the decoder had to conceal is an error, not a frame.

Decoding starts at the key frame before the frame wanted, or goes on from the last where that is nearer; frames on the
way that no other depends on are not decoded, and after the last one wanted in a place nothing is.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal, NamedTuple, Self

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Float, Int, UInt8

from temporal.data.decord_video import DecordVideo
from temporal.data.packets import VideoError, scan, told
from temporal.data.sizes import Packets
from temporal.data.stream import Stream

__all__ = ["MAX_PIXELS", "Decoded", "Decoder", "Probe", "Video", "VideoError", "spread"]

Decoder = Literal["pyav", "decord"]
MAX_PIXELS = 100_000_000  # of a frame: three times 8K
TRIES = 8  # key frames that are looked at in place of a frame that cannot be had
SEEK_FRAMES = 4  # jumping within a file costs about as much as decoding so many frames


class Probe(NamedTuple):
    """What a file holds, known without decoding. Frames are counted in the order in which they are shown."""

    num_frames: int
    seconds: float
    """From the beginning of the first frame to the end of the last."""
    width: int
    height: int
    """Pixels as stored: where the file asks for a quarter turn, frames come with the two exchanged."""
    key_frames: tuple[int, ...]
    """Indices of frames that are decoded without another, ascending."""
    span: tuple[int, int]
    """First frame, and the one after the last, within the seconds asked for; all frames where none were."""


class Decoded(NamedTuple):
    """Frames as they were asked for."""

    frames: UInt8[np.ndarray, "num height width 3"]
    indices: Int[np.ndarray, " num"]
    seconds: Float[np.ndarray, " num"]
    """When each is shown, the first frame of the file at 0."""
    num_decoded: int
    """Frames that came out of the decoder to get these; those that it could leave out are not among them."""
    probe: Probe
    took_seconds: float = 0.0
    """What opening the file, where it was not open yet, and decoding took, where that was measured."""
    missing: tuple[str, ...] = ()
    """What the file promised and did not give, where that is let pass, of the whole and of these frames; what it may
    lack."""
    packets: Packets | None = None
    """Of all frames of the span, where they were asked for."""


def spread(span: tuple[int, int], num_positions: int) -> Int[np.ndarray, " num"]:
    """Frames in the middle of equal parts of a span, ascending: all of them if there are no more than positions.

    >>> spread((0, 300), 4).tolist(), spread((10, 13), 4).tolist()
    ([37, 112, 187, 262], [10, 11, 12])
    """
    first, stop = span
    num = min(num_positions, stop - first)
    return first + (2 * np.arange(num) + 1) * (stop - first) // max(2 * num, 1)


class Video:
    """An open file; nothing is decoded before it is asked for. Close it, or use it as a context manager.

    Raises VideoError when opened and when asked for frames. Belongs to the process and thread that opened it.

    Args:
        path: of a local file.
        decoder: decord reads where it can be trusted; pyav reads all else, and is as fast or faster.
        num_threads: of the decoder; 0 lets it choose.
        max_pixels: of a frame; a file with more is refused before any is decoded.
        lenient: go on where something is missing or damaged, and say so with the frames.
    """

    def __init__(
        self,
        path: str,
        decoder: Decoder = "pyav",
        num_threads: int = 1,
        max_pixels: int = MAX_PIXELS,
        lenient: bool = False,
    ) -> None:
        self._path, self._lenient = path, lenient
        self._stream = Stream(path, num_threads, max_pixels)
        try:
            self.timeline = scan(path, self._stream.container, self._stream.video)
            if self.timeline.missing and not lenient:
                raise VideoError(self.timeline.missing[0])
        except (VideoError, av.error.FFmpegError) as error:
            self.close()
            raise VideoError(told(error)) from None
        self._stream.by_dts = self.timeline.by_dts
        if self.timeline.rolls_in:
            self._stream.rolls_in = True
            self._stream.close()
            self._stream.open()
        self._num_out = len(self.timeline.shown)  # after the pass over the packets, the file is at its end
        # Lists are searched faster than arrays, one number at a time.
        self._shown, self._starts = self.timeline.shown.tolist(), self.timeline.starts.tolist()
        self._reformatter = VideoReformatter()
        self._decord: DecordVideo | None = None
        self._asks_decord = decoder == "decord" and self.timeline.plain
        self._last: int | None = None  # the frame given last, where decoding can go on from it
        self._by_decord_num = 0
        self.probe = self._probe()
        self._missing = [*self.timeline.missing, *self.timeline.doubts]
        if self.timeline.ends_open:
            self._check_end()

    def _check_end(self) -> None:
        """See whether the frame stored last is whole."""
        try:
            self._at(self.timeline.last, None)
        except VideoError:
            self._missing.append("cut off amid the last frame")
            if not self._lenient:
                self.close()
                raise VideoError(self._missing[-1]) from None

    def _probe(self) -> Probe:
        num, keys = len(self._shown), tuple(self.timeline.key_frames.tolist())
        video = self._stream.video
        return Probe(num, self.timeline.duration, video.width, video.height, keys, (0, num))

    @property
    def num_decoded(self) -> int:
        """Frames that came out of the decoder so far."""
        return self._stream.num_decoded + self._by_decord_num

    @property
    def estimated_bytes(self) -> int:
        """Memory that the decoder may take while the file is open."""
        return self._stream.estimate_bytes(self.timeline)

    def frames(
        self, indices: Sequence[int] | Int[np.ndarray, " num"], size: tuple[int, int] | None = None
    ) -> Decoded:
        """Frames by index, in any order, also repeatedly.

        Args:
            indices: from 0 to one less than the number of frames.
            size: height and width, to which frames are stretched; None keeps the file's.
        """
        asked = np.asarray(indices, dtype=np.int64)
        wanted, places = np.unique(asked, return_inverse=True)
        for index in (*wanted[:1], *wanted[-1:]):
            if not 0 <= index < len(self._shown):
                raise VideoError(f"no frame {index}: there are {len(self._shown)}")
        before, missing = self.num_decoded, list(self._missing)
        try:
            found = self._by_decord(wanted.tolist(), size)
            if found is None:
                found = self._by_pyav(wanted.tolist(), size, missing)
        except (VideoError, av.error.FFmpegError) as error:
            self._last = None  # wherever the decoder stands now, nothing goes on from there
            raise VideoError(told(error)) from None
        if len(wanted) < len(asked) or (wanted != asked).any():
            found = found[places]
        seconds = (self.timeline.shown[asked] - self._shown[0]) * self.timeline.tick_seconds
        num_decoded = self.num_decoded - before
        return Decoded(found, asked, seconds, num_decoded, self.probe, missing=tuple(missing))

    @property
    def decoder(self) -> Decoder:
        """What the next frames come from, once some have been read."""
        return "decord" if self._asks_decord else "pyav"

    def _by_decord(
        self, wanted: list[int], size: tuple[int, int] | None
    ) -> UInt8[np.ndarray, "n h w 3"] | None:
        if not self._asks_decord or not wanted:
            return None
        if self._decord is None or self._decord.size != size:
            # Turned pictures come out of decord as garbage; only a decoded frame says that it is turned.
            turned = round(self._at(0, None).rotation) != 0
            self._decord = DecordVideo(self._path, size, self.timeline.shown * self.timeline.tick_seconds)
            self._asks_decord = self._decord.is_trusted and not turned
        found = self._decord.frames(wanted) if self._asks_decord else None
        self._asks_decord = found is not None
        self._by_decord_num += self._num_needed(wanted) if found is not None else 0
        return found

    def _num_needed(self, wanted: list[int]) -> int:
        """Frames from the key frame before each one wanted up to it, each counted once."""
        needed = {i for index in wanted for i in range(self._key_before(index), index + 1)}
        return len(needed)

    def _by_pyav(
        self, wanted: list[int], size: tuple[int, int] | None, missing: list[str]
    ) -> UInt8[np.ndarray, "n h w 3"]:
        found = []
        for index, then in itertools.zip_longest(wanted, wanted[1:]):
            try:
                frame = self._give(index, then)
            except VideoError as error:
                if not self._lenient:
                    raise
                frame, other = self._instead(index, error)
                missing.append(f"frame {index}, in whose place frame {other} was shown")
            found.append(self._rgb(frame, size))
        height, width = size or (self.probe.height, self.probe.width)
        return np.stack(found) if found else np.zeros((0, height, width, 3), np.uint8)

    def _give(self, index: int, then: int | None) -> VideoFrame:
        return self._counted(index) if self.timeline.ambiguous else self._at(index, then)

    def _instead(self, index: int, error: VideoError) -> tuple[VideoFrame, int]:
        """The key frame nearest to a frame that cannot be had, and which it is."""
        keys = (0,) if self.timeline.ambiguous else self.probe.key_frames
        for other in sorted(keys, key=lambda key: abs(key - index))[:TRIES]:
            self._last = None
            with suppress(VideoError):
                return self._give(other, None), other
        raise error

    def _start_before(self, index: int) -> int:
        """The place among all key frames of the one that decoding a frame starts from."""
        return bisect.bisect_right(self._starts, self._shown[index]) - 1

    def _key_before(self, index: int) -> int:
        return bisect.bisect_left(self._shown, self._starts[self._start_before(index)])

    def _is_near(self, index: int, last: int | None) -> bool:
        """Whether going on from the frame last given beats jumping to the key frame before."""
        return last is not None and last < index and self._key_before(index) - last <= SEEK_FRAMES

    def _at(self, index: int, then: int | None) -> VideoFrame:
        """A frame by its time; `then` is the one wanted after it."""
        start = self._start_before(index)
        if self._is_near(index, self._last):
            return self._run_to(index, then)
        try:
            self._jump(start)
            return self._run_to(index, then)
        except VideoError:
            if not start:
                raise
        # Perhaps a key frame that does not stand alone, as where the picture is refreshed bit by bit.
        self._jump(0)
        return self._run_to(index, then)

    def _jump(self, place: int) -> None:
        """Have the packets go on with a key frame."""
        self._stream.go_to(self._starts[max(place - 1, 0)], self._starts[place])

    def _run_to(self, index: int, then: int | None) -> VideoFrame:
        """Decode on to a frame."""
        pts, frames = self._shown[index], self._stream.frames
        leaves = then is not None and not self._is_near(then, index)
        drained = False
        while not frames or _time(frames[0]) < pts:
            if frames:
                frames.popleft()
                continue
            packet = next(self._stream.packets, None)
            if packet is None or drained:
                raise self._lost(index)
            self._send(packet, pts, index)
            if leaves and packet.pts == pts:
                # What is shown later but stored before is not waited for.
                drained = True
                self._decode(None, index)
        frame = frames.popleft()
        if frame.pts != pts:
            raise self._lost(index)
        self._last = None if drained else index
        return frame

    def _lost(self, index: int) -> VideoError:
        return VideoError(f"frame {index} of {len(self._shown)} cannot be decoded")

    def _send(self, packet: Packet[VideoStream], pts: int, index: int) -> None:
        if self.timeline.by_dts:
            packet.pts = packet.dts
        if packet.pts is not None and packet.pts < self._stream.start:
            return  # shown before the key frame and predicted from what was before it
        # Frames shown earlier are needed only if others are predicted from them.
        self._stream.skip(packet.pts is not None and packet.pts < pts)
        self._decode(packet, index)

    def _decode(self, packet: Packet[VideoStream] | None, index: int) -> None:
        """Have the decoder take a packet, or give all that it holds back; index is of the frame it is done for."""
        self._stream.decode(packet, f"before or at frame {index}")

    def _counted(self, index: int) -> VideoFrame:
        """A frame by counting all from the first, where times do not tell."""
        if index < self._num_out:
            self._stream.close()
            self._stream.open()
            self._num_out = 0
        while True:
            while not self._stream.frames:
                packet = next(self._stream.packets, None)
                if packet is None:
                    self._num_out = len(self._shown)
                    raise self._lost(index)
                self._decode(packet, index)
            frame = self._stream.frames.popleft()
            self._num_out += 1
            if self._num_out > index:
                return frame

    def _rgb(self, frame: VideoFrame, size: tuple[int, int] | None) -> UInt8[np.ndarray, "h w 3"]:
        """Convert and stretch in one go, then turn upright."""
        quarters = round(frame.rotation / 90) % 4
        height, width = size or (self.probe.height, self.probe.width)
        if size and quarters % 2:
            height, width = width, height
        found = self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
        ).to_ndarray()
        return np.rot90(found, quarters) if quarters else found

    def close(self) -> None:
        """Let the file go."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _time(frame: VideoFrame) -> float:
    return -math.inf if frame.pts is None else frame.pts
