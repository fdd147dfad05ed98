"""GRU and LSTM readers with the modes copy, skim and full."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from temporal.cost import cell_flops, linear_flops, look_up_flops
from temporal.errors import bad
from temporal.ranges import BelowOne, Units
from temporal.readers.base import Chunk, Reader, Reads, State, Task, close_up
from temporal.readers.readout import Part, ReadOut

SKIM, FULL = 1, 2
PADDING = 100  # cells of padding in a batch of chunks that take a GRU about as long as packing does
ROWS = 32  # replayed together on a CPU; fewer would starve the matrix products


class RecurrentReader(Reader):
    """A GRU or LSTM that reads token by token.

    Skimming updates the first `skim_size` units by a small cell of its own that sees the embedding and those units;
    the others are kept (after Skim-RNN, arXiv 1711.02085, whose small cell also sees all units).

    Args:
        task: what the data set says (filled in by the program).
        cell: gru or lstm.
        embedding_size: width of the token embeddings.
        hidden_size: units of the cell.
        skim_size: units that skimming updates, 1 to hidden_size.
        readout: parts of the read-out, of last, max, mean.
        embedding_dropout: share of embedding entries zeroed in training, 0 to below 1.
        token_dropout: share of tokens replaced by padding in training, 0 to below 1.
        summary_dropout: share of read-out entries zeroed in training, 0 to below 1.
    """

    modes = ("copy", "skim", "full")

    def __init__(
        self,
        task: Task,
        cell: Literal["gru", "lstm"] = "gru",
        embedding_size: Units = 128,
        hidden_size: Units = 128,
        skim_size: Units = 16,
        readout: tuple[Part, ...] = ("max", "mean"),
        embedding_dropout: BelowOne = 0.2,
        token_dropout: BelowOne = 0.1,
        summary_dropout: BelowOne = 0.3,
    ) -> None:
        super().__init__(task)
        if skim_size > hidden_size:
            raise bad("RecurrentReader", "skim_size", skim_size, f"1 to hidden_size ({hidden_size})")
        self.cell = cell
        self.embedding = nn.Embedding(task.vocabulary_size, embedding_size, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=0.1)
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        self.full_cell = kind(embedding_size, hidden_size, batch_first=True)
        self.skim_cell = kind(embedding_size, skim_size, batch_first=True)
        self.readout = ReadOut(tuple(readout), hidden_size)
        self.summary_size = self.readout.size
        self.head = nn.Linear(self.summary_size, task.num_classes)
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.summary_dropout = nn.Dropout(summary_dropout)
        self.token_dropout = token_dropout
        sizes = (skim_size, hidden_size)
        each = [look_up_flops(embedding_size) + cell_flops(cell, embedding_size, size) for size in sizes]
        self._token_flops = torch.tensor([0, *each], dtype=torch.float64)
        self._num_parts = 2 if cell == "lstm" else 1  # h, and c for an LSTM

    def initial(self, num: int) -> State:
        """Zero hidden state, nothing read out."""
        weight = self.head.weight
        hidden = weight.new_zeros(num, self.full_cell.hidden_size)
        return (*(hidden.clone() for _ in range(self._num_parts)), *self.readout.initial(num, weight))

    def summary(self, state: State) -> Tensor:
        """The running read-out."""
        return self.readout.summary(state[self._num_parts :])

    def predict(self, summary: Tensor) -> Tensor:
        """One linear layer."""
        logits: Tensor = self.head(self.summary_dropout(summary))
        return logits

    def step(self, state: State, chunk: Chunk, modes: Tensor) -> State:
        """Read one observation in each slot, slots of one mode together."""
        reading = (chunk.counts > 0) & (modes > 0)
        for mode in (FULL, SKIM):
            here = reading & (modes == mode)
            if bool(here.all()):
                return self._read(state, chunk, mode)
            if bool(here.any()):
                rows = here.nonzero()[:, 0]
                part = self._read(tuple(s[rows] for s in state), chunk.take(rows), mode)
                state = tuple(s.index_copy(0, rows, p) for s, p in zip(state, part, strict=True))
        return state

    def _read(self, state: State, chunk: Chunk, mode: int) -> State:
        """Read a chunk of at least one token in every row, all in one mode."""
        embedded = self._embed(chunk.tokens)
        hidden, readout = state[: self._num_parts], state[self._num_parts :]
        outputs, hidden = self._run(embedded, chunk.counts, hidden, mode)
        return (*hidden, *self.readout.update(readout, outputs, chunk.counts))

    def _run(self, embedded: Tensor, counts: Tensor, hidden: State, mode: int) -> tuple[Tensor, State]:
        """Run the cell of a mode over (batch, width); outputs have every unit, kept ones too."""
        if mode == FULL:
            return self._run_cell(self.full_cell, embedded, counts, hidden)
        size = self.skim_cell.hidden_size
        outputs, small = self._run_cell(self.skim_cell, embedded, counts, tuple(h[:, :size] for h in hidden))
        kept = hidden[0][:, None, size:].expand(-1, outputs.shape[1], -1)
        joined = tuple(torch.cat([s, h[:, size:]], 1) for s, h in zip(small, hidden, strict=True))
        return torch.cat([outputs, kept], -1), joined

    def _run_cell(
        self, cell: nn.Module, embedded: Tensor, counts: Tensor, hidden: State
    ) -> tuple[Tensor, State]:
        start = tuple(h[None].contiguous() for h in hidden)
        argument = start if self.cell == "lstm" else start[0]
        width = embedded.shape[1]
        padding = counts.shape[0] * width - int(counts.sum())
        if padding <= (PADDING if self.cell == "gru" else 0):
            outputs, end = cell(embedded, argument)
            if self.cell == "gru":  # a GRU's state is its output, so ragged rows need no packing
                rows = torch.arange(counts.shape[0], device=counts.device)
                return outputs, (outputs[rows, counts - 1],)
        else:
            packed = pack_padded_sequence(embedded, counts.cpu(), batch_first=True, enforce_sorted=False)
            outputs, end = cell(packed, argument)
            outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=width)
        end = end if self.cell == "lstm" else (end,)
        return outputs, tuple(e[0] for e in end)

    def _embed(self, tokens: Tensor) -> Tensor:
        if self.training and self.token_dropout:
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.token_dropout
            tokens = tokens.masked_fill(dropped, 0)
        embedded: Tensor = self.embedding_dropout(self.embedding(tokens))
        return embedded

    def replay(self, reads: Reads) -> Tensor:
        """Fused passes over the kept tokens; skimming, which no kernel knows, steps."""
        if bool(((reads.modes == SKIM) & (reads.counts > 0)).any()):
            return self._replay_stepwise(reads)
        reads = reads._replace(counts=reads.counts * (reads.modes > 0))
        batch, steps = reads.counts.shape
        # On a CPU time goes with cells, padding included: rows of like length run together.
        order = reads.counts.sum(1).argsort()
        groups = order.split(ROWS if order.is_cpu else max(batch, 1))
        parts = [self._replay_dense(reads.take(rows)) for rows in groups]
        # After a row's last step nothing changes.
        whole = [torch.cat([p, p[:, -1:].expand(-1, steps + 1 - p.shape[1], -1)], 1) for p in parts]
        return torch.cat(whole).index_select(0, order.argsort())

    def _replay_dense(self, reads: Reads) -> Tensor:
        dense = close_up(reads)
        # Not packed: outputs before a row's end do not depend on what follows it, and on a CPU the backward pass
        # through a packed sequence fills a whole gradient for every step, which is quadratic in length.
        outputs, _ = self.full_cell(self._embed(dense.tokens))
        batch, steps, width = dense.index.shape
        index = dense.index.reshape(batch, steps * width, 1).expand(-1, -1, outputs.shape[-1])
        return self.readout.replay(outputs.gather(1, index).view(batch, steps, width, -1), reads)

    def _replay_stepwise(self, reads: Reads) -> Tensor:
        state = self.initial(reads.counts.shape[0])
        summaries = [self.summary(state)]
        for i in range(reads.counts.shape[1]):
            state = self.step(state, reads.step(i), reads.modes[:, i])
            summaries.append(self.summary(state))
        return torch.stack(summaries, 1)

    def read_flops(self, modes: Tensor, counts: Tensor, before: Tensor) -> Tensor:
        """A token's embedding is looked up and goes through the cell of the mode, at the same cost for every token."""
        return self._token_flops.to(modes.device)[modes] * counts

    @property
    def predict_flops(self) -> int:
        """One linear layer."""
        return linear_flops(self.summary_size, self.task.num_classes)
