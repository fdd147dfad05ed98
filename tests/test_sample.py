"""The shipped mails: what their README promises."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from temporal.data.base import SPLITS
from temporal.data.text import SAMPLES, TextSource

FOLDER = SAMPLES / "spam_assassin"
ROWS = {split: pq.read_table(FOLDER / f"{split}.parquet").to_pydict() for split in SPLITS}
TEXTS = [text for split in SPLITS for text in ROWS[split]["text"]]


def runs_of(text: str) -> set[tuple[str, ...]]:
    """All runs of five words of letters, marks left out."""
    words = re.findall(r"[a-z]+", re.sub(r"\[(?:mail|phone|url)\]", " ", text.lower()))
    return {tuple(words[i : i + 5]) for i in range(max(len(words) - 4, 1))}


def test_counts_are_those_of_the_readme() -> None:
    found = {}
    readme = (FOLDER / "README.md").read_text()
    for split, label, rows in re.findall(r"^\| (\w+) \| (ham|spam) \| ([\d,]+) \|", readme, re.M):
        found[split, label] = int(rows.replace(",", ""))
    counts = {(s, label): n for s in SPLITS for label, n in Counter(ROWS[s]["label"]).items()}
    assert counts == found
    assert set(counts.values()) == {2240, 534, 373, 89, 1120, 267}


def test_no_text_comes_twice() -> None:
    assert len({" ".join(text.lower().split()) for text in TEXTS}) == len(TEXTS) == 4623


def test_no_text_is_mostly_a_copy() -> None:
    seen: set[tuple[str, ...]] = set()
    for text in sorted(TEXTS, key=lambda t: -len(t.split())):
        own = runs_of(text)
        assert len(own & seen) <= 0.5 * len(own), text[:200]
        seen |= own


def test_the_splits_share_few_runs_of_words() -> None:
    train = set().union(*map(runs_of, ROWS["train"]["text"]))
    shared = [len(runs_of(text) & train) / len(runs_of(text)) for text in ROWS["test"]["text"]]
    assert sum(shared) / len(shared) < 0.05


@pytest.mark.parametrize(
    ("pattern", "example"),
    [
        (r"[\w.+-]+@[\w-]+(\.[\w-]+)+", "write to jane.doe@example.org now"),
        (r"https?://|www\.\w", "see http://example.org"),
        (r"\b\d{3}[-. ]\d{3}[-. ]\d{4}\b", "call 555-123-4567"),
        (r"^(From|Received|Message-ID): ", "Received: from here"),
        (r"\S{41}", "x" * 41),
    ],
)
def test_addresses_are_gone(pattern: str, example: str) -> None:
    assert re.search(pattern, example)
    assert [text[:200] for text in TEXTS if re.search(pattern, text)] == []


def test_lengths() -> None:
    assert all(5 <= len(text.split()) <= 1000 for text in TEXTS)


def test_marks_are_left_in_place() -> None:
    marks = Counter(mark for text in TEXTS for mark in re.findall(r"\[(\w+)\]", text))
    assert min(marks[m] for m in ("mail", "url", "phone")) > 20


def test_it_opens_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = TextSource("spam_assassin")
    assert source.task.class_names == ("ham", "spam")
    assert source.name == "spam_assassin"
    assert [len(source.split(s)) for s in SPLITS] == [2774, 462, 1387]
    vocabulary = source.tokenizer.get_vocab()
    assert {"[mail]", "[url]", "[phone]", "free", "."} <= set(vocabulary)
    assert source.task.vocabulary_size == len(vocabulary) + 1
