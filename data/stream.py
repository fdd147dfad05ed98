"""An open video file: its packets from a place on, and what the decoder makes of them; damage is an error."""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import av
import av.logging
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from temporal.data.packets import STRICT, Timeline, VideoError, open_container, said, told, video_stream

SPARE = 3  # frames that a decoder holds besides those that others are predicted from
# What a decoder says where it begins amid a stream, of pictures that are not shown.
ROLLING_IN = re.compile(r"mmco|reference|refs|co located POCs|Missing", re.IGNORECASE)


class Stream:
    """The packets and frames of a file. Raises VideoError when opened, and where something is damaged.

    Args:
        path: of the file.
        num_threads: of the decoder; 0 lets it choose.
        max_pixels: of a frame; a file with more is refused before any is decoded.
    """

    def __init__(self, path: str, num_threads: int, max_pixels: int) -> None:
        self._path, self._num_threads, self._max_pixels = path, num_threads, max_pixels
        self.num_decoded = 0
        """Frames that came out of the decoder so far."""
        self.by_dts = False
        self.rolls_in = False
        """The decoder may miss what it was told to keep from before the beginning; see `Timeline.rolls_in`."""
        self.frames: deque[VideoFrame] = deque()
        """Decoded and not taken yet."""
        self.open()

    def open(self) -> None:
        """Open the file, anew where it was open: the packets begin with the first."""
        self.container = open_container(self._path, self._max_pixels)
        try:
            self.video = video_stream(self.container)
            self._check_size()
            self._open_decoder()
        except (VideoError, av.error.FFmpegError) as error:
            self.close()
            raise VideoError(told(error)) from None
        self.begin()

    def _check_size(self) -> None:
        width, height = self.video.width, self.video.height
        if not width or not height:
            raise VideoError(f"pictures of more than {self._max_pixels:,} pixels, or of unknown size")
        if width * height > self._max_pixels:
            raise VideoError(f"{width} x {height} pixels, more than {self._max_pixels:,}")

    def _open_decoder(self) -> None:
        context = self.video.codec_context
        # Without this, damage is covered up by guesses from the frames around it.
        strict = {} if self.rolls_in else {"err_detect": STRICT}
        context.options = strict | {"max_pixels": str(self._max_pixels)}
        context.thread_count = self._num_threads
        context.thread_type = "SLICE" if self._num_threads == 1 else "AUTO"
        # Opened with frames to be left out, some decoders (dav1d) never give those, whatever is asked later.
        context.open()

    def begin(self) -> None:
        """Take packets from where the container stands."""
        self.packets: Iterator[Packet[VideoStream]] = self.container.demux(self.video)
        self.frames.clear()
        self.video.codec_context.skip_frame = "DEFAULT"
        self._skips = False
        self.start = -(1 << 63)
        """When the key frame is shown that decoding started from."""

    def go_to(self, earlier: int, start: int) -> None:
        """Have the packets go on with the key frame shown at `start`; that shown at `earlier` is stored before it."""
        for time in (start, earlier):
            try:
                self.container.seek(time, stream=self.video)
            except av.error.FFmpegError:
                break  # a container without an index
            self.begin()
            if self._pass_to(start):
                return
        self.close()
        self.open()
        if not self._pass_to(start):
            raise VideoError("changed while it was read")

    def _pass_to(self, start: int) -> bool:
        """Pass over packets, without decoding, to that key frame; False where they are beyond it."""
        for packet in self.packets:
            time = packet.dts if self.by_dts else packet.pts
            if packet.is_keyframe and time is not None and time >= start:
                self.packets = itertools.chain([packet], self.packets)
                self.start = start
                return time == start
        return False

    def skip(self, skips: bool) -> None:
        """Whether to leave out frames that no other is predicted from."""
        if skips != self._skips:
            self.video.codec_context.skip_frame = "NONREF" if skips else "DEFAULT"
            self._skips = skips

    def decode(self, packet: Packet[VideoStream] | None, where: str) -> None:
        """Have the decoder take a packet, or give all that it holds back; `where` is for errors."""
        told_by_decoder: Any = said() if self.rolls_in else nullcontext([])
        try:
            with told_by_decoder as logs:
                frames = self.video.codec_context.decode(packet)
        except av.error.MemoryError:
            raise MemoryError from None
        except av.error.FFmpegError as error:
            raise VideoError(f"damaged {where}: {told(error)}") from None
        if any(frame.is_corrupt for frame in frames) or any(not ROLLING_IN.search(text) for _, text in logs):
            raise VideoError(f"damaged {where}")
        self.num_decoded += len(frames)
        self.frames.extend(frames)

    def estimate_bytes(self, timeline: Timeline) -> int:
        """Memory that the decoder may take while the file is open."""
        found = self.video.codec_context.format
        depth = (
            3.0 if found is None else found.bits_per_pixel / 8 * (2 if found.components[0].bits > 8 else 1)
        )
        return int(self.video.width * self.video.height * depth * (timeline.num_references + SPARE))

    def close(self) -> None:
        """Let the file go; what PyAV leaves to the garbage collector would pile up."""
        self.container.close()
