"""Frames without videos: every id has its own noise, and a tiny encoder makes features of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from temporal.data.base import SPLITS, Sequences, Source, Split
from temporal.packet_sizes import EXCESS, NUM_NUMBERS
from temporal.readers.base import Reader, Task
from temporal.readers.frames import FrameEncoder, Thumbnail, View, thumbnail
from temporal.readers.video import AttentiveFrameReader, FrameReader, RecurrentFrameReader

SIDE = 16
THUMBNAIL = (8, 8)


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
        return thumbnail(self._pixels[ids], *THUMBNAIL)

    def packets(self, ids: Tensor) -> Tensor:
        """The brighter a frame, the larger its packet."""
        light = self._pixels[ids].float().mean((1, 2, 3), keepdim=True)[..., 0, 0]
        return light / 255 * torch.eye(NUM_NUMBERS)[EXCESS]

    def starts(self, ids: Tensor) -> Tensor:
        """A key frame in four."""
        return torch.stack([(ids - 1) // 4 * 4, (ids - 1) % 4 + 1], -1)


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


class NeedleClips(Source):
    """Clips of dark noise in which one frame shows a block whose colour is the class; frames exist as pixels only.

    Args:
        num: clips of each split.
        length: frames of each clip.
    """

    def __init__(self, num: int = 96, length: int = 8) -> None:
        generator = torch.Generator().manual_seed(11)
        total = 3 * num
        self.labels = torch.randint(0, 3, (total,), generator=generator)
        self.needles = torch.randint(0, length, (total,), generator=generator)
        pixels = torch.randint(0, 40, (total, length, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        pixels[torch.arange(total), self.needles, self.labels, 2:12, 2:12] = 250
        self.store = NoiseFrames(1)
        self.store._pixels = torch.cat([self.store._pixels[:1], pixels.flatten(0, 1)])
        self._num, self._length = num, length

    @property
    def task(self) -> Task:
        return Task(1, ("red", "green", "blue"), self._length, self._length)

    @property
    def name(self) -> str:
        return "needle_clips"

    def split(self, name: Split) -> Sequences:
        first = SPLITS.index(name) * self._num
        ids = np.arange(first * self._length, (first + self._num) * self._length) + 1
        part = slice(first, first + self._num)
        return _Clips(ids, self._length, self.labels[part].numpy(), self.needles[part])

    def equip(self, reader: Reader) -> None:
        assert isinstance(reader, FrameReader)
        reader.frames = self.store


class _Clips(Sequences):
    def __init__(self, ids: np.ndarray, length: int, labels: np.ndarray, needles: Tensor) -> None:
        super().__init__(ids, np.arange(0, len(ids) + 1, length), labels)
        self._truth = torch.nn.functional.one_hot(needles, length).float()

    @property
    def truth(self) -> Tensor | None:
        return self._truth
