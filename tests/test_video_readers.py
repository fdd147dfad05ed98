"""Readers of frames against the contract of all readers, and what is particular to them."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from temporal.errors import UserError
from temporal.readers.base import Reader, Reads, Task
from temporal.readers.video import FrameReader
from tests.contracts.reader import COPY, TASK, ReaderContract, make_reads, step_through, whole
from tests.footage import SIDE, THUMBNAIL, TinyEncoder, make_frame_reader


class _FrameContract(ReaderContract):
    """What differs for frames: modes are named by their views, and there is no embedding."""

    def test_modes_go_from_copy_to_full(self) -> None:
        assert self.reader().modes == ("copy", "8px", "16px")

    def test_gradients_reach_what_was_read_and_nothing_else(self) -> None:
        reader = self.reader()
        reads = whole(2, 12, 4, 1)
        reader.predict(reader.replay(reads)).sum().backward()
        assert isinstance(reader, FrameReader)
        used, unused = reader.adapters
        assert used.weight.grad is not None
        assert unused.weight.grad is None
        assert all(p.grad is None for p in reader.encoder.parameters())


class TestAttentive(_FrameContract):
    def make_reader(self, task: Task) -> Reader:
        return make_frame_reader(task)


class TestRecurrent(_FrameContract):
    def make_reader(self, task: Task) -> Reader:
        return make_frame_reader(task, recurrent=True)


def one_by_one(order: list[int]) -> Reads:
    """One sequence of as many frames, each an observation, in an order."""
    tokens = torch.tensor(order)[None, :, None]
    ones = torch.ones(1, len(order), dtype=torch.long)
    return Reads(tokens + 1, tokens.clone(), ones, 2 * ones)


def test_attention_does_not_care_for_the_order_of_looking_but_for_the_time_of_a_frame() -> None:
    reader = make_frame_reader(TASK).eval()
    forward, shuffled = (reader.replay(one_by_one(o))[0, -1] for o in ([3, 9, 1, 20], [20, 3, 1, 9]))
    torch.testing.assert_close(forward, shuffled, atol=1e-5, rtol=1e-5)
    later = one_by_one([3, 9, 1, 20])
    later = later._replace(positions=later.positions + 7)
    assert (reader.replay(later)[0, -1] - forward).abs().max() > 1e-3


def test_recurrence_cares_for_the_order() -> None:
    reader = make_frame_reader(TASK, recurrent=True).eval()
    forward, shuffled = (reader.replay(one_by_one(o))[0, -1] for o in ([3, 9, 1, 20], [20, 3, 1, 9]))
    assert (forward - shuffled).abs().max() > 1e-3


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_frame_costs_what_the_operator_counter_sees(recurrent: bool) -> None:
    reader = make_frame_reader(TASK, recurrent).eval()
    for mode in (1, 2):
        counts = torch.tensor([[1], [1], [1]])
        reads = make_reads(counts, torch.full_like(counts, mode), torch.zeros_like(counts), 1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            step_through(reader, reads)
        expected = reader.read_flops(reads.modes[:, 0], reads.counts[:, 0], torch.zeros(3))
        expected -= reader.views[mode - 1].resize_flops(SIDE)  # which multiplies no matrix
        # a GRU on a CPU is one operator, which the counter takes for a packed sequence
        assert counter.get_total_flops() == pytest.approx(float(expected.sum()), rel=1e-6)


def test_a_frozen_encoder_learns_nothing_and_another_does() -> None:
    for frozen in (True, False):
        reader = make_frame_reader(TASK, frozen=frozen).train()
        reader.predict(reader.replay(whole(2, 6, 2, 2))).sum().backward()
        assert all((p.grad is None) == frozen for p in reader.encoder.parameters())


def test_previews_are_of_every_frame_and_of_no_padding() -> None:
    reader = make_frame_reader(TASK).eval()
    found = reader.preview(torch.tensor([[4, 9, 0], [9, 0, 0]]))
    assert found.shape == (2, 3, reader.preview_size)
    assert torch.equal(found[0, 1], found[1, 0])
    assert not found[[0, 1, 1], [2, 1, 2]].any()
    assert (found[0, 0] != found[0, 1]).any()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        reader.preview(torch.tensor([[4, 9, 7]]))
    shrinking = 3 * SIDE**2 + 3 * THUMBNAIL[0] * THUMBNAIL[1]  # every number once; no matrix is multiplied
    assert counter.get_total_flops() == 3 * (reader.preview_flops - shrinking) > 0
    assert make_frame_reader(TASK, preview=False).preview_flops == 0


def test_a_reader_without_frames_says_so() -> None:
    reader = make_frame_reader(TASK)
    reader.frames = None
    with pytest.raises(UserError) as error:
        reader.replay(whole(1, 2, 1, 2))
    assert str(error.value) == "reader: frames, got None; expected a source of videos to look them up in"
    reader.replay(whole(1, 2, 1, COPY))


def test_views_larger_than_the_frame_are_refused() -> None:
    with pytest.raises(UserError) as error:
        make_frame_reader(TASK, views=("32px",))
    message = "AttentiveFrameReader: views, got ['32px']; expected 16px or less, as frame_size"
    assert str(error.value) == message
    assert TinyEncoder().flops(16) > TinyEncoder().flops(8) > 0
