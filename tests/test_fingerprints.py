"""What tells data apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from temporal.data import base
from temporal.data.base import Sequences
from temporal.data.clips import Span, VideoSequences
from temporal.data.generated import NeedleSource
from temporal.data.manifests import Clip
from temporal.data.text import TextSource
from temporal.errors import UserError
from temporal.fingerprints import check_reader, differing, fingerprints
from tests.mails import make_mails


def sequences(flat: list[int], offsets: list[int], labels: list[int] | None = None) -> Sequences:
    known = None if labels is None else np.array(labels)
    return Sequences(np.array(flat), np.array(offsets), known)


def test_sequences_differ_by_tokens_lengths_labels_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    some = [
        sequences([1, 2, 3, 4], [0, 2, 4], [0, 1]),
        sequences([1, 2, 3, 5], [0, 2, 4], [0, 1]),
        sequences([1, 2, 3, 4], [0, 1, 4], [0, 1]),
        sequences([1, 2, 3, 4], [0, 2, 4], [1, 1]),
        sequences([3, 4, 1, 2], [0, 2, 4], [1, 0]),
        sequences([1, 2, 3, 4], [0, 2, 4]),
    ]
    found = [each.fingerprint() for each in some]
    assert len(set(found)) == len(some)
    monkeypatch.setattr(base, "PIECE", 3)  # tokens beyond the first piece count
    assert [each.fingerprint() for each in some] == found


def test_sources_differ_by_split_and_seed() -> None:
    one, again, other = (fingerprints(NeedleSource(16, 5, seed=seed)) for seed in (0, 0, 1))
    assert one == again
    assert set(one) == {"train", "validation", "test"}
    assert len({*one.values(), *other.values()}) == 6


def test_texts_differ_by_tokenizer_and_by_what_is_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "mails.parquet"
    pq.write_table(pa.table(make_mails(40, 0)), file)
    plain, again, other, fewer = (
        fingerprints(TextSource(str(file), **settings))  # type: ignore[arg-type]
        for settings in ({}, {}, {"seed": 1}, {"vocabulary_size": 5})
    )
    assert plain == again
    assert differing(plain, other) in ("tokenizer", "train split")
    assert plain["test"] != other["test"]
    assert differing(plain, fewer) == "tokenizer"


def test_videos_differ_by_files_spans_and_labels_not_by_their_folder(tmp_path: Path) -> None:
    def clips(folder: str, size: int = 10, stop: int = 9, label: int = 0, num_frames: int = 4) -> str:
        path = tmp_path / folder / "a.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
        labels = np.array([label])
        return VideoSequences([Clip(str(path))], [Span(0, stop)], num_frames, labels).fingerprint()

    assert clips("one") == clips("two")
    others = {clips("a", size=11), clips("b", stop=8), clips("c", label=1), clips("d", num_frames=3)}
    assert len(others | {clips("one")}) == 5


@pytest.mark.parametrize(
    ("then", "what"),
    [
        ({"train": "a", "validation": "b", "test": "x", "tokenizer": "d"}, "test split"),
        ({"train": "x", "validation": "x", "test": "c", "tokenizer": "d"}, "train split"),
        ({"train": "a", "validation": "b", "test": "c", "tokenizer": "x"}, "tokenizer"),
        ({"train": "a", "validation": "b", "test": "c"}, "tokenizer"),
        (None, "tokenizer"),
        ([], "tokenizer"),
    ],
)
def test_a_reader_of_other_data_is_refused(then: Mapping[str, str] | None, what: str) -> None:
    here = {"train": "a", "validation": "b", "test": "c", "tokenizer": "d"}
    check_reader(Path("runs/a"), {"fingerprints": here}, here)
    with pytest.raises(UserError) as error:
        check_reader(Path("runs/a"), {"fingerprints": then}, here)
    assert str(error.value) == (
        f"train: --reader-from, got 'runs/a', whose {what} differs from this one's; "
        "expected a run on the same data, splits and tokenizer"
    )
