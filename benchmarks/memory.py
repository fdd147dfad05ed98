"""Peak memory of encoding and of training, for a corpus and for one ten times as large.

Texts are generated into a parquet file and read through `TextSource`. Each measurement is a process of its own: the
first encodes the corpus into the cache, the second maps it and trains a few updates of every phase, salience counted
over the whole corpus included. Two peaks are taken: all that was resident, of which pages of mapped files are a part
that the system takes back when it needs the room, and what the process owned (the larger of the ends of all updates).

What `StoppingFit` records is bounded by its `sequences`; here both corpora reach that bound.
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
from typing import Any

import numpy as np

MIB = 1024  # KiB, the unit of Linux's figures
UPDATES, RECORDED = 6, 256


def write_corpus(folder: Path, num: int) -> None:
    """A train.parquet of generated texts, written part by part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    schema = pa.schema({"text": pa.string(), "label": pa.string()})
    with pq.ParquetWriter(folder / "train.parquet", schema) as writer:
        for start in range(0, num, 1000):
            lengths = np.exp(rng.normal(np.log(160), 0.8, min(1000, num - start))).astype(int).clip(1, 600)
            texts = [" ".join(f"w{word}" for word in rng.zipf(1.3, n).clip(max=30_000)) for n in lengths]
            labels = rng.choice(["ham", "spam"], len(texts)).tolist()
            writer.write_table(pa.table({"text": texts, "label": labels}, schema))


def train(folder: Path) -> None:
    """A few updates of every phase."""
    from temporal.agents.policy import PolicyAgent
    from temporal.agents.stopping import StoppingFit
    from temporal.agents.train import Training
    from temporal.agents.train import train as run
    from temporal.agents.warmup import Warmup
    from temporal.data.text import TextSource
    from temporal.decisions import Halt, Sift
    from temporal.readers import RecurrentReader

    class FirstBatches(Warmup):
        """Its phase ends after a few updates, whatever the corpus."""

    source = TextSource(str(folder), max_tokens=600)
    reader = RecurrentReader(source.task)
    agent = PolicyAgent(source.task, reader, (Halt(), Sift()))
    training = Training(
        Warmup(epochs=1), StoppingFit(UPDATES, sequences=RECORDED), updates=UPDATES, reader_learning_rate=1e-4
    )
    scene = training.scene(source.split("train"), reader, agent, 8, 64, 0)
    for phase in training.phases(scene, 0, False):
        ...
