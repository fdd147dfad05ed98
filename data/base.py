"""What a source of sequences is: tokens fetched only when read, and labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextvars import ContextVar
from hashlib import blake2b
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from temporal.ranges import Checked
from temporal.readers.base import Chunk, Reader, Task

Split = Literal["train", "validation", "test"]
PIECE = 1 << 20  # tokens that are hashed at a time
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def _silent(what: str, done: int, total: int) -> None:
    """Show nothing."""


preparing: ContextVar[Callable[[str, int, int], None]] = ContextVar("preparing", default=_silent)
"""Told what is being done, how far it is and how far it goes, while a source gets its data ready."""


class Sequences:
    """Tokens of many sequences end to end, memory-mapped or not; observations are copied out when fetched.

    Args:
        flat: all tokens, one after the other; any integer type.
        offsets: where each sequence starts, and at the end where the last one stops; int64.
        labels: class index of each, or None where unknown.
    """

    def __init__(
        self,
        flat: NDArray[np.integer],
        offsets: NDArray[np.int64],
        labels: NDArray[np.int64] | None,
    ) -> None:
        self._flat = flat
        self._starts = offsets[:-1]
        self._lengths = torch.from_numpy(np.diff(offsets))
        self.labels = None if labels is None else torch.from_numpy(np.array(labels))

    def __len__(self) -> int:
        return int(self._lengths.shape[0])

    @property
    def truth(self) -> Tensor | None:
        """How much each position shows (sequences, positions), where that is known; for the oracle."""
        return None

    @property
    def lengths(self) -> Tensor:
        """Tokens of each sequence that can be read, int64."""
        return self._lengths

    def fingerprint(self) -> str:
        """A hash of tokens, lengths and labels in their order, 32 hexadecimal digits."""
        total = blake2b(digest_size=16)
        for start in range(0, len(self._flat), PIECE):
            total.update(np.ascontiguousarray(self._flat[start : start + PIECE]).tobytes())
        total.update(self._lengths.numpy().tobytes())
        total.update(b"" if self.labels is None else self.labels.numpy().tobytes())
        return total.hexdigest()

    def fetch(self, sequences: Tensor, starts: Tensor, counts: Tensor, width: int) -> Chunk:
        """Up to `width` tokens of each sequence from `starts` on, of which `counts` are real (padding is 0)."""
        # In numpy throughout: the tokens lie there, and on arrays this small its calls cost less than torch's.
        columns = np.arange(width)
        real = columns < counts.numpy(force=True)[:, None]
        places = (starts.numpy(force=True)[:, None] + columns) * real
        index = (self._starts[sequences.numpy(force=True)][:, None] + places) * real
        tokens = self._flat[index].astype(np.int64) * real if len(self._flat) else np.zeros_like(places)
        device = starts.device
        return Chunk(torch.from_numpy(tokens).to(device), torch.from_numpy(places).to(device), counts)


class Source(Checked, ABC):
    """A labelled collection of sequences in three splits."""

    @property
    @abstractmethod
    def task(self) -> Task:
        """What readers and agents must know of it."""

    @abstractmethod
    def split(self, name: Split) -> Sequences:
        """The sequences of one split."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A short name for points and plots."""

    @property
    def notice(self) -> str | None:
        """What should be said of how its data were made ready; None where there is nothing to say."""
        return None

    def equip(self, reader: Reader) -> None:
        """Give a reader what it looks its observations up in, where that is more than the reader itself."""
