"""The tokenizer of a run, read back without believing it: known kinds, nothing that cuts, pads or takes for ever."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models

from temporal.bounded import MIB, load_json, read_text
from temporal.data.tokens import UNKNOWN, count_ids, make_pipeline
from temporal.errors import UserError, bad

MOST_BYTES = 64 * MIB
KINDS = {
    "model": ("WordLevel", "WordPiece", "BPE", "Unigram"),
    "normalizer": (
        "Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Nmt", "Prepend",
        "BertNormalizer", "Precompiled", "Replace", "ByteLevel",
    ),
    "pre_tokenizer": (
        "Sequence", "Whitespace", "WhitespaceSplit", "BertPreTokenizer", "ByteLevel", "Metaspace", "Punctuation",
        "Digits", "CharDelimiterSplit", "UnicodeScripts", "Split",
    ),
}  # fmt: skip
"""Kinds of parts that take text apart in time that grows with its length."""

WORDS_OF_LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = (*(WORDS_OF_LETTERS % digits for digits in ("", "{1,3}")), " {2,}")
"""Of tokenizers that are in wide use; any other pattern could be one that takes for ever to match."""


def load_tokenizer(file: Path, words: bool, vocabulary_size: int, trust: bool = False) -> Tokenizer:
    """The tokenizer of a run on texts.

    Args:
        file: tokenizer.json of a run.
        words: whether it is to be the project's own word-level tokenizer; of that only the words are taken.
        vocabulary_size: what a reader of the run knows.
        trust: take patterns and kinds that are not known.

    Raises:
        UserError: a damaged file, another kind, truncation, padding or a pattern, a vocabulary of another size.
    """
    stored = _read(file)
    for key in ("truncation", "padding"):
        if stored.get(key) is not None:
            raise bad("run", f"{key} in {file}", "some", "none: texts are read as they are")
    if words:
        return _words(stored, file, vocabulary_size)
    tokenizer = _any(stored, file, trust)
    _check_size(count_ids(tokenizer), vocabulary_size, file)
    return tokenizer


def check_tokenizer(file: Path, vocabulary_size: int) -> None:
    """Raise UserError for a tokenizer.json outside a run, which the run names, that a run would not be taken with.

    It may be a link, and may cut and pad: that is taken back where it is loaded to encode texts.
    """
    stored = _read(Path(os.path.realpath(file))) | {"truncation": None, "padding": None}
    _check_size(count_ids(_any(stored, file, False)), vocabulary_size, file)


def _read(file: Path) -> dict[str, Any]:
    """What a file says of a tokenizer."""
    text = read_text(file, MOST_BYTES)
    try:
        stored = load_json(text)
    except ValueError as error:
        raise _unreadable(file, error) from None
    if not isinstance(stored, dict) or not isinstance(stored.get("model"), dict):
        raise _unreadable(file, "no model")
    return stored


def _check_size(num_ids: int, vocabulary_size: int, file: Path) -> None:
    if num_ids != vocabulary_size:
        raise bad("run", f"vocabulary of {file}", num_ids, f"{vocabulary_size}, as the run was trained with")


def _unreadable(file: Path, why: object) -> UserError:
    first = (str(why).splitlines() or [""])[0]
    got = f"a file that cannot be read ({first})"
    return UserError(f"run: {file}, got {got}; expected the tokenizer of a run on texts")


def _words(stored: dict[str, Any], file: Path, vocabulary_size: int) -> Tokenizer:
    """The word-level tokenizer, built anew around the words of a file that says the same of all else."""
    vocabulary = stored["model"].get("vocab")
    whole = isinstance(vocabulary, dict) and all(type(index) is int for index in vocabulary.values())
    if not whole or sorted(vocabulary.values()) != list(range(len(vocabulary))) or UNKNOWN not in vocabulary:
        raise _unreadable(file, f"no vocabulary of words from 0 up with {UNKNOWN}")
    _check_size(len(vocabulary) + 1, vocabulary_size, file)
    made = json.loads(_around({UNKNOWN: 0}).to_str())
    for key in sorted((made.keys() | stored.keys()) - {"model"}):
        if made.get(key) != stored.get(key):
            raise bad("run", f"{key} in {file}", "another", "that of tokenizer 'words', which the run names")
    if stored["model"] | {"vocab": {UNKNOWN: 0}} != made["model"]:
        raise bad("run", f"model in {file}", "another", "that of tokenizer 'words', which the run names")
    return _around(vocabulary)


def _around(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = make_pipeline(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.add_special_tokens([AddedToken(UNKNOWN, special=True, normalized=False)])
    return tokenizer


def _any(stored: dict[str, Any], file: Path, trust: bool) -> Tokenizer:
    """A tokenizer that came from elsewhere when the run was trained."""
    if not trust:
        for part, kinds in KINDS.items():
            _check_kinds(stored.get(part), part, kinds, file)
    try:
        return Tokenizer.from_str(json.dumps(stored))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a bare Exception, or a panic, which is none
        raise _unreadable(file, error) from None


def _check_kinds(part: Any, name: str, kinds: tuple[str, ...], file: Path) -> None:
    """Raise UserError for a part of an unknown kind, or one that holds a pattern: some take for ever to match."""
    if part is None:
        return
    kind = part.get("type") if isinstance(part, dict) else part
    expected = f"one of {', '.join(kinds)}; --trust takes what the run has"
    if kind not in kinds:
        raise bad("run", f"{name} in {file}", kind, expected)
    pattern = part.get("pattern")
    safe = isinstance(pattern, dict) and (set(pattern) == {"String"} or pattern.get("Regex") in PATTERNS)
    if pattern is not None and not safe:
        raise bad("run", f"pattern of {name} in {file}", str(pattern), "none; --trust takes what the run has")
    for inner in ("normalizers", "pretokenizers"):
        for each in part.get(inner) or ():
            _check_kinds(each, name, kinds, file)
