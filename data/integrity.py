"""Whether a file's own structure holds: chunk sizes and check sums, which a player passes over in silence."""

from __future__ import annotations

import os
import zlib
from typing import BinaryIO

from temporal.data.transport import check_transport

# Matroska and WebM (RFC 9559): what may stand in the file, in its segment, and in a cluster of frames.
EBML, SEGMENT, CLUSTER, VOID, CRC = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0xEC, 0xBF
SEEK_HEAD, INFO, TRACKS, CUES = 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B
CHAPTERS, TAGS, ATTACHMENTS = 0x1043A770, 0x1254C367, 0x1941A469
TIMESTAMP, SILENT, POSITION, PREVIOUS, SIMPLE, GROUP, ENCRYPTED = 0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF
PARTS: dict[int | None, set[int]] = {
    None: {EBML, SEGMENT, VOID},
    SEGMENT: {SEEK_HEAD, INFO, TRACKS, CLUSTER, CUES, CHAPTERS, TAGS, ATTACHMENTS, VOID, CRC},
    CLUSTER: {TIMESTAMP, SILENT, POSITION, PREVIOUS, SIMPLE, GROUP, ENCRYPTED, VOID, CRC},
}


def find_damage(path: str, container: str, stream: int) -> str | None:
    """What is wrong with a file, as far as its container's structure tells; None where nothing is known to be.

    Args:
        path: of the file.
        container: FFmpeg's name of its format.
        stream: the number that the video goes by in a transport stream.
    """
    with open(path, "rb") as file:
        if container == "avi":
            return _check_riff(file)
        if container == "mpegts":
            return check_transport(file, stream)
        if "mov" in container.split(","):
            return _check_boxes(file)
        if "matroska" in container.split(","):
            return _check_matroska(file)
    return None


def _check_riff(file: BinaryIO) -> str | None:
    """The first chunk holds all others, up to 1 or 2 GB."""
    end = 8 + int.from_bytes(file.read(8)[4:], "little")
    size = _size(file)
    return f"cut off: {size} of {end} bytes are there" if size < end else None


def _check_boxes(file: BinaryIO) -> str | None:
    """The parts of an mp4 file follow each other (ISO 14496-12, 4.2); its list of frames says what of them matters."""
    place, size, name = 0, _size(file), b""
    while place + 8 <= size:
        file.seek(place)
        length, name = int.from_bytes(file.read(4), "big"), file.read(4)
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length < 8:
            return None  # to the end
        if name == b"moof" and place + length > size:
            return f"cut off: {size} of {place + length} bytes are there"
        place += length
    # What is cut out of the last fragment is on no list that is read: the list comes before what it lists.
    return f"cut off: {size} of {place} bytes are there" if place > size and name == b"mdat" else None


def _check_matroska(
    file: BinaryIO, place: int = 0, end: int | None = None, whole: int | None = None
) -> str | None:
    """Walk through the parts of a whole, and compare check sums where the writer left some, as FFmpeg does for mkv."""
    size = _size(file)
    end = size if end is None else end
    while place < end:
        file.seek(place)
        (name, num), (length, num_length) = _number(file), _number(file)
        name |= 1 << 7 * num  # the marker belongs to a name
        begin = file.tell()
        if name not in PARTS[whole] or not num_length:
            return f"damaged at byte {place}"
        if length == (1 << 7 * num_length) - 1:
            # Written live, its size unknown: all that follows, and of a cluster no more can be told.
            return _check_matroska(file, begin, end, name) if name == SEGMENT else None
        if begin + length > size:
            return f"cut off: {size} of {begin + length} bytes are there"
        if begin + length > end or not _sum_holds(file, length):
            return f"damaged at byte {place}"
        if name in PARTS and (found := _check_matroska(file, begin, begin + length, name)) is not None:
            return found
        if name == SEGMENT:
            return None  # what comes after it, no player reads
        place = begin + length
    return None


def _sum_holds(file: BinaryIO, length: int) -> bool:
    """Whether the check sum that a part begins with is that of its rest; so too where there is none."""
    head = file.read(min(length, 6))
    if head[:2] != bytes([CRC, 0x84]):
        return True
    total, left = 0, length - 6
    while left > 0 and (piece := file.read(min(left, 1 << 20))):
        total, left = zlib.crc32(piece, total), left - len(piece)
    return total == int.from_bytes(head[2:], "little")


def _number(file: BinaryIO) -> tuple[int, int]:
    """A number, and its bytes: as many as the first has leading zeros, and one; none where there is no number."""
    first = file.read(1)
    if not first or not first[0]:
        return 0, 0
    num = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(num - 1), "big")
    return value & ((1 << 7 * num) - 1), num


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size
