"""Generated tasks whose cheapest possible reading is known."""

from __future__ import annotations

import numpy as np

from temporal.data.base import SPLITS, Sequences, Source, Split
from temporal.errors import bad
from temporal.readers.base import Task

MOST_TOKENS = 100_000_000


class NeedleSource(Source):
    """Noise with one telling token: its id is the class, its place is uniform (the "needle").

    Nothing but the needle carries information, so the cheapest perfect reader stops right after it: of `length`
    tokens it reads (length + 1) / 2 on average, in whole chunks a little more.

    Args:
        num_sequences: sequences in the train split; validation and test hold a quarter of it each.
        length: tokens of every sequence, 1 or more.
        num_classes: classes, 2 or more.
        noise: different noise tokens, 1 or more.
        seed: of the generator; the three splits differ.
    """

    def __init__(
        self, num_sequences: int = 512, length: int = 32, num_classes: int = 4, noise: int = 16, seed: int = 0
    ) -> None:
        if min(num_sequences // 4, length, noise, num_classes - 1) < 1:
            raise bad(
                "NeedleSource", "sizes", (num_sequences, length, num_classes, noise), "4, 1, 2, 1 or more"
            )
        if num_sequences * length > MOST_TOKENS:
            raise bad("NeedleSource", "tokens of train", num_sequences * length, f"at most {MOST_TOKENS:,}")
        self._task = Task(
            1 + num_classes + noise, tuple(f"class{i}" for i in range(num_classes)), length, length
        )
        self._splits: dict[Split, Sequences] = {}
        for i, split in enumerate(SPLITS):
            rng = np.random.default_rng([seed, i])
            num = num_sequences if split == "train" else num_sequences // 4
            tokens = rng.integers(1 + num_classes, 1 + num_classes + noise, (num, length))
            labels = rng.integers(0, num_classes, num)
            tokens[np.arange(num), rng.integers(0, length, num)] = 1 + labels
            offsets = np.arange(num + 1, dtype=np.int64) * length
            self._splits[split] = Sequences(tokens.reshape(-1), offsets, labels)

    @property
    def task(self) -> Task:
        """Token ids: 0 padding, then one for each class, then noise."""
        return self._task

    @property
    def name(self) -> str:
        """needle."""
        return "needle"

    def split(self, name: Split) -> Sequences:
        """The sequences of one split."""
        return self._splits[name]
