"""Arrays in an npz read without believing what it says of their sizes; nothing in it can be a pickle."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from temporal.bounded import MIB, check_file
from temporal.errors import UserError, bad

MOST_BYTES = 1024 * MIB  # unpacked
MOST_NAMES_BYTES = MIB // 4  # of the list of what is in it
END = 22  # bytes at the end of a zip without a comment
LOCATOR = 20  # bytes before them in a zip of more files than a run has


def read_arrays(file: Path, where: str, most: int = MOST_BYTES) -> dict[str, NDArray[Any]]:
    """The arrays of numbers and truth values of an npz, by name.

    Args:
        file: npz.
        where: named in errors.
        most: bytes of all arrays together.

    Raises:
        UserError: the file is damaged, no regular file, or holds more or other than it may.
    """
    try:
        size = check_file(file, most, where)
        with file.open("rb") as opened:
            _check_end(opened, size)
            with zipfile.ZipFile(opened) as archive:
                members = archive.infolist()
                if sum(member.file_size for member in members) > most:
                    raise ValueError(f"more than {most // MIB} MiB")
                return {m.filename.removesuffix(".npy"): _read(archive, m) for m in members}
    except UserError:
        raise
    except Exception as error:  # zipfile and numpy raise whatever comes up
        raise bad(where, "file", str(file), f"a file of {where} ({error})") from None


def _check_end(opened: IO[bytes], size: int) -> None:
    """Raise ValueError for a list of contents that is longer than that of any run: it would be read as a whole."""
    opened.seek(max(size - END - LOCATOR, 0))
    end = opened.read()
    whole = len(end) == END + LOCATOR and end[LOCATOR:].startswith(b"PK\x05\x06")
    if not whole or end.startswith(b"PK\x06\x07"):
        raise ValueError("no end of a zip")
    if int.from_bytes(end[LOCATOR + 12 : LOCATOR + 16], "little") > MOST_NAMES_BYTES:
        raise ValueError("too many arrays")


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as opened:
        if np.lib.format.read_magic(opened) != (1, 0):
            raise ValueError("an array of another version")
        shape, turned, dtype = np.lib.format.read_array_header_1_0(opened)
        num_bytes = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "bf" or turned:
            raise ValueError(f"an array of {dtype}")
        if min(shape, default=0) < 0 or num_bytes != member.file_size - opened.tell():
            raise ValueError("an array of another size than its header says")
        return np.frombuffer(bytearray(opened.read(num_bytes)), dtype).reshape(shape)
