"""The components of an action: whether to stop, where to go, how thoroughly to read there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from temporal.errors import bad
from temporal.ranges import BelowOne, Checked, Places, Range, Text, TokensOrNone


class Choice(NamedTuple):
    """What a batch of actions means.

    Shapes: halt (batch,) bool; advance (batch,) tokens passed over unread before reading, 0 or more; place (batch,)
    position to go to, -1 to advance from the present one; mode (batch,) index into the reader's `modes`; sift
    (batch,) share of running text passed over, 0 to 1.
    """

    halt: Tensor
    advance: Tensor
    place: Tensor
    mode: Tensor
    sift: Tensor


class Situation(NamedTuple):
    """What an option's meaning may depend on: the reader's modes, which is full, and where slots stand (batch,)."""

    modes: Sequence[str]
    full: int
    length: Tensor
    observations: Tensor


class Decision(Checked, ABC):
    """One component of an action: a choice among `num_options`."""

    name: str
    anywhere: bool = False  # whether it goes to positions out of order
    every_step: bool = (
        False  # whether an option means nothing by itself, so that it is chosen anew at every step
    )

    @property
    @abstractmethod
    def num_options(self) -> int:
        """How many options there are, 1 or more."""

    @abstractmethod
    def apply(self, option: Tensor, choice: Choice, at: Situation) -> Choice:
        """Write what `option` (batch,) means into `choice`."""

    @property
    def plain(self) -> int:
        """The option that reads on in full, or comes nearest to it."""
        return 0

    def check(self, modes: Sequence[str]) -> None:
        """Raise UserError where a reader of these modes cannot do it."""


class Halt(Decision):
    """Stop reading and answer (option 1), or go on (option 0)."""

    name = "halt"

    @property
    def num_options(self) -> int:
        """Two: go on, stop."""
        return 2

    def apply(self, option: Tensor, choice: Choice, at: Situation) -> Choice:
        """Option 1 halts."""
        return choice._replace(halt=option == 1)


class Jump(Decision):
    """Pass over some tokens unread, then read (LSTM-Jump, arXiv 1704.06877, without its cap on jumps).

    A jump beyond the end of the sequence ends it. `Jump([0])` is the plain "next".

    Args:
        sizes: tokens passed over by each option; whole numbers from 0 up, all different.
    """

    name = "move"

    def __init__(self, sizes: tuple[TokensOrNone, ...] = (0, 8, 16, 32)) -> None:
        if not sizes or len(set(sizes)) != len(sizes):
            raise bad("Jump", "sizes", list(sizes), "one or more, all different")
        self.sizes = tuple(sizes)

    @property
    def num_options(self) -> int:
        """One for each size."""
        return len(self.sizes)

    @property
    def plain(self) -> int:
        """The smallest jump."""
        return self.sizes.index(min(self.sizes))

    def apply(self, option: Tensor, choice: Choice, at: Situation) -> Choice:
        """Option i passes over `sizes[i]` tokens."""
        return choice._replace(advance=torch.tensor(self.sizes, device=option.device)[option])


AdvanceLimit = Annotated[int, Range(ge=1, le=1_000_001)]
"""Jumps to any place of the longest sequence."""


class Advance(Decision):
    """Pass over any number of tokens unread, then read: what rules use that know where to go.

    Args:
        limit: tokens that can be passed over, 0 to this exclusive.
    """

    name = "move"

    def __init__(self, limit: AdvanceLimit) -> None:
        self.limit = limit

    @property
    def num_options(self) -> int:
        """One for each number of tokens."""
        return self.limit

    def apply(self, option: Tensor, choice: Choice, at: Situation) -> Choice:
        """Option k passes over k tokens."""
        return choice._replace(advance=option)


class Place(Decision):
    """Go to any place of the sequence, in any order (AdaFrame, arXiv 1811.12432; FrameGlimpse, arXiv 1511.06984).

    Args:
        num_places: the sequence is divided evenly into so many; 1 or more.
    """

    name = "move"
    anywhere = True
    every_step = True

    def __init__(self, num_places: Places = 64) -> None:
        self.num_places = num_places

    @property
    def num_options(self) -> int:
        """One for each place."""
        return self.num_places

    def positions(self, length: Int[Tensor, " batch"]) -> Int[Tensor, "batch places"]:
        """The position that each option means in sequences of these lengths."""
        return torch.arange(self.num_places, device=length.device) * length[:, None] // self.num_places

    def option(self, position: Int[Tensor, " batch"], length: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """The first option that goes to a position, or to the nearest before it."""
        return -(-position * self.num_places // length.clamp_min(1))

    def apply(self, option: Tensor, choice: Choice, at: Situation) -> Choice:
        """Option i goes to position i x length / num_places, rounded down."""
        return choice._replace(place=option * at.length // self.num_places)


class Order(Decision):
    """Nothing to decide: go through the sequence from coarse to fine (FrameExit, arXiv 2104.13400).

    The middle first, then the start, then what halves the gaps; see `coarse_to_fine`.
    """

    name = "move"
    anywhere = True

    @property
    def num_options(self) -> int:
        """One."""
        return 1

    def apply(self, option: Tensor, choice: Choice, at: Situation) -> Choice:
        """The next place in the order, after as many as were read."""
        pairs = zip(at.length.tolist(), at.observations.tolist(), strict=True)
        places = [coarse_to_fine(length)[min(seen, length - 1)] if length else 0 for length, seen in pairs]
        return choice._replace(place=torch.tensor(places, dtype=torch.long, device=option.device))


@lru_cache
def coarse_to_fine(length: int) -> tuple[int, ...]:
    """Every position of a sequence once, each where it halves a gap: bit-reversed counting from the middle.

    >>> coarse_to_fine(8)
    (4, 0, 6, 2, 5, 1, 7, 3)
    """
    bits = max(length - 1, 0).bit_length()
    reversed_ = [int(format(i, f"0{bits}b")[::-1], 2) if bits else 0 for i in range(1 << bits)]
    # shifted by half, so that the middle comes first
    shifted = [(r + (1 << bits) // 2) % (1 << bits) for r in reversed_]
    return tuple(p for p in shifted if p < length)


class Mode(Decision):
    """How thoroughly to read: one of the reader's modes for each option.

    Args:
        names: modes by name, such as copy, skim, full; all different.
    """

    name = "mode"

    def __init__(self, names: tuple[Text, ...] = ("skim", "full")) -> None:
        if not names or len(set(names)) != len(names):
            raise bad("Mode", "names", list(names), "one or more, all different")
        self.names = tuple(names)

    @property
    def num_options(self) -> int:
        """One for each mode."""
        return len(self.names)

    @property
    def plain(self) -> int:
        """Full, or the last."""
        return self.names.index("full") if "full" in self.names else len(self.names) - 1

    def apply(self, option: Tensor, choice: Choice, at: Situation) -> Choice:
        """Option i reads in mode `names[i]`."""
        index = torch.tensor([list(at.modes).index(n) for n in self.names], device=option.device)
        return choice._replace(mode=index[option])

    def check(self, modes: Sequence[str]) -> None:
        """Every name must be a mode of the reader."""
        for name in self.names:
            if name not in modes:
                raise bad("Mode", "name", name, f"one of the reader's modes {', '.join(modes)}", modes)


class Sift(Decision):
    """Of the coming observation read only the telling tokens: those whose salience reaches a level.

    Salience is a look-up for each entry of the vocabulary (a preview that multiplies nothing), scaled so that level
    0.5 passes over the less telling half of running text. This is skipping token by token (Skip RNN's copy,
    arXiv 1708.06834), with one decision for a whole chunk.

    Args:
        levels: share of running text passed over by each option, 0 (nothing) to 1 exclusive, all different.
    """

    name = "sift"

    def __init__(self, levels: tuple[BelowOne, ...] = (0.0, 0.5, 0.75)) -> None:
        if not levels or len(set(levels)) != len(levels):
            raise bad("Sift", "levels", list(levels), "one or more, all different")
        self.levels = tuple(levels)

    @property
    def num_options(self) -> int:
        """One for each level."""
        return len(self.levels)

    @property
    def plain(self) -> int:
        """The lowest level."""
        return self.levels.index(min(self.levels))

    def apply(self, option: Tensor, choice: Choice, at: Situation) -> Choice:
        """Option i passes over tokens below `levels[i]`."""
        return choice._replace(sift=torch.tensor(self.levels, device=option.device)[option])


@dataclass(frozen=True)
class Scheme:
    """The decisions that an agent takes at each step, in order.

    What no decision settles has a default: never halt, advance by 0, the reader's full mode, every token.
    An action is an integer tensor (batch, len(decisions)), as in gymnasium's MultiDiscrete.

    >>> Scheme((Halt(), Jump((0, 4)), Mode(("skim", "full")))).num_options
    (2, 2, 2)
    """

    decisions: tuple[Decision, ...]

    def __post_init__(self) -> None:
        names = [d.name for d in self.decisions]
        if not names or len(set(names)) != len(names):
            raise bad("scheme", "decisions", names, "one or more, each kind at most once")
        copies = any(
            isinstance(d, Sift) or (isinstance(d, Mode) and "copy" in d.names) for d in self.decisions
        )
        if copies and not self.forward:  # an agent that chose it again and again would never end
            raise bad("scheme", "decisions", names, "no sift and no mode copy where places come in any order")

    @property
    def num_options(self) -> tuple[int, ...]:
        """Options of each decision."""
        return tuple(d.num_options for d in self.decisions)

    @property
    def halt_index(self) -> int | None:
        """Where in an action the halting decision stands; None where the scheme has none."""
        return self.find(Halt)

    @property
    def plain_action(self) -> tuple[int, ...]:
        """The action that reads on in full, or comes nearest to it."""
        return tuple(d.plain for d in self.decisions)

    def check(self, modes: Sequence[str]) -> None:
        """Raise UserError where a reader of these modes cannot follow the scheme."""
        for decision in self.decisions:
            decision.check(modes)

    def reading_modes(self, modes: Sequence[str], full: int) -> list[int]:
        """Indices of the modes, of a reader with these, that a step may read in; full where nothing is to choose."""
        named = [name for d in self.decisions if isinstance(d, Mode) for name in d.names]
        return [modes.index(name) for name in named if name != "copy"] or [full]

    @property
    def forward(self) -> bool:
        """Whether positions only grow, so that a sequence ends where its last one is passed."""
        return not any(d.anywhere for d in self.decisions)

    def find(self, kind: type[Decision]) -> int | None:
        """Where in an action the decision of a kind stands; None where the scheme has none."""
        return next((i for i, d in enumerate(self.decisions) if isinstance(d, kind)), None)

    def decode(self, actions: Tensor, at: Situation) -> Choice:
        """Turn actions (batch, decisions) into what they mean."""
        num, device = actions.shape[0], actions.device
        choice = Choice(
            torch.zeros(num, dtype=torch.bool, device=device),
            torch.zeros(num, dtype=torch.long, device=device),
            torch.full((num,), -1, device=device),
            torch.full((num,), at.full, device=device),
            torch.zeros(num, device=device),
        )
        for i, decision in enumerate(self.decisions):
            choice = decision.apply(actions[:, i], choice, at)
        return choice


READ_ON = Scheme((Halt(),))
"""The scheme of agents that only decide when to stop."""
