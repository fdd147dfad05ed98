"""Teaches a reader, before any agent decides, to answer after any number of observations and across gaps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from temporal.data.base import Sequences
from temporal.ranges import Batch, Checked, Positive, Rate, Share, Updates
from temporal.readers.base import Reader, Reads, sift


class Warmup(Checked):
    """How a reader is warmed up: cross-entropy after every observation of whole and of gappy readings.

    Args:
        epochs: passes over the reader's share of the train split; 0 leaves the reader as it starts.
        batch_size: sequences of one update.
        learning_rate: of AdamW, at its peak; falls to nothing along a cosine.
        weight_decay: of AdamW, 0 to 1.
        gap_share: share of sequences read with random chunks left out, 0 to 1.
        sift_share: share of sequences of which only telling tokens are read, 0 to 1; for schemes that sift.
        skim_share: share of batches read partly by skimming, 0 to 1; for schemes that skim.
        shuffle_share: share of sequences read in random order, 0 to 1; for schemes that go anywhere.
        view_share: share of observations read in a random mode, 0 to 1; for schemes that choose the view of a frame.
        last_weight: weight of the answer at the end against the mean over all observations, 0 to 1.
        clip_norm: gradients are scaled down to this norm.
    """

    def __init__(
        self,
        epochs: Updates = 10,
        batch_size: Batch = 32,
        learning_rate: Rate = 2e-3,
        weight_decay: Share = 1e-2,
        gap_share: Share = 0.5,
        sift_share: Share = 0.0,
        skim_share: Share = 0.0,
        shuffle_share: Share = 0.0,
        view_share: Share = 0.0,
        last_weight: Share = 0.5,
        clip_norm: Positive = 1.0,
    ) -> None:
        self.epochs, self.batch_size, self.learning_rate = epochs, batch_size, learning_rate
        self.weight_decay, self.gap_share = weight_decay, gap_share
        self.sift_share, self.skim_share = sift_share, skim_share
        self.shuffle_share, self.view_share = shuffle_share, view_share
        self.last_weight, self.clip_norm = last_weight, clip_norm

    def loss(self, reader: Reader, reads: Reads, labels: Tensor) -> Tensor:
        """Cross-entropy at the end and, averaged, after every observation."""
        each = answer_losses(reader, reads, labels)
        seen = torch.cat([torch.ones_like(labels)[:, None], (reads.counts > 0).long()], 1).bool()
        mean = (each * seen).sum(1) / seen.sum(1)
        return (self.last_weight * each[:, -1] + (1 - self.last_weight) * mean).mean()

    def reads(
        self, reader: Reader, source: Sequences, rows: Tensor, chunk: int, generator: torch.Generator
    ) -> Reads:
        """A random reading of some sequences: whole, with gaps, sifted, out of order, in several modes."""
        reads = whole_reads(source, rows, chunk, reader.full_mode)
        if self.shuffle_share:
            reads = shuffled(reads, self.shuffle_share, generator)
        if self.sift_share:
            sifted = torch.rand(len(rows), 1, 1, generator=generator) < self.sift_share
            level = torch.rand(len(rows), 1, 1, generator=generator) * sifted
            keep = (reader.salience.to(reads.tokens.device)[reads.tokens] >= level) & (reads.tokens > 0)
            reads = Reads(*sift(reads.tokens, reads.positions, keep), reads.modes)
        shape = reads.counts.shape
        rate = torch.rand(shape[0], 1, generator=generator)
        gappy = torch.rand(shape[0], 1, generator=generator) < self.gap_share
        gaps = gappy & (torch.rand(shape, generator=generator) < rate)
        modes = reads.modes
        if torch.rand((), generator=generator) < self.skim_share:
            skimmed = torch.rand(shape, generator=generator) < torch.rand(shape[0], 1, generator=generator)
            modes = torch.where(skimmed, torch.full_like(modes, reader.modes.index("skim")), modes)
        if self.view_share:
            changed = torch.rand(shape, generator=generator) < self.view_share
            modes = torch.where(
                changed, torch.randint(1, len(reader.modes), shape, generator=generator), modes
            )
        return reads._replace(counts=reads.counts.masked_fill(gaps, 0), modes=modes)


def shuffled(reads: Reads, share: float, generator: torch.Generator) -> Reads:
    """Put the observations of a share of sequences into random order; those that read nothing stay last."""
    rows, steps = reads.counts.shape
    chosen = torch.rand(rows, 1, generator=generator) < share
    draw = torch.rand(rows, steps, generator=generator)
    draw = torch.where(chosen, draw, torch.arange(steps) / steps) + (reads.counts == 0)
    order = draw.argsort(1)
    return Reads(
        *(part.gather(1, order.view(rows, steps, *[1] * (part.dim() - 2)).expand_as(part)) for part in reads)
    )


def answer_losses(reader: Reader, reads: Reads, labels: Tensor) -> Tensor:
    """Cross-entropy (batch, steps + 1) of the answers before the first observation and after each."""
    logits = reader.predict(reader.replay(reads))
    truth = labels[:, None].expand(logits.shape[:2])
    return F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none").view(truth.shape)


def whole_reads(source: Sequences, rows: Tensor, chunk: int, mode: int) -> Reads:
    """Every token of some sequences, in chunks."""
    lengths = source.lengths[rows]
    steps = max(-(-int(lengths.max()) // chunk), 1)
    dense = source.fetch(rows, torch.zeros_like(rows), lengths, steps * chunk)
    shape = (rows.shape[0], steps, chunk)
    starts = torch.arange(steps) * chunk
    counts = (lengths[:, None] - starts).clamp(0, chunk)
    return Reads(dense.tokens.view(shape), dense.positions.view(shape), counts, torch.full_like(counts, mode))


def batches(lengths: Tensor, rows: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Shuffled batches of sequences of like length: pools of 20 batches are sorted, then their batches shuffled."""
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    for pool in shuffled.split(20 * size):
        parts = pool[lengths[pool].argsort()].split(size)
        for i in torch.randperm(len(parts), generator=generator).tolist():
            yield parts[i]
