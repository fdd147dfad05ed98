"""The contract that every reader fulfils: step to act, replay to learn, predict to answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from temporal.errors import bad
from temporal.ranges import Checked

MOST_CLASSES, LONGEST_NAME = 1 << 16, 1000

State = tuple[Tensor, ...]
"""What a reader remembers: tensors whose first axis is the slot; the second may grow with reading."""

COPY = 0
"""The mode every reader has first: pass over the observation, state kept."""


@dataclass(frozen=True)
class Task:
    """What a reader and an agent must know of a data set before they can be built.

    Args:
        vocabulary_size: token ids run from 0 to this, exclusive; id 0 is padding.
        class_names: one for each class, in the order of label indices.
        mean_length: mean tokens of a training sequence; sets the unit of price and scales observations.
        max_length: tokens of the longest sequence that is read; a bound for position embeddings.

    Raises:
        UserError: more than 65,536 classes, or one whose name has more than 1,000 letters: scores of every class and
            the name of the best are kept for each sequence.
    """

    vocabulary_size: int
    class_names: tuple[str, ...]
    mean_length: float
    max_length: int

    def __post_init__(self) -> None:
        if self.num_classes > MOST_CLASSES:
            raise bad("task", "classes", self.num_classes, f"at most {MOST_CLASSES:,}")
        longest = max(self.class_names, key=len, default="")
        if len(longest) > LONGEST_NAME:
            got = f"{longest[:40]}... of {len(longest):,} letters"
            raise bad("task", "name of a class", got, f"at most {LONGEST_NAME:,} letters")

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)


class Chunk(NamedTuple):
    """One observation for each of a batch: up to `width` tokens and where they stand.

    Tokens beyond `counts` are padding (id 0).
    """

    tokens: Int[Tensor, "batch width"]
    positions: Int[Tensor, "batch width"]
    counts: Int[Tensor, " batch"]

    def take(self, rows: Tensor) -> Chunk:
        """The chunks of some rows."""
        return Chunk(self.tokens[rows], self.positions[rows], self.counts[rows])

    def narrow(self) -> Chunk:
        """Without the columns that are padding in every row; at least one column."""
        width = max(int(self.counts.max()), 1)
        return (
            self
            if width == self.tokens.shape[1]
            else Chunk(self.tokens[:, :width], self.positions[:, :width], self.counts)
        )


class Reads(NamedTuple):
    """All observations of a batch of sequences, step by step, padded to the longest.

    A step that read nothing (copy, or padding at the end) has count 0.
    """

    tokens: Int[Tensor, "batch steps width"]
    positions: Int[Tensor, "batch steps width"]
    counts: Int[Tensor, "batch steps"]
    modes: Int[Tensor, "batch steps"]

    def step(self, index: int) -> Chunk:
        """The observations of one step."""
        return Chunk(self.tokens[:, index], self.positions[:, index], self.counts[:, index])

    def take(self, rows: Tensor) -> Reads:
        """The observations of some rows, without the steps in which none of them read; at least one step."""
        read = (self.counts[rows] > 0).any(0).nonzero()
        steps = int(read[-1]) + 1 if len(read) else 1
        return Reads(*(part[rows, :steps] for part in self))

    def to(self, device: torch.device) -> Reads:
        """The same on a device."""
        return Reads(*(part.to(device) for part in self))

    def valid(self) -> Bool[Tensor, "batch steps width"]:
        """Which tokens were really read."""
        return torch.arange(self.tokens.shape[-1], device=self.tokens.device) < self.counts[..., None]


def put_rows(into: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """Overwrite some slots of one tensor of a state.

    Axis 1 may grow with reading (a transformer's memory), so the shorter of the two is padded with zeros.
    """
    into, new = _level(into, new)
    return into.index_copy(0, rows, new)


def join_rows(first: Tensor, second: Tensor) -> Tensor:
    """The slots of two tensors of a state one after the other, padded as by `put_rows`."""
    return torch.cat(_level(first, second))


def _level(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    if one.shape[1:] != other.shape[1:]:
        room = max(one.shape[1], other.shape[1])
        one, other = (F.pad(t, (0, 0) * (t.dim() - 2) + (0, room - t.shape[1])) for t in (one, other))
    return one, other


@dataclass(frozen=True)
class Dense:
    """The tokens that were read, closed up: no gaps, no padding between observations.

    `index` (batch, steps, width) says where in the closed-up row each token of `Reads` went.
    """

    tokens: Int[Tensor, "batch time"]
    positions: Int[Tensor, "batch time"]
    lengths: Int[Tensor, " batch"]
    index: Int[Tensor, "batch steps width"]


def close_up(reads: Reads) -> Dense:
    """Gather what was read into dense rows, so that a fused kernel can run over them once.

    reads   [[a b .] [c . .] [d e f]]   counts 2 1 3
    dense   [a b c d e f]               index  [[0 1 .] [2 . .] [3 4 5]]
    """
    valid = reads.valid()
    batch = valid.shape[0]
    flat = valid.reshape(batch, -1)
    index = (flat.long().cumsum(1) - 1).clamp_min(0)
    lengths = flat.sum(1)
    longest = max(int(lengths.max()), 1) if batch else 1
    rows = torch.arange(batch, device=flat.device)[:, None].expand_as(flat)
    tokens = reads.tokens.new_zeros(batch, longest)
    positions = reads.positions.new_zeros(batch, longest)
    tokens[rows[flat], index[flat]] = reads.tokens.reshape(batch, -1)[flat]
    positions[rows[flat], index[flat]] = reads.positions.reshape(batch, -1)[flat]
    return Dense(tokens, positions, lengths, index.view_as(valid))


def sift(tokens: Tensor, positions: Tensor, keep: Bool[Tensor, "... width"]) -> tuple[Tensor, Tensor, Tensor]:
    """Move the tokens to keep to the front of each observation; returns tokens, positions and how many are kept.

    [a b c d] keep [0 1 0 1]  ->  [b d . .], 2
    """
    order = (~keep).long().argsort(dim=-1, stable=True)
    counts = keep.sum(-1)
    real = torch.arange(keep.shape[-1], device=keep.device) < counts[..., None]
    return tokens.gather(-1, order) * real, positions.gather(-1, order) * real, counts


class Reader(Checked, nn.Module, ABC):
    """A network that reads a sequence one observation at a time.

    The contract (tests/contracts/reader.py): `replay` equals repeated `step` to 1e-5 for any lengths, modes and
    batch; what was not read changes nothing; costs add up. In training mode dropout may differ between the two.
    `modes[full_mode]` reads the whole of an observation: it is what rules read in, what reading everything means, and
    the unit of price.
    """

    modes: tuple[str, ...]
    summary_size: int
    task: Task
    preview_size: int = 0  # numbers that a preview gives for each position; 0: there is none
    salience: Tensor  # (vocabulary,) of each token: share of running text that tells less, 0 to 1

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.register_buffer("salience", torch.ones(task.vocabulary_size))

    @property
    def full_mode(self) -> int:
        """Index of the mode that reads the whole of an observation; the last where a reader does not say."""
        return len(self.modes) - 1

    @property
    def capacity(self) -> int | None:
        """Most tokens that one sequence may have read; None for no bound."""
        return None

    @abstractmethod
    def initial(self, num: int) -> State:
        """The state of `num` slots that have read nothing."""

    @abstractmethod
    def step(self, state: State, chunk: Chunk, modes: Int[Tensor, " batch"]) -> State:
        """Read one observation in each slot; a slot of mode copy or count 0 keeps its state bit for bit."""

    @abstractmethod
    def summary(self, state: State) -> Float[Tensor, "batch summary"]:
        """The read-out of a state, from which the answer and the agent's decisions are made."""

    @abstractmethod
    def replay(self, reads: Reads) -> Float[Tensor, "batch steps_and_one summary"]:
        """Read-outs before the first step and after each, in one dense pass with gradients."""

    @abstractmethod
    def predict(self, summary: Float[Tensor, "... summary"]) -> Float[Tensor, "... classes"]:
        """Class logits from read-outs."""

    @abstractmethod
    def read_flops(self, modes: Tensor, counts: Tensor, before: Tensor) -> Float[Tensor, " batch"]:
        """FLOPs (float64) of reading `counts` tokens in `modes` after `before` tokens were read."""

    @property
    @abstractmethod
    def predict_flops(self) -> int:
        """FLOPs of one answer."""

    @property
    def preview_flops(self) -> int:
        """FLOPs of the preview of one position."""
        return 0

    @property
    def packet_flops(self) -> int:
        """FLOPs of comparing the packets of one position with those around."""
        return 0

    def packet_excess(self, tokens: Int[Tensor, "batch positions"]) -> Float[Tensor, "batch positions"]:
        """How much larger the packets of positions are than those around, for which nothing is decoded.

        Positions of id 0 are padding and give 0. Raises NotImplementedError for a reader of no videos.
        """
        raise NotImplementedError

    def preview(self, tokens: Int[Tensor, "batch positions"]) -> Float[Tensor, "batch positions preview"]:
        """Something cheap about positions before they are read; the first number says how much they promise.

        Positions of id 0 are padding and give 0. Raises NotImplementedError for a reader without previews.
        """
        raise NotImplementedError

    def full_flops(self, length: float | None = None) -> float:
        """FLOPs of reading a sequence of `length` tokens in full and answering once.

        With the task's mean length, the default, this is what 1 unit of price pays for.
        """
        length = self.task.mean_length if length is None else length
        count = torch.tensor([max(round(length), 1)])
        mode = torch.tensor([self.full_mode])
        return float(self.read_flops(mode, count, torch.zeros(1, dtype=torch.long))) + self.predict_flops
