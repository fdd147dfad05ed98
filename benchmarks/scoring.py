"""Videos scored a second with a budget of 8 frames against all 64 with the same reader, decoding included.

- agent: the run's own, which may stop sooner;
- preview top-8: the rule that looks at the 8 most promising frames, so that none is saved by stopping;
- all frames: no previews, no decisions; frames of several videos are encoded in one go, and decoded ahead.

All three decode in the same number of worker processes. Then where the agent's time goes; with --memory, in place of
all that, the peak of what the process and its workers hold while scoring 50 videos and 1,000 (Linux only).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import torch

from benchmarks.killing import workers_of
from benchmarks.timing import Report, add_json
from temporal import runs
from temporal.agents.controls import Prefix
from temporal.agents.looking import PreviewFirst
from temporal.allocator import keep_freed_memory
from temporal.data.decoders import Decoders
from temporal.data.live import Footage, LiveFrames, Opening
from temporal.data.manifests import Clip
from temporal.readers.base import Reads
from temporal.readers.video import FrameReader
from temporal.watching import AHEAD, Budget, Reading, score_videos

LIMIT_SECONDS = 60.0


def by_agent(run: runs.Run, videos: list[str], workers: int, budget: Budget) -> list[dict[str, Any]]:
    """Score as the command line does."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "scores.parquet"
        score_videos(run, videos, out, budget, Reading(workers, LIMIT_SECONDS), lambda *_: None)
        rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return rows


@torch.no_grad()
def all_frames(run: runs.Run, videos: list[str], workers: int, together: int) -> list[int]:
    """Read every position of every video; `together` videos are encoded in one go."""
    reader, num = run.reader, run.task.max_length
    assert isinstance(reader, FrameReader)
    clips = [Clip(path) for path in videos]
    answers: list[int] = []
    with Decoders(workers, LIMIT_SECONDS) as decoders:
        opening = Opening(decoders, clips, 0, num, reader.frame_size, True, AHEAD)
        while opening.left:
            found = [opening.take() for _ in range(min(together, opening.left))]
            batch = [each for each in found if isinstance(each, Footage)]
            reader.frames = frames = LiveFrames(decoders, batch, num, reader.frame_size)
            rows, lengths = torch.arange(len(batch)), frames.clips.lengths
            chunk = frames.clips.fetch(rows, torch.zeros_like(lengths), lengths, num)
            real = (chunk.tokens > 0).long()
            modes = real * reader.full_mode
            summary = reader.replay(Reads(chunk.tokens[..., None], chunk.positions[..., None], real, modes))
            answers += reader.predict(summary[:, -1]).argmax(-1).tolist()
    return answers


def in_turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least seconds of each way: others at work on the machine only ever add to them."""
    taken: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - started)
    return {name: min(each) for name, each in taken.items()}


@contextmanager
def watched(run: runs.Run) -> Iterator[dict[str, float]]:
    """Seconds spent in each part of scoring while this lasts."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                seconds[part] += time.perf_counter() - started

        return wrapped

    reader = run.reader
    assert isinstance(reader, FrameReader)
    parts = {
        "waiting for the decoder": (Decoders, "result"),
        "preview": (reader, "preview"),
        "encode": (reader.encoder, "forward"),
        "agent": (run.agent, "act"),
    }
    with ExitStack() as stack:
        for part, (owner, name) in parts.items():
            stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        yield seconds


def where_time_goes(run: runs.Run, videos: list[str], workers: int, budget: Budget, report: Report) -> None:
    """One row for each part, in per cent of the whole."""
    decoding = 0.0
    add = Footage.add

    def added(self: Footage, positions: Any, decoded: Any) -> None:
        nonlocal decoding
        decoding += decoded.took_seconds
        add(self, positions, decoded)

    with watched(run) as seconds, patch.object(Footage, "add", added):
        started = time.perf_counter()
        by_agent(run, videos, workers, budget)
        whole = time.perf_counter() - started
    seconds["other"] = whole - sum(seconds.values())
    for part, spent in seconds.items():
        report.add(part=part, ms_per_video=1e3 * spent / len(videos), per_cent=100 * spent / whole)
    report.add(
        part="(decode, in workers meanwhile)", ms_per_video=1e3 * decoding / len(videos),
        per_cent=100 * decoding / whole,
    )  # fmt: skip


def speed(options: argparse.Namespace) -> None:
    """Videos a second of each way, and where the time goes."""
    run = runs.load(options.run)
    price = run.prices[0] if options.price is None else options.price
    videos = [str(path) for path in sorted(options.videos.glob("*.mp4"))[: options.num]]
    budget = Budget(options.frames, None, price)
    rule = PreviewFirst(Prefix(options.frames), run.task.max_length)
    top = replace(run, agent=rule)  # type: ignore[arg-type]
    some = videos[: max(len(videos) // 4, 1)]  # all frames take long
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "agent": (partial(by_agent, run, videos, options.workers, budget), len(videos)),
        f"preview top-{options.frames}": (
            partial(by_agent, top, videos, options.workers, budget),
            len(videos),
        ),
        "all frames": (partial(all_frames, run, some, options.workers, options.together), len(some)),
    }
    looked = sum(row["frames_looked_at"] for row in by_agent(run, videos, options.workers, budget))
    taken = in_turns({name: way for name, (way, _) in ways.items()}, options.repeats)
    rates = {name: num / taken[name] for name, (_, num) in ways.items()}
    report = Report("videos a second", options.json)
    for name, rate in rates.items():
        frames = (
            looked / len(videos)
            if name == "agent"
            else options.frames
            if "top" in name
            else run.task.max_length
        )
        report.add(
            way=name,
            frames=float(frames),
            videos_per_second=rate,
            times_all_frames=rate / rates["all frames"],
        )
    report.show()
    for name, each in (("the agent", run), (f"preview top-{options.frames}", top)):
        report = Report(f"where the time of {name} goes", options.json)
        where_time_goes(each, videos, options.workers, budget, report)
        report.show()


def resident_mib(pid: int) -> float:
    """Resident memory of a process and of those it started."""
    total = 0
    for each in [pid, *workers_of(pid)]:
        try:
            lines = Path(f"/proc/{each}/status").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)
    return total / 1024


def peak_mib(options: argparse.Namespace, num: int) -> float:
    """The peak while so many videos are scored; where there are fewer, links to them make up the number."""
    videos = sorted(options.videos.glob("*.mp4"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "videos"
        folder.mkdir()
        for index in range(num):
            (folder / f"{index:06d}.mp4").symlink_to(videos[index % len(videos)].resolve())
        given = [options.run, folder, "--frames", options.frames, "--workers", options.workers]
        out = Path(scratch) / "scores.parquet"
        command = [sys.executable, "-m", "temporal", "score", *map(str, given), "--out", str(out)]
        peak = 0.0
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                peak = max(peak, resident_mib(process.pid))
                time.sleep(0.1)
        if process.returncode or pq.read_metadata(out).num_rows != num:
            raise SystemExit(f"scoring {num} videos ended with {process.returncode}")
    return peak


def memory(options: argparse.Namespace) -> None:
    """Peaks of both numbers and their ratio."""
    report = Report("peak memory of scoring", options.json)
    few, many = (peak_mib(options, num) for num in (50, 1000))
    report.add(mib_of_50=few, mib_of_1000=many, ratio=many / few)
    report.show()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder; its agent sees previews")
    parser.add_argument("videos", type=Path, help="folder of mp4 files")
    parser.add_argument(
        "--num", type=int, default=192, help="videos; all frames are read of a quarter; default 192"
    )
    parser.add_argument("--frames", type=int, default=8, help="budget of each; default 8")
    parser.add_argument("--price", type=float, help="shown to the agent; the lowest when left out")
    parser.add_argument("--together", type=int, default=4, help="videos encoded in one go; default 4")
    parser.add_argument("--workers", type=int, default=max((os.cpu_count() or 2) - 1, 1), help="that decode")
    parser.add_argument("--threads", type=int, default=1, help="of torch; default 1")
    parser.add_argument("--repeats", type=int, default=3, help="default 3; the best counts")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    add_json(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    (memory if options.memory else speed)(options)


if __name__ == "__main__":
    main()
