"""Scores damaged videos mixed with good ones, and says what became of them.

Good videos come as they are and, so that containers differ, as mkv (stream copies), avi and webm (encoded anew).
Damage: cut off, bytes flipped, bytes zeroed, a stretch moved, the head of another file, trimmed by stream copy,
empty, text, a wrong ending, a folder, a dangling link, no permission; as many files of each. All are scored in one go
by the command line.

It must end well; every input must be in the rows or in the errors, once; no file may take longer than the limit; and
rows must be, bit for bit, those of a run without the files that were refused. Some damaged files are good videos all
the same (a wrong ending, a clean trim) and are read side by side with the others; beside a run of the good files
alone, everything but the last digits of probabilities must be the same too.

A damaged file that was scored is decoded beside its original: where frames differ, it was scored silently. These are
counted and listed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pyarrow.parquet as pq
from av.video.frame import PictureType

from benchmarks.timing import Report, add_json
from temporal.data.decode import Video, spread

CONTAINERS = ("mp4", "mkv", "avi", "webm")
ENCODED = {".avi": ("mpeg4", {"bf": "0"}), ".webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"})}
COMPARED = ("label", "frames", "frame_seconds", "frames_decoded", "flops", "stopped")
POSITIONS = 64
Rng = np.random.Generator
Rows = list[dict[str, Any]]


class Damaged(NamedTuple):
    """A file made from another."""

    path: Path
    kind: str
    original: Path
    first: int | None = 0
    """Which frame of the original is its first; None where there is nothing to compare."""


def cut_off(data: bytearray, rng: Rng) -> bytes:
    """Only the beginning is there."""
    return bytes(data[: rng.integers(1, len(data))])


def flip(data: bytearray, rng: Rng) -> bytes:
    """A few bytes are others, anywhere."""
    for place in rng.integers(0, len(data), rng.integers(1, 100)):
        data[place] ^= int(rng.integers(1, 256))
    return bytes(data)


def zero(data: bytearray, rng: Rng) -> bytes:
    """A stretch is zero, as where a download left a hole."""
    size = int(rng.integers(1, max(len(data) // 4, 2)))
    place = int(rng.integers(0, len(data) - size))
    data[place : place + size] = bytes(size)
    return bytes(data)


def move(data: bytearray, rng: Rng) -> bytes:
    """A stretch is missing, and comes again at the end."""
    place, size = int(rng.integers(0, len(data) // 2)), int(rng.integers(1, len(data) // 4))
    return bytes(data[:place] + data[place + size :] + data[place : place + size])


KINDS: dict[str, Callable[[bytearray, Rng], bytes]] = {
    "cut off": cut_off,
    "bytes flipped": flip,
    "bytes zeroed": zero,
    "stretch moved": move,
}
OTHERS = (
    "head of another",
    "trimmed by stream copy",
    "empty",
    "text",
    "wrong ending",
    "folder",
    "dangling link",
    "no permission",
)


def encode(source: Path, target: Path) -> Path:
    """Encode a video anew."""
    codec, options = ENCODED[target.suffix]
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        video = read.streams.video[0]
        stream: Any = write.add_stream(codec, rate=video.average_rate, options={"g": "16", **options})
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        for index, frame in enumerate(read.decode(video)):
            picture = frame.reformat(format="yuv420p")
            picture.pts, picture.time_base = index, 1 / Fraction(video.average_rate or 1)
            picture.pict_type = PictureType.NONE  # not that of the source's
            write.mux(stream.encode(picture))
        write.mux(stream.encode())
    return target


def copy(source: Path, target: Path, start: int = 0) -> Path:
    """Copy the stream into another container, from the key frame before frame `start` on."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        video = read.streams.video[0]
        stream = write.add_stream_from_template(video)
        begin = round(start / (video.average_rate or 1) / (video.time_base or 1))
        read.seek(begin, stream=video)
        for packet in read.demux(video):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts = packet.pts - begin, packet.dts - begin
                packet.stream = stream
                write.mux(packet)
    return target


def make_good(folder: Path, sources: Sequence[Path]) -> list[Path]:
    """Good videos in all containers."""
    folder.mkdir()
    good = []
    for index, source in enumerate(sources):
        ending = CONTAINERS[index % len(CONTAINERS)]
        target = folder / f"{index:04d}.{ending}"
        make = encode if target.suffix in ENCODED else copy if target.suffix == ".mkv" else shutil.copy
        good.append(Path(make(source, target)))
    return good


def make_damaged(folder: Path, good: Sequence[Path], num: int, rng: Rng) -> list[Damaged]:
    """`num` damaged files or a few more, as many of each kind; names are such that they lie between the good ones."""
    folder.mkdir()
    made = []
    kinds = [*KINDS, *OTHERS]
    for index in range(-(-num // len(kinds)) * len(kinds)):
        kind, original = kinds[index % len(kinds)], good[index // len(kinds) % len(good)]
        path = folder / f"{original.stem}_{index:04d}{original.suffix}"
        made.append(make_one(path, kind, original, good, rng))
    return made


def make_one(path: Path, kind: str, original: Path, good: Sequence[Path], rng: Rng) -> Damaged:
    """One damaged file."""
    first: int | None = None
    if kind in KINDS:
        path.write_bytes(KINDS[kind](bytearray(original.read_bytes()), rng))
        first = 0
    elif kind == "head of another":
        other = good[int(rng.integers(len(good)))].read_bytes()
        size = int(rng.integers(16, 4096))
        path.write_bytes(other[:size] + original.read_bytes()[size:])
        first = 0
    elif kind == "trimmed by stream copy":
        path = path.with_suffix(".mp4")
        mp4 = next(p for p in good if p.suffix == ".mp4")
        first = int(rng.integers(1, 40))
        return Damaged(copy(mp4, path, first), kind, mp4, first)
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no video\n" * int(rng.integers(1, 1000)))
    elif kind == "wrong ending":
        path = path.with_suffix("." + CONTAINERS[int(rng.integers(len(CONTAINERS)))])
        shutil.copy(original, path)
        first = 0
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    else:
        shutil.copy(original, path)
        path.chmod(0)
        first = 0  # should it be read after all
    return Damaged(path, kind, original, first)


def give_up_privileges() -> None:
    """Have the superuser obey permissions, as everyone must."""
    if sys.platform == "linux" and os.geteuid() == 0:
        for capability in (1, 2):  # to read and write all files, to read them
            ctypes.CDLL(None).prctl(24, capability)  # drops it, from the next program on


def score(run: Path, folder: Path, more: Sequence[str]) -> tuple[Rows, list[str]]:
    """Rows of the videos in a folder, and files that could not be scored; the command must end well."""
    out = folder.with_suffix(".parquet")
    command = [sys.executable, "-m", "temporal", "score", run, folder, "--out", out, *more]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, preexec_fn=give_up_privileges
    )
    if done.returncode or "Traceback" in done.stderr:
        raise SystemExit(f"ended with {done.returncode}:\n{done.stderr[-2000:]}")
    print(done.stdout, end="", file=sys.stderr)
    errors = out.with_suffix(".errors.jsonl")
    lines = errors.read_text().splitlines() if errors.exists() else []
    return pq.read_table(out).to_pylist(), [json.loads(line)["input"] for line in lines]


def is_same(damaged: Damaged, row: dict[str, Any]) -> bool:
    """Whether what was seen of a file is what its original shows there: all positions, or frames looked at."""
    with Video(str(damaged.path)) as video, Video(str(damaged.original)) as original:
        num, first = video.probe.num_frames, damaged.first or 0
        if num != original.probe.num_frames - first:
            return False
        positions = spread((0, num), POSITIONS)
        seen = positions if row["frames_decoded"] >= len(positions) else np.array(row["frames"], np.int64)
        found = video.frames(seen)
        return bool((found.frames == original.frames(seen + first).frames).all())


def differing(rows: Rows, others: Rows, tolerance: float) -> list[str]:
    """Files whose rows are not those of another run, and in what."""
    by_name = {Path(row["input"]).name: row for row in rows}
    found = []
    for other in others:
        name = Path(other["input"]).name
        row = by_name.get(name) or dict.fromkeys(other)
        columns = [what for what in COMPARED if row[what] != other[what]]
        if not np.allclose(row["probabilities"] or np.nan, other["probabilities"], rtol=0, atol=tolerance):
            columns.append("probabilities")
        found += [f"{name}: {', '.join(columns)} differ"] if columns else []
    return found


def linked(folder: Path, paths: Iterable[Path]) -> Path:
    """A folder of links to files; a dangling link dangles there too."""
    folder.mkdir()
    for path in paths:
        (folder / path.name).symlink_to(os.readlink(path) if path.is_symlink() else path)
    return folder


def main() -> None:
    """Print the table; exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("videos", type=Path, help="folder of good mp4 files")
    parser.add_argument("--good", type=int, default=48, help="good videos; default 48")
    parser.add_argument("--damaged", type=int, default=300, help="damaged ones; default 300")
    parser.add_argument("--frames", default="8", help="of each; default 8")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for each file; default 20")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    add_json(parser)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    more = ["--frames", options.frames, "--seconds-per-file", str(options.limit)]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        good = make_good(place / "good", sorted(options.videos.glob("*.mp4"))[: options.good])
        damaged = make_damaged(place / "damaged", good, options.damaged, rng)
        everything = linked(place / "mixed", [*good, *(each.path for each in damaged)])
        started = time.perf_counter()
        rows, refused = score(options.run, everything, [*more, "--workers", "2"])
        seconds = time.perf_counter() - started
        inputs = Counter(path.name for path in everything.iterdir())
        found = Counter(Path(name).name for name in [*(row["input"] for row in rows), *refused])
        wrong = [f"{name}: {found[name]} times" for name in inputs | found if found[name] != inputs[name]]
        wrong += [
            f"{row['input']}: took {row['seconds']:.1f} s" for row in rows if row["seconds"] > options.limit
        ]
        scored = {Path(row["input"]).name for row in rows}
        let_in = [each.path for each in damaged if each.path.name in scored]
        without, none = score(options.run, linked(place / "without", [*good, *let_in]), more)
        wrong += none + differing(rows, without, 0.0)
        alone, none = score(options.run, place / "good", more)
        wrong += none + differing(rows, alone, 1e-5)
        title = f"{len(damaged)} damaged among {len(good)} good, scored in {seconds:.0f} s"
        silent = tell(title, damaged, {Path(row["input"]).name: row for row in rows}, options.json)
    print("scored silently:", *(silent or ["none"]), sep="\n  ")
    print("wrong:", *(wrong or ["nothing"]), sep="\n  ")
    sys.exit(bool(wrong))


def tell(title: str, damaged: Sequence[Damaged], scored: dict[str, Any], file: Path | None) -> list[str]:
    """Show the table; returns the files whose frames differ from their originals'."""
    report = Report(title, file)
    silent: list[str] = []
    for kind in dict.fromkeys(each.kind for each in damaged):
        of_kind = [each for each in damaged if each.kind == kind]
        let_in = [each for each in of_kind if each.path.name in scored]
        other = [f"{each.path.name} ({kind})" for each in let_in if not is_same(each, scored[each.path.name])]
        report.add(
            kind=kind, files=len(of_kind), refused=len(of_kind) - len(let_in), scored=len(let_in),
            scored_silently=len(other),
        )  # fmt: skip
        silent += other
    report.show()
    return silent


if __name__ == "__main__":
    main()
