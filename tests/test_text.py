"""Texts from files: formats, splits, labels, tokenizers, the cache, and what is said of files that are not right."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from temporal.data import tables
from temporal.data import text as text_module
from temporal.data import tokens as tokens_module
from temporal.data.base import SPLITS, Sequences
from temporal.data.text import TextSource
from temporal.data.tokens import count_ids, encode, make_tokenizer
from temporal.errors import UserError
from tests.mails import make_mails

Rows = dict[str, list[Any]]
MAILS = make_mails(40, 0)
PAIR: Rows = {"text": ["one two", "two three", "three one"], "label": ["a", "b", "a"]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEMPORAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(file: Path, rows: Rows) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    if file.suffix == ".parquet":
        pq.write_table(pa.table(rows), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(lines))
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        quoted = [[str(v).replace('"', '""') for v in line.values()] for line in lines]
        file.write_text("\n".join([",".join(rows), *(",".join(f'"{v}"' for v in q) for q in quoted)]) + "\n")
    return file


def folder(place: Path, ending: str = ".parquet", **splits: Rows) -> Path:
    for split, rows in splits.items():
        write(place / f"{split}{ending}", rows)
    return place


def texts_of(source: TextSource, split: str) -> list[str]:
    """What the tokens of a split say, in lower case and with spaces between all tokens."""
    sequences = source.split(split)  # type: ignore[arg-type]
    return [" ".join(words(source.tokenizer, sequences, i)) for i in range(len(sequences))]


def words(tokenizer: Tokenizer, sequences: Sequences, index: int) -> list[str]:
    row, length = torch.tensor([index]), sequences.lengths[[index]]
    ids = sequences.fetch(row, torch.zeros_like(row), length, int(length)).tokens[0].tolist()
    return [str(tokenizer.id_to_token(i - 1)) for i in ids]


def fails(*arguments: Any, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        TextSource(*arguments, **settings)
    return str(error.value)


# Formats and splits.


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl", ".json", ".CSV"])
def test_all_formats_say_the_same(ending: str, tmp_path: Path) -> None:
    rows = {"text": [*MAILS["text"], 'Say "NA", then\nNone; naïve, ﬁne.'], "label": [*MAILS["label"], "None"]}
    source = TextSource(
        str(folder(tmp_path / "d", ending, train=rows, validation=PAIR_OF_MAILS, test=PAIR_OF_MAILS))
    )
    assert source.task.class_names == ("None", "ham", "spam")
    known = source.tokenizer.get_vocab()
    expected = [" ".join(t.lower().replace(".", " .").split()) for t in MAILS["text"]]
    expected = [" ".join(w if w in known else "[UNK]" for w in t.split()) for t in expected]
    *mails, last = texts_of(source, "train")
    assert mails == expected
    assert len(last.split()) == 12
    labels = source.split("train").labels
    assert labels is not None
    assert [source.task.class_names[i] for i in labels.tolist()] == rows["label"]


PAIR_OF_MAILS: Rows = {"text": ["w1 w2", "w3"], "label": ["ham", "spam"]}


@pytest.mark.parametrize("name", ["validation", "val", "dev", "valid", "val-00000-of-00001"])
def test_names_of_the_validation_file(name: str, tmp_path: Path) -> None:
    source = TextSource(str(folder(tmp_path, train=MAILS, test=PAIR_OF_MAILS, **{name: make_mails(7, 1)})))
    assert [len(source.split(s)) for s in SPLITS] == [40, 7, 2]


def test_one_file_is_split_by_shares_and_by_seed_alone(tmp_path: Path) -> None:
    rows = {"text": [f"number {i} is this" for i in range(50)], "label": ["a", "b"] * 25}
    file = str(write(tmp_path / "all.parquet", rows))

    def split(seed: int, name: str) -> dict[str, list[str]]:
        os.environ["TEMPORAL_CACHE"] = str(tmp_path / name)
        tokenizer = tmp_path / "tokenizer.json"
        make_tokenizer("words", 1000, [rows["text"] * 2]).save(str(tokenizer))
        source = TextSource(file, seed=seed, test_share=0.3, tokenizer=str(tokenizer))
        return {s: texts_of(source, s) for s in SPLITS}

    first, again, other = split(0, "one"), split(0, "two"), split(1, "three")
    assert [len(first[s]) for s in SPLITS] == [31, 4, 15]
    assert sorted(t for split in SPLITS for t in first[split]) == sorted(rows["text"])
    assert first == again
    assert first["test"] != other["test"]


def test_class_names_keep_their_order(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["zebra", "ant"])}
    )
    rows = datasets.Dataset.from_dict(
        {"text": ["z", "a", "z"] * 9, "label": [0, 1, 0] * 9}, features=features
    )
    rows.to_parquet(str(tmp_path / "train.parquet"))
    source = TextSource(str(tmp_path))
    assert source.task.class_names == ("zebra", "ant")
    labels = source.split("test").labels
    assert labels is not None
    assert [("z", "a")[i] for i in labels.tolist()] == texts_of(source, "test")


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_numbers_are_sorted_as_numbers(ending: str, tmp_path: Path) -> None:
    rows: Rows = {"text": ["x y"] * 30, "label": [10, 9, -1] * 10}
    assert TextSource(str(write(tmp_path / f"n{ending}", rows))).task.class_names == ("-1", "9", "10")


def test_other_columns_do_no_harm(tmp_path: Path) -> None:
    rows = {"body": MAILS["text"], "id": list(range(40)), "kind": MAILS["label"], "text": [None] * 40}
    source = TextSource(str(write(tmp_path / "a.jsonl", rows)), text_column="body", label_column="kind")
    assert source.task.class_names == ("ham", "spam")
    assert source.name == "a"


def test_bad_rows_can_be_left_out(tmp_path: Path) -> None:
    rows: Rows = {"text": ["a b", "", None, "c d", "e"], "label": ["x", "y", "y", None, "y"]}
    place = folder(
        tmp_path,
        train=rows,
        validation={"text": ["a", "b"], "label": ["x", "new"]},
        test=PAIR | {"label": ["x"] * 3},
    )
    source = TextSource(str(place), skip_bad=True)
    assert [len(source.split(s)) for s in SPLITS] == [2, 1, 3]


# Tokens.


def test_words_marks_and_punctuation_stand_apart() -> None:
    text = "Write to [mail], NOW!  It's 3.5% [not a mark]; see [url]. Naïve ﬁne."
    tokenizer = make_tokenizer("words", 100, [[text, text]])
    encoding = tokenizer.encode(text)
    expected = "write to [mail] , now ! it ' s 3 . 5 % [ not a mark ] ; see [url] . naïve fine ."
    assert " ".join(encoding.tokens) == expected
    spans = [text[start:end] for start, end in encoding.offsets]
    assert [s.lower() for s in spans if s != "ﬁne"] == [t for t in encoding.tokens if t != "fine"]
    ends = [start for start, end in encoding.offsets if text[start:end] in ".!?"]
    assert [text[i - 3 : i + 1] for i in ends] == ["NOW!", "s 3.", "rl].", "ﬁne."]


def test_rare_words_are_unknown_and_ids_start_at_one() -> None:
    tokenizer = make_tokenizer("words", 3, [["a a a b b c"], ["c b a once"]])
    assert tokenizer.get_vocab() == {"[UNK]": 0, "a": 1, "b": 2}
    assert [ids.tolist() for ids, *_ in encode(tokenizer, ["b a c once", " "], 9)] == [[3, 2, 1, 1], []]
    assert count_ids(tokenizer) == 4


LETTERS = ("one", "naïve", "ﬁne", "don't", "[mail]", "3.5%", "日本語", "e\u0301", "Σ", "-- ")
BLANKS = (" ", " ", " ", "\n", "  ", "\u00a0", "\n\n", " \u0301")


def make_text(rng: random.Random, num: int) -> str:
    return "".join(rng.choice(LETTERS) + rng.choice(BLANKS) for _ in range(num))


def trained(kind: str, texts: list[str]) -> Tokenizer:
    if kind == "words":
        return make_tokenizer("words", 100, [texts])
    tokenizer, trainer = {
        "bytes": (Tokenizer(models.BPE()), trainers.BpeTrainer(vocab_size=300, show_progress=False)),
        "pieces": (
            Tokenizer(models.Unigram()),
            trainers.UnigramTrainer(vocab_size=60, show_progress=False, unk_token="?", special_tokens=["?"]),
        ),
    }[kind]
    split = {"bytes": pre_tokenizers.ByteLevel(), "pieces": pre_tokenizers.Metaspace()}
    tokenizer.pre_tokenizer = split[kind]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@pytest.mark.parametrize("kind", ["words", "bytes", "pieces"])
@pytest.mark.parametrize("max_tokens", [1, 7, 10**6])
def test_pieces_are_encoded_like_the_whole(
    kind: str, max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "PIECE", 200)
    monkeypatch.setattr(tokens_module, "LEAST_PIECE", 150)
    monkeypatch.setattr(tokens_module, "NEAR", 20)
    rng = random.Random(0)
    texts = [make_text(rng, num) for num in (0, 1, 5, 40, 300, 2, 60)] + ["one " * 7, " " * 99 + "one"]
    tokenizer = trained(kind, texts)
    for text, found in zip(texts, encode(tokenizer, texts, max_tokens, spans=True), strict=True):
        whole = tokenizer.encode(text, add_special_tokens=False)
        assert [i - 1 for i in found.ids.tolist()] == whole.ids[:max_tokens]
        assert list(map(tuple, found.spans.tolist())) == whole.offsets[:max_tokens]
        assert found.is_cut == (len(whole.ids) > max_tokens)


def test_a_word_longer_than_a_piece_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "PIECE", 60)
    tokenizer = make_tokenizer("words", 100, [["x x"]])
    (found,) = encode(tokenizer, ["y" * 100 + " x"], 10**6, spans=True)
    assert found.spans.tolist() == [[0, 60], [60, 100], [101, 102]]


def make_foreign(place: Path) -> Tokenizer:
    """A tokenizer whose ids leave gaps and which would add special tokens, pad and truncate."""
    tokenizer = Tokenizer(models.WordLevel({"[U]": 0, "w1": 5, "w2": 9, "[CLS]": 7}, "[U]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(place))
    return tokenizer


@pytest.mark.parametrize("as_file", [True, False])
def test_a_foreign_tokenizer(as_file: bool, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    make_foreign(tmp_path / "tokenizer.json")
    loaded = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), unk_token="[U]")
    loaded.save_pretrained(tmp_path / "saved")
    rows = {"text": ["w1 w2 w3 w1"] * 20, "label": ["a", "b"] * 10}
    place = tmp_path / ("tokenizer.json" if as_file else "saved")
    source = TextSource(str(write(tmp_path / "rows.parquet", rows)), tokenizer=str(place))
    assert source.task.vocabulary_size == 11
    row = torch.tensor([0])
    chunk = source.split("train").fetch(row, row * 0, row + 4, 6)
    assert chunk.tokens.tolist() == [[6, 10, 1, 6, 0, 0]]


def test_a_setting_that_a_foreign_tokenizer_makes_void(tmp_path: Path) -> None:
    assert fails(str(write(tmp_path / "a.csv", MAILS)), tokenizer="t.json", vocabulary_size=30) == (
        "data: vocabulary_size, got 30; expected no value: it has an effect only on tokenizer 'words'"
    )


def test_a_tokenizer_that_cannot_be_loaded(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", MAILS)
    (tmp_path / "t.json").write_text("{")
    name = str(tmp_path / "t.json")
    assert fails(str(file), tokenizer=name) == (
        f"data: tokenizer, got '{name}'; expected 'words' or a fast tokenizer that transformers can load "
        "(EOF while parsing an object at line 1 column 1)"
    )


# The cache.


def no_more(*_: object) -> None:
    raise AssertionError("encoded again")


def test_encoding_is_done_once_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(tmp_path / "d", train=MAILS)
    first = TextSource(str(place))
    expected = {s: texts_of(first, s) for s in SPLITS}
    monkeypatch.setattr(text_module, "open_tables", no_more)
    again = TextSource(str(place))
    assert first.notice is again.notice is None
    assert {s: texts_of(again, s) for s in SPLITS} == expected
    assert isinstance(again.split("train")._flat, np.memmap)
    # by content, wherever it lies
    (tmp_path / "elsewhere").mkdir()
    place.rename(tmp_path / "elsewhere" / "d")
    assert TextSource(str(tmp_path / "elsewhere" / "d")).task == first.task
    with pytest.raises(AssertionError, match="encoded again"):
        TextSource(str(tmp_path / "elsewhere" / "d"), max_tokens=3)
    folder(tmp_path / "elsewhere" / "d", train=make_mails(40, 5))
    with pytest.raises(AssertionError, match="encoded again"):
        TextSource(str(tmp_path / "elsewhere" / "d"))


@pytest.mark.parametrize("name", ["about.json", "train.tokens.npy", "tokenizer.json"])
def test_a_damaged_cache_is_made_anew(name: str, tmp_path: Path, cache: Path) -> None:
    file = str(write(tmp_path / "a.csv", MAILS))
    task = TextSource(file).task
    (found,) = cache.glob("text/*")
    (found / name).unlink()
    assert TextSource(file).task == task
    assert [p.name for p in cache.glob("text/*")] == [found.name]


def test_another_process_may_be_first(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(write(tmp_path / "a.csv", MAILS))
    make = text_module.make_tokenizer

    def meanwhile(*arguments: Any) -> Tokenizer:
        monkeypatch.setattr(text_module, "make_tokenizer", make)
        TextSource(file)  # finishes while the one that called is still at it
        return make(*arguments)

    monkeypatch.setattr(text_module, "make_tokenizer", meanwhile)
    assert len(TextSource(file).split("test")) == 8
    assert len(list(cache.glob("text/*"))) == 1


@pytest.mark.slow
def test_two_processes_encode_at_once(tmp_path: Path, cache: Path) -> None:
    file = write(tmp_path / "a.parquet", make_mails(3000, 0))
    code = f"from temporal.data.text import TextSource; print(len(TextSource({str(file)!r}).split('test')))"
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [p.communicate()[0] for p in both] == ["600\n", "600\n"]
    assert len(list(cache.glob("text/*"))) == 1


@pytest.mark.parametrize("what", ["replace", "mkdtemp", "copyfileobj"])
def test_a_full_disk(what: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    module: Any = {
        "replace": text_module.os,
        "mkdtemp": text_module.tempfile,
        "copyfileobj": text_module.shutil,
    }[what]
    rows = str(write(tmp_path / "a.csv", MAILS))
    monkeypatch.setattr(module, what, full)
    expected = {
        "mkdtemp": "a folder that can be written (No space left on device); TEMPORAL_CACHE names another"
    }
    assert fails(rows) == (
        f"data: cache folder, got '{cache / 'text'}'; expected "
        + expected.get(what, "room to write in (No space left on device)")
    )
    assert list(cache.glob("text/*")) == []


def test_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.csv", MAILS)
    monkeypatch.setenv("TEMPORAL_CACHE", str(file))
    assert fails(str(file)) == (
        f"data: cache folder, got '{file}/text'; expected a folder that can be written (Not a directory); "
        "TEMPORAL_CACHE names another"
    )


# Length and memory.


def test_a_text_of_a_million_tokens_is_cut(tmp_path: Path) -> None:
    rows = {"text": ["w1 " * 1_000_000, "w1 w2"], "label": ["a", "b"]}
    place = folder(
        tmp_path, train=rows, validation=rows | {"text": ["a"] * 2}, test=rows | {"text": ["a"] * 2}
    )
    make_foreign(tmp_path / "tokenizer.json")  # needs no training, which would take as long again
    source = TextSource(str(place), max_tokens=7, tokenizer=str(tmp_path / "tokenizer.json"))
    assert source.split("train").lengths.tolist() == [7, 2]
    assert source.task.mean_length == 4.5
    assert source.task.max_length == 7
    assert source.notice == "1 of 6 texts are longer than max_tokens 7 and are cut"


def peak_of_writing(num: int, place: Path, tokenizer: Tokenizer) -> int:
    rows = datasets.Dataset.from_dict({"text": ["w1 w2 w3 w4 " * 25] * num, "label": ["a"] * num})
    table = tables.Table(rows, ("text", "label"), ["a"], False, "data train")
    place.mkdir()
    tracemalloc.start()
    sizes, num_cut = text_module._write_split(place, "train", table, tokenizer, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (int(sizes.sum()), num_cut) == (100 * num, 0)
    assert np.load(place / "train.tokens.npy", mmap_mode="r").shape == (100 * num,)
    return peak


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH", 32)
    tokenizer = make_tokenizer("words", 100, [["w1 w2 w3 w4"] * 2])
    _, small, large = (peak_of_writing(n, tmp_path / str(n), tokenizer) for n in (10, 300, 3000))
    # lengths, offsets and labels take some bytes of each text; its tokens alone would take 400
    assert large - small < 40 * 2700


# What is wrong with files.

MEND = "; mend it or set data.skip_bad to true"


def damaged(file: Path, row: int) -> Path:
    """Put a byte that is no UTF-8 into the n-th line."""
    lines = file.read_bytes().splitlines(keepends=True)
    lines[row] = lines[row].replace(b"w", b"\xff", 1)
    file.write_bytes(b"".join(lines))
    return file


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_bytes_that_are_not_utf8(ending: str, tmp_path: Path) -> None:
    place = folder(tmp_path, ending, train=MAILS, validation=MAILS, test=MAILS)
    file = damaged(place / f"test{ending}", 3)
    where = f"data: {file} line 4" if ending == ".csv" else f"data: {file} row 3: text"
    mend = "" if ending == ".csv" else MEND
    assert fails(str(place)) == f"{where}, got bytes that are not UTF-8; expected UTF-8 text{mend}"


def test_bytes_that_are_not_utf8_in_parquet(tmp_path: Path) -> None:
    values = [t.encode() for t in MAILS["text"]]
    values[5] = b"w1 \xff"
    column = pa.Array.from_buffers(pa.string(), 40, pa.array(values, pa.binary()).buffers())
    table = pa.table({"text": column, "label": MAILS["label"]})
    for split in ("train", "validation", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    assert fails(str(tmp_path)) == (
        f"data: {tmp_path}/train.parquet row 5: text, got bytes that are not UTF-8; expected UTF-8 text{MEND}"
    )
    assert len(TextSource(str(tmp_path), skip_bad=True).split("test")) == 39


def no_label(rows: Rows) -> None:
    rows["label"][2] = None


def no_text(rows: Rows) -> None:
    rows["text"][2] = " \n"


def strange(rows: Rows) -> None:
    rows["label"][2] = "c"


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv"])
@pytest.mark.parametrize(
    ("spoil", "splits", "message"),
    [
        (no_text, SPLITS, "text, got {blank}; expected a text that is not empty"),
        (no_label, SPLITS, "label, got no label; expected one of a, b"),
        (strange, SPLITS[1:], "label, got 'c', unseen in train; expected one of a, b"),
    ],
)
def test_a_bad_row(
    ending: str, spoil: Callable[[Rows], None], splits: list[str], message: str, tmp_path: Path
) -> None:
    for split in splits:
        places: dict[str, Rows] = {s: {k: list(v) for k, v in PAIR.items()} for s in SPLITS}
        spoil(places[split])
        if ending == ".csv":  # has no other way to say nothing
            places[split]["label"] = [v or "" for v in places[split]["label"]]
        place = folder(tmp_path / split, ending, **places)
        where = f"data: {place / split}{ending} row 2"
        assert fails(str(place)) == f"{where}: {message.format(blank=repr(' ' + chr(10)))}{MEND}"


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ('"open,a', "a quote that is not closed"),
        ("one, two,a", "3 cells; expected 2 as in the header"),
        ("one", "1 cell; expected 2 as in the header"),
    ],
)
def test_a_line_of_csv_that_is_no_row(bad: str, fault: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", MAILS)
    with file.open("a") as out:
        out.write(f"{bad}\n{file.read_text().partition(chr(10))[2].replace(chr(34), '')}")
    assert fails(str(file)) == f"data: {file} line 42, got {fault}; mend it"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", ", got no header line; expected rows of texts"),
        ('"text,label\n', ", got header line: a quote that is not closed; expected rows of texts"),
    ],
)
def test_a_header_of_csv_that_is_none(header: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(header)
    assert fails(str(file)) == f"data: {file}{message}"


def test_a_header_of_csv_that_is_long(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a" * 140_000)  # more than csv takes by default
    assert fails(str(file)).startswith(f"data: {file}: column, got 'text'; expected one of aaa")


def test_rows_set_aside_are_named_as_in_the_file(tmp_path: Path) -> None:
    for bad_row in (0, 17, 39):
        rows = {"text": [*MAILS["text"]], "label": MAILS["label"]}
        rows["text"][bad_row] = ""
        file = write(tmp_path / f"{bad_row}.jsonl", rows)
        expected = f"data: {file} row {bad_row}: text, got ''; expected a text that is not empty{MEND}"
        assert fails(str(file)) == expected


def test_a_label_that_has_no_name(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    good = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]}, features=features)
    hidden = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, -1]}, features=features)
    for split, rows in {"train": good, "validation": good, "test": hidden}.items():
        rows.to_parquet(str(tmp_path / f"{split}.parquet"))
    assert (
        fails(str(tmp_path))
        == f"data: {tmp_path}/test.parquet row 1: label, got no label; expected one of a, b{MEND}"
    )


ONE: Rows = {"text": ["a", "b"], "label": ["x", "x"]}
TWO: Rows = {"text": ["a", "b"], "label": ["x", "y"]}
ENDINGS = "(.parquet, .csv, .jsonl, .json)"


@pytest.mark.parametrize(
    ("splits", "settings", "message"),
    [
        (
            {"train": {"txt": ["a"], "label": ["b"]}},
            {},
            "{path}/train{ending}: column, got 'text'; expected one of txt, label; did you mean 'txt'?",
        ),
        (
            {"train": {"text": ["a"], "lable": ["b"]}},
            {},
            "{path}/train{ending}: column, got 'label'; expected one of text, lable; did you mean 'lable'?",
        ),
        (
            {"train": PAIR, "test": {"text": ["a"], "y": ["b"]}},
            {},
            "{path}/test{ending}: column, got 'label'; expected one of text, y",
        ),
        ({"train": ONE}, {}, "classes in column label, got ['x']; expected two or more"),
        ({"train": TWO}, {}, "rows of train, got 1; expected enough to set a validation split aside"),
        (
            {"train": PAIR, "test": PAIR},
            {"test_share": 0.5},
            "test_share, got 0.5; expected no value: there is a test split",
        ),
        (
            {"test": PAIR},
            {},
            f"path, got '{{path}}'; expected a folder with train.* {ENDINGS}, "
            "and validation.* and test.* if you have them",
        ),
    ],
)
@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_a_bad_folder(
    splits: dict[str, Rows], settings: dict[str, Any], message: str, ending: str, tmp_path: Path
) -> None:
    place = folder(tmp_path, ending, **splits)
    assert fails(str(place), **settings) == "data: " + message.format(path=place, ending=ending)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test_share": 1.0}, "test_share, got 1.0; expected a number above 0 and below 1"),
        ({"validation_share": math.nan}, "validation_share, got nan; expected a number above 0 and below 1"),
        ({"max_tokens": 0}, "max_tokens, got 0; expected a whole number from 1 to 1,000,000"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    assert fails("anywhere", **settings) == f"TextSource: {message}"


def test_a_split_of_which_nothing_is_left(tmp_path: Path) -> None:
    place = folder(tmp_path, ".jsonl", train=PAIR, validation=PAIR, test={"text": [""], "label": ["a"]})
    message = f"data: {place}/test.jsonl, got no row with text and label; expected one or more"
    assert fails(str(place), skip_bad=True) == message


def test_formats_that_do_not_go_together(tmp_path: Path) -> None:
    folder(tmp_path, ".csv", train=PAIR)
    place = folder(tmp_path, ".jsonl", test=PAIR)
    assert fails(str(place)) == f"data: formats in {place}, got '.csv, .jsonl'; expected one for all splits"


@pytest.mark.parametrize("name", ["./none", "none.csv", "a/b/c"])
def test_a_path_that_does_not_exist(name: str) -> None:
    assert fails(name) == f"data: path, got '{name}'; expected a file or folder that exists"


def test_a_file_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    message = "data: format of path, got 'a.txt'; expected a file ending in .parquet, .csv, .jsonl, .json"
    assert fails(str(tmp_path / "a.txt")) == message


def test_a_file_that_is_none_of_its_format(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("text")
    message = fails(str(tmp_path / "a.parquet"))
    assert message.startswith(
        f"data: path, got '{tmp_path}/a.parquet'; expected a data set that can be loaded ("
    )
    assert "\n" not in message
