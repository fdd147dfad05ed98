"""A generated task, with small readers and agents, that the tests of agents share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from temporal.agents.base import Agent
from temporal.agents.policy import PolicyAgent
from temporal.data.base import Sequences
from temporal.data.generated import NeedleSource
from temporal.decisions import Decision
from temporal.episodes import Observation
from temporal.readers import Chunk, Reader, Reads, RecurrentReader, State, Task

NEEDLE = NeedleSource(num_sequences=64, length=20, num_classes=3, noise=5)
TASK = NEEDLE.task


class NeedleReader(Reader):
    """Knows the class as soon as it has read the needle, and until then that it does not know; nothing is trained."""

    modes = ("copy", "full")
    token_flops = 100_000  # so that deciding costs next to nothing

    def __init__(self, task: Task = TASK) -> None:
        super().__init__(task)
        self.summary_size = task.num_classes
        self.sureness = nn.Parameter(torch.tensor(20.0))
        self.eval()

    def _needles(self, tokens: Tensor) -> Tensor:
        """Indicators (..., classes) of the class tokens, which have the ids 1 to classes."""
        seen = F.one_hot(tokens, self.task.vocabulary_size)[..., 1 : 1 + self.task.num_classes]
        return seen.float()

    def initial(self, num: int) -> State:
        return (torch.zeros(num, self.task.num_classes),)

    def step(self, state: State, chunk: Chunk, modes: Tensor) -> State:
        real = torch.arange(chunk.tokens.shape[1]) < chunk.counts[:, None]
        found = self._needles(chunk.tokens * real).amax(1) * (modes == 1)[:, None]
        return (torch.maximum(state[0], found),)

    def summary(self, state: State) -> Tensor:
        return state[0]

    def replay(self, reads: Reads) -> Tensor:
        real = reads.valid() & (reads.modes == 1)[..., None]
        found = self._needles(reads.tokens * real).amax(2).cummax(1).values
        return torch.cat([torch.zeros_like(found[:, :1]), found], 1)

    def predict(self, summary: Tensor) -> Tensor:
        return self.sureness * summary

    def read_flops(self, modes: Tensor, counts: Tensor, before: Tensor) -> Tensor:
        return self.token_flops * (modes == 1) * counts.double()

    @property
    def predict_flops(self) -> int:
        return 10


class HaltsAfter(Agent):
    """Halts each episode after so many steps, at what an agent's decisions cost; takes its other decisions plainly.

    Args:
        agent: whose observations and costs these are.
        stops: (episodes,) steps, beyond the last for never.
    """

    def __init__(self, agent: Agent, stops: Tensor) -> None:
        self.agent, self.stops = agent, stops
        self.scheme, self.needs = agent.scheme, agent.needs

    @property
    def decision_flops(self) -> float:
        return self.agent.decision_flops

    @property
    def peek_flops(self) -> float:
        return self.agent.peek_flops

    def act(self, observation: Observation) -> Tensor:
        actions = torch.tensor(self.scheme.plain_action).repeat(len(observation.episode), 1)
        halt = self.scheme.halt_index
        assert halt is not None
        actions[:, halt] = (observation.observations >= self.stops[observation.episode]).long()
        return actions


def make_reader(
    seed: int = 0, task: Task = TASK, cell: str = "gru", hidden_size: int = 10
) -> RecurrentReader:
    """An untrained reader whose answers differ from text to text."""
    torch.manual_seed(seed)
    reader = RecurrentReader(task, cell, 8, hidden_size, skim_size=3)  # type: ignore[arg-type]
    nn.init.normal_(reader.embedding.weight)
    reader.salience = torch.linspace(0, 1, task.vocabulary_size)
    return reader.eval()


def make_policy(reader: Reader, *decisions: Decision, seed: int = 0, **settings: float) -> PolicyAgent:
    """A small agent; without decisions it halts only."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 12, "summary_size": 3, **settings}
    return PolicyAgent(reader.task, reader, decisions or None, **sizes).eval()  # type: ignore[arg-type]


def ragged(*lengths: int) -> Sequences:
    """Noise of those lengths, with labels."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, TASK.vocabulary_size, (sum(lengths),), generator=generator)
    labels = torch.randint(0, TASK.num_classes, (len(lengths),), generator=generator)
    return Sequences(tokens.numpy(), torch.tensor([0, *lengths]).cumsum(0).numpy(), labels.numpy())


def needle_steps(tokens: Tensor, num_classes: int, chunk: int) -> Tensor:
    """Observations (sequences,) after which the needle of each sequence (sequences, length) has been read."""
    place = ((tokens > 0) & (tokens <= num_classes)).long().argmax(1)
    return place // chunk + 1
