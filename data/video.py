"""Videos with labels: where they are and how long; nothing is decoded here, and frames stay on disk until read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from temporal.data.base import SPLITS, Source, Split, preparing
from temporal.data.clips import Span, VideoSequences
from temporal.data.decode import MAX_PIXELS, spread
from temporal.data.layouts import find_rows
from temporal.data.manifests import Clip, Columns, Row, split_of, to_clip
from temporal.data.probes import Extent, measure, probe_all
from temporal.data.tables import SHARES
from temporal.data.text import cache_folder
from temporal.errors import UserError, bad
from temporal.ranges import Count, Inner, Seed, Text, Tokens
from temporal.readers.base import Reader, Task

T = TypeVar("T")


class _Entry(NamedTuple):
    """What a row says, checked."""

    where: str
    clip: Clip
    label: str
    split: Split | None
    truth: NDArray[np.float32] | None  # of each frame of the file


class _Measured(NamedTuple):
    """A clip whose file was opened."""

    entry: _Entry
    span: Span
    truth: NDArray[np.float32]  # of each position, NaN where not known


class VideoSource(Source):
    """Labelled videos, which stay where they are; each is opened once to count its frames.

    Counts are kept in the user's cache folder (or TEMPORAL_CACHE) until a file's size or time changes.

    Args:
        path: a shipped sample (doom); a folder with one folder per class, or train, validation and test folders of
            such; a folder with a manifest.jsonl or lists named train, validation, test; one list: lines of "path
            label" (txt), csv (with a header; or Kinetics'), jsonl; trainlist01.txt takes testlist01.txt with it; a
            parquet table, a folder saved by datasets, or the name of a data set on the Hugging Face hub, with a
            column of videos.
        path_column: where the path stands, in what has columns.
        label_column: where the label stands.
        start_column: where a clip begins, in seconds; may be missing, as all columns that follow.
        end_column: where a clip ends, in seconds.
        truth_column: a list of numbers, one for each frame of the file, such as how much of it shows the class.
        split_column: train, validation or test.
        num_frames: positions of a clip at most; longer ones are sampled evenly.
        root: folder that relative paths are under; the list's own by default.
        validation_share: part of train set aside where there is no validation split, above 0 and below 1.
        test_share: likewise for a missing test split.
        skip_bad: leave out what cannot be used instead of stopping at the first.
        max_pixels: of a frame; a video with more cannot be used.
        seed: of the set-aside.
    """

    def __init__(
        self,
        path: Text,
        path_column: Text = "path",
        label_column: Text = "label",
        start_column: Text = "start",
        end_column: Text = "end",
        truth_column: Text = "truth",
        split_column: Text = "split",
        num_frames: Tokens = 64,
        root: Text = "",
        validation_share: Inner = SHARES["validation"],
        test_share: Inner = SHARES["test"],
        skip_bad: bool = False,
        max_pixels: Count = MAX_PIXELS,
        seed: Seed = 0,
    ) -> None:
        self._name = Path(path).resolve().stem
        self._num_frames, self._skip_bad, self.num_skipped = num_frames, skip_bad, 0
        self.max_pixels = max_pixels
        columns = Columns(path_column, label_column, start_column, end_column, truth_column, split_column)
        entries = self._keep(_entry, find_rows(path, columns, root))
        shares = {"validation": validation_share, "test": test_share}
        entries = _in_order(entries, shares, seed)
        clips, progress = (entry.clip for entry in entries), partial(preparing.get(), "lengths of videos")
        extents = measure(clips, self._index(path), partial(probe_all, max_pixels=max_pixels), progress)
        self._whole, counts, classes = self._assemble(entries, extents)
        stops = np.cumsum(counts).tolist()
        self._ranges = dict(zip(SPLITS, zip([0, *stops], stops, strict=False), strict=True))
        mean_length = float(self._whole.lengths[: counts[0]].double().mean())
        self._task = Task(1, classes, mean_length, num_frames)

    @property
    def task(self) -> Task:
        """Frames are no vocabulary: its size is 1, and ids run over all frames of the source."""
        return self._task

    @property
    def name(self) -> str:
        """The last part of the path, without an ending."""
        return self._name

    @property
    def whole(self) -> VideoSequences:
        """All clips: train, validation, test, end to end."""
        return self._whole

    @property
    def clips(self) -> tuple[Clip, ...]:
        """All clips, in the order of `whole`."""
        return self._whole.clips

    def split(self, name: Split) -> VideoSequences:
        """The clips of one split; their frame ids are those of `whole`."""
        return self._whole.part(*self._ranges[name])

    def equip(self, reader: Reader) -> None:
        """Have a reader of frames look them up in the cache, which is filled first.

        Raises:
            UserError: a reader that reads no frames, a video that cannot be decoded.
        """
        from temporal.data.features import CachedFrames  # with it come the decoders
        from temporal.readers.video import FrameReader

        if not isinstance(reader, FrameReader):
            raise bad("data", "reader of videos", type(reader).__name__, "one that reads frames")
        reader.frames = CachedFrames(self._whole, reader, self.max_pixels)

    def _index(self, path: str) -> Path:
        key = sha256(os.path.realpath(os.path.expanduser(path)).encode(errors="surrogateescape")).hexdigest()[
            :16
        ]
        return cache_folder().parent / "video" / f"{self._name}-{key}.jsonl"

    def _keep(self, check: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        """Check one after the other; what is not right stops, or is counted and left out."""
        kept = []
        for item in items:
            try:
                kept.append(check(item))
            except UserError as error:
                if not self._skip_bad:
                    raise UserError(f"{error}; mend it or set data.skip_bad to true") from None
                self.num_skipped += 1
        return kept

    def _assemble(
        self, entries: list[_Entry], extents: dict[Clip, Extent | str]
    ) -> tuple[VideoSequences, list[int], tuple[str, ...]]:
        """All clips that can be used, how many of them each split has, and the names of the classes."""
        found = self._keep(lambda entry: _measure(entry, extents[entry.clip], self._num_frames), entries)
        classes = _class_names({clip.entry.label for clip in found if clip.entry.split == "train"})
        labels = {name: number for number, name in enumerate(classes)}
        found = self._keep(lambda clip: _check_label(clip, labels), found)
        counts = [sum(clip.entry.split == split for clip in found) for split in SPLITS]
        for split, count in zip(SPLITS, counts, strict=True):
            if count == 0:
                raise bad("data", f"clips of {split}", 0, "one or more")
        sequences = VideoSequences(
            [clip.entry.clip for clip in found],
            [clip.span for clip in found],
            self._num_frames,
            np.asarray([labels[clip.entry.label] for clip in found], dtype=np.int64),
            np.stack([clip.truth for clip in found]),
        )
        return sequences, counts, tuple(classes)


def _entry(row: Row) -> _Entry:
    """Check a row by itself."""
    clip = to_clip(row)
    if row.label is None or row.label == "":
        raise UserError(f"{row.where}: label, got nothing; expected the name of a class")
    split = None if row.split is None or row.split == "" else split_of(str(row.split))
    if split is None and row.split:
        raise bad(row.where, "split", row.split, f"one of {', '.join(SPLITS)}", SPLITS)
    return _Entry(row.where, clip, str(row.label), split, _truth(row))


def _truth(row: Row) -> NDArray[np.float32] | None:
    if row.truth is None or row.truth == "":
        return None
    try:
        truth = np.asarray(json.loads(row.truth) if isinstance(row.truth, str) else row.truth, np.float32)
    except (ValueError, TypeError):
        truth = np.empty(0, np.float32)
    if truth.ndim != 1 or not len(truth) or not np.isfinite(truth).all():
        raise UserError(f"{row.where}: truth, got {row.truth!r:.40}; expected a list of numbers")
    return truth


def _in_order(entries: list[_Entry], shares: dict[str, float], seed: int) -> list[_Entry]:
    """Train, validation, test, each as listed; missing ones are taken out of train by file, so that none is in two."""
    given = {entry.split for entry in entries if entry.split}
    if given and (vague := [entry for entry in entries if entry.split is None]):
        raise UserError(f"{vague[0].where}: split, got nothing; expected one of {', '.join(SPLITS)}")
    if given and "train" not in given:
        raise bad("data", "splits", sorted(given), "one named train")
    files = list(dict.fromkeys(e.clip.path for e in entries if e.split in (None, "train")))
    moved: dict[str, Split] = {}
    for split in ("test", "validation"):
        if split not in given:
            chosen = _choose(files, split, shares[split], seed)
            moved |= dict.fromkeys(chosen, split)
            files = [path for path in files if path not in chosen]
        elif shares[split] != SHARES[split]:
            raise bad("data", f"{split}_share", shares[split], f"no value: there is a {split} split")
    entries = [
        entry._replace(split=moved.get(entry.clip.path, "train")) if entry.split in (None, "train") else entry
        for entry in entries
    ]
    return [entry for split in SPLITS for entry in entries if entry.split == split]


def _choose(files: list[str], split: str, share: float, seed: int) -> set[str]:
    num = round(share * len(files))
    if not 0 < num < len(files):
        raise bad("data", "videos of train", len(files), f"enough to set a {split} split aside")
    chosen = np.random.default_rng([seed, len(split)]).permutation(len(files))[:num]
    return {files[i] for i in chosen}


def _measure(entry: _Entry, extent: Extent | str, num_frames: int) -> _Measured:
    """What is known of a clip once its file was opened."""
    path, where = entry.clip.path, entry.where
    if isinstance(extent, str):
        what = "video" if path in where else f"video {path}"
        raise UserError(f"{where}: {what}, got {extent!r}; expected frames that can be read")
    span = Span(extent.first, extent.stop)
    truth = np.full(num_frames, np.nan, np.float32)
    if entry.truth is not None:
        if len(entry.truth) != extent.num_frames:
            expected = f"{extent.num_frames}, one for each frame of the file"
            raise bad(where, "numbers in truth", len(entry.truth), expected)
        places = spread(span, num_frames)
        truth = np.zeros(num_frames, np.float32)
        truth[: len(places)] = entry.truth[places]
    return _Measured(entry, span, truth)


def _class_names(names: set[str]) -> list[str]:
    """Sorted, as numbers where they are."""
    if len(names) < 2:
        raise bad("data", "classes of train", sorted(names), "two or more")
    numbers = all(re.fullmatch(r"-?\d+", name) for name in names)
    return sorted(names, key=int) if numbers else sorted(names)


def _check_label(clip: _Measured, labels: dict[str, int]) -> _Measured:
    where, label = clip.entry.where, clip.entry.label
    if label not in labels:
        known = ", ".join(list(labels)[:8])
        raise UserError(f"{where}: label, got {label!r}, unseen in train; expected one of {known}")
    return clip
