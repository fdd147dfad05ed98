"""How memory that was freed is kept for the next use."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # of glibc's mallopt(3)


def keep_freed_memory() -> bool:
    """Tell glibc's allocator not to give freed memory back at once; True where there is such an allocator.

    A network's activations are allocated and freed at every step. By default blocks this large come straight from the
    system each time, page by page: on a virtual machine that took more time than the network itself.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 64 * 2**20))
    return all(mallopt(*setting) == 1 for setting in settings)
