"""Texts to be scored out of files: what can be read is read, what cannot is a problem of its row."""

from __future__ import annotations

import csv
import errno
import gzip
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from temporal.data import csv_rows, json_rows
from temporal.data import inputs as inputs_module
from temporal.data.inputs import Problem, Row, find_inputs, read_rows
from temporal.errors import UserError

BYTES = "bytes that are not UTF-8"


def rows_of(file: Path, column: str = "text") -> list[tuple[int, str]]:
    """Row and text, or row and reason."""
    found = list(read_rows([file], column))
    assert {r.input for r in found} <= {str(file)}
    return [(r.row, r.text if isinstance(r, Row) else f"!{r.reason}") for r in found]


def write(file: Path, content: str | bytes) -> Path:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


MIXED = [
    (0, "one"),
    (1, "!empty text"),
    (2, "!text, got nothing; expected a string"),
    (3, 'two "2", ü\nmore'),
]


def test_all_tables_are_read_alike(tmp_path: Path) -> None:
    values = ["one", " \n", None, 'two "2", ü\nmore']
    pq.write_table(pa.table({"id": range(4), "text": values}), tmp_path / "a.parquet")
    lines = [{"id": i, "text": v} for i, v in enumerate(values)]
    write(tmp_path / "a.jsonl", "\n".join(json.dumps(line) for line in lines))
    write(tmp_path / "a.json", json.dumps(lines, indent=1))
    write(tmp_path / "lines.json", "\n".join(json.dumps(line) for line in lines) + "\n\n")
    # a field that is missing is nothing; csv has no other way to say it
    write(tmp_path / "a.CSV", 'id,text\n0,one\n1," \n"\n2\n3,"two ""2"", ü\nmore"\n')
    for file in sorted(tmp_path.iterdir()):
        short = (2, "!1 cell; expected 2 as in the header")
        expected = [MIXED[0], MIXED[1], short, MIXED[3]] if file.suffix == ".CSV" else MIXED
        assert rows_of(file) == expected, file


@pytest.mark.parametrize("name", ["a.txt", "a.md", "noending"])
def test_other_files_are_one_text(name: str, tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / name, "one, ü\ntwo")) == [(0, "one, ü\ntwo")]
    assert rows_of(write(tmp_path / name, " \n")) == [(0, "!empty text")]
    assert rows_of(write(tmp_path / name, b"one \xff")) == [(0, f"!{BYTES} at 4")]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json"])
def test_a_byte_order_mark_is_no_text(name: str, tmp_path: Path) -> None:
    content = {"a.txt": "one", "a.csv": "text\none"}.get(name, '{"text": "one"}')
    assert rows_of(write(tmp_path / name, content.encode("utf-8-sig"))) == [(0, "one")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,id\none,1\nt\xffwo,2\nthree,3\n"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "t\xffwo"}\n{"text": "three"}\n'),
        ("a.json", b'[{"text": "one"}, {"text": "t\xffwo"}, {"text": "three"}]'),
        ("b.jsonl", b'{"text": "one"}\n{"text": "\\ud800 alone"}\n{"text": "three"}\n'),
    ],
)
def test_a_row_of_other_bytes_leaves_the_others_alone(name: str, content: bytes, tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / name, content)) == [(0, "one"), (1, f"!{BYTES}"), (2, "three")]


def test_other_bytes_in_parquet(tmp_path: Path) -> None:
    values = pa.array([b"one", b"t\xffwo", b"three"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 3, values.buffers())
    pq.write_table(pa.table({"text": column, "raw": values}), tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == [(0, "one"), (1, f"!{BYTES}"), (2, "three")]
    assert rows_of(tmp_path / "a.parquet", "raw") == [
        (i, "!text, got bytes; expected a string") for i in range(3)
    ]


@pytest.mark.parametrize(
    "line", ["{", "[1]", "3", '{"txt": "a"}', "null", "[" * 100_000], ids=lambda line: str(line)[:12]
)
def test_a_line_that_is_no_object(line: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", f'{{"text": "one"}}\n{line}\n{{"text": "two"}}')
    assert rows_of(file) == [(0, "one"), (1, "!not a JSON object with 'text'"), (2, "two")]


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_a_column_that_is_missing(name: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), tmp_path / "a.parquet")
    write(tmp_path / "a.csv", "id,body\n1,x\n")
    assert rows_of(tmp_path / name) == [(0, "!no column 'text'; expected one of id, body")]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.parquet", "no parquet", ["Parquet magic bytes not found"]),
        ("a.csv", "", ["no header line"]),
        ("a.json", "[{", ["no JSON: expected a value"]),
        ("a.json", "[" * 100_000, ["no JSON: too deep"]),
        ("a.jsonl", "", []),
    ],
)
def test_a_file_that_is_damaged(name: str, content: str, expected: list[str], tmp_path: Path) -> None:
    found = rows_of(write(tmp_path / name, content))
    assert len(found) == len(expected)
    for (row, reason), part in zip(found, expected, strict=True):
        assert (row, part in reason, "\n" in reason) == (0, True, False)


@pytest.mark.parametrize("rest", ['{"text": "c"}', "[]", "x", "]"])
def test_what_comes_after_a_list_is_listed(rest: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", f' \n[{{"text": "a"}}, {{"text": "b"}}]\n{rest}')
    told = (2, "!no JSON: expected nothing after the list")
    assert rows_of(file) == [(0, "a"), (1, "b"), told]


def test_a_file_that_ends_in_the_middle_names_the_row_after_the_last_good_one(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": [f"text {i}" for i in range(3000)]}), file, row_group_size=1024, compression=None
    )
    content = bytearray(file.read_bytes())
    middle = content.index(b"text 1024")
    content[middle - 300 : middle + 300] = bytes(600)  # pages of the second group, their header included
    file.write_bytes(content)
    *good, last = read_rows([file], "text")
    assert all(isinstance(r, Row) for r in good)
    assert isinstance(last, Problem)
    assert (last.row, len(good) % 1024) == (len(good), 0)


def test_one_file_does_not_stop_the_next(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.parquet", "none"), tmp_path / "gone.txt", write(tmp_path / "c.txt", "one")]
    found = list(read_rows(files, "text"))
    assert [type(r) for r in found] == [Problem, Problem, Row]
    assert found[1] == Problem(str(files[1]), 0, None, "No such file or directory")


def names(found: list[Path], place: Path) -> list[str]:
    return [str(p.relative_to(place)) for p in found]


def test_folders_are_searched_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.csv", "sub/c.JSONL", "sub/d.parquet", "e.json", "f.pdf", "dir.txt/g.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    everything = ["a.csv", "b.txt", "dir.txt/g.txt", "e.json", "sub/c.JSONL", "sub/d.parquet"]
    assert names(find_inputs([tmp_path]), tmp_path) == everything
    given = [tmp_path / "f.pdf", tmp_path / "b.txt", tmp_path / "b.txt"]
    assert find_inputs(given) == given
    outputs = {(tmp_path / "sub" / "d.parquet").resolve()}
    assert names(find_inputs([tmp_path], outputs), tmp_path) == everything[:-1]


def fails(*arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        find_inputs(*arguments)
    return str(error.value)


def test_inputs_that_are_not_there(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert fails([gone]) == f"score: input, got '{gone}'; expected a file or folder that exists"
    assert fails([tmp_path]) == (
        f"score: input, got '{tmp_path}'; expected a folder with files ending in .txt, .parquet, .csv, .jsonl, .json"
    )


def test_an_output_is_no_input(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", "")
    message = f"score: --out, got '{file}'; expected a file that is not one of the inputs"
    assert fails([file], {file.resolve()}) == message


# csv that breaks its own rules.

TABLE = "".join(f"{i},text {i},{('ham', 'spam')[i % 2]}\n" for i in range(40))
OPEN = "a quote that is not closed"
ROWS = f"{OPEN}; the lines after it are rows"


@pytest.mark.parametrize(
    ("bad", "listed"),
    [
        ('7,"open,ham\n', {42: OPEN}),
        ('7,"open,ham\n8,close",spam\n', {42: ROWS}),
        ('7,a,"open\n8,close",spam\n', {42: "4 cells, up to line 43; expected 3 as in the header"}),
        ('7,said "he",ham\n', {}),
        ('7,"said "he"",ham\n', {42: "a quote within quotes that is not doubled"}),
        ('"\n', {42: OPEN}),
        ('7,",ham\n', {42: OPEN}),
        ("7,one, two,ham\n", {42: "4 cells; expected 3 as in the header"}),
        ("7,one\n", {42: "2 cells; expected 3 as in the header"}),
        ("7\n", {42: "1 cell; expected 3 as in the header"}),
        ('7,"one\ntwo",ham,\n', {42: "4 cells, up to line 43; expected 3 as in the header"}),
        (
            '7,"one\nsaid "he", yes, no\nbye, 1, 2\nbye",ham\n',
            {
                42: OPEN,
                43: "unlike the rows before, after a quote that is not closed",
                44: "unlike the rows before, after a quote that is not closed",
                45: "2 cells; expected 3 as in the header",
            },
        ),
    ],
)
def test_a_fault_in_csv_is_listed_and_costs_no_other_row(
    bad: str, listed: dict[int, str], tmp_path: Path
) -> None:
    file = write(tmp_path / "a.csv", f"id,text,label\n{TABLE}{bad}{TABLE}")
    found = list(read_rows([file], "text"))
    assert [f.row for f in found] == list(range(len(found)))
    assert {f.line: f.reason for f in found if isinstance(f, Problem)} == listed
    texts = [f.text for f in found if isinstance(f, Row)]
    assert [t for t in texts if t.startswith("text ")] == [f"text {i}" for i in range(40)] * 2
    num_lines = bad.count("\n") - ("up to" in str(listed))
    assert len(found) == 80 + num_lines


@pytest.mark.parametrize("num", [2, 12, 300])
def test_rows_between_two_quotes_are_read(num: int, tmp_path: Path) -> None:
    """Even the first rows of a file, and one of them short."""
    rows = [f"{i},text {i}\n" for i in range(num)] + (["short\n"] if num > 2 else [])
    file = write(tmp_path / "a.csv", 'id,text\n0,"open\n' + "".join(rows) + '9,close"\n')
    found = list(read_rows([file], "text"))
    assert isinstance(found[0], Problem)
    assert [f.text for f in found if isinstance(f, Row)] == [*(f"text {i}" for i in range(num)), 'close"']


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_good_csv_is_read_as_it_stands(end: str, quoting: int, tmp_path: Path) -> None:
    rng = random.Random(0)
    parts = ("word", ", ", ' "said" ', "Dear John,\n", "\r\n", "\n\n", "ü", "1, 2")
    texts = ["".join(rng.choices(parts, k=rng.randrange(1, 12))) + "." for _ in range(300)]
    with (tmp_path / "a.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
        for row in (("text", "label"), *((t, ("ham", "spam")[i % 2]) for i, t in enumerate(texts))):
            writer.writerow(row)
            file.write(end * rng.randrange(2))
    assert rows_of(tmp_path / "a.csv") == list(enumerate(texts))


# What is no text, or too much of it.


def test_what_is_no_file_of_text_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "b.txt").symlink_to("/dev/zero")
    (tmp_path / "c.csv").symlink_to("c.csv")
    write(tmp_path / "d.csv", "id,text\n1,a\n".encode("utf-16"))
    write(tmp_path / "e.txt", gzip.compress(b"one"))
    with (tmp_path / "f.txt").open("wb") as file:
        file.truncate(20 << 30)
    found = {Path(p.input).name: p.reason for p in read_rows(find_inputs([tmp_path]), "text") if p[-1]}
    assert found == {
        "a.txt": "a pipe; expected a file",
        "b.txt": "a device; expected a file",
        "c.csv": "Too many levels of symbolic links",
        "d.csv": "UTF-16; expected UTF-8 text",
        "e.txt": "a gzip file; expected UTF-8 text",
        "f.txt": "a text of more than 16,777,216 letters",
    }


def test_names_of_other_bytes(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("one")
    (found,) = read_rows(find_inputs([tmp_path]), "text")
    assert found == Row(f"{tmp_path}/\\xff.txt", 0, "one")


@pytest.mark.parametrize(("name", "head"), [("a.csv", "text\n"), ("a.jsonl", "")])
def test_a_long_line_leaves_the_others_alone(
    name: str, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_rows, "MAX_LETTERS", 50)
    lines = [json.dumps({"text": t}) if not head else t for t in ("one", "x" * 200, "three")]
    found = rows_of(write(tmp_path / name, head + "\n".join(lines)))
    assert found == [(0, "one"), (1, "!a line of more than 16,777,216 letters"), (2, "three")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_numbers_of_any_length(name: str, tmp_path: Path) -> None:
    rows = [f'{{"text": "{i}", "id": {"9" * 5000}}}' for i in range(2)] + [f'{{"text": {"9" * 5000}}}']
    text = "\n".join(rows) if name == "a.jsonl" else f"[{', '.join(rows)}]"
    found = rows_of(write(tmp_path / name, text))
    assert found == [(0, "0"), (1, "1"), (2, "!text, got int; expected a string")]


def test_rows_of_a_list_before_it_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "STEP", 7)
    rows = [{"text": f"text {i}", "more": [i, {"a": [-1.5e3, True]}]} for i in range(50)]
    whole = json.dumps(rows, indent=1)
    expected = [(i, f"text {i}") for i in range(50)]
    assert rows_of(write(tmp_path / "a.json", whole)) == expected
    assert rows_of(write(tmp_path / "a.json", whole[:-10]))[-1] == (49, "!no JSON: expected a value")
    assert rows_of(write(tmp_path / "a.json", whole[:-1])) == [
        *expected,
        (50, "!no JSON: expected a comma or the end of the list"),
    ]
    assert rows_of(write(tmp_path / "a.json", "[]")) == []


def test_cells_that_unpack_to_much_more_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_module, "MAX_BYTES", 100_000)
    with pq.ParquetWriter(
        tmp_path / "a.parquet", pa.schema({"text": pa.string()}), use_dictionary=False
    ) as to:
        for texts in (["one", "two"], ["x" * 300_000], ["three"]):
            to.write_table(pa.table({"text": texts}))
    one, two, large, three = rows_of(tmp_path / "a.parquet")
    assert (one, two, three) == ((0, "one"), (1, "two"), (3, "three"))
    assert re.fullmatch(r"!300,\d{3} bytes out of [\d,]+ in rows up to 2; expected texts", large[1])


def test_a_folder_that_cannot_be_searched_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.txt", "one")
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def closed(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = list(read_rows(find_inputs([tmp_path]), "text"))
    assert found == [
        Row(f"{tmp_path}/a.txt", 0, "one"),
        Problem(f"{tmp_path}/closed", 0, None, "Permission denied"),
    ]
