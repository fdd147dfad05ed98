"""Clips whose frames carry their own index, so that a wrong frame is provable."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

NUM_BITS = 10
# A worker that waits for ever where a file is named so, in place of `temporal.data.decoders.COMMAND`.
HANGING = """
import time
from temporal.data import serving
opened = serving.Video
serving.Video = lambda path, *a, **k: time.sleep(3600) if "hangs" in path else opened(path, *a, **k)
serving.serve()
"""


def picture(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """A frame: its index as ten upright bars, black or white, over a moving background below."""
    rows, columns = np.mgrid[:height, :width]
    frame = np.stack(
        [(rows * 3 + index * 7) % 256, (columns * 2 + index * 5) % 256, (rows + columns) % 256], -1
    )
    bits = (index >> (columns[: height // 2] * NUM_BITS // width)) & 1
    frame[: height // 2] = 255 * bits[..., None]
    return frame.astype(np.uint8)


def read_index(frame: NDArray[np.uint8]) -> int:
    """The index that a frame carries, at any size."""
    height, width, _ = frame.shape
    centres = (2 * np.arange(NUM_BITS) + 1) * width // (2 * NUM_BITS)
    bars = frame[height // 8 : height * 3 // 8, centres].mean((0, 2))
    return int((bars > 127) @ (1 << np.arange(NUM_BITS)))


def read_indices(frames: NDArray[np.uint8]) -> list[int]:
    """The indices that frames carry."""
    return [read_index(frame) for frame in frames]


def make_clip(
    path: Path,
    num: int = 60,
    *,
    size: tuple[int, int] = (96, 160),
    gop: int = 12,
    fps: int = 30,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    times: list[int] | None = None,
    offset: int = 0,
    sound: float = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode a clip; the ending says in what container.

    Args:
        path: of the file.
        num: frames.
        size: height and width.
        gop: frames from one key frame to the next.
        fps: frames a second.
        codec: FFmpeg's name.
        pix_fmt: FFmpeg's name.
        rotation: degrees against the clock by which players turn it.
        times: when each frame is shown, in ticks of 1 / fps; else 0, 1, 2 and on.
        offset: added to all times, in ticks of 1 / fps.
        sound: seconds of silence that come with it.
        options: of the codec, beyond fast settings.
        container_options: of the container.
    """
    height, width = size
    fast: dict[str, object] = {
        "g": str(gop),
        "preset": "ultrafast",
        "bf": "2",
        "sc_threshold": "0",
        "crf": "20",
    }
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.options = {**(fast if codec == "libx264" else {"g": str(gop)}), **(options or {})}
        if rotation:
            stream.set_display_rotation(rotation)
        if sound:
            _add_silence(container, sound)
        for index in range(num):
            frame = av.VideoFrame.from_ndarray(picture(index, height, width), format="rgb24")
            frame.pts, frame.time_base = offset + (times[index] if times else index), Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _add_silence(container: av.container.OutputContainer, seconds: float) -> None:
    stream = container.add_stream("aac", rate=16000)
    frame = av.AudioFrame.from_ndarray(
        np.zeros((1, int(16000 * seconds)), np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate, frame.pts = 16000, 0
    container.mux([*stream.encode(frame), *stream.encode()])


def trim(source: Path, target: Path, start: int, whole: bool = False) -> Path:
    """Cut by stream copy, as `ffmpeg -ss ... -c copy` does: packets from the key frame on, an edit list hides some.

    Args:
        source: a clip of `make_clip`.
        target: an mp4 file; its frame 0 is frame `start` of the source.
        start: the first frame to be shown.
        whole: copy all packets, so that the edit list hides groups of pictures that nothing shown depends on.
    """
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        video = read.streams.video[0]
        copy = write.add_stream_from_template(video, opaque=True)
        assert video.average_rate is not None
        assert video.time_base is not None
        begin = round(start / video.average_rate / video.time_base)
        if not whole:
            read.seek(begin, stream=video)
        for packet in read.demux(video):
            if packet.dts is None or packet.pts is None:
                continue
            packet.pts, packet.dts = packet.pts - begin, packet.dts - begin
            packet.stream = copy
            write.mux(packet)
    return target


def make_sound(path: Path) -> Path:
    """A file with sound only."""
    with av.open(str(path), "w") as container:
        _add_silence(container, 1)
    return path


def damage(path: Path, num: int, seed: int = 0) -> Path:
    """Change bytes, in place, in the middle half of a file."""
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(len(data) // 4, len(data) * 3 // 4, num):
        data[place] ^= 0x55
    path.write_bytes(data)
    return path


def spoil(path: Path, *which: int) -> Path:
    """Change bytes amid frames of an mp4 file, in place: all that the container and the heads say still holds.

    Args:
        path: of the file.
        which: of its packets; all when left out.
    """
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for number, packet in enumerate(container.demux(video=0)):
            if packet.pos is not None and packet.size and number in (which or (number,)):
                begin = packet.pos + packet.size // 2
                data[begin : begin + packet.size // 4] = bytes(packet.size // 4)
    path.write_bytes(data)
    return path


def cut(path: Path, share: float) -> Path:
    """Keep only the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path
