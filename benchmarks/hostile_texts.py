"""Scores hostile files of texts mixed with good ones, and says what became of them.

Good rows lie among rows and files that are broken in every way known here: quotes, commas, encodings, numbers, nesting,
sizes, kinds of files, permissions, names. All are scored in one go by the command line.

It must end well; every physical row must be in the rows or in the errors, once, and no file may take longer than the
limit to be read; the good rows must be, bit for bit, those of a run on them alone; and memory may not be much above
that run's. Linux only.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fuzz import give_up_privileges
from benchmarks.timing import Report, add_json
from temporal.data.csv_rows import MAX_LETTERS
from temporal.data.inputs import read_rows

WORDS = ("cheap", "pills", "offer", "meeting", "agenda", "minutes", "w1", "w2", "w3", "naïve", "ﬁne")
COMPARED = (
    "label",
    "probabilities",
    "tokens_total",
    "cut",
    "tokens_read",
    "positions",
    "words",
    "flops",
    "halted",
)
Rows = list[dict[str, Any]]


class Made(NamedTuple):
    """What a file holds: texts that are good, in order, and how many rows are to be listed."""

    good: list[str]
    num_bad: int


class Maker:
    """Makes texts, of which each is another.

    Args:
        rng: for words.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._num = 0

    def text(self) -> str:
        """A line of words."""
        self._num += 1
        return " ".join(self.rng.choices(WORDS, k=self.rng.randrange(3, 30))) + f" number {self._num}"

    def texts(self, num: int) -> list[str]:
        """Some lines."""
        return [self.text() for _ in range(num)]


def table(
    texts: list[str], bad: dict[int, bytes], end: bytes = b"\n", head: bytes = b"id,text,label"
) -> bytes:
    """A csv file with bad lines before some of the rows."""
    lines = [head]
    for index, text in enumerate(texts):
        lines += [bad[index]] if index in bad else []
        lines.append(f"{index},{text},{('ham', 'spam')[index % 2]}".encode())
    return end.join(lines) + end


def spoilt(bad: bytes) -> Callable[[Path, Maker], Made]:
    """A csv file of 200 rows with a bad line at three places."""

    def make(path: Path, maker: Maker) -> Made:
        good = maker.texts(200)
        path.write_bytes(table(good, dict.fromkeys(sorted(maker.rng.sample(range(1, 200), 3)), bad)))
        return Made(good, 3)

    return make


def pair_of_quotes(path: Path, maker: Maker) -> Made:
    """A quote opened in one row and closed in another, many rows later."""
    good = maker.texts(300)
    first, last = sorted(maker.rng.sample(range(1, 300), 2))
    path.write_bytes(table(good, {first: b'0,"opened,ham', last: b'0,closed",spam'}))
    good.insert(last, 'closed"')
    return Made(good, 1)


def good_csv(path: Path, maker: Maker) -> Made:
    """Nothing is wrong: quoted lines, commas, quotes doubled, CRLF, a mark, empty lines."""
    good = [f'{t},\r\n"said" he,\r\n\r\n{maker.text()}' for t in maker.texts(100)]
    rows = [f'{i},"{t.replace(chr(34), chr(34) * 2)}",ham\r\n' + "\r\n" * (i % 3) for i, t in enumerate(good)]
    path.write_bytes(b"\xef\xbb\xbf" + ("id,text,label\r\n" + "".join(rows)).encode())
    return Made(good, 0)


def content(data: bytes, num_bad: int = 1) -> Callable[[Path, Maker], Made]:
    """A file without a good row."""

    def make(path: Path, maker: Maker) -> Made:
        path.write_bytes(data)
        return Made([], num_bad)

    return make


def lines_with(*bad: bytes) -> Callable[[Path, Maker], Made]:
    """A jsonl file with bad lines."""

    def make(path: Path, maker: Maker) -> Made:
        good = maker.texts(50)
        lines = [json.dumps({"text": text}).encode() for text in good]
        for each in bad:
            lines.insert(maker.rng.randrange(len(lines)), each)
        path.write_bytes(b"\n".join(lines))
        return Made(good, len(bad))

    return make


def long_number(path: Path, maker: Maker) -> Made:
    """Numbers of 5,000 digits beside good texts."""
    good = maker.texts(20)
    path.write_text("".join(f'{{"text": {json.dumps(t)}, "id": {"9" * 5000}}}\n' for t in good))
    return Made(good, 0)


def long_line(ending: str) -> Callable[[Path, Maker], Made]:
    """A line of 1 GB (a hole) between good ones."""

    def make(path: Path, maker: Maker) -> Made:
        good = maker.texts(2)
        lines = [f"{t}" if ending == "csv" else json.dumps({"text": t}) for t in good]
        with path.open("wb") as file:
            file.write(("text\n" if ending == "csv" else "").encode() + lines[0].encode() + b"\n")
            file.seek(1 << 30, os.SEEK_CUR)
            file.write(b"\n" + lines[1].encode() + b"\n")
        return Made(good, 1)

    return make


def cut_list(path: Path, maker: Maker) -> Made:
    """A list that ends in the middle."""
    good = maker.texts(30)
    path.write_text(json.dumps([{"text": t} for t in good])[:-1] + ', {"text": "cut o')
    return Made(good, 1)


def large_cell(path: Path, maker: Maker) -> Made:
    """400 MB in a file of some kB, beside a good group of rows."""
    good = maker.texts(5)
    with pq.ParquetWriter(
        path, pa.schema([("text", pa.string())]), compression="zstd", use_dictionary=False
    ) as to:
        to.write_table(pa.table({"text": good}))
        to.write_table(pa.table({"text": ["a" * 400_000_000]}))
    return Made(good, 1)


def many_large_cells(path: Path, maker: Maker) -> Made:
    """A text of 1 MB two thousand times, which a dictionary makes small."""
    pq.write_table(pa.table({"text": pa.DictionaryArray.from_arrays([0] * 100, ["a " * 500_000])}), path)
    return Made(["a " * 500_000] * 100, 0)


def mixed_parquet(path: Path, maker: Maker) -> Made:
    """Bytes that are not UTF-8, and nothing, among texts."""
    good = maker.texts(40)
    values: list[bytes | None] = [t.encode() for t in good]
    for each in (b"\xff\xfe bad", None, b" "):
        values.insert(maker.rng.randrange(len(values)), each)
    raw = pa.array(values, pa.binary())
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())}), path)
    return Made(good, 3)


def other_types(path: Path, maker: Maker) -> Made:
    """A column of structures."""
    pq.write_table(pa.table({"text": [{"a": 1}, {"a": 2}]}), path)
    return Made([], 2)


def cut_parquet(path: Path, maker: Maker) -> Made:
    """The end is missing."""
    pq.write_table(pa.table({"text": maker.texts(100)}), path)
    path.write_bytes(path.read_bytes()[:-100])
    return Made([], 1)


def pipe(path: Path, maker: Maker) -> Made:
    """Nobody writes into it."""
    os.mkfifo(path)
    return Made([], 1)


def plug(path: Path, maker: Maker) -> Made:
    """A socket."""
    here = os.getcwd()
    os.chdir(path.parent)  # for names of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)
    return Made([], 1)


def link_to(target: str) -> Callable[[Path, Maker], Made]:
    """A link."""

    def make(path: Path, maker: Maker) -> Made:
        path.symlink_to(target.format(name=path.name))
        return Made([], 1)

    return make


def hole(path: Path, maker: Maker) -> Made:
    """20 GB of nothing."""
    with path.open("wb") as file:
        file.truncate(20 << 30)
    return Made([], 1)


def forbidden(path: Path, maker: Maker) -> Made:
    """No permission."""
    path.write_text(maker.text())
    path.chmod(0)
    return Made([], 1)


def forbidden_folder(path: Path, maker: Maker) -> Made:
    """A folder that cannot be searched."""
    path.mkdir()
    (path / "a.txt").write_text(maker.text())
    path.chmod(0)
    return Made([], 1)


def one_word(path: Path, maker: Maker) -> Made:
    """5 million letters without a space."""
    path.write_text("x" * 5_000_000)
    return Made(["x" * 5_000_000], 0)


def long_text(path: Path, maker: Maker) -> Made:
    """5 million letters of words."""
    good = (maker.text() + " ") * 40_000
    path.write_text(good[:5_000_000])
    return Made([good[:5_000_000]], 0)


def good_text(path: Path, maker: Maker) -> Made:
    """Nothing is wrong."""
    good = maker.text()
    path.write_text(good)
    return Made([good], 0)


KINDS: dict[str, tuple[str, Callable[[Path, Maker], Made]]] = {
    "good": ("csv", good_csv),
    "quote not closed": ("csv", spoilt(b'7,"cheap pills,ham')),
    "quote closed in another row": ("csv", pair_of_quotes),
    "quotes within quotes": ("csv", spoilt(b'7,"he said "hi" twice",ham')),
    "comma not quoted": ("csv", spoilt(b"7,cheap, cheap pills,ham")),
    "cells missing": ("csv", spoilt(b"7,cheap")),
    "not UTF-8": ("csv", spoilt(b"7,ch\xffeap,ham")),
    "only a quote": ("csv", spoilt(b'"')),
    "line of 1 GB": ("csv", long_line("csv")),
    "empty ": ("csv", content(b"")),
    "header only": ("csv", content(b"id,text,label\n", 0)),
    "wrong column": ("csv", content(b"id,txt\n1,a\n")),
    "two such columns": ("csv", content(b"text,text\na,b\n")),
    "UTF-16": ("csv", content("id,text\n1,a\n".encode("utf-16"))),
    "no JSON, nested, of other types": (
        "jsonl",
        lines_with(
            b"{", b"[" * 100_000, b"[1]", b'{"text": 3}', b'{"text": {"a": []}}', b'{"a": 1}', b"\x00"
        ),
    ),
    "number of 5,000 digits as text": ("jsonl", lines_with(b'{"text": ' + b"9" * 5000 + b"}")),
    "number of 5,000 digits beside": ("jsonl", long_number),
    "half a letter, not UTF-8": ("jsonl", lines_with(b'{"text": "\\ud800 a"}', b'{"text": "\xff"}')),
    "line of 1 GB ": ("jsonl", long_line("jsonl")),
    "list cut off": ("json", cut_list),
    "400 MB cell": ("parquet", large_cell),
    "1 MB cell, 100 times": ("parquet", many_large_cells),
    "not UTF-8, nothing, blank": ("parquet", mixed_parquet),
    "of other types": ("parquet", other_types),
    "cut off": ("parquet", cut_parquet),
    "good ": ("txt", good_text),
    "empty": ("txt", content(b"")),
    "UTF-16 ": ("txt", content("cheap pills".encode("utf-16"))),
    "gzip": ("txt", content(gzip.compress(b"cheap pills"))),
    "5 million letters": ("txt", long_text),
    "5 million letters, one word": ("txt", one_word),
    "20 GB": ("txt", hole),
    "pipe": ("txt", pipe),
    "socket": ("txt", plug),
    "link to /dev/zero": ("txt", link_to("/dev/zero")),
    "link to nothing": ("txt", link_to("nowhere")),
    "link to itself": ("txt", link_to("{name}")),
    "no permission": ("txt", forbidden),
    "folder, no permission": ("txt", forbidden_folder),
    "name not UTF-8": ("txt", good_text),
}


def make_all(folder: Path, num: int, maker: Maker) -> dict[Path, tuple[str, Made]]:
    """`num` files of each kind."""
    folder.mkdir()
    made = {}
    for index in range(num):
        for order, (kind, (ending, make)) in enumerate(KINDS.items()):
            name = f"{index:03d}_{order:02d}.{ending}".encode()
            path = folder / os.fsdecode(b"\xff" + name if "name" in kind else name)
            made[path] = (kind, make(path, maker))
    return dict(sorted(made.items()))


def score(run: Path, inputs: Path, limit_s: float) -> tuple[Rows, Rows, float, float]:
    """Rows, errors, seconds, and peak MiB of the command, which must end well."""
    out = inputs.parent / f"{inputs.stem}_scores.parquet"
    command = [sys.executable, "-m", "benchmarks.hostile_texts", "--peak", run, inputs, "--out", out]
    started = time.perf_counter()
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, preexec_fn=give_up_privileges,
        timeout=limit_s, errors="replace",
    )  # fmt: skip
    if done.returncode or "Traceback" in done.stderr:
        raise SystemExit(f"ended with {done.returncode}:\n{done.stderr[-2000:]}")
    print(done.stdout, end="", file=sys.stderr)
    errors = out.with_suffix(".errors.jsonl")
    lines = errors.read_text().splitlines() if errors.exists() else []
    peak = float(re.findall(r"peak (\S+) MiB", done.stderr)[-1])
    return pq.read_table(out).to_pylist(), list(map(json.loads, lines)), time.perf_counter() - started, peak


def with_peak(arguments: list[str]) -> int:
    """Run `temporal score`, and say how much memory it took."""
    from temporal.cli import main as run

    code = run(["score", *arguments])
    print(f"peak {peak_mib():.1f} MiB", file=sys.stderr)
    return code


def peak_mib() -> float:
    """Most memory that this program had; what the system says of children counts their parent's too."""
    return int(re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


def seconds_to_read(path: Path) -> float:
    """How long reading all rows of a file takes."""
    started = time.perf_counter()
    for _ in read_rows([path], "text"):
        pass
    return time.perf_counter() - started


def compare(rows: Rows, alone: Rows) -> list[str]:
    """Rows that are not, bit for bit, those of a run on the good ones."""
    wrong = [] if len(rows) == len(alone) else [f"{len(rows)} rows, {len(alone)} good ones"]
    for row, other in zip(rows, alone, strict=False):
        columns = [name for name in COMPARED if row[name] != other[name]]
        wrong += [f"{row['input']} row {row['row']}: {', '.join(columns)} differ"] if columns else []
    return wrong


def main() -> None:
    """Print the table; exit with 1 if anything is wrong."""
    if sys.argv[1:2] == ["--peak"]:
        sys.exit(with_peak(sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--files", type=int, default=2, help="of each kind; default 2")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds to read a file; default 10")
    parser.add_argument(
        "--memory", type=float, default=400.0, help="MiB above the good rows alone; default 400"
    )
    parser.add_argument("--seed", type=int, default=0, help="of texts and places")
    add_json(parser)
    options = parser.parse_args()
    assert MAX_LETTERS < 1 << 30
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch) / "mixed"
        made = make_all(folder, options.files, Maker(random.Random(options.seed)))
        good = [text for _, each in made.values() for text in each.good]
        (Path(scratch) / "good").mkdir()
        pq.write_table(pa.table({"text": good}), Path(scratch) / "good" / "good.parquet", row_group_size=500)
        alone, none, _, least = score(options.run, Path(scratch) / "good", 600)
        rows, errors, seconds, peak = score(options.run, folder, 600)
        wrong = [f"listed: {each}" for each in none] + compare(rows, alone)
        wrong += tell(made, rows, errors, options)
    print(f"all in {seconds:.0f} s; peak memory {peak:.0f} MiB, the good rows alone {least:.0f} MiB")
    if peak > least + options.memory:
        wrong.append(f"memory: {peak - least:.0f} MiB more than for the good rows alone")
    print("wrong:", *(wrong or ["nothing"]), sep="\n  ")
    sys.exit(bool(wrong))


def tell(
    made: dict[Path, tuple[str, Made]], rows: Rows, errors: Rows, options: argparse.Namespace
) -> list[str]:
    """Show the table; returns what is wrong with single files."""
    report = Report("hostile texts among good ones", options.json)
    wrong: list[str] = []
    places = Counter((each["input"], each["row"]) for each in [*rows, *errors])
    wrong += [f"{place}: {num} times" for place, num in places.items() if num > 1]
    by_kind: dict[str, list[tuple[int, int, int, int, float, str]]] = {}
    for path, (kind, each) in made.items():
        name = str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")
        scored, listed = (sum(e["input"] == name for e in found) for found in (rows, errors))
        seconds = seconds_to_read(path)
        reason = next((e["reason"] for e in errors if e["input"] == name), "")
        by_kind.setdefault(kind, []).append((len(each.good), scored, each.num_bad, listed, seconds, reason))
        if (scored, listed) != (len(each.good), each.num_bad):
            wrong.append(f"{name} ({kind}): {scored} scored, {listed} listed; {each.num_bad} bad")
        if seconds > options.limit:
            wrong.append(f"{name} ({kind}): took {seconds:.1f} s to read")
    for kind, found in by_kind.items():
        good, scored, bad, listed = (sum(column) for column in list(zip(*found, strict=True))[:4])
        report.add(
            file=KINDS[kind][0], kind=kind.strip(), good=good, scored=scored, bad=bad, listed=listed,
            seconds=max(each[4] for each in found), first_reason=found[0][5][:60],
        )  # fmt: skip
    report.show()
    return wrong


if __name__ == "__main__":
    main()
