"""Fetching k of n frames, opening included, against decord and the two usual ways with PyAV, all at the same size.

- batch, one by one: decord's `get_batch`, and its frames by index;
- seek: PyAV jumps to each frame's time and decodes on to it;
- order: PyAV decodes from the first frame on, and keeps those wanted.

A clip is decoded in one thread by all of them, as in a worker process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from benchmarks.timing import Report, add_json
from temporal.data.decode import Video, spread

SIZES = ((240, 320), (720, 1280))
GROUPS = (12, 48, 250)
COUNTS = (1, 4, 8, 16)
SIDE = 128


def make_clip(path: Path, size: tuple[int, int], gop: int, num: int) -> Path:
    """A texture that moves sideways, so that frames are predicted from each other as in footage."""
    height, width = size
    texture = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8 + num, 3), np.uint8)
    texture = texture.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": str(gop), "keyint_min": str(gop), "sc_threshold": "0", "preset": "veryfast"}
        for index in range(num):
            frame = np.ascontiguousarray(texture[:, 2 * index : 2 * index + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def by_batch(path: str, indices: list[int], threads: int) -> int:
    """decord, all at once."""
    import decord

    reader = decord.VideoReader(path, width=SIDE, height=SIDE, num_threads=threads)
    return len(reader.get_batch(indices).asnumpy())


def one_by_one(path: str, indices: list[int], threads: int) -> int:
    """decord, by index."""
    import decord

    reader = decord.VideoReader(path, width=SIDE, height=SIDE, num_threads=threads)
    return len(np.stack([reader[index].asnumpy() for index in indices]))


def _opened(container: av.container.InputContainer, threads: int) -> av.VideoStream:
    stream = container.streams.video[0]
    stream.codec_context.thread_count = threads
    stream.thread_type = "SLICE" if threads == 1 else "AUTO"
    return stream


def by_seeking(path: str, indices: list[int], threads: int) -> int:
    """PyAV, a jump for each."""
    found, reformatter = [], VideoReformatter()
    with av.open(path) as container:
        stream = _opened(container, threads)
        for index in indices:
            assert stream.average_rate is not None
            assert stream.time_base is not None
            pts = round(index / stream.average_rate / stream.time_base)
            container.seek(pts, stream=stream)
            frame = next(f for f in container.decode(stream) if f.pts is not None and f.pts >= pts)
            found.append(reformatter.reformat(frame, SIDE, SIDE, "rgb24").to_ndarray())
    return len(np.stack(found))


def in_order(path: str, indices: list[int], threads: int) -> int:
    """PyAV, from the first frame on."""
    wanted, found, reformatter = set(indices), [], VideoReformatter()
    with av.open(path) as container:
        for index, frame in enumerate(container.decode(_opened(container, threads))):
            if index in wanted:
                found.append(reformatter.reformat(frame, SIDE, SIDE, "rgb24").to_ndarray())
            if index == indices[-1]:
                break
    return len(np.stack(found))


def ours(path: str, indices: list[int], threads: int) -> int:
    """What the project does."""
    with Video(path, num_threads=threads) as video:
        return len(video.frames(indices, (SIDE, SIDE)).frames)


def ways_of(k: int, num: int) -> dict[str, Callable[[str, list[int], int], int]]:
    """Ours and the rivals; none jumps 300 times who wants all frames."""
    rivals = {"batch": by_batch, "one by one": one_by_one, "seek": by_seeking, "order": in_order}
    if k == num:
        del rivals["seek"]
    return {"ours": ours, **rivals}


def fastest(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least seconds of each way, after one warm-up, timed in turns: what else the machine does only adds to them."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            found[name].append(time.perf_counter() - started)
    return {name: min(each[1:]) for name, each in found.items()}


def main() -> None:
    """Print seconds and the ratio to the best rival."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_json(parser)
    for name, default in {"repeats": 7, "frames": 300, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    arguments = parser.parse_args()
    os.environ["DECORD_EOF_RETRY_MAX"] = "10240"  # its own default, so that it gets through
    report = Report("fetching frames: milliseconds", arguments.json)
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            for gop in GROUPS:
                clip = make_clip(Path(folder, f"{size[0]}-{gop}.mp4"), size, gop, arguments.frames)
                for k in (*COUNTS, arguments.frames):
                    indices = spread((0, arguments.frames), k).tolist()
                    ways = ways_of(k, arguments.frames)
                    seconds = fastest(
                        {
                            name: partial(way, str(clip), indices, arguments.threads)
                            for name, way in ways.items()
                        },
                        arguments.repeats,
                    )
                    best = min((s, name) for name, s in seconds.items() if name != "ours")
                    times = {
                        name: 1000 * seconds.get(name, float("nan")) for name in ("ours", *ways_of(0, 1))
                    }
                    report.add(
                        height=size[0], key_every=gop, k=k, **times, best=best[1],
                        ratio=seconds["ours"] / best[0],
                    )  # fmt: skip
    report.show()


if __name__ == "__main__":
    main()
