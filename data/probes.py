"""Which frames of its file each clip is: found by opening it once, and kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TextIO

from temporal.data.decode import MAX_PIXELS, Probe
from temporal.data.decoders import Decoders, Request, VideoError
from temporal.data.manifests import Clip
from temporal.errors import bad, reason

Progress = Callable[[int, int], None]
ProbeAll = Callable[[Sequence[Clip]], Iterable[Probe | VideoError]]
"""Opens the files of clips and says in turn what each holds, or why it cannot be told."""


class Extent(NamedTuple):
    """How many frames a file has, and which of them are a clip: from `first` up to but not including `stop`."""

    num_frames: int
    first: int
    stop: int


class _Key(NamedTuple):
    """What a clip is known by: another size or time of modification means another file."""

    path: str
    size: int
    modified: int
    start: float | None
    end: float | None


def measure(
    clips: Iterable[Clip], index: Path, probe_all: ProbeAll, progress: Progress = lambda done, num: None
) -> dict[Clip, Extent | str]:
    """Extent of each clip, or the reason why it cannot be told; only what the index does not know is opened.

    Args:
        clips: where to look.
        index: a jsonl file, made when missing; may be removed at any time.
        probe_all: opens videos.
        progress: told how many clips are done, of how many that must be opened.
    """
    keys = {clip: _key(clip) for clip in clips}
    known = _read_index(index)
    found = {clip: key if isinstance(key, str) else known.get(key) for clip, key in keys.items()}
    missing = [clip for clip, extent in found.items() if extent is None]
    if missing:
        with _appended(index) as out:  # written as they come, so that an interruption loses little
            for done, (clip, probe) in enumerate(zip(missing, probe_all(missing), strict=True), start=1):
                if isinstance(probe, VideoError):
                    found[clip] = str(probe)
                else:
                    found[clip] = extent = Extent(probe.num_frames, *probe.span)
                    out.write(json.dumps([*keys[clip], *extent]) + "\n")
                progress(done, len(missing))
    return {clip: extent for clip, extent in found.items() if extent is not None}


def probe_all(clips: Sequence[Clip], max_pixels: int = MAX_PIXELS) -> Iterator[Probe | VideoError]:
    """Open the files of clips in worker processes, each with a time limit."""
    with Decoders(max_pixels=max_pixels) as decoders:
        for answer in decoders.map(Request(clip.path, start=clip.start, end=clip.end) for clip in clips):
            yield answer if isinstance(answer, VideoError) else answer.probe


def _key(clip: Clip) -> _Key | str:
    """What a clip is known by; the reason where its file cannot be looked at."""
    try:
        found = os.stat(clip.path)
    except OSError as error:
        return reason(error)
    return _Key(os.path.abspath(clip.path), found.st_size, found.st_mtime_ns, clip.start, clip.end)


def _read_index(index: Path) -> dict[_Key, Extent]:
    known = {}
    for line in index.read_text(errors="replace").splitlines() if index.is_file() else []:
        with suppress(ValueError, TypeError):  # cut off while being written
            *key, num_frames, first, stop = json.loads(line)
            known[_Key(*key)] = Extent(int(num_frames), int(first), int(stop))
    return known


def _appended(index: Path) -> TextIO:
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        out = index.open("a")
        out.write("\n")  # apart from a line that was cut off
    except OSError as error:
        expected = f"a folder that can be written ({reason(error)}); TEMPORAL_CACHE names another"
        raise bad("data", "cache folder", str(index.parent), expected) from None
    return out
