"""Transport streams count their packets: where some did not arrive, and whether the last picture did."""

from __future__ import annotations

import os
from typing import BinaryIO

import numpy as np
from jaxtyping import Bool, UInt8

SYNC, SIZES = 0x47, (188, 192, 204)
AT_ONCE = 1 << 16  # packets
Packets = UInt8[np.ndarray, "packets bytes"]


def check_transport(file: BinaryIO, stream: int) -> str | None:
    """Whether packets of a stream are missing or marked as damaged (ISO 13818-1, 2.4.3); None where all is well.

    Args:
        file: whose beginning it is at.
        stream: the number that the packets carry.
    """
    found = _find_packets(file)
    if found is None:
        return None
    first, size = found
    total = os.fstat(file.fileno()).st_size - first
    file.seek(first)
    last = np.zeros((0, size), np.uint8)
    for place in range(first, first + total - size + 1, AT_ONCE * size):
        data = np.frombuffer(file.read(AT_ONCE * size), np.uint8)
        packets = data[: len(data) // size * size].reshape(-1, size)
        if (packets[:, 0] != SYNC).any():
            return f"damaged at byte {place + size * int((packets[:, 0] != SYNC).argmax())}"
        ours = np.concatenate([last, packets[_is_of(packets, stream)]])
        if (ours[:, 1] & 0x80).any():
            return "damaged on its way, as the transport stream says"
        if _is_broken(ours).any():
            return "packets of the transport stream are missing"
        last = ours[-1:]
    return "cut off amid a packet of the transport stream" if total % size else None


def ends_open(path: str, stream: int) -> bool:
    """Whether the last packet of a stream is full: where a picture ends it is stuffed, but for chance."""
    with open(path, "rb") as file:
        found = _find_packets(file)
        if found is None:
            return False
        first, size = found
        total = os.fstat(file.fileno()).st_size - first
        num = min(total // size, AT_ONCE)
        file.seek(first + (total // size - num) * size)
        packets = np.frombuffer(file.read(num * size), np.uint8).reshape(-1, size)
    ours = packets[_is_of(packets, stream)]
    return bool(len(ours)) and not _is_stuffed(ours[-1].tobytes())


def _is_stuffed(packet: bytes) -> bool:
    """Whether the adaptation field is longer than what it says (ISO 13818-1, 2.4.3.4)."""
    if not packet[3] & 0x20:
        return False
    flags, place = packet[5], 6 + 6 * bool(packet[5] & 0x10) + 6 * bool(packet[5] & 8) + bool(packet[5] & 4)
    for flag in (2, 1):
        place += 1 + int.from_bytes(packet[place : place + 1], "big") if flags & flag else 0
    return packet[4] == 0 or place < 5 + packet[4]


def _find_packets(file: BinaryIO) -> tuple[int, int] | None:
    """Where the first packet begins, and the bytes from one to the next; a time or check sum may come between."""
    file.seek(0)
    head = np.frombuffer(file.read(8 * max(SIZES)), np.uint8)
    for size in SIZES:
        for first in range(size):
            if len(head) > first + 4 * size and (head[first::size][:5] == SYNC).all():
                return first, size
    return None


def _is_of(packets: Packets, stream: int) -> Bool[np.ndarray, " packets"]:
    """Which are of a stream and carry something."""
    of = ((packets[:, 1] & 0x1F).astype(int) << 8 | packets[:, 2]) == stream
    found: Bool[np.ndarray, " packets"] = of & ((packets[:, 3] & 0x10) > 0)
    return found


def _is_broken(packets: Packets) -> Bool[np.ndarray, " packets"]:
    """After which the count does not go on. One may come twice; and it begins anew where streams were joined."""
    count = packets[:, 3] & 15
    steps = (count[1:] - count[:-1]) & 15
    twice = (steps == 0) & (packets[1:, 4:] == packets[:-1, 4:]).all(-1)
    adapted = ((packets[1:, 3] & 0x20) > 0) & (packets[1:, 4] > 0)
    told = adapted & ((packets[1:, 5] & 0x80) > 0)
    joined = adapted & ((packets[1:, 5] & 0x40) > 0) & ((packets[1:, 1] & 0x40) > 0) & (count[1:] == 0)
    found: Bool[np.ndarray, " packets"] = (steps != 1) & ~twice & ~told & ~joined
    return found
