"""How many frames a decoder would have to decode for those that are looked at; nothing is decoded to know it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from temporal.data.base import Sequences
from temporal.episodes import Observation, Transition
from temporal.readers.video import FrameReader

ROWS = 256  # sequences whose packets are looked up at once


class Looks:
    """Keeps which positions of each sequence were looked at.

    Args:
        num: episodes of the plan.
        longest: positions of the longest sequence.
    """

    def __init__(self, num: int, longest: int) -> None:
        self.seen = torch.zeros(num, longest, dtype=torch.bool)

    def add(self, observation: Observation, actions: Tensor, transition: Transition) -> None:
        """Keep the places of one step."""
        chunk = transition.chunk
        real = torch.arange(chunk.positions.shape[1], device=chunk.counts.device) < chunk.counts[:, None]
        episodes = observation.episode[:, None].expand_as(chunk.positions)
        self.seen[episodes[real].cpu(), chunk.positions[real].cpu()] = True


class RunUps:
    """What a decoder has to go through to get to the frames of some sequences.

    Args:
        reader: knows what its frames' packets tell.
        source: where the sequences are from.
        rows: the sequences.
    """

    def __init__(self, reader: FrameReader, source: Sequences, rows: Tensor) -> None:
        assert reader.frames is not None
        self._lengths = source.lengths[rows]
        shape = len(rows), reader.task.max_length
        self._groups, self._counts = (
            torch.zeros(shape, dtype=torch.long),
            torch.zeros(shape, dtype=torch.long),
        )
        for part in torch.arange(len(rows)).split(ROWS):
            begin = torch.zeros_like(part)
            ids = source.fetch(rows[part], begin, self._lengths[part], shape[1]).tokens
            starts = torch.zeros(*ids.shape, 2, dtype=torch.long)
            starts[ids > 0] = reader.frames.starts(ids[ids > 0]).cpu()
            changes = starts[..., 0].diff(dim=1, prepend=starts[:, :1, 0]) != 0
            self._groups[part], self._counts[part] = changes.long().cumsum(1), starts[..., 1]

    def decoded(self, seen: Bool[Tensor, "sequences positions"]) -> Int[Tensor, " sequences"]:
        """Frames from the key frame before each one seen up to it, each counted once.

        The fewest possible: a decoder that goes back within a group of frames decodes some of them twice.
        """
        furthest = torch.zeros_like(self._counts).scatter_reduce(1, self._groups, self._counts * seen, "amax")
        return furthest.sum(1)

    def all_decoded(self) -> Int[Tensor, " sequences"]:
        """Likewise where all positions are wanted, as for thumbnails."""
        return self.decoded(torch.arange(self._counts.shape[1]) < self._lengths[:, None])
