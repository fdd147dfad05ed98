"""Readers of video frames, seen in any order: attention over what was seen, or a GRU."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from temporal.cost import cell_flops, linear_flops, module_flops, resize_flops
from temporal.errors import bad
from temporal.packet_sizes import EXCESS, NUMBERS_FLOPS
from temporal.ranges import BelowOne, Few, Pixels, Text, Units
from temporal.readers.base import Chunk, Reader, Reads, State, Task, close_up
from temporal.readers.frames import FrameEncoder, Thumbnail, View, parse_views
from temporal.readers.packets import PacketSizes
from temporal.readers.readout import ReadOut

NUM_WAVES = 6  # sines and cosines that say when a frame is from
PREVIEWS = 128  # frames whose previews go through their network together; more leave a CPU's cache
LOUDEST = 8.0  # attention scores stay within +- this, so that their exponentials can be summed as they come


class Frames(Protocol):
    """Where a reader looks up the frames behind ids: cached features in training, a decoder when scoring."""

    def features(self, ids: Int[Tensor, " n"], view: View, encoder: FrameEncoder) -> Float[Tensor, "n size"]:
        """What the encoder makes of frames in a view."""

    def pixels(self, ids: Int[Tensor, " n"]) -> UInt8[Tensor, "n 3 side side"]:
        """Frames at the reader's base size."""

    def thumbnails(self, ids: Int[Tensor, " n"]) -> UInt8[Tensor, "n 3 height width"]:
        """Frames at the size of previews."""

    def packets(self, ids: Int[Tensor, " n"]) -> Float[Tensor, "n numbers"]:
        """What the packets around frames tell, as `temporal.packet_sizes.packet_numbers` gives it."""

    def starts(self, ids: Int[Tensor, " n"]) -> Int[Tensor, "n 2"]:
        """The key frame that decoding each frame starts from, and how many are decoded from there on."""


class FrameReader(Reader):
    """What readers of frames share: looking frames up, encoding them in a mode, saying when they are from.

    The modes are copy and then the views, such as 64px, 128px or the nine crops of 64px_3x3; the largest view of the
    whole frame is full. Ids are looked up in `frames`, which whoever has the videos attaches.

    Args:
        task: what the data set says (filled in by the program).
        encoder: turns a frame into features.
        views: SIZEpx for the whole frame, of which there is at least one, or SIZEpx_COLUMNSxROWS for a grid of
            crops of half its width and height.
        frame_size: pixels of a side of the square to which frames are decoded; views are cut from it.
        hidden_size: units of what is remembered of each frame.
        preview: tiny network over thumbnails of all frames, which must be decoded for it, or over the sizes of their
            packets, for which nothing is; none leaves previews out.
        feature_dropout: share of features zeroed in training, 0 to below 1.
        summary_dropout: share of read-out entries zeroed in training, 0 to below 1.
    """

    head: nn.Linear

    def __init__(
        self,
        task: Task,
        encoder: FrameEncoder,
        views: tuple[Text, ...] = ("128px",),
        frame_size: Pixels = 128,
        hidden_size: Units = 192,
        preview: Thumbnail | PacketSizes | None = None,
        feature_dropout: BelowOne = 0.3,
        summary_dropout: BelowOne = 0.3,
    ) -> None:
        super().__init__(task)
        self.views = parse_views(views)
        self.modes = ("copy", *(view.name for view in self.views))
        self.frame_size = frame_size
        if any(view.size > frame_size for view in self.views):
            raise bad(type(self).__name__, "views", list(views), f"{frame_size}px or less, as frame_size")
        whole = [(view.size, index) for index, view in enumerate(self.views, start=1) if view.window is None]
        if not whole:
            raise bad(
                type(self).__name__, "views", list(views), "one of the whole frame among them, as 128px"
            )
        self._full_mode = max(whole)[1]
        self.encoder = encoder
        self.adapters = nn.ModuleList(nn.Linear(encoder.feature_size, hidden_size) for _ in self.views)
        self.when = nn.Linear(2 * NUM_WAVES, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.thumbnail = preview if isinstance(preview, Thumbnail) else None
        self.packets = preview if isinstance(preview, PacketSizes) else None
        self.preview_size = 0 if preview is None else preview.size
        self.feature_dropout, self.summary_dropout = nn.Dropout(feature_dropout), nn.Dropout(summary_dropout)
        self.frames: Frames | None = None
        each = [
            view.resize_flops(frame_size)
            + encoder.flops(view.size)
            + module_flops(adapter)
            + module_flops(self.when)
            for view, adapter in zip(self.views, self.adapters, strict=True)
        ]
        self._look_flops = torch.tensor([0, *each], dtype=torch.float64)

    @property
    def full_mode(self) -> int:
        """Index of the largest view of the whole frame."""
        return self._full_mode

    @property
    @abstractmethod
    def _remember_flops(self) -> int:
        """FLOPs of taking one encoded frame in."""

    def preview(self, tokens: Int[Tensor, "batch positions"]) -> Float[Tensor, "batch positions preview"]:
        """What the tiny network makes of every frame; 0 where the id is padding."""
        if self.previewer is None:
            raise NotImplementedError
        found = torch.zeros(*tokens.shape, self.preview_size, device=tokens.device)
        real = tokens > 0
        shown = self.shown_to_preview(tokens[real])
        for part, rows in zip(shown.split(PREVIEWS), real.nonzero().split(PREVIEWS), strict=True):
            found[rows[:, 0], rows[:, 1]] = self.previewer(part).to(found.dtype)
        return found

    def packet_excess(self, tokens: Int[Tensor, "batch positions"]) -> Float[Tensor, "batch positions"]:
        """How much larger the packets of each frame are than those around; 0 where the id is padding."""
        found = torch.zeros(tokens.shape, device=tokens.device)
        found[tokens > 0] = self._store().packets(tokens[tokens > 0])[:, EXCESS]
        return found

    @property
    def packet_flops(self) -> int:
        """One for each number touched."""
        return NUMBERS_FLOPS

    @property
    def previewer(self) -> Thumbnail | PacketSizes | None:
        """The tiny network."""
        return self.packets if self.thumbnail is None else self.thumbnail

    def shown_to_preview(self, ids: Int[Tensor, " n"]) -> Tensor:
        """What the tiny network is shown of frames: their thumbnails, or what their packets tell."""
        return self._store().packets(ids) if self.thumbnail is None else self._store().thumbnails(ids)

    @property
    def preview_flops(self) -> int:
        """Shrinking one frame to its thumbnail, where there is one, and the tiny network."""
        if self.thumbnail is None:
            return 0 if self.packets is None else self.packets.flops
        shrunk = resize_flops(3 * self.frame_size**2, 3 * self.thumbnail.height * self.thumbnail.width)
        return shrunk + self.thumbnail.flops

    def _store(self) -> Frames:
        if self.frames is None:
            raise bad("reader", "frames", None, "a source of videos to look them up in")
        return self.frames

    def _look(self, ids: Tensor, positions: Tensor, modes: Tensor) -> Float[Tensor, "n hidden"]:
        """Encode frames, each in its mode, and add when they are from."""
        seen = self.when(waves(positions, self.task.max_length))
        for index, (view, adapter) in enumerate(zip(self.views, self.adapters, strict=True), start=1):
            here = (modes == index).nonzero()[:, 0]
            if len(here):
                features = self.feature_dropout(self._features(ids[here], view))
                seen = seen.index_add(0, here, adapter(features))
        found: Tensor = nn.functional.silu(self.norm(seen))
        return found

    def _features(self, ids: Tensor, view: View) -> Tensor:
        store = self._store()
        if not self.encoder.frozen and self.training:  # what is looked up has no gradient
            features: Tensor = self.encoder(view.cut(store.pixels(ids)))
            return features
        return store.features(ids, view, self.encoder)

    def read_flops(self, modes: Tensor, counts: Tensor, before: Tensor) -> Tensor:
        """Encoder, adapter and memory; each frame of a mode costs the same."""
        look = self._look_flops.to(modes.device)[modes]
        return (look + self._remember_flops * (modes > 0)) * counts

    @property
    def predict_flops(self) -> int:
        """One linear layer."""
        return linear_flops(self.summary_size, self.task.num_classes)

    def predict(self, summary: Tensor) -> Tensor:
        """One linear layer."""
        logits: Tensor = self.head(self.summary_dropout(summary))
        return logits

    def step(self, state: State, chunk: Chunk, modes: Tensor) -> State:
        """Take in the frames of each slot, one after the other."""
        for column in range(chunk.tokens.shape[1]):
            rows = ((chunk.counts > column) & (modes > 0)).nonzero()[:, 0]
            if len(rows):
                seen = self._look(chunk.tokens[rows, column], chunk.positions[rows, column], modes[rows])
                part = self._remember(tuple(s[rows] for s in state), seen)
                state = tuple(s.index_copy(0, rows, p) for s, p in zip(state, part, strict=True))
        return state

    @abstractmethod
    def _remember(self, state: State, seen: Float[Tensor, "n hidden"]) -> State:
        """Take one encoded frame into each state."""

    def _encode(self, reads: Reads) -> tuple[Tensor, Tensor]:
        """Encoded frames (batch, steps, width, hidden), 0 where none was read, and which were (batch, steps, width)."""
        real = reads.valid() & (reads.modes > 0)[..., None]
        modes = reads.modes[..., None].expand_as(real)
        seen = self._look(reads.tokens[real], reads.positions[real], modes[real])
        laid = seen.new_zeros(*real.shape, seen.shape[-1])
        laid[real] = seen
        return laid, real


def waves(positions: Tensor, longest: int) -> Float[Tensor, "... waves"]:
    """Sines and cosines of the share of the longest sequence that lies before a position (arXiv 1706.03762)."""
    share = (positions.float() + 0.5) / longest
    angles = share[..., None] * torch.pi * 2.0 ** torch.arange(NUM_WAVES, device=positions.device)
    return torch.cat([angles.sin(), angles.cos()], -1)


class AttentiveFrameReader(FrameReader):
    """Pools what was seen by gated attention (arXiv 1802.04712) and by maximum, whatever the order.

    Frames that show nothing get little weight, so that looking at them does not wash out the others. The sums of
    attention are kept as they grow, so that a step costs the same after any number of frames.

    Args:
        num_heads: sets of attention weights.
        (others): see FrameReader.
    """

    def __init__(
        self,
        task: Task,
        encoder: FrameEncoder,
        views: tuple[Text, ...] = ("128px",),
        frame_size: Pixels = 128,
        hidden_size: Units = 192,
        num_heads: Few = 4,
        preview: Thumbnail | PacketSizes | None = None,
        feature_dropout: BelowOne = 0.3,
        summary_dropout: BelowOne = 0.3,
    ) -> None:
        super().__init__(
            task, encoder, views, frame_size, hidden_size, preview, feature_dropout, summary_dropout
        )
        if hidden_size % num_heads:
            raise bad(
                "AttentiveFrameReader", "num_heads", num_heads, f"a divisor of hidden_size ({hidden_size})"
            )
        self.num_heads, self.hidden_size = num_heads, hidden_size
        self.values = nn.Linear(hidden_size, hidden_size)
        self.gates = nn.Linear(hidden_size, 2 * hidden_size)
        self.scores = nn.Linear(hidden_size, num_heads)
        self.summary_size = 2 * hidden_size
        self.head = nn.Linear(self.summary_size, task.num_classes)

    @property
    def _remember_flops(self) -> int:
        return module_flops(self.values) + module_flops(self.gates) + module_flops(self.scores)

    def initial(self, num: int) -> State:
        """Sum of weighted values, sum of weights, maximum, frames seen."""
        weight = self.head.weight
        return (
            weight.new_zeros(num, self.hidden_size),
            weight.new_zeros(num, self.num_heads),
            weight.new_zeros(num, self.hidden_size),
            weight.new_zeros(num, 1),
        )

    def _weigh(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted values (..., hidden), weights (..., heads), and values that are never negative for the maximum."""
        value = self.values(seen)
        how, whether = self.gates(seen).chunk(2, -1)
        score = self.scores(torch.tanh(how) * torch.sigmoid(whether))
        weight = torch.exp(LOUDEST * torch.tanh(score / LOUDEST))
        spread = weight.repeat_interleave(self.hidden_size // self.num_heads, -1)
        return value * spread, weight, nn.functional.relu(value)

    def _remember(self, state: State, seen: Tensor) -> State:
        weighted, weight, value = self._weigh(seen)
        total, weights, highest, num = state
        return total + weighted, weights + weight, torch.maximum(highest, value), num + 1

    def summary(self, state: State) -> Tensor:
        """Weighted mean and maximum; 0 before the first frame."""
        total, weights, highest, _ = state
        spread = weights.repeat_interleave(self.hidden_size // self.num_heads, -1)
        return torch.cat([total / spread.clamp_min(1e-6), highest], -1)

    def replay(self, reads: Reads) -> Tensor:
        """Running sums and maxima over all steps at once."""
        seen, real = self._encode(reads)
        weighted, weight, value = (part * real[..., None] for part in self._weigh(seen))
        batch = real.shape[0]
        states = [
            torch.cat([part.new_zeros(batch, 1, part.shape[-1]), part], 1)
            for part in (
                weighted.sum(2).cumsum(1),
                weight.sum(2).cumsum(1),
                value.amax(2).cummax(1).values,
                real.sum(2).cumsum(1)[..., None],
            )
        ]
        return self.summary(tuple(states))


class RecurrentFrameReader(FrameReader):
    """A GRU over the frames in the order in which they were seen, read out by maximum and mean.

    Args:
        (all): see FrameReader.
    """

    def __init__(
        self,
        task: Task,
        encoder: FrameEncoder,
        views: tuple[Text, ...] = ("128px",),
        frame_size: Pixels = 128,
        hidden_size: Units = 192,
        preview: Thumbnail | PacketSizes | None = None,
        feature_dropout: BelowOne = 0.3,
        summary_dropout: BelowOne = 0.3,
    ) -> None:
        super().__init__(
            task, encoder, views, frame_size, hidden_size, preview, feature_dropout, summary_dropout
        )
        self.cell = nn.GRU(hidden_size, hidden_size, batch_first=True)
        self.readout = ReadOut(("max", "mean"), hidden_size)
        self.summary_size = self.readout.size
        self.head = nn.Linear(self.summary_size, task.num_classes)

    @property
    def _remember_flops(self) -> int:
        return cell_flops("gru", self.cell.input_size, self.cell.hidden_size)

    def initial(self, num: int) -> State:
        """Zero hidden state, nothing read out."""
        weight = self.head.weight
        return (weight.new_zeros(num, self.cell.hidden_size), *self.readout.initial(num, weight))

    def _remember(self, state: State, seen: Tensor) -> State:
        outputs, hidden = self.cell(seen[:, None], state[0][None].contiguous())
        ones = torch.ones(len(seen), dtype=torch.long, device=seen.device)
        return (hidden[0], *self.readout.update(state[1:], outputs, ones))

    def summary(self, state: State) -> Tensor:
        """The running read-out."""
        return self.readout.summary(state[1:])

    def replay(self, reads: Reads) -> Tensor:
        """One fused pass over the frames that were read."""
        reads = reads._replace(counts=reads.counts * (reads.modes > 0))
        dense = close_up(reads)
        seen, real = self._encode(reads)
        batch, steps, width = real.shape
        rows = torch.arange(batch, device=seen.device)[:, None, None].expand_as(real)
        laid = seen.new_zeros(batch, dense.tokens.shape[1], seen.shape[-1])
        laid[rows[real], dense.index[real]] = seen[real]
        outputs, _ = self.cell(laid)
        index = dense.index.reshape(batch, steps * width, 1).expand(-1, -1, outputs.shape[-1])
        return self.readout.replay(outputs.gather(1, index).view(batch, steps, width, -1), reads)
