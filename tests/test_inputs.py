"""Texts to be scored out of files: what can be read is read, what cannot is a problem of its row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
