"""Results of scoring: kept batch by batch, so that a killed run goes on, and put together at the end."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from temporal.errors import UserError, bad, reason

BUSY = "an output that no other scoring is writing"

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
    """What became of some consecutive inputs."""

    stop: int  # inputs up to here, exclusive
    columns: dict[str, Any]
    failures: Sequence[Any]  # NamedTuples


class Totals(NamedTuple):
    """What all parts hold together."""

    num_scored: int
    sums: dict[str, float]  # of the columns asked for
    num_failed: int
    first_failure: dict[str, Any] | None


class Parts:
    """Finished batches in a folder beside the output, one file each, and a lock that keeps other scorings away.

    A file is written under another name and renamed, so that it is whole or not there; it says up to which input the
    inputs are dealt with. The folder's name holds the fingerprint, so that another command has one of its own. The
    system lets go of the lock when the process ends, however it ends.

    Args:
        out: the output.
        fingerprint: of all that decides about the rows.
        schema: of the rows.

    Raises:
        UserError: another scoring writes the same output.
    """

    def __init__(self, out: Path, fingerprint: str, schema: pa.Schema = SCHEMA) -> None:
        self._out, self._schema = out, schema
        self._folder = out.with_name(f"{out.name}.{fingerprint}.parts")
        self._old = self._folder.with_suffix(".old")
        if out.parent.exists() and not out.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        out.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(out)
        shutil.rmtree(self._old, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        for path in self._folder.glob("*.unfinished"):  # of a killed process
            path.unlink()
        self._stops = sorted(int(path.stem) for path in self._folder.glob("*.parquet"))

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let go of the output; a folder without parts goes."""
        if kind is None or issubclass(kind, (Exception, KeyboardInterrupt)):
            with contextlib.suppress(OSError):
                self._folder.rmdir()
        Path(self._lock.lock_file).unlink(missing_ok=True)  # before it is released: later it may be another's
        self._lock.release()

    @property
    def done(self) -> int:
        """Inputs that are dealt with."""
        return self._stops[-1] if self._stops else 0

    def add(self, part: Part) -> None:
        """Keep one more batch."""
        failures = json.dumps([failure._asdict() for failure in part.failures])
        table = pa.Table.from_pydict(part.columns, self._schema).replace_schema_metadata(
            {"failures": failures}
        )
        unfinished = self._unfinished(f"{part.stop:09d}")
        pq.write_table(table, unfinished, compression="zstd")
        os.replace(unfinished, self._file(part.stop))
        self._stops.append(part.stop)

    def _file(self, stop: int) -> Path:
        return self._folder / f"{stop:09d}.parquet"

    def _unfinished(self, name: str) -> Path:
        """Where a file is written before it takes its name; what a killed process leaves here goes with the parts."""
        return self._folder / f"{name}.{os.getpid()}.unfinished"

    def finish(self, *summed: str) -> Totals:
        """Put all together in the output, beside it what failed, and remove the parts.

        Where nothing was scored, an output that was there before is left as it is.

        Args:
            summed: columns of which the sums are wanted.
        """
        num, num_failed = 0, 0
        first: dict[str, Any] | None = None
        addends: dict[str, list[float]] = {name: [] for name in summed}
        unfinished, listed = self._unfinished("whole"), self._unfinished("errors")
        with (
            pq.ParquetWriter(str(unfinished), self._schema, compression="zstd") as writer,
            listed.open("w", encoding="utf-8") as file,
        ):
            for stop in self._stops:
                table, failures = self._read(stop)
                writer.write_table(table)
                file.writelines(json.dumps(failure) + "\n" for failure in failures)
                num, num_failed = num + len(table), num_failed + len(failures)
                first = first or next(iter(failures), None)
                for name, each in addends.items():
                    each.append(math.fsum(table[name].to_pylist()))
        if num_failed:
            os.replace(listed, errors_file(self._out))
        elif num:
            errors_file(self._out).unlink(missing_ok=True)
        if num:
            os.replace(unfinished, self._out)
        # Renamed first: were this killed amid removing, the rest would be taken for all there is.
        os.replace(self._folder, self._old)
        shutil.rmtree(self._old, ignore_errors=True)
        return Totals(num, {name: math.fsum(each) for name, each in addends.items()}, num_failed, first)

    def _read(self, stop: int) -> tuple[pa.Table, list[dict[str, Any]]]:
        try:
            table = pq.read_table(self._file(stop))
            failures = json.loads(table.schema.metadata[b"failures"])
            return table.replace_schema_metadata(None).cast(self._schema), list(map(dict, failures))
        except (pa.ArrowInvalid, ValueError, TypeError, KeyError):
            where = f"score: {self._file(stop)}, got a damaged file"
            raise UserError(
                f"{where}; expected a part of the results; remove the folder to start anew"
            ) from None


def _lock(out: Path) -> FileLock:
    """A lock on an output."""
    lock = FileLock(out.with_name(out.name + ".lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise bad("score", "--out", str(out), BUSY) from None
    return lock


def state_of(file: str | Path) -> str:
    """What changes when a file is replaced: size and time of change, or why they cannot be told."""
    try:
        found = os.stat(file)
    except OSError as error:
        return reason(error)
    except ValueError as error:  # a name with a zero byte
        return str(error)
    return f"{found.st_size} {found.st_mtime_ns}"


def errors_file(out: Path) -> Path:
    """Where the inputs are listed that could not be scored.

    >>> errors_file(Path("scores.parquet")).name
    'scores.errors.jsonl'
    """
    return out.with_suffix(".errors.jsonl")


def check_out(out: Path) -> None:
    """Raise UserError for an output that is no parquet file, or that would be put in place of something else."""
    if not out.name:
        raise bad("score", "--out", str(out), "a file ending in .parquet")
    taken = next((path for path in (out, errors_file(out)) if path.exists() and not path.is_file()), None)
    try:
        str(out).encode()
    except UnicodeEncodeError:  # as arrow takes no other names
        raise bad("score", "--out", str(out), "a name in UTF-8") from None
    if out.suffix != ".parquet" or taken is not None:
        raise bad("score", "--out", str(taken or out), "a file ending in .parquet")
