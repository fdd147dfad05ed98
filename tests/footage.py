"""Frames without videos: every id has its own noise, and a tiny encoder makes features of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from temporal.readers.base import Task
from temporal.readers.frames import FrameEncoder, Thumbnail, View
from temporal.readers.video import AttentiveFrameReader, FrameReader, RecurrentFrameReader

SIDE = 16
THUMBNAIL = (4, 6)


class TinyEncoder(FrameEncoder):
    """One convolution and a mean."""

    feature_size = 6

    def __init__(self, frozen: bool = True) -> None:
        super().__init__(nn.Conv2d(3, 6, 4, 4), frozen)

    def encode(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.network(pixels / 64 - 2).amax((2, 3))
        return found


class NoiseFrames:
    """A store of `num` frames of noise, looked up by id."""

    def __init__(self, num: int = 4096) -> None:
        generator = torch.Generator().manual_seed(5)
        self._pixels = torch.randint(0, 256, (num, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        self.num_encoded = 0

    def pixels(self, ids: Tensor) -> Tensor:
        return self._pixels[ids]

    def features(self, ids: Tensor, view: View, encoder: FrameEncoder) -> Tensor:
        self.num_encoded += len(ids)
        found: Tensor = encoder(view.cut(self._pixels[ids]))
        return found

    def thumbnails(self, ids: Tensor) -> Tensor:
        return self._pixels[ids][:, :, : THUMBNAIL[0], : THUMBNAIL[1]]


def make_frame_reader(
    task: Task, recurrent: bool = False, preview: bool = True, frozen: bool = True, **settings: object
) -> FrameReader:
    """A small reader of noise, without dropout unless asked for."""
    kind = RecurrentFrameReader if recurrent else AttentiveFrameReader
    given: dict[str, object] = {
        "views": ("8px", "16px"),
        "frame_size": SIDE,
        "hidden_size": 12,
        "preview": Thumbnail(*THUMBNAIL, channels=(4, 4)) if preview else None,
    }
    reader = kind(task, TinyEncoder(frozen), **(given | settings))  # type: ignore[arg-type]
    reader.frames = NoiseFrames()
    return reader
