"""Results of scoring videos: kept batch by batch, so that a killed run goes on, and put together at the end."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from temporal.errors import UserError, bad

SCHEMA = pa.schema(
    [
        ("input", pa.string()),
        ("start", pa.float64()),  # seconds, as given; null is from the beginning
        ("end", pa.float64()),
        ("label", pa.string()),
        ("probabilities", pa.list_(pa.float32())),  # in the order of the run's classes
        ("frames_total", pa.int64()),  # of the clip
        ("frames_looked_at", pa.int64()),
        ("frames", pa.list_(pa.int64())),  # looked at, in this order; counted from the beginning of the file
        ("frame_seconds", pa.list_(pa.float64())),  # when each of them is shown
        ("frames_decoded", pa.int64()),
        ("flops", pa.float64()),
        ("seconds", pa.float64()),  # of work: decoding, and a share of the batch's time by FLOPs
        ("stopped", pa.string()),  # by the agent, at the end, or out of budget
        ("missing", pa.string()),  # what the file promised and did not give, where let pass; what it may lack
    ]
)


class Failure(NamedTuple):
    """A clip that cannot be scored, and why."""

    input: str
    start: float | None
    end: float | None
    reason: str


class Part(NamedTuple):
    """What became of some consecutive clips."""

    stop: int  # clips up to here, exclusive
    columns: dict[str, list[Any]]
    failures: list[Failure]


class Totals(NamedTuple):
    """What all parts hold together."""

    num_scored: int
    flops: float
    num_decoded: int
    failures: list[Failure]


class Parts:
    """Finished batches in a folder beside the output, one file each.

    A file is written under another name and renamed, so that it is whole or not there; it says up to which clip the
    inputs are dealt with. The folder's name holds the fingerprint, so that another command has one of its own.

    Args:
        out: the output.
        fingerprint: of all that decides about the rows.
    """

    def __init__(self, out: Path, fingerprint: str) -> None:
        self._out = out
        self._folder = out.with_name(f"{out.name}.{fingerprint}.parts")
        self._old = self._folder.with_suffix(".old")
        shutil.rmtree(self._old, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stops = sorted(int(path.stem) for path in self._folder.glob("*.parquet"))

    @property
    def done(self) -> int:
        """Clips that are dealt with."""
        return self._stops[-1] if self._stops else 0

    def add(self, part: Part) -> None:
        """Keep one more batch."""
        failures = json.dumps([failure._asdict() for failure in part.failures])
        table = pa.Table.from_pydict(part.columns, SCHEMA).replace_schema_metadata({"failures": failures})
        unfinished = self._unfinished(f"{part.stop:09d}")
        pq.write_table(table, unfinished, compression="zstd")
        os.replace(unfinished, self._file(part.stop))
        self._stops.append(part.stop)

    def _file(self, stop: int) -> Path:
        return self._folder / f"{stop:09d}.parquet"

    def _unfinished(self, name: str) -> Path:
        """Where a file is written before it takes its name; what a killed process leaves here goes with the parts."""
        return self._folder / f"{name}.{os.getpid()}.unfinished"

    def finish(self) -> Totals:
        """Put all together in the output, beside it what failed, and remove the parts.

        Where nothing was scored, an output that was there before is left as it is.
        """
        failures: list[Failure] = []
        num, flops, num_decoded = 0, 0.0, 0
        unfinished = self._unfinished("whole")
        with pq.ParquetWriter(str(unfinished), SCHEMA, compression="zstd") as writer:
            for stop in self._stops:
                table, failed = self._read(stop)
                failures += failed
                writer.write_table(table)
                num += len(table)
                flops += math.fsum(table["flops"].to_pylist())
                num_decoded += sum(table["frames_decoded"].to_pylist())
        self._list(failures)
        if num:
            os.replace(unfinished, self._out)
        # Renamed first: were this killed amid removing, the rest would be taken for all there is.
        os.replace(self._folder, self._old)
        shutil.rmtree(self._old, ignore_errors=True)
        return Totals(num, flops, num_decoded, failures)

    def _read(self, stop: int) -> tuple[pa.Table, list[Failure]]:
        try:
            table = pq.read_table(self._file(stop))
            failures = [Failure(**each) for each in json.loads(table.schema.metadata[b"failures"])]
            return table.replace_schema_metadata(None).cast(SCHEMA), failures
        except (pa.ArrowInvalid, ValueError, TypeError, KeyError):
            where = f"score: {self._file(stop)}, got a damaged file"
            raise UserError(
                f"{where}; expected a part of the results; remove the folder to start anew"
            ) from None

    def _list(self, failures: list[Failure]) -> None:
        path = errors_file(self._out)
        if not failures:
            path.unlink(missing_ok=True)
            return
        unfinished = self._unfinished("errors")
        with unfinished.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(failure._asdict()) + "\n" for failure in failures)
        os.replace(unfinished, path)


def errors_file(out: Path) -> Path:
    """Where the clips are listed that could not be scored.

    >>> errors_file(Path("scores.parquet")).name
    'scores.errors.jsonl'
    """
    return out.with_suffix(".errors.jsonl")


def check_out(out: Path) -> None:
    """Raise UserError for an output that is no parquet file, or that would be put in place of something else."""
    taken = next((path for path in (out, errors_file(out)) if path.exists() and not path.is_file()), None)
    try:
        str(out).encode()
    except UnicodeEncodeError:  # as arrow takes no other names
        raise bad("score", "--out", str(out), "a name in UTF-8") from None
    if out.suffix != ".parquet" or taken is not None:
        raise bad("score", "--out", str(taken or out), "a file ending in .parquet")
