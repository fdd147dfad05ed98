"""decord, with everything around it that it needs: it is trusted only where it proves to mean the same frames.

Measured, it is not faster than PyAV as `decode.Video` drives it, and damage shows only in what it prints. Used in
worker processes, which can be killed where it hangs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

TICK_SECONDS = 1e-3  # decord gives times in single precision


def import_decord() -> Any:
    """The module; None where it is not installed or has no build for the platform."""
    # Read when the library is loaded: it gives up where it would look for the last frames for ever; with 64 tries, as
    # often advised, also on healthy files.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "1024")
    try:
        import decord  # torch, where it is used with CUDA, must have been imported before
    except (ImportError, OSError, RuntimeError):
        return None
    decord.logging.set_level(decord.logging.ERROR)
    return decord


class DecordVideo:
    """A file opened by decord at one size, if it can be trusted with it.

    Args:
        path: of the file.
        size: height and width of frames, or None for those of the file.
        shown: when each frame is shown, in seconds as they stand in the file.
    """

    def __init__(self, path: str, size: tuple[int, int] | None, shown: Float[np.ndarray, " frames"]) -> None:
        self.size = size
        self._reader: Any = None
        decord = import_decord()
        if decord is None:
            return
        height, width = size or (-1, -1)
        try:
            with silenced():
                reader = decord.VideoReader(path, width=width, height=height, num_threads=1)
                same = len(reader) == len(shown)
                # Trimmed by an edit list, frames that are never shown are there too, before 0.
                times = reader.get_frame_timestamp(range(len(reader)))[:, 0] if same else shown[:0]
        except Exception:  # RuntimeError, DECORDError, AssertionError: that it fails is all we need to know
            return
        if same and np.allclose(times, shown, rtol=1e-6, atol=TICK_SECONDS):
            self._reader = reader

    @property
    def is_trusted(self) -> bool:
        """Whether it means the same frames as the packets do."""
        return self._reader is not None

    def frames(self, indices: list[int]) -> UInt8[np.ndarray, "num height width 3"] | None:
        """Frames by index; None where it fails or finds damage, and from then on it is not trusted."""
        with silenced() as said:
            try:
                found: Any = self._reader.get_batch(indices).asnumpy()
                # Else it goes on decoding, into memory, until the end of the file.
                self._reader.seek(0)
            except Exception:  # as above
                found = None
            is_clean = not said()
        if found is None or not is_clean or found.shape[0] != len(indices) or found.shape[-1] != 3:
            self._reader = None
            return None
        frames: UInt8[np.ndarray, "num height width 3"] = found
        return frames


@contextmanager
def silenced() -> Iterator[Any]:
    """Keep what C libraries print on stderr from there; gives a function that says whether there was anything."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: os.fstat(file.fileno()).st_size > 0
        finally:
            os.dup2(kept, 2)
            os.close(kept)
