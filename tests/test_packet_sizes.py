"""What packets tell without decoding, the rule and the preview made of it, and how much decoding is left."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from temporal.agents.controls import Prefix
from temporal.agents.decoding import Looks, RunUps
from temporal.agents.looking import PacketFirst
from temporal.agents.rollout import SpanRecorder
from temporal.cost import search_flops
from temporal.data.base import Sequences
from temporal.data.decode import Video, spread
from temporal.data.decoders import Decoders, Request
from temporal.episodes import Plan
from temporal.errors import UserError
from temporal.packet_sizes import EXCESS, FORWARD, KEY, NUM_NUMBERS, NUMBERS_FLOPS, REORDERED, packet_numbers
from temporal.readers.packets import PacketSizes
from temporal.readers.video import AttentiveFrameReader, FrameReader
from temporal.reading import read
from tests.clips import make_clip
from tests.footage import SIDE, NeedleClips, TinyEncoder, make_frame_reader

few = settings(max_examples=20, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames, a key frame in 12, B-frames between."""
    return make_clip(tmp_path_factory.mktemp("packets") / "a.mp4", 60)


def excess_of(reader: FrameReader, source: Sequences) -> Tensor:
    """Of all positions of sequences of one length."""
    rows = torch.arange(len(source))
    return reader.packet_excess(source.fetch(rows, 0 * rows, source.lengths, 8).tokens)


def largest(sizes: np.ndarray, kinds: np.ndarray, num: int) -> int:
    """The position of the largest excess."""
    return int(packet_numbers(sizes, kinds, num)[:, EXCESS].argmax())


class TestNumbers:
    def test_what_comes_into_view_stands_out(self) -> None:
        sizes = np.geomspace(500, 5000, 64).astype(int)  # busier and busier
        sizes[20] = 2 * sizes[20]
        sizes[::16] *= 10
        kinds = np.where(np.arange(64) % 16 == 0, KEY, FORWARD)
        assert largest(sizes, kinds, 64) == 20

    def test_kinds_are_compared_with_their_own(self) -> None:
        kinds = np.where(np.arange(60) % 3 == 0, FORWARD, REORDERED)
        sizes = np.where(kinds == FORWARD, 3000, 300)
        sizes[31] = 600  # large for one that is shown before what is stored before it
        assert largest(sizes, kinds, 60) == 31

    def test_a_position_stands_for_the_frames_between(self) -> None:
        sizes, kinds = np.full(300, 400), np.full(300, FORWARD)
        sizes[101] = 4000
        places = spread((0, 300), 20)
        assert 101 not in places
        assert largest(sizes, kinds, 20) == 101 // 15

    def test_key_frames_alone_are_compared_with_each_other(self) -> None:
        sizes = np.full(16, 1000)
        sizes[5] = 1500
        assert largest(sizes, np.full(16, KEY), 16) == 5

    def test_of_a_key_frame_nothing_is_known_among_others(self) -> None:
        kinds = np.where(np.arange(32) == 16, KEY, FORWARD)
        numbers = packet_numbers(np.where(kinds == KEY, 9000, 700), kinds, 32)
        assert not numbers[:, :-2].any()
        assert numbers[:, -2].nonzero()[0].tolist() == [16]

    @few
    @given(st.integers(0, 90), st.integers(1, 64), st.integers(0, 99))
    def test_whatever_comes_gives_finite_numbers(self, frames: int, positions: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        sizes = draw.integers(0, 10 ** draw.integers(1, 9), frames)
        numbers = packet_numbers(sizes, draw.integers(0, 3, frames), positions)
        assert numbers.shape == (min(frames, positions), NUM_NUMBERS)
        assert np.isfinite(numbers).all()


class TestFiles:
    def test_sizes_are_those_of_the_packets_in_the_order_shown(self, clip: Path) -> None:
        with av.open(str(clip)) as container:
            packets = [(p.pts, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]
        packets.sort()
        with Video(str(clip)) as video:
            found = video.timeline.packets((0, 60))
            part = video.timeline.packets((13, 40))
            assert video.num_decoded == 0
        assert found.sizes.tolist() == [size for _, size, _ in packets]
        assert (found.kinds == KEY).tolist() == [key for *_, key in packets]
        assert 20 < (found.kinds == REORDERED).sum() < 50  # two in three at most
        assert found.run_ups.tolist() == [i % 12 + 1 for i in range(60)]
        assert part.sizes.tolist() == found.sizes[13:40].tolist()
        assert part.run_ups.tolist() == found.run_ups[13:40].tolist()

    def test_workers_say_them_when_asked(self, clip: Path) -> None:
        with Decoders(1) as decoders:
            requests = Request(str(clip), packets=True, start=0.5, end=1.0), Request(str(clip))
            told, silent = (decoders.result(decoders.submit(request)) for request in requests)
        assert silent.packets is None
        assert told.packets is not None
        assert told.num_decoded == 0
        rows = told.packets.rows(spread((0, 15), 5))
        assert rows.shape == (5, NUM_NUMBERS + 2)
        # frames 16, 19, 22, 25, 28 of the file, counted from frame 15; key frames are 12 and 24
        assert rows[:, NUM_NUMBERS:].astype(int).tolist() == [[-3, 5], [-3, 8], [-3, 11], [9, 2], [9, 5]]


class TestPreview:
    def test_it_starts_as_the_rule(self) -> None:
        numbers = torch.randn(7, NUM_NUMBERS)
        assert torch.equal(PacketSizes()(numbers)[:, 0], numbers[:, EXCESS])

    def test_it_costs_its_numbers_and_its_layers(self) -> None:
        assert PacketSizes().flops == NUMBERS_FLOPS + 2 * (8 + 8 * 8 + 8)

    def test_it_has_hidden_units(self) -> None:
        with pytest.raises(UserError) as caught:
            PacketSizes(0)
        expected = "PacketSizes: hidden_size, got 0; expected a whole number from 1 to 8,192"
        assert str(caught.value) == expected

    def test_a_reader_shows_it_what_packets_tell(self) -> None:
        source = NeedleClips(4)
        reader = AttentiveFrameReader(source.task, TinyEncoder(), ("16px",), SIDE, 8, 2, PacketSizes()).eval()
        source.equip(reader)
        assert reader.frames is not None
        ids = torch.tensor([[3, 9, 0]])
        found = reader.preview(ids)
        assert found.shape == (1, 3, 1)
        assert found[0, :2, 0].tolist() == pytest.approx(
            reader.frames.packets(ids[0, :2])[:, EXCESS].tolist()
        )
        assert found[0, 2] == 0


class TestRule:
    def test_it_looks_at_the_largest_first_and_pays_for_all_positions(self) -> None:
        source = NeedleClips(12)
        reader = make_frame_reader(source.task).eval()
        source.equip(reader)
        test = source.split("test")
        excess = excess_of(reader, test)
        assert test.truth is not None
        assert torch.equal(excess.argmax(1), test.truth.argmax(1))  # the needle is the brightest
        looks = SpanRecorder(12)
        agent = PacketFirst(Prefix(2), 8)
        outcome = read(test, reader, agent, Plan.of(torch.arange(12)), 5, 1, looks)
        assert outcome is not None
        assert list(map(list, looks.positions)) == excess.argsort(1, descending=True)[:, :2].tolist()
        decisions = 3 * search_flops(8)  # two looks, and to halt
        assert set(outcome.flops.tolist()) == {8 * NUMBERS_FLOPS + decisions + reader.full_flops(2)}


class TestDecoding:
    @few
    @given(st.integers(0, 1000), st.integers(0, 8))
    def test_frames_on_the_way_are_counted_once(self, seed: int, num: int) -> None:
        source = NeedleClips(3)
        reader = make_frame_reader(source.task)
        source.equip(reader)
        draw = np.random.default_rng(seed)
        rows = torch.tensor([2, 0])
        seen = torch.zeros(2, 8, dtype=torch.bool)
        expected = []
        for row in seen:
            places = draw.choice(8, num, replace=False)
            row[torch.from_numpy(places)] = True
            # a key frame in four
            expected.append(len({i for p in places.tolist() for i in range(p // 4 * 4, p + 1)}))
        run_ups = RunUps(reader, source.split("test"), rows)
        assert run_ups.decoded(seen).tolist() == expected
        assert run_ups.all_decoded().tolist() == [8, 8]

    def test_looks_are_kept(self) -> None:
        source = NeedleClips(3)
        reader = make_frame_reader(source.task).eval()
        source.equip(reader)
        test = source.split("test")
        excess = excess_of(reader, test)
        looks = Looks(3, 8)
        read(test, reader, PacketFirst(Prefix(3), 8), Plan.of(torch.arange(3)), 2, 1, looks)
        assert looks.seen.sum(1).tolist() == [3, 3, 3]
        assert looks.seen[torch.arange(3), excess.argmax(1)].all()
