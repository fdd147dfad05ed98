"""What one pass over a video's packets tells, without decoding: when frames are shown, key frames, what is missing."""

from __future__ import annotations

from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import Bool, Int

from temporal.data.integrity import find_damage
from temporal.data.sizes import Packets, order_packets

# Names of FFmpeg's demuxers. Not among them: play lists, which open other files, text
# shown as pictures, and bare streams, which hold no times.
CONTAINERS = "mov,matroska,avi,flv,mpeg,mpegts,asf,ogg,rm,mxf,nut,wtv"
# A duration in a header is often rounded, and sound ends a little before or after; a file cut short misses more.
MISSING_SECONDS, MISSING_SHARE = 0.5, 0.02


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


def open_container(path: str) -> InputContainer:
    """Open a local file; raises VideoError. What a file says never makes it open another file or an address."""
    if "\0" in path:
        raise VideoError("not a path")  # what comes before the zero would be opened
    try:
        return av.open(
            f"file:{path}",
            options={"protocol_whitelist": "file", "format_whitelist": CONTAINERS},
            metadata_errors="replace",
        )
    except av.error.FFmpegError as error:
        raise VideoError(told(error)) from None


def told(error: VideoError | av.error.FFmpegError) -> str:
    """The reason, beginning in lower case where FFmpeg gives it."""
    if isinstance(error, VideoError):
        return str(error)
    text = error.strerror or "cannot be read"
    return text[0].lower() + text[1:]


def video_stream(container: InputContainer) -> VideoStream:
    """The first stream that moves: the picture on a record's cover does not count."""
    for stream in container.streams.video:
        if not stream.disposition & stream.disposition.attached_pic:
            return stream
    raise VideoError("no video in it")


def scan(path: str, container: InputContainer, stream: VideoStream) -> Timeline:
    """Pass over all packets once. Raises VideoError where the file ends too early or a packet is damaged."""
    # Frames promised by number need no other stream to be compared with; a duration is that of the longest.
    counted = "mov" in container.format.name.split(",")
    wanted = [s for s in container.streams if s.type in ("video", "audio")]
    if (found := find_damage(path, container.format.name)) is not None:
        raise VideoError(found)
    packets = [
        (p.stream_index, p.pts, p.dts, p.duration or 0, p.is_keyframe, p.is_discard, p.is_corrupt, p.size)
        for p in container.demux(stream if counted else wanted)
        if p.size or p.dts is not None  # the end of a stream is a packet too
    ]
    video = [packet for packet in packets if packet[0] == stream.index]
    if not video:
        raise VideoError("no frames")
    _, pts, dts, durations, keys, hidden, corrupt, sizes = zip(*video, strict=True)
    if any(corrupt):
        raise VideoError(f"damaged or cut off at frame {corrupt.index(True)}")
    if counted:
        _check_count(len(video), stream.frames)
    else:
        _check_duration(
            container, [(packet[0], max(packet[1] or 0, packet[2] or 0) + packet[3]) for packet in packets]
        )
    clock = float(stream.time_base or 1), durations[-1] or 1
    # An avi file holds no times of showing; what is given out as such is wrong where frames are reordered.
    unsure = container.format.name == "avi" and bool(stream.codec_context.has_b_frames)
    timeline = _timeline(pts, dts, np.array(keys), np.array(hidden), clock, unsure)
    in_order = order_packets(dts if timeline.by_dts else pts, keys, sizes, timeline.shown)
    return timeline._replace(sizes=in_order.sizes, kinds=in_order.kinds)


def _check_count(num: int, promised: int) -> None:
    if num < promised:
        raise VideoError(f"cut off: {num} of {promised} frames are there")


def _check_duration(container: InputContainer, ends: list[tuple[int, int]]) -> None:
    """Compare the latest end of a packet, given with its stream, with what the header says."""
    if container.duration is None:
        return
    latest = dict(sorted(ends))
    bases = {s.index: s.time_base for s in container.streams}
    last = max(float(end * (bases[stream] or 0)) for stream, end in latest.items())
    promised = ((container.start_time or 0) + container.duration) / av.time_base
    if promised - last > max(MISSING_SECONDS, MISSING_SHARE * promised):
        raise VideoError(f"cut off: ends at {last:.1f} of {promised:.1f} s")


def _timeline(
    pts: tuple[int | None, ...],
    dts: tuple[int | None, ...],
    keys: Bool[np.ndarray, " packets"],
    hidden: Bool[np.ndarray, " packets"],
    clock: tuple[float, int],
    unsure: bool,
) -> Timeline:
    tick_seconds, duration = clock
    by_dts = all(time is None for time in pts)
    times = [time for time in (dts if by_dts else pts) if time is not None]
    if len(times) < len(pts):
        # Nothing says when: frames are taken as evenly spaced.
        shown = np.arange(len(pts), dtype=np.int64) * duration
        return Timeline(tick_seconds, shown, shown[:1], int(shown[-1]) + duration, by_dts, True, False)
    ticks = np.array(times, dtype=np.int64)
    starts, shown = np.sort(ticks[keys]), np.sort(ticks[~hidden])
    shown = (
        shown[shown >= starts[0]] if len(starts) else shown[:0]
    )  # nothing can be decoded before a key frame
    if not len(shown):
        raise VideoError("no frames")
    ambiguous = bool((np.diff(shown) == 0).any()) or unsure
    latest_key = np.maximum.accumulate(np.where(keys, ticks, starts[0]))
    plain = len(shown) == len(ticks) and not ambiguous and not (ticks < latest_key).any()
    return Timeline(tick_seconds, shown, starts, int(shown[-1]) + duration, by_dts, ambiguous, bool(plain))
