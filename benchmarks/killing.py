"""Kills scorings of videos at random moments and has each go on: no row may be lost, none may be there twice.

Each time a new scoring is started and its process killed (SIGKILL) a random time after a random number of batches
has been kept; no worker process may live on. The same command then goes on to the end, and its rows must be those of
the uninterrupted scoring. Linux only.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.timing import Report, add_json
from temporal.watching import BATCH

Rows = list[dict[str, Any]]
BATCH_SECONDS = 1.0  # a kill comes up to so much later than its batch: amid reading, or writing, the next
WAIT_SECONDS = 10.0  # for workers to end


def command(options: argparse.Namespace, out: Path) -> list[str]:
    """What is run."""
    videos = sorted(options.videos.glob("*.mp4"))[: options.num]
    given = [options.run, *videos, "--frames", options.frames, "--workers", options.workers, "--out", out]
    return [sys.executable, "-m", "temporal", "score", *map(str, given)]


def finish(options: argparse.Namespace, out: Path) -> Rows:
    """Score to the end; the rows, without what the clock says."""
    subprocess.run(command(options, out), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return [row | {"seconds": None} for row in pq.read_table(out).to_pylist()]


def status(pid: int | str) -> tuple[str, int]:
    """State and parent of a process; dead where there is none."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", 0
    return state, int(parent)


def workers_of(pid: int) -> list[int]:
    """Processes that a process started."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if status(path.name)[1] == pid]


def kill_after(num_batches: int, seconds: float, options: argparse.Namespace, out: Path) -> int | None:
    """Start scoring and kill it; how many of its workers live on, or None where it had ended before."""
    process = subprocess.Popen(command(options, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(parts(out)) < num_batches and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    workers = workers_of(process.pid)
    process.send_signal(signal.SIGKILL)
    if process.wait() == 0:
        return None
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"scoring ended with {process.returncode} by itself")
    deadline = time.monotonic() + WAIT_SECONDS
    while (alive := sum(status(pid)[0] not in "XZ" for pid in workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


def parts(out: Path) -> list[Path]:
    """Batches kept beside an output."""
    return list(out.parent.glob(f"{out.name}.*.parts/*.parquet"))


def main() -> None:
    """Print a line for each kill; exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("videos", type=Path, help="folder of mp4 files")
    parser.add_argument("--num", type=int, default=160, help="videos; default 160")
    parser.add_argument("--kills", type=int, default=20, help="default 20")
    parser.add_argument("--frames", default="8", help="of each; default 8")
    parser.add_argument("--workers", default="1", help="default 1")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    add_json(parser)
    options = parser.parse_args()
    rng, report = random.Random(options.seed), Report("kill -9 amid scoring, resumed", options.json)
    with tempfile.TemporaryDirectory() as scratch:
        expected = finish(options, Path(scratch) / "whole.parquet")
        done, wrong = 0, 0
        while done < options.kills:
            out = Path(scratch) / f"{rng.getrandbits(32)}.parquet"
            num_batches, seconds = rng.randrange(-(-options.num // BATCH)), rng.uniform(0, BATCH_SECONDS)
            alive = kill_after(num_batches, seconds, options, out)
            if alive is None:
                continue  # it had ended: another moment
            done += 1
            kept = sum(pq.read_metadata(path).num_rows for path in parts(out))
            rows = finish(options, out)
            times = Counter(row["input"] for row in rows)
            lost = sum(row["input"] not in times for row in expected)
            left = len(os.listdir(scratch)) - len(list(Path(scratch).glob("*.parquet")))
            report.add(
                batches=num_batches, and_seconds=seconds, rows_kept=kept, rows=len(rows), lost=lost,
                twice=sum(n > 1 for n in times.values()), same=rows == expected, workers_alive=alive, litter=left,
            )  # fmt: skip
            wrong += rows != expected or alive > 0 or left > 0
    report.show()
    print(f"{wrong} of {done} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
