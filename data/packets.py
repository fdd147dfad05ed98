"""What one pass over a video's packets tells, without decoding: when frames are shown, key frames, what is missing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import Bool, Int

from temporal.data.counters import MOST_REFERENCES, REFERENCES, H264Counter, counter_of
from temporal.data.integrity import find_damage
from temporal.data.promises import Stamp, find_doubts, find_missing, is_counted
from temporal.data.sizes import Packets, order_packets
from temporal.data.transport import ends_open
from temporal.errors import reason

# Names of FFmpeg's demuxers. Not among them: play lists, which open other files, text
# shown as pictures, and bare streams, which hold no times.
CONTAINERS = "mov,matroska,avi,flv,mpeg,mpegts,asf,ogg,rm,mxf,nut,wtv"
# Of FFmpeg: check sums and sizes are compared, and what does not fit is an error.
STRICT = "crccheck+bitstream+buffer+explode"


class VideoError(Exception):
    """Why a video, or a frame of it, cannot be had: one short reason without the path."""


class Timeline(NamedTuple):
    """When frames are shown, in ticks of the stream's clock."""

    tick_seconds: float
    shown: Int[np.ndarray, " frames"]
    """Ascending."""
    starts: Int[np.ndarray, " keys"]
    """Of all key frames, ascending; those among them that are decoded but never shown come before the first shown."""
    end: int
    """When the last frame ends."""
    by_dts: bool
    """The packets carry no times of showing, as in avi; nothing is reordered, so those of decoding serve."""
    ambiguous: bool
    """Times are missing or not unique: a frame is known only by counting from the first."""
    plain: bool
    """All frames are shown, and none stored after a key frame is shown before it: decord needs it so."""
    missing: tuple[str, ...] = ()
    """What was promised and did not come."""
    doubts: tuple[str, ...] = ()
    """What may be missing, or may never have been there."""
    ends_open: bool = False
    """The frame stored last may be cut off; only decoding it tells."""
    last: int = 0
    """Which frame is stored last."""
    rolls_in: bool = False
    """Decoding can only start at pictures after which others still ask for what was before them."""
    num_references: int = 1
    """Frames that others may be predicted from, at most."""
    sizes: Int[np.ndarray, " frames"] = np.zeros(0, np.int64)
    """Bytes of the packet of each frame that is shown."""
    kinds: Int[np.ndarray, " frames"] = np.zeros(0, np.int64)
    """Of these packets, as `temporal.packet_sizes` numbers them."""

    @property
    def key_frames(self) -> Int[np.ndarray, " keys"]:
        """Indices of the key frames that are shown."""
        return np.flatnonzero(np.isin(self.shown, self.starts))

    @property
    def duration(self) -> float:
        """Seconds from the beginning of the first frame to the end of the last."""
        return float(self.end - self.shown[0]) * self.tick_seconds

    def index_at(self, seconds: float) -> int:
        """The frame that is shown at a time; the first before the beginning, the last after the end."""
        # Half a tick: a time written in decimals is rarely exactly one of the clock's.
        ticks = self.shown[0] + seconds / self.tick_seconds + 0.5
        place = int(np.searchsorted(self.shown, ticks, side="right")) - 1
        return min(max(place, 0), len(self.shown) - 1)

    def packets(self, span: tuple[int, int]) -> Packets:
        """What the packets of the frames of a span tell."""
        first, stop = span
        keys = np.searchsorted(self.starts, self.shown[first:stop], side="right") - 1
        begins = np.searchsorted(self.shown, self.starts)[keys.clip(0)]
        run_ups = np.arange(first, stop) - begins + 1
        return Packets(self.sizes[first:stop], self.kinds[first:stop], run_ups)

    def span(self, start: float | None, end: float | None) -> tuple[int, int]:
        """First frame, and the one after the last, shown from start on and before end, in seconds; one at least."""
        if start is not None and start >= self.duration:
            raise VideoError(f"nothing at {start:g} s: it lasts {self.duration:g} s")
        first = 0 if start is None else self.index_at(start)
        if end is None or end >= self.duration:
            return first, len(self.shown)
        ticks = self.shown[0] + end / self.tick_seconds - 0.5
        return first, max(int(np.searchsorted(self.shown, ticks)), first + 1)


def open_container(path: str, max_pixels: int) -> InputContainer:
    """Open a local file; raises VideoError. What a file says never makes it open another file or an address.

    Args:
        path: of the file.
        max_pixels: of a frame that is decoded to see what is in it.
    """
    if "\0" in path:
        raise VideoError("not a path")  # what comes before the zero would be opened
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS, "err_detect": STRICT}
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind):  # a pipe may wait for ever, a device never end
            raise VideoError("is a directory" if stat.S_ISDIR(kind) else "not a file")
        return av.open(
            f"file:{path}", options=options | {"max_pixels": str(max_pixels)}, metadata_errors="replace"
        )
    except OSError as error:
        if not isinstance(error, av.error.FFmpegError):
            raise VideoError(lowered(reason(error))) from None
        raise VideoError(told(error)) from None
    except av.error.FFmpegError as error:
        raise VideoError(told(error)) from None


def told(error: VideoError | av.error.FFmpegError) -> str:
    """The reason, beginning in lower case where FFmpeg gives it."""
    if isinstance(error, VideoError):
        return str(error)
    return lowered(error.strerror or "cannot be read")


def lowered(text: str) -> str:
    """The same, beginning in lower case."""
    return text[:1].lower() + text[1:]


@contextmanager
def said() -> Iterator[list[tuple[str, str]]]:
    """Collect what FFmpeg says is wrong, in this thread: who says it, and what."""
    level = av.logging.get_level()
    found: list[tuple[str, str]] = []
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as logs:
            yield found
            found += [(name, text.strip()) for _, name, text in logs]
    finally:
        av.logging.set_level(level)


def video_stream(container: InputContainer) -> VideoStream:
    """The first stream that moves: the picture on a record's cover does not count."""
    for stream in container.streams.video:
        if not stream.disposition & stream.disposition.attached_pic:
            if stream.codec_context is None:
                raise VideoError("no decoder for its format")
            return stream
    raise VideoError("no video in it")


def scan(path: str, container: InputContainer, stream: VideoStream) -> Timeline:
    """Pass over all packets once. Raises VideoError where there is nothing to be decoded."""
    missing = [found] if (found := find_damage(path, container.format.name, stream.id)) is not None else []
    counter = counter_of(stream)
    with said() as logs:
        stamps = list(_read(container, stream, counter, missing))
    # What a decoder says is not asked here: packets are not decoded, but for their heads.
    missing += [f"damaged: {lowered(text)}" for name, text in logs if name == container.format.name][:1]
    video = [stamp for stamp in stamps if stamp.stream == stream.index]
    if not video:
        raise VideoError(missing[0] if missing else "no frames")
    missing += find_missing(container, stream, stamps, video)
    missing += [found] if counter is not None and (found := counter.find_missing()) is not None else []
    clock = float(stream.time_base or 1), video[-1].duration or 1
    # An avi file holds no times of showing; what is given out as such is wrong where frames are reordered.
    unsure = container.format.name == "avi" and bool(stream.codec_context.has_b_frames)
    timeline = _timeline(video, clock, unsure)
    doubt = None if timeline.ambiguous else find_doubts(timeline.shown, timeline.tick_seconds)
    last = int(np.searchsorted(timeline.shown, video[-1].pts or 0))
    packets = order_packets(
        [stamp.dts if timeline.by_dts else stamp.pts for stamp in video],
        [stamp.is_key for stamp in video],
        [stamp.size for stamp in video],
        timeline.shown,
    )
    return timeline._replace(
        sizes=packets.sizes,
        kinds=packets.kinds,
        missing=tuple(missing),
        doubts=() if doubt is None else (doubt,),
        ends_open=container.format.name == "mpegts" and ends_open(path, stream.id),
        last=min(last, len(timeline.shown) - 1),
        rolls_in=counter is not None and counter.rolls_in,
        num_references=REFERENCES.get(stream.codec_context.name, MOST_REFERENCES)
        if counter is None
        else counter.num_references,
    )


def _read(
    container: InputContainer, stream: VideoStream, counter: H264Counter | None, missing: list[str]
) -> Iterator[Stamp]:
    """All packets that matter; what keeps from reading on is added to what is missing."""
    wanted = [s for s in container.streams if s.type in ("video", "audio")]
    try:
        for packet in container.demux(stream if is_counted(container) else wanted):
            if not packet.size and packet.dts is None:
                continue  # the end of a stream is a packet too
            if counter is not None and packet.stream_index == stream.index:
                counter.add(packet)
            yield Stamp(
                packet.stream_index, packet.pts, packet.dts, packet.duration or 0,
                packet.is_keyframe, packet.is_discard, packet.is_corrupt, packet.size,
            )  # fmt: skip
    except av.error.FFmpegError as error:
        missing.append(told(error))
    except IndexError:
        missing.append("damaged: streams come up amid the file")


def _timeline(video: list[Stamp], clock: tuple[float, int], unsure: bool) -> Timeline:
    tick_seconds, duration = clock
    by_dts = all(stamp.pts is None for stamp in video)
    times = [time for stamp in video if (time := stamp.dts if by_dts else stamp.pts) is not None]
    if len(times) < len(video):
        # Nothing says when: frames are taken as evenly spaced.
        shown = np.arange(len(video), dtype=np.int64) * duration
        return Timeline(tick_seconds, shown, shown[:1], int(shown[-1]) + duration, by_dts, True, False)
    ticks, keys = np.array(times, dtype=np.int64), np.array([stamp.is_key for stamp in video])
    starts, shown = np.sort(ticks[keys]), np.sort(ticks[~np.array([stamp.is_hidden for stamp in video])])
    shown = shown[shown >= _first_decoded(ticks, keys)] if len(starts) else shown[:0]
    if not len(shown):
        raise VideoError("no frames")
    ambiguous = bool((np.diff(shown) == 0).any()) or unsure
    latest_key = np.maximum.accumulate(np.where(keys, ticks, starts[0]))
    plain = len(shown) == len(ticks) and not ambiguous and not (ticks < latest_key).any()
    return Timeline(tick_seconds, shown, starts, int(shown[-1]) + duration, by_dts, ambiguous, bool(plain))


def _first_decoded(ticks: Int[np.ndarray, " packets"], keys: Bool[np.ndarray, " packets"]) -> int:
    """When the key frame stored first is shown: nothing can be decoded before, and what leads it hangs on what was."""
    return int(ticks[keys.argmax()])
