"""Teaches a reader's preview to say which frames are worth looking at."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from temporal.agents.phases import Metrics, Phase, cosine
from temporal.agents.scene import Scene
from temporal.agents.warmup import whole_reads
from temporal.ranges import Batch, Checked, Rate, Share, Updates
from temporal.readers.base import Reader, Reads
from temporal.readers.video import FrameReader

ROWS = 64  # sequences whose frames are judged at once


class PreviewFit(Checked):
    """How the preview is fitted: the chance of a right answer after ONE frame, drawn by the preview's scores, rises.

    The reader's answer from each frame alone is known, so that this chance is a sum over all frames and needs no
    draws: sum_i softmax(score)_i p(truth | frame i). It is what saliency is for SCSampler (arXiv 1904.04289), which
    ranks frames by the classifier's loss. It learns from the reader's share of the sequences only: where the agent
    learns, previews must be as good as they will be later, and no better, or it learns to stop too early.

    Args:
        updates: of the preview; 0 leaves it as it starts.
        batch_size: sequences of one update.
        learning_rate: of AdamW, at its peak.
        weight_decay: of AdamW, 0 to 1.
        flips: mirror half of the thumbnails in learning, where the preview has any.
    """

    def __init__(
        self,
        updates: Updates = 600,
        batch_size: Batch = 24,
        learning_rate: Rate = 3e-3,
        weight_decay: Share = 1e-2,
        flips: bool = True,
    ) -> None:
        self.updates, self.batch_size, self.learning_rate = updates, batch_size, learning_rate
        self.weight_decay, self.flips = weight_decay, flips


class PreviewPhase(Phase):
    """The tiny network of the preview learns; the reader stands still."""

    name = "preview"

    def __init__(self, scene: Scene, fit: PreviewFit, clip_norm: float) -> None:
        super().__init__(scene, clip_norm)
        self.fit = fit
        self._worth: Tensor | None = None

    @property
    def num_updates(self) -> int:
        """As configured."""
        return self.fit.updates

    @property
    def _rows(self) -> Tensor:
        return self.scene.reader_rows

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over the preview."""
        assert isinstance(self.scene.reader, FrameReader)
        assert self.scene.reader.previewer is not None
        return torch.optim.AdamW(
            self.scene.reader.previewer.parameters(),
            lr=self.fit.learning_rate,
            weight_decay=self.fit.weight_decay,
        )

    def learning_rate(self, update: int) -> float:
        """Ramp and cosine."""
        return cosine(self.fit.learning_rate, update, self.num_updates)

    def prepare(self, generator: torch.Generator) -> None:
        """Answer from every frame alone."""
        self.scene.reader.eval()
        source = self.scene.source
        parts = []
        for rows in self._rows.split(ROWS):
            reads = whole_reads(source, rows, 1, self.scene.reader.full_mode)
            parts.append(answers_of_one(self.scene.reader, reads, self.scene.labels(rows)))
        longest = max(part.shape[1] for part in parts)
        self._worth = torch.cat([F.pad(p, (0, longest - p.shape[1]), value=-1e9) for p in parts])

    def losses(self, update: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Metrics]]:
        """Minus the logarithm of the chance of a right answer after one frame."""
        assert self._worth is not None
        reader = self.scene.reader
        assert isinstance(reader, FrameReader)
        assert reader.previewer is not None
        drawn = torch.randint(0, len(self._worth), (self.fit.batch_size,), generator=generator)
        reads = whole_reads(self.scene.source, self._rows[drawn], 1, 1)
        device = next(reader.parameters()).device
        real = (reads.counts > 0).to(device)
        shown = reader.shown_to_preview(reads.tokens[..., 0].to(device)[real])
        if reader.thumbnail is not None and self.fit.flips and torch.rand((), generator=generator) < 0.5:
            shown = shown.flip(-1)
        score = torch.full(real.shape, -1e9, device=device)
        score[real] = reader.previewer(shown)[:, 0]
        worth = self._worth[drawn][:, : real.shape[1]].to(device)
        loss = -(score.log_softmax(1) + worth).logsumexp(1).mean()
        yield loss, {"loss": float(loss.detach())}


@torch.no_grad()
def answers_of_one(reader: Reader, reads: Reads, labels: Tensor) -> Tensor:
    """Log-probability of the truth (sequences, steps) when no more than the observation of each step was read."""
    device = next(reader.parameters()).device
    alone = Reads(*(part.flatten(0, 1)[:, None].to(device) for part in reads))
    logits = reader.predict(reader.replay(alone))[:, -1]
    truth = labels.to(device).repeat_interleave(reads.counts.shape[1])
    found = logits.log_softmax(-1).gather(1, truth[:, None])[:, 0].view(reads.counts.shape)
    return found.masked_fill(reads.counts.to(device) == 0, -1e9).cpu()
