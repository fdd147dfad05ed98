"""A small causal transformer with the modes copy and full."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from temporal.cost import added_flops, attention_flops, linear_flops, transformer_token_flops
from temporal.errors import bad
from temporal.ranges import BelowOne, Few, Tokens, Units
from temporal.readers.base import Chunk, Reader, Reads, State, Task, close_up, put_rows
from temporal.readers.readout import Part, ReadOut

FULL = 1
EMBEDDING_STD = 0.1


class TransformerReader(Reader):
    """A causal pre-norm transformer over the tokens that were read, at their true places in the sequence.

    What was not read is not attended to, so it costs nothing; each token read attends to all read before it (Vaswani
    et al., arXiv 1706.03762, with sinusoidal positions, so that length has no bound). A slot's memory grows with what
    was read.

    Args:
        task: what the data set says (filled in by the program).
        width: of token embeddings and of every layer; even, a multiple of num_heads.
        num_layers: layers, 1 or more.
        num_heads: attention heads of each layer.
        ratio: hidden units of a layer's perceptron as a multiple of width.
        capacity: most tokens that one sequence may have read when stepping, those of the task's longest or more;
            bounds the memory of a slot. Any number when left out.
        readout: parts of the read-out, of last, max, mean.
        embedding_dropout: share of embedding entries zeroed in training, 0 to below 1.
        token_dropout: share of tokens replaced by padding in training, 0 to below 1.
        summary_dropout: share of read-out entries zeroed in training, 0 to below 1.
    """

    modes = ("copy", "full")

    def __init__(
        self,
        task: Task,
        width: Units = 128,
        num_layers: Few = 2,
        num_heads: Few = 4,
        ratio: Few = 4,
        capacity: Tokens | None = None,
        readout: tuple[Part, ...] = ("max", "mean"),
        embedding_dropout: BelowOne = 0.2,
        token_dropout: BelowOne = 0.1,
        summary_dropout: BelowOne = 0.3,
    ) -> None:
        super().__init__(task)
        if capacity is not None and capacity < task.max_length:
            expected = f"{task.max_length} or more, the tokens of the longest sequence; or none, for no bound"
            raise bad("TransformerReader", "capacity", capacity, expected)
        if width % 2 or width % num_heads:
            raise bad("TransformerReader", "width", width, f"an even multiple of num_heads ({num_heads})")
        self.width = width
        self._capacity = capacity
        # its embedding, to which that of its place is added
        self._num_token_flops = added_flops(width) + num_layers * transformer_token_flops(width, ratio)
        self.embedding = nn.Embedding(task.vocabulary_size, width, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        self.layers = nn.ModuleList(_Layer(width, num_heads, ratio) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.readout = ReadOut(tuple(readout), width)
        self.summary_size = self.readout.size
        self.head = nn.Linear(self.summary_size, task.num_classes)
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.summary_dropout = nn.Dropout(summary_dropout)
        self.token_dropout = token_dropout

    @property
    def capacity(self) -> int | None:
        """Most tokens that one sequence may have read when stepping; None for no bound."""
        return self._capacity

    @property
    def _stack(self) -> Iterable[_Layer]:
        return cast(Iterable[_Layer], self.layers)  # a ModuleList does not know what it holds

    def initial(self, num: int) -> State:
        """Empty memories of keys and values (slots, tokens read, 2 width), a count of 0, nothing read out."""
        weight = self.head.weight
        memories = (weight.new_zeros(num, 0, 2 * self.width) for _ in self.layers)
        count = torch.zeros(num, dtype=torch.long, device=weight.device)
        return (*memories, count, *self.readout.initial(num, weight))

    def summary(self, state: State) -> Tensor:
        """The running read-out."""
        return self.readout.summary(state[len(self.layers) + 1 :])

    def predict(self, summary: Tensor) -> Tensor:
        """One linear layer."""
        logits: Tensor = self.head(self.summary_dropout(summary))
        return logits

    def step(self, state: State, chunk: Chunk, modes: Tensor) -> State:
        """Read one observation in each slot that reads.

        Raises UserError where a slot would hold more tokens than `capacity`.
        """
        reading = (chunk.counts > 0) & (modes == FULL)
        if bool(reading.all()):
            return self._read(state, chunk)
        if bool(reading.any()):
            rows = reading.nonzero()[:, 0]
            part = self._read(tuple(s[rows] for s in state), chunk.take(rows))
            state = tuple(put_rows(s, rows, p) for s, p in zip(state, part, strict=True))
        return state

    def _read(self, state: State, chunk: Chunk) -> State:
        """Read a chunk of at least one token in every row.

        memory of one row that had read 2 tokens, and reads 2 in a chunk of 3:   m m c c .
        the chunk's first token sees                                             1 1 1 0 0
        """
        num_layers = len(self.layers)
        memories, count, readout = state[:num_layers], state[num_layers], state[num_layers + 1 :]
        after = count + chunk.counts
        room = int(after.max()) if after.numel() else 0
        if self._capacity is not None and room > self._capacity:
            expected = f"at most its capacity ({self._capacity})"
            raise bad("reader", "tokens read of one sequence", room, expected)
        places = torch.arange(chunk.tokens.shape[1], device=count.device)
        last_seen = (count[:, None] + places)[:, None, :, None]
        mask = torch.arange(room, device=count.device) <= last_seen
        row, column = (places < chunk.counts[:, None]).nonzero(as_tuple=True)
        hidden, grown = self._embed(chunk.tokens, chunk.positions), []
        for layer, memory in zip(self._stack, memories, strict=True):
            query, own = layer.project(hidden)
            filled = min(memory.shape[1], room)  # the fullest row may have left since
            blank = memory.new_zeros(memory.shape[0], room - filled, memory.shape[2])
            longer = torch.cat([memory[:, :filled], blank], 1)  # a copy: the state given stays as it was
            longer[row, count[row] + column] = own[row, column]
            hidden = layer.attend(hidden, query, longer, mask)
            grown.append(longer)
        return (*grown, after, *self.readout.update(readout, self.norm(hidden), chunk.counts))

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        if self.training and self.token_dropout:
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.token_dropout
            tokens = tokens.masked_fill(dropped, 0)
        # At the embeddings' own scale; at 1 the places would drown the words until the embeddings have grown.
        places = EMBEDDING_STD * sinusoids(positions, self.width).to(self.embedding.weight.dtype)
        embedded: Tensor = self.embedding_dropout(self.embedding(tokens) + places)
        return embedded

    def replay(self, reads: Reads) -> Tensor:
        """One dense causal pass over the kept tokens."""
        reads = reads._replace(counts=reads.counts * (reads.modes == FULL))
        dense = close_up(reads)
        hidden = self._embed(dense.tokens, dense.positions)
        for layer in self._stack:  # rows are padded at their end, which no real token looks at
            query, own = layer.project(hidden)
            hidden = layer.attend(hidden, query, own, None)
        batch, steps, width = dense.index.shape
        index = dense.index.reshape(batch, steps * width, 1).expand(-1, -1, self.width)
        outputs = self.norm(hidden).gather(1, index).view(batch, steps, width, -1)
        return self.readout.replay(outputs, reads)

    def read_flops(self, modes: Tensor, counts: Tensor, before: Tensor) -> Tensor:
        """Each token through every layer; the i-th of a chunk attends to `before` + i + 1 keys."""
        counts, before = counts.double(), before.double()
        keys = counts * before + counts * (counts + 1) / 2
        tokens = self._num_token_flops * counts
        return (modes == FULL) * (tokens + len(self.layers) * attention_flops(self.width, keys))

    @property
    def predict_flops(self) -> int:
        """One linear layer."""
        return linear_flops(self.summary_size, self.task.num_classes)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Positions (...) as sines and cosines (..., width) of wavelengths 2 pi to 20000 pi, float32.

    Source: Vaswani et al., arXiv 1706.03762, section 3.5, with the sines first and the cosines after.
    """
    exponents = torch.arange(0, width, 2, device=positions.device) / width
    angles = positions[..., None] * torch.exp(-math.log(1e4) * exponents)
    return torch.cat([angles.sin(), angles.cos()], -1)


class _Layer(nn.Module):
    """Attention and a perceptron, each behind a layer norm and added to what came in."""

    def __init__(self, width: int, num_heads: int, ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width)
        )

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (batch, time, width), and keys and values side by side (batch, time, 2 width)."""
        width = hidden.shape[-1]
        query, own = self.project_in(self.attention_norm(hidden)).split((width, 2 * width), -1)
        return query, own

    def attend(self, hidden: Tensor, query: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """The layer's output, from what the queries see in memory (batch, keys, 2 width); no mask means causal."""
        parts = (query, *memory.chunk(2, -1))
        query, keys, values = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in parts)
        seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=mask is None)
        hidden = hidden + self.project_out(seen.transpose(1, 2).flatten(2))
        output: Tensor = hidden + self.perceptron(self.perceptron_norm(hidden))
        return output
