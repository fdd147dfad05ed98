"""Peak memory of encoding and of training, for a corpus and for one ten times as large.

Texts are generated into a parquet file and read through `TextSource`. Each measurement is a process of its own: one
encodes the corpus into the cache, the next maps it, counts salience over all of it and trains a few updates of every
phase. Two peaks are taken: of all that was resident, which includes pages of mapped files that the system takes back
when it needs the room, and of what the process owned (sampled after every update; Linux only).

With `--run`, scoring by that run is measured instead: one text of some million letters, cut as in training and read
whole, and many short rows beside a hundred times as many. Each peak (VmHWM) is that of a process of its own; bytes are
those above scoring a single line.

What `StoppingFit` records is bounded by its `sequences`, 4000 by default; here by 128, which both corpora reach.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.timing import MAX_LENGTH, Report, add_json, ragged_lengths

UPDATES, RECORDED, CHUNK, SLOTS = 6, 128, 8, 64
VOCABULARY = 1000  # words that both corpora have


def write_corpus(folder: Path, num: int) -> None:
    """A train.parquet of generated texts, written part by part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    schema = pa.schema({"text": pa.string(), "label": pa.string()})
    with pq.ParquetWriter(folder / "train.parquet", schema) as writer:
        for start in range(0, num, 1000):
            lengths = ragged_lengths(rng, min(1000, num - start))
            texts = [" ".join(map(str, rng.zipf(1.3, n).clip(max=50_000))) for n in lengths]
            labels = rng.choice(["ham", "spam"], len(texts)).tolist()
            writer.write_table(pa.table({"text": texts, "label": labels}, schema))


def train(folder: Path) -> float:
    """A few updates of every phase; returns the peak of owned MiB."""
    import torch

    from benchmarks.training import step
    from temporal.agents.policy import PolicyAgent
    from temporal.agents.salience import count_salience
    from temporal.agents.stopping import StoppingFit
    from temporal.agents.train import Training
    from temporal.data.text import TextSource
    from temporal.decisions import Halt, Sift
    from temporal.readers import RecurrentReader

    data = TextSource(str(folder), vocabulary_size=VOCABULARY, max_tokens=MAX_LENGTH)
    source, task = data.split("train"), data.task
    reader = RecurrentReader(task)
    agent = PolicyAgent(task, reader, (Halt(), Sift()))
    training = Training(stopping=StoppingFit(sequences=RECORDED), reader_learning_rate=1e-4)
    scene = training.scene(source, reader, agent, CHUNK, SLOTS, 0)
    reader.salience.copy_(count_salience(source, scene.reader_rows, task.vocabulary_size, task.num_classes))
    generator, owned = torch.Generator().manual_seed(0), owned_mib()
    for phase in training.phases(scene, 0, warm=False):
        phase.prepare(generator)
        optimizer = phase.optimizer()
        for update in range(UPDATES):
            for loss, _ in phase.losses(update, generator):
                step(optimizer, loss)
            owned = max(owned, owned_mib())
    return owned


def encode(folder: Path) -> float:
    """Encode into the cache; returns owned MiB at the end."""
    from temporal.data.text import TextSource

    TextSource(str(folder), vocabulary_size=VOCABULARY, max_tokens=MAX_LENGTH)
    return owned_mib()


def owned_mib() -> float:
    """Resident memory that no file backs, in MiB; NaN where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")), float("nan"))


def measure(job: str, folder: Path, cache: Path) -> tuple[float, float]:
    """Run a job in a fresh process; returns its peak of resident and of owned MiB."""
    caches = {"TEMPORAL_CACHE": str(cache / "temporal"), "HF_HOME": str(cache / "hub")}
    surroundings = os.environ | caches | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.memory", "--job", job, str(folder)]
    done = subprocess.run(command, env=surroundings, check=True, stdout=subprocess.PIPE, text=True)
    resident, owned = json.loads(done.stdout.splitlines()[-1])
    return resident, owned


def write_rows(file: Path, num: int) -> Path:
    """A csv file of short texts."""
    with file.open("w") as out:
        out.write("id,text\n")
        out.writelines(f"{i},cheap pills and the agenda of meeting number {i}\n" for i in range(num))
    return file


def peak_of_scoring(run: Path, file: Path, *more: str) -> float:
    """Peak MiB of `temporal score` in a fresh process."""
    code = (
        "import re, sys; from temporal.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print(re.findall(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[0]); sys.exit(code)"
    )
    out = file.with_suffix(".scores.parquet")
    command = [sys.executable, "-c", code, "score", run, file, "--out", out, *more]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), env=surroundings, check=True, capture_output=True, text=True
    )
    return int(done.stdout.splitlines()[-1]) / 1024


def score(options: argparse.Namespace) -> None:
    """Print peaks of scoring."""
    report = Report("peak memory of scoring texts", options.json)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "line.txt").write_text("cheap pills and the agenda")
        base = peak_of_scoring(options.run, place / "line.txt")

        def add(what: str, file: Path, letters: int, *more: str) -> None:
            mib = peak_of_scoring(options.run, file, *more)
            each = (mib - base) * 2**20 / letters
            report.add(
                what=what, letters=letters, mib=mib, mib_above_one_line=mib - base, bytes_a_letter=each
            )

        whole = ("--max-tokens", str(1 << 24), "--tokens", "1000")  # all is encoded, and little is read
        for name, piece in {
            "words": "w1 cheap, pills. ",
            "marks": ". ",
            "one word": "x",
            "wide": "日本 ☃ ",
        }.items():
            file = place / f"{name}.txt"
            file.write_text(piece * (options.letters // len(piece)))
            add(f"one text, {name}, cut as in training", file, options.letters)
            add(f"one text, {name}, encoded whole", file, options.letters, *whole)
        for num in options.rows:
            file = write_rows(place / f"{num}.csv", num)
            add(f"{num} rows", file, file.stat().st_size)
    report.show()


def main() -> None:
    """Print peaks of both sizes and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000, help="in the smaller corpus, 1000 or more")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help="run folder on texts: measure scoring by it")
    parser.add_argument("--letters", type=int, default=5_000_000, help="with --run, of one text")
    parser.add_argument(
        "--rows", type=int, nargs="*", default=[10_000, 1_000_000], help="with --run, short ones"
    )
    add_json(parser)
    arguments = parser.parse_args()
    if arguments.job:
        owned = {"encode": encode, "train": train}[arguments.job[0]](Path(arguments.job[1]))
        unit = 2**20 if sys.platform == "darwin" else 2**10
        print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, owned]))
        return
    if arguments.run:
        score(arguments)
        return
    report = Report("peak memory when the corpus is ten times larger", arguments.json)
    with tempfile.TemporaryDirectory() as scratch:
        found: dict[tuple[str, int], tuple[float, float]] = {}
        for num in (arguments.texts, 10 * arguments.texts):
            folder = Path(scratch) / f"corpus{num}"
            write_corpus(folder, num)
            for job in ("encode", "train"):
                found[job, num] = measure(job, folder, Path(scratch) / "cache")
        for job in ("encode", "train"):
            small, large = found[job, arguments.texts], found[job, 10 * arguments.texts]
            for what, before, after in zip(("resident", "owned"), small, large, strict=True):
                report.add(
                    job=job, texts=arguments.texts, memory=what,
                    mib=before, mib_of_ten_times=after, ratio=after / before,
                )  # fmt: skip
    report.show()


if __name__ == "__main__":
    main()
