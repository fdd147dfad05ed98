"""Texts with labels: a hub data set, or local parquet, csv and jsonl files; encoded once and memory-mapped."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from array import array
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from temporal.data.base import SPLITS, Sequences, Source, Split
from temporal.data.tables import SHARES, Table, find_tables, open_tables
from temporal.data.tokens import count_ids, encode, make_tokenizer
from temporal.errors import bad, reason
from temporal.ranges import Inner, Range, Seed, Text, Tokens
from temporal.readers.base import Task

PARTS = ("tokens", "offsets", "labels")
FORMAT = 2  # of the encoded cache; a change makes old ones be encoded anew
SAMPLES = Path(__file__).resolve().parent / "samples"


class _Encoded(NamedTuple):
    """One data set on disk: the folder with tokens, offsets and labels of each split, and what holds for all."""

    folder: Path
    classes: tuple[str, ...]
    mean_length: float
    max_length: int
    num_texts: int  # of all splits
    num_cut: int  # that are longer


Vocabulary = Annotated[int, Range(ge=2, le=10_000_000)]


class TextSource(Source):
    """Labelled texts, tokenised once; memory does not grow with their number.

    The first use encodes into a cache (the user's cache folder, or TEMPORAL_CACHE) keyed by the content of the files
    and by every setting that matters; later uses map it.

    Args:
        path: a shipped sample (spam_assassin), a folder with train.*, validation.*, test.* files, one file, or the
            name of a data set on the Hugging Face hub. Formats: parquet, csv, jsonl, json.
        text_column: where the text stands.
        label_column: where the label stands: names, numbers or a ClassLabel.
        tokenizer: "words" trains a word-level tokenizer (lower case, punctuation apart) on the train split;
            otherwise a folder, tokenizer.json or hub name that transformers knows.
        vocabulary_size: words kept by "words", most frequent first.
        max_tokens: texts are cut after this many tokens, in training and when they are scored.
        validation_share: part of train set aside where there is no validation split, above 0 and below 1.
        test_share: likewise for a missing test split.
        skip_bad: leave out rows without text or label instead of stopping at the first.
        seed: of the set-aside.
    """

    def __init__(
        self,
        path: Text,
        text_column: Text = "text",
        label_column: Text = "label",
        tokenizer: Text = "words",
        vocabulary_size: Vocabulary = 20000,
        max_tokens: Tokens = 1000,
        validation_share: Inner = SHARES["validation"],
        test_share: Inner = SHARES["test"],
        skip_bad: bool = False,
        seed: Seed = 0,
    ) -> None:
        if tokenizer != "words" and vocabulary_size != 20000:
            raise bad(
                "data",
                "vocabulary_size",
                vocabulary_size,
                "no value: it has an effect only on tokenizer 'words'",
            )
        if label_column == text_column:
            raise bad("data", "label_column", label_column, "another column than text_column")
        self._name = Path(path).resolve().stem
        self._columns = (text_column, label_column)
        self._tokenizer_name, self._vocabulary_size = tokenizer, vocabulary_size
        self._max_tokens, self._skip_bad = max_tokens, skip_bad
        self._shares, self._seed = (validation_share, test_share), seed
        shipped = {p.name for p in SAMPLES.iterdir() if p.is_dir()}
        files = find_tables(str(SAMPLES / path) if path in shipped else path)
        self._encoded = self._open(files)
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(self._encoded.folder / "tokenizer.json"))
        self._task = Task(
            count_ids(self.tokenizer),
            self._encoded.classes,
            self._encoded.mean_length,
            self._encoded.max_length,
        )

    @property
    def task(self) -> Task:
        """Token id = the tokenizer's id + 1; 0 is padding."""
        return self._task

    @property
    def name(self) -> str:
        """The last part of the path, without an ending."""
        return self._name

    @property
    def notice(self) -> str | None:
        """How many texts are cut, where any is."""
        num_cut, encoded = self._encoded.num_cut, self._encoded
        if not num_cut:
            return None
        return f"{num_cut} of {encoded.num_texts} texts are longer than max_tokens {encoded.max_length} and are cut"

    def split(self, name: Split) -> Sequences:
        """The sequences of one split, memory-mapped."""
        arrays = [np.load(self._encoded.folder / f"{name}.{what}.npy", mmap_mode="r") for what in PARTS]
        return Sequences(arrays[0], np.asarray(arrays[1]), np.asarray(arrays[2]))

    def _open(self, files: dict[str, list[str]] | str) -> _Encoded:
        folder = cache_folder() / f"{self._name}-{self._key(files)}"
        return _read_cache(folder) or self._encode(files, folder)

    def _key(self, files: dict[str, list[str]] | str) -> str:
        """Changes with the content of the files and with every setting that changes the encoding."""
        content: Any = files
        if isinstance(files, dict):
            content = {split: [_digest(Path(p)) for p in paths] for split, paths in files.items()}
        tokenizer = self._tokenizer_name
        if tokenizer != "words" and Path(tokenizer).exists():
            tokenizer = _digest(Path(tokenizer))
        settings = [self._columns, tokenizer, self._vocabulary_size, self._max_tokens]
        return _short_hash([FORMAT, content, settings, self._skip_bad, self._shares, self._seed])

    def _encode(self, files: dict[str, list[str]] | str, folder: Path) -> _Encoded:
        """Encode into a temporary folder beside `folder` and move it there whole, so that it is never half made."""
        shares = dict(zip(SHARES, self._shares, strict=True))
        tables = open_tables(files, self._columns, shares, self._seed, self._skip_bad)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
        except OSError as error:
            expected = f"a folder that can be written ({reason(error)}); TEMPORAL_CACHE names another"
            raise bad("data", "cache folder", str(folder.parent), expected) from None
        try:
            tokenizer = make_tokenizer(self._tokenizer_name, self._vocabulary_size, tables["train"].texts())
            tokenizer.save(str(work / "tokenizer.json"))
            mean_length, num_texts, num_cut = 0.0, 0, 0
            for split in SPLITS:
                sizes, cut = _write_split(work, split, tables[split], tokenizer, self._max_tokens)
                num_texts, num_cut = num_texts + len(sizes), num_cut + cut
                mean_length = float(sizes.mean()) if split == "train" else mean_length
            about = {
                "classes": tables["train"].classes,
                "mean_length": mean_length,
                "max_length": self._max_tokens,
                "num_texts": num_texts,
                "num_cut": num_cut,
            }
            (work / "about.json").write_text(json.dumps(about))
            return _move(work, folder)
        except OSError as error:
            raise bad(
                "data", "cache folder", str(folder.parent), f"room to write in ({reason(error)})"
            ) from None
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _read_cache(folder: Path) -> _Encoded | None:
    """What a folder of the cache holds; None where it is not there, or damaged."""
    files = ["tokenizer.json", *(f"{s}.{what}.npy" for s in SPLITS for what in PARTS)]
    try:
        about = json.loads((folder / "about.json").read_text())
        if all((folder / name).is_file() for name in files):
            rest = (about[name] for name in _Encoded._fields[2:])
            return _Encoded(folder, tuple(about["classes"]), *rest)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _move(work: Path, folder: Path) -> _Encoded:
    """Put a finished folder in its place, unless another process was first with the same content."""
    try:
        os.replace(work, folder)
    except OSError:
        if _read_cache(folder) is None:  # left over and damaged
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(work, folder)
    found = _read_cache(folder)
    assert found is not None
    return found


def cache_folder() -> Path:
    """Where encoded texts are kept: TEMPORAL_CACHE, or the user's cache folder."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("TEMPORAL_CACHE") or user_cache_dir("temporal", appauthor=False)) / "text"


def _write_split(
    folder: Path, split: str, table: Table, tokenizer: Tokenizer, max_tokens: int
) -> tuple[NDArray[np.int64], int]:
    """Write one split; returns its lengths, and how many texts were cut.

    Batch after batch is appended to a raw file, which is then given a header: memory holds one batch, offsets, labels.
    """
    lengths, labels = array("q"), array("q")
    num_cut = 0
    raw = folder / f"{split}.raw"
    with raw.open("wb") as out:
        for texts, classes in table.batches():
            for ids, _, is_cut in encode(tokenizer, texts, max_tokens):
                out.write(ids.astype("<i4").tobytes())
                lengths.append(len(ids))
                num_cut += is_cut
            labels.extend(classes)
    sizes = np.asarray(lengths, dtype=np.int64)
    with raw.open("rb") as file, (folder / f"{split}.tokens.npy").open("wb") as out:
        header = {"descr": "<i4", "fortran_order": False, "shape": (int(sizes.sum()),)}
        np.lib.format.write_array_header_1_0(out, header)
        shutil.copyfileobj(file, out)
    raw.unlink()
    np.save(folder / f"{split}.offsets.npy", np.concatenate([[0], sizes.cumsum()]).astype(np.int64))
    np.save(folder / f"{split}.labels.npy", np.asarray(labels, dtype=np.int64))
    return sizes, num_cut


def _digest(path: Path) -> str:
    paths = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    total = sha256()
    for file in paths:
        with file.open("rb") as stream:
            while piece := stream.read(1 << 20):
                total.update(piece)
    return total.hexdigest()


def _short_hash(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
