"""Frames for scoring: files are opened before their turn, and decoded once it is known which frames are wanted."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from temporal.data.clips import Span, VideoSequences
from temporal.data.decode import spread
from temporal.data.decoders import Decoded, Decoders, Request, VideoError
from temporal.data.manifests import Clip
from temporal.packet_sizes import NUM_NUMBERS
from temporal.readers.frames import FrameEncoder, View, thumbnail

AHEAD_BYTES = 1 << 28  # of frames that were decoded before their turn


class Spent(NamedTuple):
    """What fetching frames took."""

    num_decoded: int
    seconds: float


class Footage:
    """A clip whose file could be opened, with those of its frames that were decoded so far.

    Args:
        clip: which.
        opened: what opening its file gave.
        num_positions: most positions of a clip.
    """

    def __init__(self, clip: Clip, opened: Decoded, num_positions: int) -> None:
        self.clip, self.span = clip, Span(*opened.probe.span)
        self.indices = spread(self.span, num_positions)
        assert opened.packets is not None
        self.packets = opened.packets.rows(self.indices - self.span.first)
        self.requests: list[Spent] = []
        self.missing: dict[str, None] = {}
        """What the file promised and did not give, each once, as found so far."""
        self._frames: dict[int, tuple[UInt8[Tensor, "height width 3"], float, int]] = {}
        self.add(range(len(opened.indices)), opened)

    def add(self, positions: Iterable[int], decoded: Decoded) -> None:
        """Keep the frames of one request."""
        self.missing |= dict.fromkeys(decoded.missing)
        frames = torch.from_numpy(decoded.frames)
        for position, frame, seconds in zip(positions, frames, decoded.seconds.tolist(), strict=True):
            self._frames[position] = frame, seconds, len(self.requests)
        self.requests.append(Spent(decoded.num_decoded, decoded.took_seconds))

    def __contains__(self, position: int) -> bool:
        return position in self._frames

    def frame(self, position: int) -> UInt8[Tensor, "height width 3"]:
        """The frame of a position."""
        return self._frames[position][0]

    def seconds(self, position: int) -> float:
        """When the frame of a position is shown."""
        return self._frames[position][1]

    def spent(self, positions: Iterable[int]) -> Spent:
        """What opening the file and fetching the frames of some positions took, with what came along with them."""
        numbers = {0, *(self._frames[position][2] for position in positions)}
        found = [self.requests[number] for number in sorted(numbers)]
        return Spent(sum(s.num_decoded for s in found), math.fsum(s.seconds for s in found))


class Opening:
    """Opens clips in turn, some of them before it is theirs.

    Args:
        decoders: worker processes.
        clips: all clips.
        first: the first to open.
        num_positions: most positions of a clip.
        side: pixels of a side to which frames are decoded.
        everything: have the frames of all positions decoded at once, and close the file.
        ahead: clips that are opened before their turn; fewer where their frames would take too much memory.
    """

    def __init__(
        self, decoders: Decoders, clips: Sequence[Clip], first: int,
        num_positions: int, side: int, everything: bool, ahead: int,
    ) -> None:  # fmt: skip
        self._decoders, self._clips = decoders, clips
        self._num_positions, self._side, self._everything = num_positions, side, everything
        most = AHEAD_BYTES // (3 * side * side * num_positions) if everything else ahead
        self._ahead = max(min(ahead, most), 1)
        self.next = first
        self._tickets: deque[int] = deque()

    @property
    def left(self) -> int:
        """Clips whose turn is to come."""
        return len(self._clips) - self.next

    def look_ahead(self) -> None:
        """Ask for what is wanted next."""
        while len(self._tickets) < min(self._ahead, self.left):
            path, start, end = self._clips[self.next + len(self._tickets)]
            size = (self._side, self._side)
            everything = Request(path, None, size, self._num_positions, start, end, last=True, packets=True)
            opened = Request(path, start=start, end=end, packets=True)
            request = everything if self._everything else opened
            self._tickets.append(self._decoders.submit(request))

    def take(self) -> Footage | VideoError:
        """What became of the next clip."""
        self.look_ahead()
        clip, ticket = self._clips[self.next], self._tickets.popleft()
        self.next += 1
        try:
            footage = Footage(clip, self._decoders.result(ticket), self._num_positions)
        except VideoError as error:
            return error
        finally:
            self.look_ahead()
        return footage


class DamagedError(Exception):
    """Clips that turned out to be damaged while they were read: why, by their index."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


class LiveFrames:
    """Where a reader looks frames up when scoring: decoded when first asked for, and kept with their clips.

    Asking for frames of a clip that turns out to be damaged raises DamagedError.

    Args:
        decoders: worker processes.
        footage: the clips that are read.
        num_positions: most positions of a clip.
        side: pixels of a side to which frames are decoded.
        thumbnail_size: height and width of previews in pixels.
    """

    def __init__(
        self, decoders: Decoders, footage: Sequence[Footage], num_positions: int,
        side: int, thumbnail_size: tuple[int, int] = (1, 1),
    ) -> None:  # fmt: skip
        self._decoders, self._footage = decoders, footage
        self._side, self._thumbnail_size = side, thumbnail_size
        self.clips = VideoSequences([f.clip for f in footage], [f.span for f in footage], num_positions)
        self._used: defaultdict[int, set[int]] = defaultdict(set)
        self.waited_seconds = 0.0
        """How long reading stood still for the decoders."""

    def spent(self, clip: int) -> Spent:
        """What the frames of a clip that were looked up took, whether they were decoded for it or kept from before."""
        return self._footage[clip].spent(self._used[clip])

    def _places(self, ids: Tensor) -> list[tuple[int, int]]:
        """Clip and position of each id, its frame decoded."""
        clips, positions = self.clips.locate(ids)
        places = list(zip(clips.tolist(), positions.tolist(), strict=True))
        missing: defaultdict[int, list[int]] = defaultdict(list)
        for clip, position in dict.fromkeys(places):
            self._used[clip].add(position)
            if position not in self._footage[clip]:
                missing[clip].append(position)
        if missing:
            self._fetch(missing)
        return places

    def _fetch(self, missing: dict[int, list[int]]) -> None:
        """Decode frames, those of different clips side by side."""
        started = time.perf_counter()
        tickets = {clip: self._ask(self._footage[clip], positions) for clip, positions in missing.items()}
        reasons = {}
        for clip, ticket in tickets.items():
            try:
                self._footage[clip].add(missing[clip], self._decoders.result(ticket))
            except VideoError as error:
                reasons[clip] = str(error)
        self.waited_seconds += time.perf_counter() - started
        if reasons:
            raise DamagedError(reasons)

    def _ask(self, footage: Footage, positions: list[int]) -> int:
        indices = footage.indices[positions]
        return self._decoders.submit(Request(footage.clip.path, indices, (self._side, self._side)))

    def _stack(self, places: list[tuple[int, int]]) -> UInt8[Tensor, "n 3 side side"]:
        # The colours of a pixel stay side by side, as they are decoded and as convolutions like them.
        found = torch.stack([self._footage[clip].frame(position) for clip, position in places])
        return found.permute(0, 3, 1, 2)

    def pixels(self, ids: Int[Tensor, " n"]) -> UInt8[Tensor, "n 3 side side"]:
        """Frames at the base size."""
        return self._stack(self._places(ids)).to(ids.device)

    def features(self, ids: Int[Tensor, " n"], view: View, encoder: FrameEncoder) -> Float[Tensor, "n size"]:
        """What the encoder makes of frames in a view."""
        found: Tensor = encoder(view.cut(self.pixels(ids)))
        return found

    def packets(self, ids: Int[Tensor, " n"]) -> Float[Tensor, "n numbers"]:
        """What the packets around frames tell; nothing is decoded for it."""
        return self._packet_rows(ids)[:, :NUM_NUMBERS]

    def starts(self, ids: Int[Tensor, " n"]) -> Int[Tensor, "n 2"]:
        """The key frame that decoding each frame starts from, and how many are decoded from there on."""
        return self._packet_rows(ids)[:, NUM_NUMBERS:].long()

    def _packet_rows(self, ids: Tensor) -> Tensor:
        clips, positions = self.clips.locate(ids)
        places = zip(clips.tolist(), positions.tolist(), strict=True)
        rows = [self._footage[clip].packets[position] for clip, position in places]
        found = np.stack(rows) if rows else np.zeros((0, NUM_NUMBERS + 2), np.float32)
        return torch.from_numpy(found).to(ids.device)

    def thumbnails(self, ids: Int[Tensor, " n"]) -> UInt8[Tensor, "n 3 height width"]:
        """Frames at the size of previews."""
        places, each = (
            self._places(ids),
            self.clips.num_frames,
        )  # the frames of one clip at a time: less memory
        parts = [places[start : start + each] for start in range(0, len(places), each)]
        small = [thumbnail(self._stack(part), *self._thumbnail_size) for part in parts]
        return torch.cat(small).to(ids.device)
