"""Tokenizers, and texts to token ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from temporal.errors import bad

UNKNOWN = "[UNK]"
PIECE = 1 << 16  # letters encoded as one; an encoding takes a hundred times the room of its text
LEAST_PIECE, LETTERS_PER_TOKEN = 1 << 11, 16  # of a piece that most likely holds as many tokens as are wanted
BLOCK_LETTERS = 1 << 18  # encoded side by side
BLANKS = tuple(
    map(re.compile, (r"(?<=\S) (?=\S)", r"(?<=\S)\n(?=\S)", r"(?<=\S)\s"))
)  # the first is best to cut at
NEAR = 1 << 10  # letters before the end of a piece in which a space is looked for first


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
    batches = ([piece for text in batch for piece in pieces(text)] for batch in texts)
    tokenizer.train_from_iterator(batches, trainer)
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


class Tokens(NamedTuple):
    """What is read of one text: its first tokens."""

    ids: NDArray[np.int32]  # one more than the tokenizer's (0 is padding)
    spans: NDArray[
        np.int32
    ]  # (tokens, 2) which letters of the text each token stands for, exclusive; or no rows
    is_cut: bool  # the text has more tokens than these


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int, spans: bool = False
) -> Iterator[Tokens]:
    """The first tokens of one text after the other, none where it has no token.

    Long texts are encoded piece by piece, no further than is needed, so that memory is bounded and time goes by
    `max_tokens`. Tokens are those of the whole text wherever the tokenizer splits at spaces, and no word is longer
    than `PIECE` letters.

    Args:
        tokenizer: any.
        texts: any.
        max_tokens: most tokens of each text, 1 or more.
        spans: whether to say which letters each token stands for.
    """
    size = min(max(max_tokens * LETTERS_PER_TOKEN, LEAST_PIECE), PIECE)
    for block in _blocks(texts, size):
        firsts = [text[: end_of_piece(text, 0, size)] for text in block]
        encodings = tokenizer.encode_batch(firsts, add_special_tokens=False)
        encodings.reverse()  # each is let go of once it is read
        for text, first in zip(block, firsts, strict=True):
            yield _join(tokenizer, text, encodings.pop(), len(first), size, max_tokens, spans)


def _join(
    tokenizer: Tokenizer, text: str, first: Encoding, start: int, size: int, max_tokens: int, spans: bool
) -> Tokens:
    """Go on where the first piece of a text ends, up to the first token beyond `max_tokens`."""
    ids, places = [_ids(first)], [_spans(first, 0, spans)]
    num = len(ids[0])
    while num <= max_tokens and start < len(text):
        stop = end_of_piece(text, start, size)
        encoding = tokenizer.encode(text[start:stop], add_special_tokens=False)
        ids.append(_ids(encoding))
        places.append(_spans(encoding, start, spans))
        num, start = num + len(ids[-1]), stop
    return Tokens(np.concatenate(ids)[:max_tokens], np.concatenate(places)[:max_tokens], num > max_tokens)


def _ids(encoding: Encoding) -> NDArray[np.int32]:
    return np.asarray(encoding.ids, dtype=np.int32) + np.int32(1)


def _spans(encoding: Encoding, start: int, wanted: bool) -> NDArray[np.int32]:
    offsets = encoding.offsets if wanted else []
    return np.array(offsets, dtype=np.int32).reshape(-1, 2) + np.int32(start)


def _blocks(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    """Texts whose first pieces are encoded side by side."""
    block: list[str] = []
    letters = 0
    for text in texts:
        block.append(text)
        letters += min(len(text), size)
        if letters >= BLOCK_LETTERS:
            yield block
            block, letters = [], 0
    if block:
        yield block


def end_of_piece(text: str, start: int, size: int) -> int:
    """Where a piece of at most `size` letters ends: before a space between words, else another blank, else anywhere.

    >>> text = "one two, three"
    >>> [text[: end_of_piece(text, 0, size)] for size in (14, 13, 5, 2)]
    ['one two, three', 'one two,', 'one', 'on']
    """
    stop = start + size
    if stop >= len(text):
        return len(text)
    for blank in BLANKS:
        for near in (max(stop - NEAR, start), start):  # mostly there is one near the end
            place = _last(blank, text, near, stop)
            if place > near:
                return place
    return stop


def _last(blank: re.Pattern[str], text: str, start: int, stop: int) -> int:
    """The last place in a stretch where a blank stands; `start` where there is none."""
    place = start
    for found in blank.finditer(text, start + 1, stop + 1):
        place = found.start()
    return place


def pieces(text: str) -> Iterator[str]:
    """A text in pieces of at most `PIECE` letters."""
    start = 0
    while start < len(text):
        stop = end_of_piece(text, start, PIECE)
        yield text[start:stop]
        start = stop
