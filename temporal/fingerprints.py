"""What tells data apart: a hash of the tokenizer and of each split, kept in about.json of a run."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from temporal.data.base import SPLITS, Source
from temporal.data.text import TextSource
from temporal.errors import UserError

Fingerprints = dict[str, str]
"""Hashes by name of the split, and of the tokenizer where there is one."""


def fingerprints(data: Source) -> Fingerprints:
    """Hashes of a source's tokenizer and splits: the same for the same sequences and labels in the same order."""
    found: Fingerprints = {split: data.split(split).fingerprint() for split in SPLITS}
    if isinstance(data, TextSource):
        found["tokenizer"] = blake2b(data.tokenizer.to_str().encode(), digest_size=16).hexdigest()
    return found


def differing(one: object, other: object) -> str | None:
    """Name what differs between two records of fingerprints; None where they agree.

    >>> differing({"train": "ab", "test": "cd"}, {"train": "ab", "test": "ef"})
    'test split'
    """
    first, second = (each if isinstance(each, Mapping) else {} for each in (one, other))
    for name in ("tokenizer", *SPLITS):
        if first.get(name) != second.get(name):
            return name if name == "tokenizer" else f"{name} split"
    return None


def check_reader(folder: Path, about: Mapping[str, Any], here: Fingerprints) -> None:
    """Raise UserError unless the reader of a run has learned on exactly these data.

    With other splits, validation or test sequences may be among those that it was trained on.

    Args:
        folder: of the run that the reader is taken from.
        about: its about.json.
        here: fingerprints of the data that it is to be used on.
    """
    what = differing(about.get("fingerprints"), here)
    if what is not None:
        raise UserError(
            f"train: --reader-from, got {str(folder)!r}, whose {what} differs from this one's; "
            "expected a run on the same data, splits and tokenizer"
        )
