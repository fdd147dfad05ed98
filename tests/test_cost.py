"""Formulas against the operator counter, on the paths where it is right."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from temporal.agents.policy import PolicyAgent
from temporal.cost import (
    Meter,
    added_flops,
    attention_flops,
    cell_flops,
    linear_flops,
    look_up_flops,
    module_flops,
    transformer_token_flops,
)
from temporal.data.generated import NeedleSource
from temporal.decisions import Decision, Halt, Jump, Mode
from temporal.episodes import Observation, Plan
from temporal.readers import Chunk, Reader, RecurrentReader, Task, TransformerReader
from temporal.readers.base import COPY
from temporal.reading import Slots

TASK = Task(vocabulary_size=30, class_names=("a", "b", "c"), mean_length=12, max_length=60)
CELLS = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}
Cell = Literal["gru", "lstm"]


@pytest.fixture
def counted() -> FlopCounterMode:
    return FlopCounterMode(display=False)


def eager_attention(
    query: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None, **_: bool
) -> Tensor:
    """What the fused kernel computes, in products that the counter sees."""
    scores = query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    seen: Tensor = scores.softmax(-1) @ values
    return seen


# Formulas.


def test_linear(counted: FlopCounterMode) -> None:
    with counted:
        nn.Linear(7, 11)(torch.zeros(1, 7))
    assert counted.get_total_flops() == linear_flops(7, 11)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_cell(cell: Cell, counted: FlopCounterMode) -> None:
    with counted:
        CELLS[cell](7, 11)(torch.zeros(1, 7))
    assert counted.get_total_flops() == cell_flops(cell, 7, 11)


def test_the_counter_misses_a_fused_lstm(counted: FlopCounterMode) -> None:
    # Why cells are counted instead; once this fails the counter has learned it.
    with counted, torch.no_grad():
        nn.LSTM(7, 11)(torch.zeros(1, 1, 7))
    assert counted.get_total_flops() == 0


def test_cell_as_printed_by_skip_rnn() -> None:
    # Campos et al., arXiv 1708.06834, adding task: an LSTM of 110 units that reads 50 steps, "2.46e6" in MACs.
    assert f"{50 * cell_flops('lstm', 2, 110) / 2:.2e}" == "2.46e+06"


def test_attention(counted: FlopCounterMode) -> None:
    with counted:
        eager_attention(torch.zeros(1, 4, 1, 8), torch.zeros(1, 4, 5, 8), torch.zeros(1, 4, 5, 8), None)
    assert counted.get_total_flops() == float(attention_flops(32, torch.tensor(5)))


def test_attention_is_exact_for_whole_numbers() -> None:
    keys = torch.tensor(123_456_789)
    assert float(attention_flops(129, keys)) == 4 * 129 * 123_456_789


def test_transformer_token(counted: FlopCounterMode) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 24)
    with counted, torch.no_grad():
        for module in (layer.linear1, layer.linear2, *(nn.Linear(8, 8) for _ in range(4))):
            module(torch.zeros(1, module.in_features))
    assert counted.get_total_flops() == transformer_token_flops(8, 3)


def test_module(counted: FlopCounterMode) -> None:
    module = nn.Sequential(nn.Linear(5, 6), nn.SiLU(), nn.Sequential(nn.Linear(6, 7), nn.LayerNorm(7)))
    with counted:
        module(torch.zeros(1, 5))
    assert counted.get_total_flops() == module_flops(module) == 2 * (5 * 6 + 6 * 7)


# Readers.


def chunk_at(start: int, count: int) -> Chunk:
    places = torch.arange(start, start + count)[None]
    return Chunk(places % 29 + 1, places, torch.tensor([count]))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize(("mode", "units"), [("skim", 3), ("full", 10)])
def test_recurrent_reading(cell: Cell, mode: str, units: int, counted: FlopCounterMode) -> None:
    reader = RecurrentReader(TASK, cell, embedding_size=8, hidden_size=10, skim_size=3)
    kernel = {"skim": reader.skim_cell, "full": reader.full_cell}[mode]
    same = CELLS[cell](8, units)
    same.load_state_dict({name.removesuffix("_l0"): value for name, value in kernel.state_dict().items()})
    hidden = None
    with counted:
        for _ in range(4):
            hidden = same(torch.zeros(1, 8), hidden)
    cost = reader.read_flops(torch.tensor([reader.modes.index(mode)]), torch.tensor([4]), torch.tensor([9]))
    assert float(cost) == counted.get_total_flops() + 4 * look_up_flops(8)


def test_recurrent_stepping(counted: FlopCounterMode) -> None:
    # nn.GRU is counted rightly, so the very step can be checked, the skimming of some rows with it.
    reader = RecurrentReader(TASK, "gru", embedding_size=8, hidden_size=10, skim_size=3).eval()
    modes, tokens = torch.tensor([0, 1, 2]), torch.randint(1, 30, (3, 4))
    chunk = Chunk(tokens, torch.arange(4).expand(3, -1), torch.tensor([4, 4, 4]))
    with counted:
        reader.step(reader.initial(3), chunk, modes)
    cost = reader.read_flops(modes, chunk.counts, torch.zeros(3, dtype=torch.long))
    assert float(cost.sum()) == counted.get_total_flops() + (4 + 4) * look_up_flops(8)


def test_transformer_stepping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", eager_attention)
    reader = TransformerReader(TASK, width=8, num_layers=3, num_heads=2, ratio=3).eval()
    state, full = reader.initial(1), torch.tensor([1])
    for before in range(6):  # one token at a time: a wider chunk also computes what its mask then hides
        with FlopCounterMode(display=False) as counted:
            state = reader.step(state, chunk_at(before, 1), full)
        cost = reader.read_flops(full, torch.tensor([1]), torch.tensor([before]))
        assert float(cost) == counted.get_total_flops() + added_flops(8)


def test_transformer_reading_grows_with_what_was_read() -> None:
    reader = TransformerReader(TASK, width=8, num_layers=3, num_heads=2, ratio=3)
    cost = reader.read_flops(torch.tensor([1, 1, COPY]), torch.tensor([2, 2, 2]), torch.tensor([0, 100, 100]))
    keys = 1 + 2, 101 + 102
    products = [3 * (2 * transformer_token_flops(8, 3) + 4 * 8 * k) for k in keys]
    assert cost.tolist() == [each + 2 * added_flops(8) for each in products] + [0]


# Agents.


SCHEMES: list[tuple[Decision, ...]] = [(Halt(),), (Halt(), Jump((0, 4, 8)), Mode(("copy", "full")))]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sizes", [(16, 8, 0), (5, 0, 0), (9, 3, 4)])
def test_policy_decision(
    scheme: tuple[Decision, ...], sizes: tuple[int, int, int], counted: FlopCounterMode
) -> None:
    source = NeedleSource(8, 12)
    reader = RecurrentReader(source.task, hidden_size=10, skim_size=3).eval()
    agent = PolicyAgent(source.task, reader, scheme, *sizes).eval()
    observation = first_observation(source, reader, agent)
    with counted, torch.no_grad():
        agent.act(observation)
    assert counted.get_total_flops() == agent.decision_flops > 0


def first_observation(source: NeedleSource, reader: Reader, agent: PolicyAgent) -> Observation:
    plan = Plan.of(torch.tensor([0]))
    return Slots(source.split("train"), reader, agent.scheme, plan, needs=agent.needs).observe()


# The meter.


def test_meter_adds_up() -> None:
    meter = Meter.zeros(3)
    meter.charge(5.0)
    meter.charge_reading(torch.tensor([10.0, 0.0, 2.0]), torch.tensor([4, 0, 1]))
    meter.charge_reading(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([4, 0, 0]))
    assert meter.flops.tolist() == [16, 5, 9]
    assert meter.tokens.tolist() == [8, 0, 1]
    assert meter.observations.tolist() == [2, 0, 1]


def test_meter_is_exact_where_float32_is_not() -> None:
    meter = Meter.zeros(1)
    meter.charge(float(2**40))
    meter.charge(1.0)
    assert float(meter.flops) == 2**40 + 1
