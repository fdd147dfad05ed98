"""Clips as sequences: which frames of a file each position stands for, and the ids that frames go by."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from temporal.data.base import Sequences
from temporal.data.decode import spread
from temporal.data.manifests import Clip
from temporal.errors import bad
from temporal.readers.base import Chunk


class Span(NamedTuple):
    """Frames of a file that are a clip: from `first` up to but not including `stop`."""

    first: int
    stop: int


class VideoSequences(Sequences):
    """Clips as sequences of frame ids; what is behind an id is looked up by whoever reads.

    A clip has min(num_frames, its frames) positions, evenly spread. Position p of clip i has the id
    1 + first[i] + p, where first[i] counts the positions of all clips before; 0 is padding.

    Args:
        clips: the clips.
        spans: which frames of its file each is.
        num_frames: most positions of a clip.
        labels: class index of each, or None where unknown.
        truth: (clips, num_frames) what is known of each position, 0 beyond the last; NaN for clips of which nothing is.
        before: positions of clips before the first of these.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        spans: Sequence[Span],
        num_frames: int = 64,
        labels: NDArray[np.int64] | None = None,
        truth: NDArray[np.float32] | None = None,
        before: int = 0,
    ) -> None:
        sizes = [min(num_frames, stop - first) for first, stop in spans]
        offsets = before + np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        super().__init__(np.empty(0, dtype=np.int64), offsets, labels)
        self.clips, self.num_frames = tuple(clips), num_frames
        self.spans, self._offsets, self._truth = tuple(spans), offsets, truth

    @property
    def truth(self) -> Float[Tensor, "clips positions"] | None:
        """What is known of each position, 0 beyond the last of a clip; None unless it is known for all clips."""
        if self._truth is None or np.isnan(self._truth).any():
            return None
        return torch.from_numpy(self._truth)

    @property
    def first(self) -> Int[Tensor, " clips"]:
        """Number of each clip's first position among those of all clips of the source."""
        return torch.from_numpy(self._starts)

    def fingerprint(self) -> str:
        """A hash of the names and sizes of files, of the frames that are read, and of labels, in their order.

        Names without their folders, so that a set may be moved; nothing is decoded.
        """
        rows = [
            [os.path.basename(clip.path), _size(clip.path), *span, int(length)]
            for clip, span, length in zip(self.clips, self.spans, self.lengths, strict=True)
        ]
        labels = None if self.labels is None else self.labels.tolist()
        return blake2b(json.dumps([rows, labels]).encode(), digest_size=16).hexdigest()

    def frame_indices(self, index: int) -> NDArray[np.int64]:
        """Which frame of its file each position of a clip is."""
        return spread(self.spans[index], self.num_frames)

    def locate(self, ids: Int[Tensor, " n"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """The clip (index among these) and the position behind each frame id, which must not be padding."""
        numbers = ids.numpy(force=True) - 1
        if len(numbers) and not (self._offsets[0] <= numbers.min() and numbers.max() < self._offsets[-1]):
            expected = f"numbers from {self._offsets[0] + 1} to {self._offsets[-1]}"
            raise bad("data", "frame ids", (int(numbers.min()) + 1, int(numbers.max()) + 1), expected)
        clips = np.searchsorted(self._offsets, numbers, side="right") - 1
        return torch.from_numpy(clips), torch.from_numpy(numbers - self._offsets[clips])

    def part(self, start: int, stop: int) -> VideoSequences:
        """Some of the clips, one after the other, whose frames keep their ids."""
        labels = None if self.labels is None else self.labels[start:stop].numpy()
        truth = None if self._truth is None else self._truth[start:stop]
        before, clips = int(self._offsets[start]), self.clips[start:stop]
        return VideoSequences(clips, self.spans[start:stop], self.num_frames, labels, truth, before)

    def fetch(self, sequences: Tensor, starts: Tensor, counts: Tensor, width: int) -> Chunk:
        """Up to `width` frame ids of each clip from position `starts` on, of which `counts` are real."""
        columns = np.arange(width)
        real = columns < counts.numpy(force=True)[:, None]
        places = (starts.numpy(force=True)[:, None] + columns) * real
        ids = (1 + self._starts[sequences.numpy(force=True)][:, None] + places) * real
        return Chunk(
            torch.from_numpy(ids).to(starts.device), torch.from_numpy(places).to(starts.device), counts
        )


def _size(path: str) -> int | None:
    """Bytes of a file; None where it cannot be seen."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None
