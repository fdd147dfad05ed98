"""Ways in which a video file comes to be damaged, each made from a good one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.packet import Packet
from av.video.frame import PictureType

Rng = np.random.Generator
ENCODED = {".avi": ("mpeg4", {"bf": "0"}), ".webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"})}
TS_PACKET = 188


class Damaged(NamedTuple):
    """A file made from another."""

    path: Path
    kind: str
    original: Path
    first: int | None = 0
    """Which frame of the original is its first; None where there is nothing to compare."""


def cut_off(data: bytearray, rng: Rng) -> bytes:
    """Only the beginning is there."""
    return bytes(data[: rng.integers(1, len(data))])


def flip(data: bytearray, rng: Rng) -> bytes:
    """A few bytes are others, anywhere."""
    for place in rng.integers(0, len(data), rng.integers(1, 100)):
        data[place] ^= int(rng.integers(1, 256))
    return bytes(data)


def flip_bit(data: bytearray, rng: Rng) -> bytes:
    """One bit is another, anywhere."""
    data[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def zero(data: bytearray, rng: Rng) -> bytes:
    """A stretch is zero, as where a download left a hole."""
    size = int(rng.integers(1, max(len(data) // 4, 2)))
    place = int(rng.integers(0, len(data) - size))
    data[place : place + size] = bytes(size)
    return bytes(data)


def move(data: bytearray, rng: Rng) -> bytes:
    """A stretch is missing, and comes again at the end."""
    place, size = int(rng.integers(0, len(data) // 2)), int(rng.integers(1, len(data) // 4))
    return bytes(data[:place] + data[place + size :] + data[place : place + size])


def end_stream(data: bytearray, rng: Rng) -> bytes:
    """Of a transport stream, only the first packets are there, each whole."""
    return bytes(data[: TS_PACKET * int(rng.integers(1, len(data) // TS_PACKET))])


def lose_stream(data: bytearray, rng: Rng) -> bytes:
    """Of a transport stream, a few packets did not arrive."""
    place = TS_PACKET * int(rng.integers(0, len(data) // TS_PACKET))
    return bytes(data[:place] + data[place + TS_PACKET * int(rng.integers(1, 40)) :])


BYTES: dict[str, Callable[[bytearray, Rng], bytes]] = {
    "cut off": cut_off,
    "bytes flipped": flip,
    "a bit flipped": flip_bit,
    "bytes zeroed": zero,
    "stretch moved": move,
}
STREAMS: dict[str, Callable[[bytearray, Rng], bytes]] = {
    "ts cut off": end_stream,
    "ts packets lost": lose_stream,
}


def flip_in_first_key(original: Path, path: Path, rng: Rng) -> Path:
    """One bit of the first key frame is another, in every second file one of its first bytes."""
    data = bytearray(original.read_bytes())
    with av.open(str(original)) as read:
        packet = next(p for p in read.demux(video=0) if p.is_keyframe)
        content = bytes(packet)
    place = data.find(content[:32])
    # In a transport stream headers come between, which may be hit too.
    place += int(rng.integers(0, 32 if rng.integers(2) else len(content)))
    data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return path


def copy(
    source: Path, target: Path, start: int = 0, lost: Callable[[int, Packet[Any]], bool] | None = None
) -> Path:
    """Copy the stream into another container, from the key frame before frame `start` on, without packets lost."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        video = read.streams.video[0]
        stream = write.add_stream_from_template(video, opaque=True)
        begin = round(start / (video.average_rate or 1) / (video.time_base or 1))
        read.seek(begin, stream=video)
        for number, packet in enumerate(p for p in read.demux(video) if p.dts is not None):
            if packet.pts is not None and not (lost and lost(number, packet)):
                packet.pts, packet.dts = packet.pts - begin, (packet.dts or 0) - begin
                packet.stream = stream
                write.mux(packet)
    return target


def drop_packets(original: Path, path: Path, rng: Rng) -> Path:
    """One to five packets were lost before the file was written; times of the others are kept."""
    with av.open(str(original)) as read:
        num = sum(p.dts is not None for p in read.demux(video=0))
    lost = set(rng.choice(num, int(rng.integers(1, 6)), replace=False).tolist())
    return copy(original, path, lost=lambda number, _: number in lost)


def drop_key(original: Path, path: Path, rng: Rng) -> Path:
    """A key frame was lost before the file was written: the first in every second file."""
    with av.open(str(original)) as read:
        keys = [i for i, p in enumerate(p for p in read.demux(video=0) if p.dts is not None) if p.is_keyframe]
    which = keys[int(rng.integers(len(keys))) if rng.integers(2) else 0]
    return copy(original, path, lost=lambda number, _: number == which)


PACKETS: dict[str, Callable[[Path, Path, Rng], Path]] = {
    "a bit of the first key frame": flip_in_first_key,
    "packets dropped": drop_packets,
    "key frame dropped": drop_key,
}
OTHERS = (
    "head of another",
    "trimmed by stream copy",
    "empty",
    "text",
    "wrong ending",
    "folder",
    "dangling link",
    "no permission",
)
KINDS = (*BYTES, *STREAMS, *PACKETS, *OTHERS)


def encode(source: Path, target: Path) -> Path:
    """Encode a video anew."""
    codec, options = ENCODED[target.suffix]
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        video = read.streams.video[0]
        stream: Any = write.add_stream(codec, rate=video.average_rate, options={"g": "16", **options})
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        for index, frame in enumerate(read.decode(video)):
            picture = frame.reformat(format="yuv420p")
            picture.pts, picture.time_base = index, 1 / Fraction(video.average_rate or 1)
            picture.pict_type = PictureType.NONE  # not that of the source's
            write.mux(stream.encode(picture))
        write.mux(stream.encode())
    return target


def make_damaged(folder: Path, good: Sequence[Path], num: int, rng: Rng) -> list[Damaged]:
    """`num` damaged files or a few more, as many of each kind; names are such that they lie between the good ones."""
    folder.mkdir()
    made = []
    for index in range(-(-num // len(KINDS)) * len(KINDS)):
        kind, original = KINDS[index % len(KINDS)], good[index // len(KINDS) % len(good)]
        if kind in STREAMS:
            streams = [path for path in good if path.suffix == ".ts"]
            original = streams[index // len(KINDS) % len(streams)]
        path = folder / f"{original.stem}_{index:04d}{original.suffix}"
        made.append(make_one(path, kind, original, good, rng))
    return made


def make_one(path: Path, kind: str, original: Path, good: Sequence[Path], rng: Rng) -> Damaged:
    """One damaged file."""
    if kind in BYTES | STREAMS:
        path.write_bytes((BYTES | STREAMS)[kind](bytearray(original.read_bytes()), rng))
        return Damaged(path, kind, original)
    if kind in PACKETS:
        return Damaged(PACKETS[kind](original, path, rng), kind, original)
    if kind == "head of another":
        other = good[int(rng.integers(len(good)))].read_bytes()
        size = int(rng.integers(16, 4096))
        path.write_bytes(other[:size] + original.read_bytes()[size:])
        return Damaged(path, kind, original)
    if kind == "trimmed by stream copy":
        path, mp4 = path.with_suffix(".mp4"), next(p for p in good if p.suffix == ".mp4")
        first = int(rng.integers(1, 40))
        return Damaged(copy(mp4, path, first), kind, mp4, first)
    return make_other(path, kind, original, rng)


def make_other(path: Path, kind: str, original: Path, rng: Rng) -> Damaged:
    """A file that is no video, or a good one that may not be read."""
    if kind == "wrong ending":
        endings = (".mp4", ".mkv", ".avi", ".webm")
        path = path.with_suffix(endings[int(rng.integers(len(endings)))])
        return Damaged(Path(shutil.copy(original, path)), kind, original)
    if kind == "no permission":
        shutil.copy(original, path)
        path.chmod(0)
        return Damaged(path, kind, original)  # should it be read after all
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no video\n" * int(rng.integers(1, 1000)))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    return Damaged(path, kind, original, None)
