"""Tokenizers, and texts to token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from temporal.errors import bad

UNKNOWN = "[UNK]"


def make_tokenizer(name: str, vocabulary_size: int, texts: Iterable[list[str]]) -> Tokenizer:
    """Train a word-level tokenizer on batches of texts ("words"), or load any fast tokenizer of transformers.

    Raises:
        UserError: no tokenizer of that name can be loaded.
    """
    if name != "words":
        return _load(name)
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    # marks such as [mail] stay one token; punctuation stands apart, so that sentence ends can be found
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\[[a-z]+\]|\w+|[^\w\s]"), behavior="removed", invert=True
    )
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary_size, min_frequency=2, special_tokens=[UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _load(name: str) -> Tokenizer:
    try:
        if Path(name).is_file():
            return Tokenizer.from_file(name)
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(name, use_fast=True)
        tokenizer: Tokenizer = loaded.backend_tokenizer
    except Exception as error:  # transformers and tokenizers raise bare Exceptions for what cannot be read
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise bad(
            "data", "tokenizer", name, f"'words' or a fast tokenizer that transformers can load ({reason})"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Token ids of each text, one more than the tokenizer's (0 is padding); empty where a text has no token."""
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [np.asarray(e.ids, dtype=np.int64) + 1 for e in encoded]
