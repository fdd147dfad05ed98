"""What every reader must do: subclass `ReaderContract`, implement `make_reader`, and get all its checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from temporal.errors import UserError
from temporal.readers.base import COPY, Chunk, Reader, Reads, State, Task, put_rows

TASK = Task(vocabulary_size=30, class_names=("a", "b", "c"), mean_length=12.4, max_length=60)
CLOSE = 1e-5  # float32 sums in another order; outputs are near 1
SAME = 1e-6  # the same sums, perhaps in a kernel for another batch size

few = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    # One method serves all subclasses, which is the point of a contract.
    suppress_health_check=[HealthCheck.differing_executors],
)


@st.composite
def readings(draw: st.DrawFn) -> Reads:
    """Ragged observations with gaps between them, all full, or full and copied, or in any of three modes."""
    batch, steps, width = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    size = batch * steps
    counts = torch.tensor(draw(st.lists(st.integers(0, width), min_size=size, max_size=size)))
    allowed = st.sampled_from(draw(st.sampled_from([(2,), (0, 2), (0, 1, 2)])))  # skimming takes another path
    modes = torch.tensor(draw(st.lists(allowed, min_size=size, max_size=size)))
    gaps = torch.tensor(draw(st.lists(st.integers(0, 9), min_size=size, max_size=size)))
    return make_reads(counts.view(batch, steps), modes.view(batch, steps), gaps.view(batch, steps), width)


def make_reads(counts: Tensor, modes: Tensor, gaps: Tensor, width: int, seed: int = 0) -> Reads:
    """Random tokens read in order, `gaps` (batch, steps) tokens passed over before each observation."""
    generator = torch.Generator().manual_seed(seed)
    starts = (gaps + counts).cumsum(1) - counts
    places = torch.arange(width)
    real = places < counts[..., None]
    tokens = torch.randint(1, TASK.vocabulary_size, real.shape, generator=generator)
    return Reads(tokens * real, (starts[..., None] + places) * real, counts, modes)


def whole(batch: int, length: int, chunk: int, mode: int, seed: int = 0) -> Reads:
    """Sequences read to the end in chunks; the same seed and length hold the same tokens for any chunk."""
    generator = torch.Generator().manual_seed(seed)
    steps = -(-length // chunk)
    real = (torch.arange(steps * chunk) < length).expand(batch, -1)
    tokens = torch.randint(1, TASK.vocabulary_size, (batch, length), generator=generator)
    tokens = torch.nn.functional.pad(tokens, (0, steps * chunk - length))
    shape = (batch, steps, chunk)
    counts = real.view(shape).sum(2)
    positions = (torch.arange(steps * chunk) * real).reshape(shape)
    return Reads(tokens.view(shape), positions, counts, torch.full_like(counts, mode))


def step_through(reader: Reader, reads: Reads) -> tuple[Tensor, State]:
    """Summaries before the first step and after each (batch, steps + 1, summary), and the last state."""
    state = reader.initial(reads.counts.shape[0])
    summaries = [reader.summary(state)]
    for i in range(reads.counts.shape[1]):
        state = reader.step(state, reads.step(i), reads.modes[:, i])
        summaries.append(reader.summary(state))
    return torch.stack(summaries, 1), state


def assert_kept(before: State, after: State, rows: list[int]) -> None:
    """Those rows are the same bit for bit; a memory that grew for the sake of others grew by zeros."""
    for old, new in zip(before, after, strict=True):
        for row in rows:
            room = old[row].shape[:1]
            assert torch.equal(new[row][: room[0]] if room else new[row], old[row])
            assert not room or not bool(new[row][room[0] :].any())


class ReaderContract(ABC):
    """The checks; `make_reader` is called anew for each of them."""

    @abstractmethod
    def make_reader(self, task: Task) -> Reader:
        """A small reader with the defaults of its kind."""

    def reader(self, seed: int = 0) -> Reader:
        """A reader without dropout, from a seed."""
        torch.manual_seed(seed)
        return self.make_reader(TASK).eval()

    @few
    @given(readings())
    def test_replay_equals_repeated_steps(self, reads: Reads) -> None:
        reader = self.reader()
        reads = reads._replace(modes=reads.modes.clamp(max=len(reader.modes) - 1))
        stepped, _ = step_through(reader, reads)
        torch.testing.assert_close(reader.replay(reads), stepped, atol=CLOSE, rtol=CLOSE)

    def test_replay_equals_repeated_steps_over_a_long_text(self) -> None:
        reader = self.reader()
        reads = whole(batch=2, length=200, chunk=8, mode=len(reader.modes) - 1)
        stepped, _ = step_through(reader, reads)
        torch.testing.assert_close(reader.replay(reads), stepped, atol=CLOSE, rtol=CLOSE)

    def test_later_reads_leave_earlier_read_outs_alone(self) -> None:
        reader = self.reader()
        reads = whole(3, 20, 4, len(reader.modes) - 1)
        shorter = Reads(*(column[:, :2] for column in reads))
        torch.testing.assert_close(reader.replay(reads)[:, :3], reader.replay(shorter), atol=SAME, rtol=SAME)

    def test_every_token_matters(self) -> None:
        # Without this a reader of constant output would pass the rest.
        reader = self.reader()
        reads = whole(1, 6, 3, len(reader.modes) - 1)
        before = reader.replay(reads)[0, -1]
        for step in range(2):
            for place in range(3):
                tokens = reads.tokens.clone()
                tokens[0, step, place] = tokens[0, step, place] % (TASK.vocabulary_size - 1) + 1
                assert (reader.replay(reads._replace(tokens=tokens))[0, -1] - before).abs().max() > 1e-3

    def test_copy_and_nothing_keep_the_state_bit_for_bit(self) -> None:
        reader = self.reader()
        full = len(reader.modes) - 1
        reads = whole(4, 8, 4, full)
        _, before = step_through(reader, Reads(*(column[:, :1] for column in reads)))
        chunk = reads.step(1)._replace(counts=torch.tensor([4, 4, 0, 2]))
        after = reader.step(before, chunk, torch.tensor([COPY, full, full, full]))
        assert_kept(before, after, [0, 2])
        changed = (reader.summary(after) != reader.summary(before)).any(1)
        assert changed.tolist() == [False, True, False, True]
        nobody = reader.step(before, chunk, torch.full((4,), COPY))
        assert_kept(before, nobody, [0, 1, 2, 3])

    def test_step_leaves_the_state_it_was_given(self) -> None:
        reader = self.reader()
        full = torch.full((2,), len(reader.modes) - 1)
        reads = whole(2, 12, 4, len(reader.modes) - 1)
        _, start = step_through(reader, Reads(*(column[:, :1] for column in reads)))
        before = tuple(s.clone() for s in start)
        one = reader.step(start, reads.step(1), full)
        summary = reader.summary(one).clone()
        reader.step(start, reads.step(2), full)  # another branch from the same state
        assert all(torch.equal(a, b) for a, b in zip(start, before, strict=True))
        assert torch.equal(reader.summary(one), summary)

    @few
    @given(readings(), st.randoms(use_true_random=False))
    def test_rows_do_not_know_of_each_other(self, reads: Reads, random: Random) -> None:
        reader = self.reader()
        reads = reads._replace(modes=reads.modes.clamp(max=len(reader.modes) - 1))
        order = list(range(reads.counts.shape[0]))
        random.shuffle(order)
        together = step_through(reader, reads)[0]
        shuffled = step_through(reader, Reads(*(column[order] for column in reads)))[0]
        torch.testing.assert_close(shuffled, together[order], atol=SAME, rtol=SAME)
        for row in order:
            alone = step_through(reader, Reads(*(column[row : row + 1] for column in reads)))[0]
            torch.testing.assert_close(alone, together[row : row + 1], atol=SAME, rtol=SAME)

    def test_a_refilled_slot_forgets(self) -> None:
        reader = self.reader()
        full = torch.full((3,), len(reader.modes) - 1)
        reads = whole(3, 12, 4, len(reader.modes) - 1)
        state = step_through(reader, Reads(*(column[:, :2] for column in reads)))[1]
        rows = torch.tensor([1])
        state = tuple(put_rows(s, rows, n) for s, n in zip(state, reader.initial(1), strict=True))
        assert not reader.summary(state)[1].any()
        refilled = reader.summary(reader.step(state, reads.step(0), full))
        fresh = reader.summary(reader.step(reader.initial(3), reads.step(0), full))
        torch.testing.assert_close(refilled[1], fresh[1], atol=SAME, rtol=SAME)
        assert (refilled[0] - fresh[0]).abs().max() > 1e-3  # its neighbour remembers

    @pytest.mark.parametrize("chunk", [1, 5, 8, 64])
    def test_chunk_size_changes_nothing(self, chunk: int) -> None:
        reader = self.reader()
        mode = len(reader.modes) - 1
        expected = step_through(reader, whole(2, 37, 3, mode))[0][:, -1]
        actual = step_through(reader, whole(2, 37, chunk, mode))[0][:, -1]
        torch.testing.assert_close(actual, expected, atol=CLOSE, rtol=CLOSE)

    def test_what_stands_beyond_the_count_is_not_read(self) -> None:
        reader = self.reader()
        counts = torch.tensor([[2, 3], [4, 1], [0, 2]])
        clean = make_reads(counts, torch.full_like(counts, len(reader.modes) - 1), torch.ones_like(counts), 4)
        dirty = torch.where(clean.valid(), clean.tokens, torch.full_like(clean.tokens, 7))
        dirty_positions = torch.where(clean.valid(), clean.positions, torch.full_like(clean.tokens, 3))
        other = clean._replace(tokens=dirty, positions=dirty_positions)
        assert torch.equal(step_through(reader, other)[0], step_through(reader, clean)[0])
        assert torch.equal(reader.replay(other), reader.replay(clean))

    def test_of_nothing_the_read_out_is_zero_and_the_answer_finite(self) -> None:
        reader = self.reader()
        nothing = reader.summary(reader.initial(2))
        assert nothing.shape == (2, reader.summary_size)
        assert not nothing.any()
        logits = reader.predict(nothing)
        assert logits.shape == (2, TASK.num_classes)
        assert logits.isfinite().all()
        copied = whole(2, 8, 4, COPY)
        assert not reader.replay(copied).any()
        assert reader.summary(reader.initial(0)).shape == (0, reader.summary_size)

    def test_modes_go_from_copy_to_full(self) -> None:
        modes = self.reader().modes
        assert (modes[COPY], modes[-1], len(set(modes))) == ("copy", "full", len(modes))

    @few
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 500))
    def test_costs_add_up_over_chunks(self, counts: list[int], start: int) -> None:
        reader = self.reader()
        for mode in range(len(reader.modes)):
            modes = torch.full((len(counts),), mode)
            each = torch.tensor(counts)
            parts = reader.read_flops(modes, each, start + each.cumsum(0) - each)
            at_once = reader.read_flops(modes[:1], each.sum()[None], torch.tensor([start]))
            assert parts.dtype == at_once.dtype == torch.float64
            assert float(parts.sum()) == float(at_once)  # whole numbers below 2^53: exact

    def test_costs_grow_with_mode_and_count(self) -> None:
        reader = self.reader()
        modes = torch.arange(len(reader.modes))[:, None].expand(-1, 5)
        counts = torch.arange(5).expand(len(reader.modes), -1)
        costs = torch.stack(
            [reader.read_flops(m, c, torch.zeros_like(c)) for m, c in zip(modes, counts, strict=True)]
        )
        assert not costs[COPY].any()
        assert not costs[:, 0].any()
        assert (costs.diff(dim=1)[1:] > 0).all()
        assert (costs.diff(dim=0)[:, 1:] > 0).all()

    def test_full_reading_is_one_reading_and_one_answer(self) -> None:
        reader = self.reader()
        full, zero = torch.tensor([len(reader.modes) - 1]), torch.tensor([0])
        for length, tokens in ((None, 12), (60, 60), (0, 1)):
            cost = float(reader.read_flops(full, torch.tensor([tokens]), zero)) + reader.predict_flops
            assert reader.full_flops(length) == cost

    def test_predict_costs_what_the_operator_counter_sees(self) -> None:
        reader = self.reader()
        with FlopCounterMode(display=False) as counter:
            reader.predict(torch.randn(7, reader.summary_size))
        assert counter.get_total_flops() == 7 * reader.predict_flops > 0

    def test_gradients_reach_what_was_read_and_nothing_else(self) -> None:
        reader = self.reader()
        full = len(reader.modes) - 1
        reads = whole(2, 12, 4, full)
        reads.modes[:, 1] = COPY
        weights = torch.randn(TASK.num_classes, generator=torch.Generator().manual_seed(1))
        (reader.predict(reader.replay(reads)) * weights).sum().backward()
        embedding = next(m for m in reader.modules() if isinstance(m, torch.nn.Embedding))
        assert embedding.weight.grad is not None
        touched = set(embedding.weight.grad.abs().sum(1).nonzero()[:, 0].tolist())
        assert touched == set(reads.tokens[:, [0, 2]].flatten().tolist())

    def test_gradients_of_replay_equal_those_of_steps(self) -> None:
        reads = whole(2, 9, 4, len(self.reader().modes) - 1)
        weights = torch.randn(2, 4, TASK.num_classes, generator=torch.Generator().manual_seed(1))
        gradients = []
        for dense in (True, False):
            reader = self.reader()
            summaries = reader.replay(reads) if dense else step_through(reader, reads)[0]
            (reader.predict(summaries) * weights).sum().backward()
            gradients.append({n: p.grad for n, p in reader.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4, rtol=1e-4)

    def test_the_same_seed_makes_the_same_reader(self) -> None:
        one, same, other = self.reader(3), self.reader(3), self.reader(4)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
        assert not torch.equal(next(one.parameters()), next(other.parameters()))
        reads = whole(2, 9, 4, len(one.modes) - 1)
        assert torch.equal(one.replay(reads), same.replay(reads))

    def test_weights_travel(self) -> None:
        one, other = self.reader(3), self.reader(4)
        other.load_state_dict(one.state_dict())
        reads = whole(2, 9, 4, len(one.modes) - 1)
        assert torch.equal(one.replay(reads), other.replay(reads))

    def test_dropout_acts_in_training_only(self) -> None:
        reader = self.reader()
        reads = whole(2, 9, 4, len(reader.modes) - 1)
        assert torch.equal(reader.replay(reads), reader.replay(reads))
        reader.train()
        assert not torch.equal(reader.replay(reads), reader.replay(reads))

    def test_reads_up_to_its_capacity_and_no_further(self) -> None:
        reader = self.reader()
        full = torch.tensor([len(reader.modes) - 1])
        tokens = 200 if reader.capacity is None else reader.capacity
        state = step_through(reader, whole(1, tokens, 8, int(full)))[1]
        one_more = Chunk(torch.tensor([[5]]), torch.tensor([[tokens]]), torch.tensor([1]))
        if reader.capacity is None:
            assert (reader.summary(reader.step(state, one_more, full)) != reader.summary(state)).any()
            return
        with pytest.raises(UserError) as error:
            reader.step(state, one_more, full)
        assert str(error.value) == (
            f"reader: tokens read of one sequence, got {tokens + 1}; expected at most its capacity ({tokens})"
        )
        assert_kept(state, reader.step(state, one_more, torch.tensor([COPY])), [0])
