"""How much each entry of the vocabulary tells about the class, counted on the train split."""

from __future__ import annotations

import torch
from torch import Tensor

from temporal.data.base import Sequences


def count_salience(source: Sequences, rows: Tensor, vocabulary_size: int, num_classes: int) -> Tensor:
    """Rank of every token (vocabulary,) by telling power: the share of running text that tells less, 0 to 1.

    Telling power is the Kullback-Leibler divergence of the class given that the token stands in a text from the
    class alone, with one pseudo-text of each token spread over the classes as they are, so that rare tokens are not
    overrated. Texts are visited in batches; memory is vocabulary x classes.
    """
    if source.labels is None:
        raise ValueError("salience needs labels")
    present = torch.zeros(vocabulary_size, num_classes)
    running = torch.zeros(vocabulary_size, dtype=torch.float64)
    for batch in rows.split(256):
        lengths = source.lengths[batch]
        tokens = source.fetch(batch, torch.zeros_like(batch), lengths, max(int(lengths.max()), 1)).tokens
        labels = source.labels[batch]
        for row, label in zip(tokens, labels.tolist(), strict=True):
            present[row[row > 0].unique(), label] += 1
        running += torch.bincount(tokens[tokens > 0], minlength=vocabulary_size)
    prior = torch.bincount(source.labels[rows], minlength=num_classes).float()
    prior = (prior + 1) / (prior + 1).sum()
    given = (present + prior) / (present.sum(1, keepdim=True) + 1)
    telling = (given * (given / prior).log()).sum(1)
    order = telling.argsort(stable=True)
    below = torch.zeros(vocabulary_size, dtype=torch.float64)
    below[order] = running[order].cumsum(0) - running[order]
    return (below / running.sum().clamp_min(1)).float()
