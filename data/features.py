"""Features, thumbnails and packets of all frames of a source, computed once, kept on disk and memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from temporal.data.base import preparing
from temporal.data.clips import VideoSequences
from temporal.data.decode import MAX_PIXELS
from temporal.data.decoders import Decoded, Decoders, Request, VideoError
from temporal.data.pool import Pool, digest
from temporal.data.text import cache_folder
from temporal.errors import UserError
from temporal.packet_sizes import NUM_NUMBERS
from temporal.readers.frames import FrameEncoder, View, thumbnail
from temporal.readers.video import FrameReader

FORMAT = PACKETS_FORMAT = 1  # change when what is kept would
PACKETS = "packets"
FEATURES, THUMBNAILS = np.float16, np.uint8
AHEAD = 8  # clips that are being decoded while one is encoded


class _Kind(NamedTuple):
    """One table of the cache: its pool, and how its rows come from frames at base size."""

    pool: Pool
    make: Callable[[Tensor], Tensor] | None
    """None for what the packets tell."""


class CachedFrames:
    """Where a reader looks frames up in training and evaluation; never used where scoring is timed.

    Rows are keyed by the content of the file, the part of it that the clip is, the encoder's weights and the size, so
    that a file that was moved is found again and one that has changed is not.

    Args:
        clips: all clips of a source.
        reader: whose views and preview are looked up.
        max_pixels: of a frame of a file.

    Raises:
        UserError: a video that cannot be decoded; a cache folder that cannot be written.
    """

    def __init__(self, clips: VideoSequences, reader: FrameReader, max_pixels: int = MAX_PIXELS) -> None:
        self._clips, self._side, self._max_pixels = clips, reader.frame_size, max_pixels
        self._decoders: Decoders | None = None  # until pixels are asked for
        kinds = _kinds(reader)
        keys = _keys(clips, kinds)
        missing = [i for i, key in enumerate(keys) if any(k.pool.span(key) is None for k in kinds.values())]
        if missing:
            with ExitStack() as locks:
                for kind in kinds.values():
                    locks.enter_context(kind.pool.lock)
                    kind.pool.refresh()  # another process may have been at it
                device = next(reader.parameters()).device
                with Decoders(max_pixels=max_pixels) as decoders:
                    _fill(decoders, clips, kinds, keys, missing, self._side, device)
        self._rows = {name: kind.pool.rows() for name, kind in kinds.items()}
        self._starts = {
            name: np.array([span[0] for key in keys if (span := kind.pool.span(key))], dtype=np.int64)
            for name, kind in kinds.items()
        }

    def _look_up(self, name: str, ids: Tensor) -> Tensor:
        clips, positions = self._clips.locate(ids)
        rows = self._starts[name][clips.numpy()] + positions.numpy()
        return torch.from_numpy(self._rows[name][rows]).to(ids.device)

    def features(self, ids: Int[Tensor, " n"], view: View, encoder: FrameEncoder) -> Float[Tensor, "n size"]:
        """What the encoder made of frames in a view; of one that is fine-tuned nothing is kept."""
        if view.name in self._rows:
            return self._look_up(view.name, ids).float()
        found: Tensor = encoder(view.cut(self.pixels(ids)))
        return found

    def thumbnails(self, ids: Int[Tensor, " n"]) -> UInt8[Tensor, "n 3 height width"]:
        """Frames at the size of previews."""
        return self._look_up("thumbnail", ids)

    def packets(self, ids: Int[Tensor, " n"]) -> Float[Tensor, "n numbers"]:
        """What the packets around frames tell."""
        return self._look_up(PACKETS, ids)[:, :NUM_NUMBERS]

    def starts(self, ids: Int[Tensor, " n"]) -> Int[Tensor, "n 2"]:
        """The key frame that decoding each frame starts from, and how many are decoded from there on."""
        return self._look_up(PACKETS, ids)[:, NUM_NUMBERS:].long()

    def pixels(self, ids: Int[Tensor, " n"]) -> UInt8[Tensor, "n 3 side side"]:
        """Frames at the base size, decoded anew: they would fill the disk."""
        clips, positions = (part.numpy() for part in self._clips.locate(ids))
        found = torch.empty(len(ids), 3, self._side, self._side, dtype=torch.uint8)
        self._decoders = self._decoders or Decoders(max_pixels=self._max_pixels)
        tickets = {}
        for clip in np.unique(clips).tolist():
            here = (clips == clip).nonzero()[0]
            tickets[clip] = here, _ask(self._decoders, self._clips, clip, positions[here], self._side)
        for clip, (here, ticket) in tickets.items():
            answer = awaited(self._decoders, ticket, self._clips.clips[clip].path)
            found[here] = _channels_first(answer.frames)
        return found.to(ids.device)


def _kinds(reader: FrameReader) -> dict[str, _Kind]:
    """The tables that a reader needs, by name."""
    encoder, side = reader.encoder, reader.frame_size
    folder = cache_folder().parent / "frames"

    def encode(view: View) -> Callable[[Tensor], Tensor]:
        return lambda pixels: encoder(view.cut(pixels))

    def pool(shape: tuple[int, ...], dtype: type, *settings: object) -> Pool:
        key = sha256(json.dumps([FORMAT, side, *map(str, settings)]).encode()).hexdigest()[:16]
        return Pool(folder / key, shape, dtype)

    identity = encoder.identity() if encoder.frozen else None
    found = {
        view.name: _Kind(pool((encoder.feature_size,), FEATURES, identity, view), encode(view))
        for view in reader.views
        if identity
    }
    if reader.thumbnail is not None:
        height, width = reader.thumbnail.height, reader.thumbnail.width
        small = pool((3, height, width), THUMBNAILS, "thumbnail", height, width)
        found["thumbnail"] = _Kind(small, lambda pixels: thumbnail(pixels, height, width))
    found[PACKETS] = _Kind(pool((NUM_NUMBERS + 2,), np.float32, PACKETS, PACKETS_FORMAT), None)
    return found


def _keys(clips: VideoSequences, kinds: dict[str, _Kind]) -> list[str]:
    """What each clip is known by."""
    contents: dict[str, str] = {}
    keys = []
    for index, clip in enumerate(clips.clips):
        if clip.path not in contents:
            contents[clip.path] = digest(Path(clip.path))
        places = sha256(clips.frame_indices(index).tobytes()).hexdigest()[:16]
        keys.append(f"{contents[clip.path]}-{places}")
    return keys


@torch.no_grad()
def _fill(
    decoders: Decoders, clips: VideoSequences, kinds: dict[str, _Kind], keys: list[str], missing: list[int], side: int,
    device: torch.device,
) -> None:  # fmt: skip
    def lacking(index: int) -> list[_Kind]:
        return [kind for kind in kinds.values() if kind.pool.span(keys[index]) is None]

    def request(index: int) -> Request:
        """All frames where any are lacking; for the packets alone nothing is decoded."""
        decodes = any(kind.make is not None for kind in lacking(index))
        path, start, end = clips.clips[index]
        indices: NDArray[np.int64] | list[int] = clips.frame_indices(index) if decodes else []
        return Request(path, indices, (side, side), 0, start, end, packets=True)

    for done, (index, opened) in enumerate(_open_all(decoders, clips, missing, request), start=1):
        pixels = _channels_first(opened.frames).to(device)
        for kind in lacking(index):
            rows = (
                _packet_rows(clips, index, opened) if kind.make is None else kind.make(pixels).cpu().numpy()
            )
            kind.pool.add(keys[index], rows)
        preparing.get()("frames of videos", done, len(missing))


def _packet_rows(clips: VideoSequences, index: int, opened: Decoded) -> NDArray[np.float32]:
    """What the packets of a clip tell of its positions."""
    assert opened.packets is not None
    return opened.packets.rows(clips.frame_indices(index) - clips.spans[index].first)


def _open_all(
    decoders: Decoders, clips: VideoSequences, which: list[int], request: Callable[[int], Request]
) -> Iterator[tuple[int, Decoded]]:
    """What is asked of some clips in turn, a few clips ahead."""
    tickets: dict[int, int] = {}
    for place, index in enumerate(which):
        for ahead in which[place : place + AHEAD]:
            if ahead not in tickets:
                tickets[ahead] = decoders.submit(request(ahead))
        yield index, awaited(decoders, tickets[index], clips.clips[index].path)


def _ask(
    decoders: Decoders, clips: VideoSequences, index: int, positions: NDArray[np.int64], side: int
) -> int:
    indices = clips.frame_indices(index)[positions]
    return decoders.submit(Request(clips.clips[index].path, indices, (side, side)))


def awaited(decoders: Decoders, ticket: int, path: str) -> Decoded:
    """What a ticket stands for; raises UserError for a video that cannot be decoded."""
    try:
        return decoders.result(ticket)
    except VideoError as error:
        raise UserError(f"data: video {path}, got {error}; expected a file that can be decoded") from None


def _channels_first(frames: NDArray[np.uint8]) -> UInt8[Tensor, "n 3 height width"]:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
