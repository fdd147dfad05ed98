"""Scoring files by a trained run, through the command line: what it writes, budgets, and what goes wrong."""

from __future__ import annotations

import errno
import json
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from temporal import commands, parts, scoring
from temporal.errors import UserError
from temporal.parts import Part, Parts
from temporal.runs import load
from tests.mails import call, complaint, make_mails

Capture = pytest.CaptureFixture[str]
TEXTS = make_mails(20, 9)["text"]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with one of each: 20 rows of parquet, 3 of csv, 2 of jsonl, one text."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "a.csv").write_text('id,text\n1,"Cheap, cheap pills."\n2,meeting\n3,Offer!\n')
    pq.write_table(pa.table({"text": TEXTS}), folder / "b.parquet")
    (folder / "c.jsonl").write_text('{"text": "w1 agenda"}\n{"text": "ﬁne, naïve ☃ cheap w3"}\n')
    (folder / "d.txt").write_text("the minutes\nof the meeting")
    return folder


def score(capsys: Capture, run: Path, *arguments: object, out: Path) -> list[dict[str, Any]]:
    """Rows of a call that must succeed; its results must be on stdout and its progress on stderr."""
    code, told, progress = call(capsys, "score", run, *arguments, "--out", out)
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    assert code == 0
    assert re.fullmatch(
        rf"{out}: {len(rows)} texts scored at \d+\.\d% of a full reading on average(; .*)?\n", told
    )
    # where it takes long there are lines before the last
    assert re.fullmatch(r"(scoring: \d+, \d+\.\d texts/s\n)*scoring: (\d+)/\2, \d+\.\d texts/s\n", progress)
    return rows


# What is written.


def test_rows_are_in_order_and_agree_with_their_texts(
    text_run: Path, inputs: Path, tmp_path: Path, capsys: Capture
) -> None:
    rows = score(capsys, text_run, inputs, out=tmp_path / "out" / "s.parquet")
    names = [("a.csv", i) for i in range(3)] + [("b.parquet", i) for i in range(20)]
    names += [("c.jsonl", 0), ("c.jsonl", 1), ("d.txt", 0)]
    assert [(r["input"], r["row"]) for r in rows] == [(str(inputs / name), i) for name, i in names]
    tokenizer = Tokenizer.from_file(str(text_run / "tokenizer.json"))
    texts = ["Cheap, cheap pills.", "meeting", "Offer!", *TEXTS]
    texts += ["w1 agenda", "ﬁne, naïve ☃ cheap w3", "the minutes\nof the meeting"]
    for row, text in zip(rows, texts, strict=True):
        encoding = tokenizer.encode(text)
        assert row["tokens_total"] == len(encoding)
        assert row["tokens_read"] == len(row["positions"])
        assert row["positions"] == sorted(set(row["positions"]))
        spans = [encoding.offsets[p] for p in row["positions"]]
        assert row["words"] == " ".join(text[start:end] for start, end in spans)
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-6)
        assert row["label"] == ("ham", "spam")[row["probabilities"].index(max(row["probabilities"]))]
        assert row["flops"] > 0
    assert sum(r["tokens_read"] for r in rows) > 26
    assert "cheap" in rows[-2]["words"]  # its letters before that are not what the tokenizer makes of them


def test_labels_are_learnt(text_run: Path, mails: Path, tmp_path: Path, capsys: Capture) -> None:
    rows = score(capsys, text_run, mails / "test.parquet", out=tmp_path / "s.parquet")
    right = [
        r["label"] == t
        for r, t in zip(rows, pq.read_table(mails / "test.parquet")["label"].to_pylist(), strict=True)
    ]
    assert sum(right) > 0.8 * len(right)


def test_batches_change_nothing(
    text_run: Path, inputs: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score(capsys, text_run, inputs, inputs, "--tokens", 6, out=tmp_path / "s.parquet")
    monkeypatch.setattr(scoring, "BATCH", 7)
    small = score(capsys, text_run, inputs, inputs, "--tokens", 6, out=tmp_path / "t.parquet")
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 8
    monkeypatch.setattr(scoring, "BATCH_ANSWERS", 2 * 5)
    score(capsys, text_run, inputs, inputs, "--tokens", 6, out=tmp_path / "t.parquet")
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 11
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 1)
    single = score(capsys, text_run, inputs, inputs, "--tokens", 6, out=tmp_path / "t.parquet")
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == len(single) == 52
    for rows in (small, single, whole[26:] + whole[:26]):  # inputs given twice are scored twice, alike
        for one, other in zip(rows, whole, strict=True):
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
            assert one | {"probabilities": None} == other | {"probabilities": None}


def test_other_columns(text_run: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a.csv").write_text("text,body\n1,cheap pills\n")
    (row,) = score(capsys, text_run, tmp_path / "a.csv", "--text-column", "body", out=tmp_path / "s.parquet")
    assert row["tokens_total"] == 2


# The length of texts.


def long_rows(place: Path) -> Path:
    """Texts of 10, 40 and 90 tokens, the first and the last of each a known one."""
    file = place / "long.csv"
    texts = [" ".join(["cheap", *["w1"] * (num - 2), "agenda"]) for num in (10, 40, 90)]
    file.write_text("text\n" + "".join(f"{text}\n" for text in texts))
    return file


def test_texts_are_cut_as_in_training(text_run: Path, tmp_path: Path, capsys: Capture) -> None:
    out, file = tmp_path / "s.parquet", long_rows(tmp_path)
    code, told, _ = call(capsys, "score", text_run, file, "--out", out)
    assert code == 0
    assert re.fullmatch(
        rf"{out}: 3 texts scored at \d+\.\d% of a full reading on average; "
        r"1 are longer than max_tokens 40 and were cut\n", told,
    )  # fmt: skip
    rows = pq.read_table(out).to_pylist()
    assert [(r["tokens_total"], r["cut"]) for r in rows] == [(10, False), (40, False), (40, True)]
    assert "agenda" not in rows[2]["words"]
    cut = Path(shutil.copy(file, tmp_path / "cut.csv"))
    cut.write_text(file.read_text().replace(" w1" * 88 + " agenda", " w1" * 39))
    for row, other in zip(score(capsys, text_run, cut, out=out), rows, strict=True):
        assert row | {"cut": False, "input": ""} == other | {"cut": False, "input": ""}


def test_a_full_reading_of_all_texts_is_all_there_is(
    text_run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more, however long the texts are beside those of training; deciding comes on top of it."""
    monkeypatch.setattr("temporal.decisions.Halt.apply", lambda self, option, choice, modes: choice)
    monkeypatch.setattr("temporal.decisions.Sift.apply", lambda self, option, choice, modes: choice)
    file = long_rows(tmp_path)
    run, more = load(text_run), ("--max-tokens", "90")
    rows = score(capsys, text_run, file, *more, out=tmp_path / "s.parquet")
    assert [r["tokens_read"] for r in rows] == [10, 40, 90]
    assert [r["full_flops"] for r in rows] == [run.reader.full_flops(n) for n in (10, 40, 90)]
    _, told, _ = call(capsys, "score", text_run, file, *more, "--out", tmp_path / "s.parquet")
    share = sum(r["flops"] for r in rows) / sum(r["full_flops"] for r in rows)
    assert told == f"{tmp_path}/s.parquet: 3 texts scored at {share:.1%} of a full reading on average\n"


def test_an_agent_of_places_takes_texts_of_any_length(
    text_config: Path, tmp_path: Path, capsys: Capture
) -> None:
    config = tmp_path / "places.yaml"
    sift = "{class_path: temporal.decisions.Sift}"
    place = "{class_path: temporal.decisions.Place, init_args: {num_places: 5}}"
    quick = text_config.read_text().replace(sift, place).replace("epochs: 12", "epochs: 1")
    config.write_text(quick.replace("updates: 80", "updates: 2"))
    assert call(capsys, "train", config, "--out", tmp_path / "run")[0] == 0
    rows = score(capsys, tmp_path / "run", long_rows(tmp_path), out=tmp_path / "s.parquet")
    assert [r["tokens_total"] for r in rows] == [10, 40, 40]
    message = "score: --max-tokens, got 41; expected at most 40, the places that the agent knows"
    more = ("--max-tokens", "41", "--out", tmp_path / "s.parquet")
    assert complaint(capsys, "score", tmp_path / "run", long_rows(tmp_path), *more) == message


def test_no_more_than_the_reader_holds(text_run: Path) -> None:
    run = load(text_run)
    with_room = replace(run, reader=Held(run.reader))  # type: ignore[arg-type]
    assert [scoring._max_tokens(with_room, asked) for asked in (None, 9, 30)] == [30, 9, 30]
    with pytest.raises(UserError, match="--max-tokens, got 31; expected at most 30, what the reader holds"):
        scoring._max_tokens(with_room, 31)


class Held:
    """A reader that holds 30 tokens."""

    def __init__(self, reader: Any) -> None:
        self.capacity = 30


# Budgets and prices.


@pytest.mark.parametrize("tokens", [1, 3, 7, 10**9])
def test_a_budget_in_tokens_is_never_exceeded(
    tokens: int, text_run: Path, inputs: Path, tmp_path: Path, capsys: Capture
) -> None:
    rows = score(capsys, text_run, inputs, "--tokens", tokens, out=tmp_path / "s.parquet")
    assert max(r["tokens_read"] for r in rows) <= tokens
    assert max(r["tokens_read"] for r in rows) >= min(tokens // 1, 4)


@pytest.mark.parametrize("times", [1, 1.5, 20, 100, 1e6])
def test_a_budget_in_flops_is_never_exceeded(
    times: float, text_run: Path, inputs: Path, tmp_path: Path, capsys: Capture
) -> None:
    budget = times * load(text_run).reader.predict_flops
    rows = score(capsys, text_run, inputs, "--flops", budget, out=tmp_path / "s.parquet")
    assert max(r["flops"] for r in rows) <= budget
    assert (max(r["tokens_read"] for r in rows) > 0) == (times > 50)


def test_the_price_is_shown_to_the_agent(
    text_run: Path, mails: Path, tmp_path: Path, capsys: Capture
) -> None:
    read = {
        price: sum(r["flops"] for r in score(capsys, text_run, mails, *price, out=tmp_path / "s.parquet"))
        for price in ((), ("--price", "0"), ("--price", "0.003"), ("--price", "10"))
    }
    assert read[()] == read["--price", "0"] == read["--price", "0.003"]
    assert read["--price", "10"] < read[()]


# Rows that cannot be scored.


def test_bad_rows_are_listed_and_the_others_scored(text_run: Path, tmp_path: Path, capsys: Capture) -> None:
    a, b, c, d = (tmp_path / name for name in ("a.csv", "b.txt", "c.jsonl", "d.parquet"))
    a.write_bytes(b"text\ncheap\npi\xfflls\nmeeting\n")
    b.write_bytes(b"\xff")
    c.write_text('{"text": ""}\n{"text": "agenda"}\n[]\n')
    pq.write_table(pa.table({"text": [None, "offer"]}), d)
    out = tmp_path / "s.parquet"
    rows = score(capsys, text_run, a, b, c, d, out=out)
    assert [(r["input"], r["row"]) for r in rows] == [(str(a), 0), (str(a), 2), (str(c), 1), (str(d), 1)]
    listed = [json.loads(line) for line in (tmp_path / "s.errors.jsonl").read_text().splitlines()]
    assert listed == [
        {"input": str(a), "row": 1, "line": 3, "reason": "bytes that are not UTF-8"},
        {"input": str(b), "row": 0, "line": None, "reason": "bytes that are not UTF-8 at 0"},
        {"input": str(c), "row": 0, "line": 1, "reason": "empty text"},
        {"input": str(c), "row": 2, "line": 3, "reason": "not a JSON object with 'text'"},
        {"input": str(d), "row": 0, "line": None, "reason": "text, got nothing; expected a string"},
    ]
    _, told, _ = call(capsys, "score", text_run, a, b, "--out", out)
    assert told.endswith(f"on average; 2 could not be, see {tmp_path}/s.errors.jsonl\n")
    score(capsys, text_run, d, out=tmp_path / "other.parquet")
    assert (tmp_path / "s.errors.jsonl").exists()
    score(capsys, text_run, c.with_name("c.jsonl"), out=out)
    (tmp_path / "good.txt").write_text("agenda")
    score(capsys, text_run, tmp_path / "good.txt", out=out)
    assert not (tmp_path / "s.errors.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "content", "got"),
    [
        ("a.txt", " ", "empty text in {file} row 0"),
        ("a.csv", "body\nx\n", "no column 'text'; expected one of body in {file} row 0"),
        ("a.jsonl", "", "no row"),
    ],
)
def test_nothing_to_score(
    name: str, content: str, got: str, text_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    file, out = tmp_path / name, tmp_path / "s.parquet"
    file.write_text(content)
    out.write_text("earlier")
    message = f"score: inputs, got {got.format(file=file)}; expected one text or more that can be scored"
    assert complaint(capsys, "score", text_run, file, "--out", out) == message
    assert out.read_text() == "earlier"
    assert litter(tmp_path) == []


def test_a_second_call_does_not_score_the_results_of_the_first(
    text_run: Path, inputs: Path, capsys: Capture
) -> None:
    first = score(capsys, text_run, inputs, out=inputs / "s.parquet")
    assert score(capsys, text_run, inputs, out=inputs / "s.parquet") == first


# Interruptions and disks.


def progress_raising(at: int, error: BaseException) -> Callable[..., Any]:
    @contextmanager
    def bar(*_: str) -> Iterator[Callable[[str, int, int], None]]:
        calls = iter(range(1000))

        def advance(what: str, done: int, total: int) -> None:
            if next(calls) == at:
                raise error

        yield advance

    return bar


def interrupt(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, run: Path, *arguments: object, num_batches: int
) -> None:
    """Press Ctrl-C after some batches of 7."""
    monkeypatch.setattr(scoring, "BATCH", 7)
    with monkeypatch.context() as patch:
        patch.setattr(commands, "bar", progress_raising(num_batches - 1, KeyboardInterrupt()))
        code, told, err = call(capsys, "score", run, *arguments)
    assert (code, told, err) == (130, "", "temporal: interrupted; what was finished is kept\n")


def litter(place: Path) -> list[str]:
    """What scoring left beside its output."""
    return sorted(p.name for p in place.iterdir() if p.suffix in (".parts", ".old", ".part", ".lock"))


def test_ctrl_c_keeps_what_is_finished_and_what_was_there(
    text_run: Path, inputs: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, errors = tmp_path / "s.parquet", tmp_path / "s.errors.jsonl"
    (inputs / "a.csv").write_text("text\ncheap\n\n'\n \n")
    monkeypatch.setattr(scoring, "BATCH", 7)
    expected = score(capsys, text_run, inputs, out=out)
    before, listed = out.read_bytes(), errors.read_bytes()
    interrupt(capsys, monkeypatch, text_run, inputs, "--out", out, num_batches=2)
    assert (out.read_bytes(), errors.read_bytes()) == (before, listed)
    (kept,) = litter(tmp_path)
    assert len(list((tmp_path / kept).iterdir())) == 2

    num_read = []
    batch = scoring._score

    def counted(run: Any, texts: Any, limits: Any) -> Any:
        num_read.append(len(texts))
        return batch(run, texts, limits)

    monkeypatch.setattr(scoring, "_score", counted)
    assert score(capsys, text_run, inputs, out=out) == expected
    assert sum(num_read) == len(expected) - 14
    assert (errors.read_bytes(), litter(tmp_path)) == (listed, [])


@pytest.mark.parametrize("change", ["budget", "column", "inputs", "content", "run"])
def test_another_command_does_not_go_on(
    change: str,
    text_run: Path,
    inputs: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Path(shutil.copytree(text_run, tmp_path / "run"))
    out, more = tmp_path / "s.parquet", {"budget": ["--tokens", 3], "column": ["--text-column", "id"]}
    interrupt(capsys, monkeypatch, run, inputs, "--out", out, num_batches=2)
    if change == "inputs":
        (inputs / "e.txt").write_text("one more")
    elif change == "content":
        (inputs / "a.csv").write_text("id,text\n1,other\n2,texts\n3,here\n")
    elif change == "run":
        with (run / "config.yaml").open("a") as file:
            file.write("# another\n")
        (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("chunk: 4", "chunk: 3"))
    rows = score(capsys, run, inputs, *more.get(change, []), out=out)
    assert rows == score(capsys, run, inputs, *more.get(change, []), out=tmp_path / "t.parquet")


def test_a_kill_leaves_nothing_that_the_next_call_does_not_remove(
    text_run: Path, inputs: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.parquet"
    expected = score(capsys, text_run, inputs, out=out)
    monkeypatch.setattr(scoring, "BATCH", 7)
    code = (
        "import os, signal, sys; from temporal import parts, scoring; from temporal.cli import main\n"
        "scoring.BATCH, replace = 7, os.replace\n"
        "def killed(source, target):\n"
        "    if str(target).endswith('000000021.parquet'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(source, target)\n"
        "parts.os.replace = killed\n"
        "main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "score", text_run, inputs, "--out", out]
    assert subprocess.run(list(map(str, command)), check=False).returncode == -signal.SIGKILL
    kept, lock = litter(tmp_path)
    assert lock == "s.parquet.lock"
    assert len(list((tmp_path / kept).glob("*.unfinished"))) == 1
    assert pq.read_table(out).to_pylist() == expected  # as before
    for one, other in zip(score(capsys, text_run, inputs, out=out), expected, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
        assert one | {"probabilities": None} == other | {"probabilities": None}
    assert litter(tmp_path) == []


def test_two_scorings_into_one_output(text_run: Path, inputs: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "s.parquet"
    told = f"score: --out, got '{out}'; expected an output that no other scoring is writing"
    with Parts(out, "other"):
        assert complaint(capsys, "score", text_run, inputs, "--out", out) == told
    assert litter(tmp_path) == []
    score(capsys, text_run, inputs, out=out)


class FullDisk(pq.ParquetWriter):  # type: ignore[misc]
    """Takes nothing."""

    def write_table(self, *arguments: Any, **settings: Any) -> None:
        raise OSError(errno.ENOSPC, "[Errno 28] Error writing bytes to file. Detail: ...")


FULL = "(No space left on device)"


@pytest.mark.parametrize("what", ["write_table", "ParquetWriter"])
def test_a_disk_that_fills_keeps_what_is_finished_and_what_was_there(
    what: str, text_run: Path, inputs: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.parquet"
    expected = score(capsys, text_run, inputs, out=out)
    before = out.read_bytes()
    add, calls = Parts.add, iter(range(100))

    def limited(self: Parts, part: Part) -> None:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, "no room")
        add(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "BATCH", 7)
        if what == "write_table":
            patch.setattr(Parts, "add", limited)
        else:
            patch.setattr(parts.pq, "ParquetWriter", FullDisk)
        code, _, err = call(capsys, "score", text_run, inputs, "--out", out)
    message = f"temporal: score: --out, got '{out}'; expected a file that can be written {FULL}"
    assert (code, err.splitlines()[-1]) == (2, message)
    assert out.read_bytes() == before
    assert len(litter(tmp_path)) == 1
    assert score(capsys, text_run, inputs, out=out) == expected


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("{folder}/inputs", "a file ending in .parquet"),
        ("/dev/full", "a file ending in .parquet"),
        (".", "a file ending in .parquet"),
        ("{folder}/s.csv", "a file ending in .parquet"),
        ("{folder}/inputs/d.txt/s.parquet", "a file that can be written (Not a directory)"),
        ("{folder}/inputs/b.parquet", "a file that is not one of the inputs"),
    ],
)
def test_an_output_that_cannot_be(
    out: str, expected: str, text_run: Path, inputs: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = out.format(folder=tmp_path)
    before = (inputs / "b.parquet").read_bytes()
    message = f"score: --out, got '{out}'; expected {expected}"
    assert complaint(capsys, "score", text_run, inputs / "b.parquet", "--out", out) == message
    assert (inputs / "b.parquet").read_bytes() == before


# Long texts.


def read_long(capsys: Capture, run: Path, place: Path, *budget: str) -> dict[str, Any]:
    (place / "long.txt").write_text("w1 " * 1_000_000)
    longer = ("--max-tokens", "2000000")
    (row,) = score(capsys, run, place / "long.txt", *longer, *budget, out=place / "s.parquet")
    assert row["tokens_total"] == 1_000_000
    return row


def test_a_text_of_a_million_tokens_within_a_budget(
    text_run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an agent that passes over what does not tell may look through the whole text for six that do
    monkeypatch.setattr("temporal.decisions.Sift.apply", lambda self, option, choice, modes: choice)
    assert 0 < read_long(capsys, text_run, tmp_path, "--tokens", "6")["tokens_read"] <= 6


@pytest.mark.slow
def test_a_text_of_a_million_tokens_without_a_budget(
    text_run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading keeps one state and the places read, however long the text."""
    run = Path(shutil.copytree(text_run, tmp_path / "run"))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("chunk: 4", "chunk: 4000"))  # fewer steps
    monkeypatch.setattr("temporal.decisions.Halt.apply", lambda self, option, choice, modes: choice)  # never
    monkeypatch.setattr("temporal.decisions.Sift.apply", lambda self, option, choice, modes: choice)
    tracemalloc.start()
    row = read_long(capsys, run, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert row["tokens_read"] == 1_000_000
    assert row["positions"] == list(range(1_000_000))
    # of each token: its id in two forms, its place in a list and in the file, and its word
    assert peak < 250 * 1_000_000


# What cannot be asked for.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "-1"], "--tokens, got -1; expected a whole number from 1 to 1,000,000,000"),
        (["--tokens", "0"], "--tokens, got 0; expected a whole number from 1 to 1,000,000,000"),
        (["--tokens", "nan"], "--tokens, got 'nan'; expected a whole number from 1 to 1,000,000,000"),
        (["--tokens", "inf"], "--tokens, got 'inf'; expected a whole number from 1 to 1,000,000,000"),
        (["--tokens", "ten"], "--tokens, got 'ten'; expected a whole number from 1 to 1,000,000,000"),
        (["--flops", "-1"], "--flops, got -1.0; expected a number from 1 to 1e+18"),
        (["--flops", "nan"], "--flops, got nan; expected a number from 1 to 1e+18"),
        (["--flops", "inf"], "--flops, got inf; expected a number from 1 to 1e+18"),
        (["--flops", "63"], "--flops, got 63.0; expected 64 or more, the cost of one answer"),
        (["--flops", "9", "--tokens", "9"], "--tokens, got --flops as well; expected one of them"),
        (["--price", "-0.1"], "--price, got -0.1; expected a number from 0 to 1,000,000"),
        (["--price", "nan"], "--price, got nan; expected a number from 0 to 1,000,000"),
        (["--price", "inf"], "--price, got inf; expected a number from 0 to 1,000,000"),
        (["gone.txt"], "input, got 'gone.txt'; expected a file or folder that exists"),
        (["--token", "3"], "option, got '--token'; expected one of {options}; did you mean '--tokens'?"),
        (["--agent.hidden_size", "3"], "option, got '--agent.hidden_size'; expected one of {options}"),
    ],
)
def test_settings_out_of_range(
    arguments: list[str], message: str, text_run: Path, inputs: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "s.parquet"
    options = "--help, --tokens, --frames, --flops, --max-tokens, --price, --out, --text-column, --workers, "
    options += "--seconds-per-file, --max-pixels, --lenient, --trust"
    told = complaint(capsys, "score", text_run, inputs, *arguments, "--out", out)
    assert told == "score: " + message.format(options=options)
    assert not out.exists()


def test_a_run_without_texts(text_run: Path, inputs: Path, tmp_path: Path, capsys: Capture) -> None:
    run = Path(shutil.copytree(text_run, tmp_path / "run"))
    (run / "tokenizer.json").unlink()
    message = f"run: file, got '{run}/tokenizer.json'; expected a file of a run (No such file or directory)"
    assert complaint(capsys, "score", run, inputs) == message


def test_the_tokenizer_of_another_run(text_run: Path, inputs: Path, tmp_path: Path, capsys: Capture) -> None:
    run = Path(shutil.copytree(text_run, tmp_path / "run"))
    file = run / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    before = tokenizer.get_vocab_size() + 1
    tokenizer.add_tokens(["one", "two"])
    tokenizer.save(str(file))
    message = (
        f"run: added_tokens in {file}, got 'another'; expected that of tokenizer 'words', which the run names"
    )
    assert complaint(capsys, "score", run, inputs) == message
    stored = json.loads((text_run / "tokenizer.json").read_text())
    stored["model"]["vocab"] |= {"one": before - 1, "two": before}
    file.write_text(json.dumps(stored))
    message = f"run: vocabulary of {file}, got {before + 2}; expected {before}, as the run was trained with"
    assert complaint(capsys, "score", run, inputs) == message
