"""Frames count themselves in some streams: numbers in the heads of H.264 pictures, in which a loss leaves a gap."""

from __future__ import annotations

from typing import Any, NamedTuple

from av.packet import Packet
from av.video.stream import VideoStream

HEAD_BYTES = 64  # of a slice: more than the part that is read
HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
# Frames from which others are predicted, by FFmpeg's name of the decoder; where it is not known, the most of any.
REFERENCES = {"mpeg4": 2, "mpeg2video": 2, "mpeg1video": 2, "mjpeg": 0, "prores": 0, "dnxhd": 0, "png": 1}
REFERENCES |= {"vp8": 3, "vp9": 8, "libdav1d": 8, "av1": 8, "ffv1": 1}
MOST_REFERENCES = 16
SLICE, IDR, SPS, PPS = 1, 5, 7, 8


class Bits:
    """Reads numbers off the bits of a unit of H.264, whose stuffing is taken out first (H.264, 7.4.1)."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, num: int) -> int:
        """A number of so many bits. Raises ValueError at the end."""
        if num > self._left:
            raise ValueError
        self._left -= num
        return (self._value >> self._left) & ((1 << num) - 1)

    def golomb(self) -> int:
        """A number from 0 up, in Exponential-Golomb code (H.264, 9.1)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise ValueError
        return (1 << zeros) - 1 + self.take(zeros)


class Sequence(NamedTuple):
    """What a sequence parameter set says of the numbers in slices (H.264, 7.3.2.1.1)."""

    frame_bits: int
    poc_bits: int
    """0 where the order of showing is not numbered."""
    references: int
    gaps: bool
    """Frames may be left out by the encoder."""
    fields: bool
    planes: bool


class Head(NamedTuple):
    """What the first slice of a picture says."""

    is_idr: bool
    is_reference: bool
    frame: int
    sequence: Sequence


def read_sequence(bits: Bits) -> tuple[int, Sequence]:
    """A sequence parameter set after its first byte, and the number that it goes by."""
    profile = bits.take(8)
    bits.take(16)
    number, planes = bits.golomb(), False
    if profile in HIGH_PROFILES:
        planes = _skip_colours(bits)
    frame_bits, kind, poc_bits = bits.golomb() + 4, bits.golomb(), 0
    if kind == 0:
        poc_bits = bits.golomb() + 4
    elif kind == 1:
        bits.take(1)
        bits.golomb()
        bits.golomb()
        for _ in range(min(bits.golomb(), 255)):
            bits.golomb()
    references = min(bits.golomb(), MOST_REFERENCES)
    gaps = bool(bits.take(1))
    bits.golomb()
    bits.golomb()
    fields = not bits.take(1)
    if frame_bits > 16 or poc_bits > 16:
        raise ValueError
    return number, Sequence(frame_bits, poc_bits, references, gaps, fields, planes)


def _skip_colours(bits: Bits) -> bool:
    """Pass over what high profiles add; whether the colours are coded as pictures of their own."""
    chroma = bits.golomb()
    planes = bool(chroma == 3 and bits.take(1))
    bits.golomb()
    bits.golomb()
    bits.take(1)
    if bits.take(1):
        for index in range(12 if chroma == 3 else 8):
            if bits.take(1):
                _skip_scaling(bits, 16 if index < 6 else 64)
    return planes


def _skip_scaling(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.golomb()
            following = (last + ((code + 1) // 2 if code % 2 else -(code // 2))) % 256
        last = following or last


class H264Counter:
    """Follows the numbers of H.264 frames in the order in which they are stored.

    A frame that others are predicted from has the number of the one before plus one; an instantaneous refresh begins
    anew with 0 (H.264, 7.4.3). So the loss of such a frame, without which others come out wrong, leaves a gap.

    Args:
        extradata: what the container keeps for the decoder.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self._sequences: dict[int, Sequence] = {}
        self._pictures: dict[int, int] = {}  # number of the sequence of each picture parameter set
        self._length_bytes = 0
        self._num = 0
        self._last: int | None = None
        self._lost: list[int] = []
        self.rolls_in = False
        """Whether the first picture is no instantaneous refresh."""
        if extradata and extradata[0] == 1 and len(extradata) > 6:
            self._length_bytes = (extradata[4] & 3) + 1
            self._read_record(extradata)
        elif extradata:
            for unit in _marked(memoryview(extradata)):
                self._read_parameters(unit)

    def _read_record(self, data: bytes) -> None:
        """Parameter sets as mp4 and matroska keep them (ISO 14496-15, 5.3.3.1)."""
        place = 5
        for mask in (31, 255):
            num, place = (data[place] & mask if place < len(data) else 0), place + 1
            for _ in range(num):
                size = int.from_bytes(data[place : place + 2], "big")
                self._read_parameters(memoryview(data)[place + 2 : place + 2 + size])
                place += 2 + size

    def _read_parameters(self, unit: memoryview) -> None:
        try:
            kind, bits = unit[0] & 31, Bits(bytes(unit[1:512]))
            if kind == SPS:
                number, sequence = read_sequence(bits)
                self._sequences[number] = sequence
            elif kind == PPS:
                number = bits.golomb()
                self._pictures[number] = bits.golomb()
        except (ValueError, IndexError):
            pass  # damaged; the decoder will say so

    def add(self, packet: Packet[Any]) -> None:
        """Take in the next packet."""
        head = self._head(memoryview(packet))
        if head is None:
            self._last = None
        else:
            self._follow(head)
        self._num += 1

    def _head(self, data: memoryview) -> Head | None:
        units = _measured(data, self._length_bytes) if self._length_bytes else _marked(data)
        for unit in units:
            kind = unit[0] & 31
            if kind in (SPS, PPS):
                self._read_parameters(unit)
            elif kind in (SLICE, IDR):
                return self._read_slice(unit)
        return None

    def _read_slice(self, unit: memoryview) -> Head | None:
        try:
            bits = Bits(bytes(unit[1:HEAD_BYTES]))
            bits.golomb()
            bits.golomb()
            sequence = self._sequences[self._pictures[bits.golomb()]]
            bits.take(2 if sequence.planes else 0)
            return Head(unit[0] & 31 == IDR, bool(unit[0] & 96), bits.take(sequence.frame_bits), sequence)
        except (ValueError, KeyError):
            return None

    def _follow(self, head: Head) -> None:
        self.rolls_in |= not self._num and not head.is_idr
        after = 1 << head.sequence.frame_bits
        expected = (
            (head.frame,) if self._last is None or head.is_idr else (self._last, (self._last + 1) % after)
        )
        if head.frame not in expected and not head.sequence.gaps:
            self._lost.append(self._num)
        if head.is_reference or self._last is None:
            self._last = head.frame

    @property
    def num_references(self) -> int:
        """Frames that others may be predicted from, at most."""
        return max((s.references for s in self._sequences.values()), default=MOST_REFERENCES)

    def find_missing(self) -> str | None:
        """Where frames are lost."""
        return f"frames are lost before frame {self._lost[0]}" if self._lost else None


def _measured(data: memoryview, num: int) -> list[memoryview]:
    """Units that begin with their length, as in mp4."""
    units, place = [], 0
    while place + num < len(data):
        size = int.from_bytes(data[place : place + num], "big")
        if not size:
            break
        units.append(data[place + num : place + num + size])
        place += num + size
    return units


def _marked(data: memoryview, most: int = 1 << 16) -> list[memoryview]:
    """Units that begin with a mark, as in transport streams; only those that begin within the first bytes."""
    head = bytes(data[:most])
    units, place = [], head.find(b"\0\0\1")
    while place >= 0 and place + 3 < len(head):
        following = head.find(b"\0\0\1", place + 3)
        units.append(data[place + 3 : following if following >= 0 else len(data)])
        if head[place + 3] & 31 in (SLICE, IDR):
            break
        place = following
    return units


def counter_of(stream: VideoStream) -> H264Counter | None:
    """What follows the numbers of a stream's frames; None where they have none that are known."""
    context = stream.codec_context
    return H264Counter(context.extradata) if context.name == "h264" else None
