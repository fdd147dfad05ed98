"""Frames decoded when they are first asked for: where a reader looks them up when scoring."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from temporal.data.clips import VideoSequences
from temporal.data.decoders import Decoders, Request, VideoError
from temporal.readers.frames import FrameEncoder, View, thumbnail


class Spent(NamedTuple):
    """What fetching the frames of one clip took."""

    num_decoded: int
    seconds: float


class LiveFrames:
    """Frames of some clips, decoded by worker processes and kept until the clips are done with.

    A clip that turns out to be damaged gives black frames from then on and is listed in `failed`: whoever reads must
    look there, and not use what was made of it.

    Args:
        decoders: worker processes.
        clips: what ids mean.
        side: pixels of a side to which frames are decoded.
        thumbnail_size: height and width of previews in pixels.
    """

    def __init__(
        self, decoders: Decoders, clips: VideoSequences, side: int, thumbnail_size: tuple[int, int] = (1, 1)
    ) -> None:
        self._decoders, self._clips, self._side = decoders, clips, side
        self._thumbnail_size = thumbnail_size
        self._kept: dict[tuple[int, int], Tensor] = {}
        self.failed: dict[int, str] = {}
        self.seconds: dict[tuple[int, int], float] = {}  # when each frame is shown
        self._spent: defaultdict[int, Spent] = defaultdict(lambda: Spent(0, 0.0))

    def spent(self, clip: int) -> Spent:
        """What a clip has taken so far."""
        return self._spent[clip]

    def pixels(self, ids: Int[Tensor, " n"]) -> UInt8[Tensor, "n 3 side side"]:
        """Frames at the base size; those of different clips are decoded side by side."""
        clips, positions = self._clips.locate(ids)
        places = list(zip(clips.tolist(), positions.tolist(), strict=True))
        missing: dict[int, list[int]] = {}
        for clip, position in dict.fromkeys(places):
            if clip not in self.failed and (clip, position) not in self._kept:
                missing.setdefault(clip, []).append(position)
        tickets = {clip: self._ask(clip, wanted) for clip, wanted in missing.items()}
        for clip, ticket in tickets.items():
            self._take(clip, ticket, missing[clip])
        black = torch.zeros(3, self._side, self._side, dtype=torch.uint8)
        found = [black if place[0] in self.failed else self._kept[place] for place in places]
        return torch.stack(found).to(ids.device)

    def _ask(self, clip: int, positions: list[int]) -> int:
        indices = self._clips.frame_indices(clip)[positions]
        return self._decoders.submit(Request(self._clips.clips[clip].path, indices, (self._side, self._side)))

    def _take(self, clip: int, ticket: int, positions: list[int]) -> None:
        try:
            decoded = self._decoders.result(ticket)
        except VideoError as error:
            self.failed[clip] = str(error)
            return
        frames = torch.from_numpy(np.ascontiguousarray(decoded.frames)).permute(0, 3, 1, 2)
        for position, frame, seconds in zip(positions, frames, decoded.seconds.tolist(), strict=True):
            self._kept[clip, position] = frame
            self.seconds[clip, position] = seconds
        before = self._spent[clip]
        self._spent[clip] = Spent(
            before.num_decoded + decoded.num_decoded, before.seconds + decoded.took_seconds
        )

    def features(self, ids: Int[Tensor, " n"], view: View, encoder: FrameEncoder) -> Float[Tensor, "n size"]:
        """What the encoder makes of frames in a view."""
        found: Tensor = encoder(view.cut(self.pixels(ids)))
        return found

    def thumbnails(self, ids: Int[Tensor, " n"]) -> UInt8[Tensor, "n 3 height width"]:
        """Frames at the size of previews."""
        return thumbnail(self.pixels(ids), *self._thumbnail_size)
