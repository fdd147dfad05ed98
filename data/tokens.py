"""Tokenizers, and texts to token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from temporal.errors import bad

UNKNOWN = "[UNK]"
BATCH_LETTERS = 1 << 20  # encoded at once; an encoding takes a hundred times the room of its text


def make_tokenizer(name: str, vocabulary_size: int, texts: Iterable[list[str]]) -> Tokenizer:
    """Train a word-level tokenizer on batches of texts ("words"), or load any fast tokenizer of transformers.

    Raises:
        UserError: no tokenizer of that name can be loaded.
    """
    if name != "words":
        return _load(name)
    tokenizer = make_pipeline(models.WordLevel(unk_token=UNKNOWN))
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary_size, min_frequency=2, special_tokens=[UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def make_pipeline(model: models.Model) -> Tokenizer:
    """A tokenizer that takes texts apart as "words" does: lower case, punctuation apart."""
    tokenizer = Tokenizer(model)
    # marks such as [mail] stay one token; punctuation stands apart, so that sentence ends can be found
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\[[a-z]+\]|\w+|[^\w\s]"), behavior="removed", invert=True
    )
    return tokenizer


def _load(name: str) -> Tokenizer:
    try:
        if Path(name).is_file():
            tokenizer = Tokenizer.from_file(name)
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(
                name, use_fast=True, trust_remote_code=False
            ).backend_tokenizer
    except Exception as error:  # transformers and tokenizers raise bare Exceptions for what cannot be read
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise bad(
            "data", "tokenizer", name, f"'words' or a fast tokenizer that transformers can load ({reason})"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def count_ids(tokenizer: Tokenizer) -> int:
    """How many ids a reader must know: the tokenizer's, which may leave gaps, and padding."""
    return max(tokenizer.get_vocab().values()) + 2


def token_ids(encoding: Encoding) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Ids of an encoded text, one more than the tokenizer's (0 is padding)."""
    return np.asarray(encoding.ids, dtype=np.int64) + 1


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Token ids of one text after the other, empty where it has no token; memory is bounded for the longest texts."""
    for part in _parts(texts):
        yield from map(token_ids, tokenizer.encode_batch(part, add_special_tokens=False))


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    part: list[str] = []
    letters = 0
    for text in texts:
        part.append(text)
        letters += len(text)
        if letters >= BATCH_LETTERS:
            yield part
            part, letters = [], 0
    if part:
        yield part
