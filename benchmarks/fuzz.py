"""Scores damaged videos mixed with good ones, and says what became of them.

Good videos come as they are and, so that containers differ, as mkv and ts (stream copies), avi and webm (encoded
anew). Of each kind of damage in `benchmarks.damage` there are as many files: bytes, bits and stretches, a bit of the
first key frame, packets that are lost, transport streams cut short, and what is no video at all. All are scored in one
go by the command line.

It must end well; every input must be in the rows or in the errors, once; no file may take longer than the limit; and
rows must be, bit for bit, those of a run without the files that were refused. Some damaged files are good videos all
the same (a wrong ending, a clean trim) and are read side by side with the others; beside a run of the good files
alone, everything but the last digits of probabilities must be the same too.

A damaged file that was scored is decoded beside its original. Where frames differ, it was scored silently: these are
counted and listed, and of them those that show a picture which the original does not show at that time; the rest only
has fewer frames. With `--lenient` all that can be decoded is scored, and silent is what says nothing in its row.
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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from benchmarks.damage import ENCODED, Damaged, copy, encode, make_damaged
from benchmarks.timing import Report, add_json
from temporal.data.decode import Video, spread

CONTAINERS = ("mp4", "mkv", "avi", "webm", "ts")
COMPARED = ("label", "frames", "frame_seconds", "frames_decoded", "flops", "stopped", "missing")
POSITIONS = 64
Rows = list[dict[str, Any]]


class Seen(NamedTuple):
    """How what was seen of a damaged file differs from its original."""

    is_same: bool
    has_wrong_picture: bool = False
    """One that the original does not show at that time."""


def make_good(folder: Path, sources: Sequence[Path]) -> list[Path]:
    """Good videos in all containers."""
    folder.mkdir()
    good = []
    for index, source in enumerate(sources):
        ending = CONTAINERS[index % len(CONTAINERS)]
        target = folder / f"{index:04d}.{ending}"
        make = encode if target.suffix in ENCODED else shutil.copy if target.suffix == ".mp4" else copy
        good.append(Path(make(source, target)))
    return good


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


def compare(damaged: Damaged, row: dict[str, Any]) -> Seen:
    """How what was seen of a file, all positions or frames looked at, differs from what its original shows there."""
    with Video(str(damaged.path), lenient=True) as video, Video(str(damaged.original)) as original:
        first = damaged.first or 0
        positions = spread((0, video.probe.num_frames), POSITIONS)
        seen = positions if row["frames_decoded"] >= len(positions) else np.array(row["frames"], np.int64)
        found = video.frames(seen)
        whole = original.frames(range(original.probe.num_frames))
    if found.frames.shape[1:] != whole.frames.shape[1:]:
        return Seen(False, True)
    places = np.minimum(seen + first, len(whole.frames) - 1)
    if video.probe.num_frames == len(whole.frames) - first and (found.frames == whole.frames[places]).all():
        return Seen(True)
    # A time is in ticks of the container, which may round it.
    at_time = np.abs(whole.seconds - whole.seconds[first] - found.seconds[:, None]).argmin(1)
    return Seen(False, bool((found.frames != whole.frames[at_time]).any()))


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
    parser.add_argument("--lenient", action="store_true", help="score what is there of damaged files")
    add_json(parser)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    more = ["--frames", options.frames, "--seconds-per-file", str(options.limit)]
    more += ["--lenient"] if options.lenient else []
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
    """Show the table; returns the files whose frames differ from their originals' and whose rows do not say so."""
    report = Report(title, file)
    silent: list[str] = []
    for kind in dict.fromkeys(each.kind for each in damaged):
        of_kind = [each for each in damaged if each.kind == kind]
        let_in = {each: scored[each.path.name] for each in of_kind if each.path.name in scored}
        quiet = {each: compare(each, row) for each, row in let_in.items() if not row["missing"]}
        other = [each for each, seen in quiet.items() if not seen.is_same]
        wrong = [each for each in other if quiet[each].has_wrong_picture]
        report.add(
            kind=kind, files=len(of_kind), refused=len(of_kind) - len(let_in), scored=len(let_in),
            says_what_is_missing=len(let_in) - len(quiet), same=len(quiet) - len(other),
            fewer_frames=len(other) - len(wrong), other_pictures=len(wrong),
        )  # fmt: skip
        silent += [f"{each.path.name} ({kind})" for each in other]
    report.show()
    return silent


if __name__ == "__main__":
    main()
