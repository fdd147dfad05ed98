"""The ways in which a rule that only halts can go through a sequence: sifted at some level, or in some order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from temporal.agents.base import Agent
from temporal.agents.controls import Sifting
from temporal.agents.looking import Coarse, PacketFirst, PreviewFirst
from temporal.agents.policy import PolicyAgent
from temporal.decisions import Sift
from temporal.readers.base import Reader
from temporal.readers.video import FrameReader

Follow = Callable[[Agent], Agent]
"""Makes a rule that only halts go through a sequence in some way."""

LEVELS = (0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
"""Of sifting, tried beside those of the agent."""


def forward(rule: Agent) -> Agent:
    """In order, every token."""
    return rule


def orders(reader: Reader) -> dict[str, Follow]:
    """The orders that rules follow, by the ending of their names; frames can be looked at in more than one."""
    found: dict[str, Follow] = {"": forward}
    if isinstance(reader, FrameReader):
        longest = reader.task.max_length
        found["_coarse"] = Coarse
        if reader.preview_size:
            found["_preview"] = lambda rule: PreviewFirst(rule, longest)
        found["_packets"] = lambda rule: PacketFirst(rule, longest)
    return found


def own_levels(agent: PolicyAgent) -> list[float]:
    """The levels above 0 at which an agent can sift."""
    return [x for d in agent.scheme.decisions if isinstance(d, Sift) for x in d.levels if x > 0]


def all_ways(reader: Reader, agent: PolicyAgent) -> dict[str, Follow]:
    """Every order of frames; every level at which texts are sifted, where salience tells tokens apart."""
    found = orders(reader)
    if not isinstance(reader, FrameReader):
        levels = LEVELS if reader.salience.unique().numel() > 1 else ()
        for level in sorted({*levels, *own_levels(agent)}):
            found[f"_sift_{level:g}"] = partial(Sifting, level=level)
    return found
