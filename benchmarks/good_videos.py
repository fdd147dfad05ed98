"""Good videos of many kinds, each read frame by frame in any order and compared with decoding it from the beginning.

Frames carry their own index, so that a wrong one is known. Ends with 1 unless no file is refused and no frame wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from benchmarks.timing import Report, add_json
from temporal.data.decode import Video, VideoError
from temporal.data.packets import video_stream
from tests.variants import VARIANTS

SIZE = (96, 160)


class Found(NamedTuple):
    """What became of one file."""

    frames: int
    wrong: int
    why: str = ""
    """Why it was refused; nothing where it was read."""
    doubts: str = ""
    """What it may lack, as its row would say."""


def in_order(path: Path) -> UInt8[np.ndarray, "num height width 3"]:
    """All frames, as FFmpeg gives them one after the other, upright."""
    height, width = SIZE
    found, reformatter = [], VideoReformatter()
    with av.open(str(path)) as container:
        for frame in container.decode(video_stream(container)):
            quarters = round(frame.rotation / 90) % 4
            size = (height, width) if quarters % 2 else (width, height)
            small = reformatter.reformat(
                frame, *size, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
            )
            found.append(np.rot90(small.to_ndarray(), quarters))
    return np.stack(found)


def compare(path: Path, seed: int) -> Found:
    """Read all frames in order, a few in any order, and each alone; how many are not those of decoding in order."""
    expected = in_order(path)
    num, rng = len(expected), np.random.default_rng(seed)
    orders = [list(range(num)), *(rng.integers(0, num, 7).tolist() for _ in range(3))]
    orders += [[i] for i in rng.permutation(num).tolist()]
    try:
        with Video(str(path)) as video:
            if video.probe.num_frames != num:
                return Found(num, abs(video.probe.num_frames - num))
            wrong = {i for order in orders for i in differing(video, order, expected)}
    except VideoError as error:
        return Found(num, 0, str(error))
    return Found(num, len(wrong), doubts="; ".join(video.timeline.doubts))


def differing(video: Video, order: list[int], expected: UInt8[np.ndarray, "num height width 3"]) -> list[int]:
    """Frames that are not, to the bit, what they are when decoded in order."""
    same = (video.frames(order, SIZE).frames == expected[order]).all((1, 2, 3))
    return [index for index, is_same in zip(order, same.tolist(), strict=True) if not is_same]


def main() -> None:
    """Print the table; exit with 1 if anything is refused or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="variants whose name has this in it")
    parser.add_argument("--keep", type=Path, help="folder to keep the files in")
    parser.add_argument("--seed", type=int, default=0, help="of the orders")
    add_json(parser)
    options = parser.parse_args()
    report, refused, wrong = Report("good videos", options.json), 0, 0
    names = [name for name in VARIANTS if options.only in name]
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(names):
            folder = (options.keep or Path(scratch)) / f"{number:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            found = compare(VARIANTS[name](folder), options.seed)
            report.add(
                variant=name, frames=found.frames, refused=found.why or "-", wrong=found.wrong,
                says=found.doubts or "-",
            )  # fmt: skip
            refused, wrong = refused + bool(found.why), wrong + found.wrong
    report.show()
    print(f"{len(names)} variants: {refused} refused, {wrong} frames wrong")
    sys.exit(bool(refused or wrong))


if __name__ == "__main__":
    main()
