"""Fitting a preview to what single frames are worth, and warming up readers that look in any order and view."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from temporal.agents.preview import ROWS, PreviewFit, PreviewPhase, answers_of_one
from temporal.agents.scene import Scene
from temporal.agents.stopping import StoppingFit
from temporal.agents.train import Training
from temporal.agents.train import train as run_training
from temporal.agents.warmup import Warmup, answer_losses, shuffled, whole_reads
from temporal.data.base import Sequences
from temporal.errors import UserError
from temporal.readers import Chunk, Reads
from temporal.readers.video import FrameReader
from tests.footage import NeedleClips
from tests.needle import make_policy
from tests.test_looking import clips, colour_reader, noise_reader

RAGGED = clips(*[20, 3, 8] * 22, 5, 2, 4, 1)  # more than are judged at once, the last of them shorter
few = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 1000)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene_of(source: Sequences, reader: FrameReader, held_out: float = 0.2) -> Scene:
    return Training(held_out=held_out).scene(source, reader, make_policy(reader), 1, 32, 0)


def frames_of(source: Sequences, row: int) -> tuple[Tensor, Tensor]:
    """The ids and the positions of all frames of one clip."""
    size = source.lengths[row : row + 1]
    chunk = source.fetch(torch.tensor([row]), torch.tensor([0]), size, int(size))
    return chunk.tokens[0], chunk.positions[0]


def chances(source: Sequences, row: int, reader: FrameReader) -> Tensor:
    """Probability of the truth (frames,) where the reader stepped over one frame alone."""
    assert source.labels is not None
    ids, positions = frames_of(source, row)
    num = len(ids)
    ones = torch.ones(num, dtype=torch.long)
    full = ones * (len(reader.modes) - 1)
    state = reader.step(reader.initial(num), Chunk(ids[:, None], positions[:, None], ones), full)
    return reader.predict(reader.summary(state)).softmax(-1)[:, int(source.labels[row])].detach()


# The loss.


def test_answers_of_one_are_those_of_stepping_over_each_frame() -> None:
    reader, rows = noise_reader(), torch.tensor([1, 66, 0, 69])
    assert RAGGED.labels is not None
    found = answers_of_one(reader, whole_reads(RAGGED, rows, 1, 2), RAGGED.labels[rows])
    assert found.shape == (4, 20)
    for row, each in zip(rows.tolist(), found, strict=True):
        expected = chances(RAGGED, row, reader)
        torch.testing.assert_close(each[: len(expected)].exp(), expected)
        assert not each[len(expected) :].exp().any()


@pytest.mark.parametrize(("flips", "seed"), [(False, 0), (True, 0), (True, 1)])
def test_the_loss_is_the_chance_of_a_right_answer_after_one_frame(flips: bool, seed: int) -> None:
    reader = noise_reader()
    assert len(RAGGED) > ROWS
    scene = scene_of(RAGGED, reader)
    phase = PreviewPhase(scene, PreviewFit(batch_size=9, flips=flips), 1.0)
    phase.prepare(generator())
    [(loss, metrics)] = phase.losses(0, generator(seed))
    same = generator(seed)
    drawn = scene.reader_rows[torch.randint(0, len(scene.reader_rows), (9,), generator=same)].tolist()
    mirrored = flips and bool(torch.rand((), generator=same) < 0.5)
    assert mirrored == (flips and seed == 1)
    total = 0.0
    for row in drawn:
        assert reader.frames is not None
        assert reader.thumbnail is not None
        pictures = reader.frames.thumbnails(frames_of(RAGGED, row)[0])
        score = reader.thumbnail(pictures.flip(-1) if mirrored else pictures)[:, 0].detach().double()
        right = sum(score.softmax(0) * chances(RAGGED, row, reader))
        total -= math.log(float(right)) / 9
    assert loss.item() == metrics["loss"] == pytest.approx(total, rel=1e-5)


def test_only_the_preview_learns_from_the_loss() -> None:
    reader = noise_reader()
    phase = PreviewPhase(scene_of(RAGGED, reader), PreviewFit(batch_size=9), 1.0)
    phase.prepare(generator())
    [(loss, _)] = phase.losses(0, generator())
    loss.backward()
    moved = {name for name, p in reader.named_parameters() if p.grad is not None and p.grad.any()}
    assert "thumbnail.head.weight" in moved
    assert all(name.startswith("thumbnail.") for name in moved)


def test_it_never_sees_what_the_agent_learns_from() -> None:
    source = NeedleClips(num=30).split("train")
    reader = colour_reader(NeedleClips(num=30))
    scene = scene_of(source, reader, held_out=0.3)
    phase = PreviewPhase(scene, PreviewFit(), 1.0)
    phase.prepare(generator())
    rows = scene.reader_rows
    assert len(rows) == 21
    assert not set(rows.tolist()) & set(scene.agent_rows.tolist())
    assert phase._worth is not None
    expected = torch.stack([chances(source, row, reader) for row in rows.tolist()])
    torch.testing.assert_close(phase._worth.exp(), expected)


# What it learns.


def fit_preview(
    reader: FrameReader, source: NeedleClips, folder: Path, updates: int, **rest: object
) -> Scene:
    """Run a training of which the preview is all."""
    training = Training(
        Warmup(epochs=0), StoppingFit(updates=0), updates=0, save_seconds=0.0,
        preview=PreviewFit(updates=updates, learning_rate=1e-2),
    )  # fmt: skip
    scene = training.scene(source.split("train"), reader, make_policy(reader), 1, 32, 0)
    run_training(training, scene, folder, 0, **rest)  # type: ignore[arg-type]
    return scene


def upside_down(source: NeedleClips) -> FrameReader:
    """A reader that knows colours, with a preview that prefers frames without."""
    reader = colour_reader(source)
    assert reader.thumbnail is not None
    with torch.no_grad():
        reader.thumbnail.head.weight.mul_(-1)
    return reader


def found_at_first_look(reader: FrameReader, source: NeedleClips) -> float:
    """Share of test clips whose needle has the highest score."""
    part = source.split("test")
    rows = torch.arange(len(part))
    with torch.no_grad():
        score = reader.preview(part.fetch(rows, 0 * rows, part.lengths, 8).tokens)[..., 0]
    assert part.truth is not None
    return float((score.argmax(1) == part.truth.argmax(1)).double().mean())


def test_it_finds_the_needle_and_the_rest_stands_still(tmp_path: Path) -> None:
    source = NeedleClips()
    reader = upside_down(source)
    before = {name: values.clone() for name, values in reader.state_dict().items()}
    assert found_at_first_look(reader, source) < 0.4
    scene = fit_preview(reader, source, tmp_path, updates=60)
    assert found_at_first_look(reader, source) > 0.8
    for name, values in reader.state_dict().items():
        assert torch.equal(values, before[name]) != name.startswith("thumbnail."), name
    agent = make_policy(reader).state_dict()
    assert all(torch.equal(values, agent[name]) for name, values in scene.agent.state_dict().items())


class KilledError(Exception):
    """Stands in for whatever ends a process."""


@pytest.mark.parametrize("last", [1, 3, 4])
def test_resumed_is_as_if_never_killed(last: int, tmp_path: Path) -> None:
    source = NeedleClips(num=30)

    def die(phase: str, done: int, total: int, metrics: dict[str, float]) -> None:
        assert (phase, total) == ("preview", 4)
        if done == last:
            raise KilledError

    whole, killed, resumed = (upside_down(source) for _ in range(3))
    fit_preview(whole, source, tmp_path / "whole", 4)
    with pytest.raises(KilledError):
        fit_preview(killed, source, tmp_path / "run", 4, progress=die)
    records: list[dict[str, float]] = []
    fit_preview(resumed, source, tmp_path / "run", 4, log=records.append)
    files = [tmp_path / name / "state.safetensors" for name in ("whole", "run")]
    assert files[0].read_bytes() == files[1].read_bytes()
    for name, values in whole.state_dict().items():
        assert torch.equal(values, resumed.state_dict()[name]), name
    assert records[0]["update"] <= last + 1


def test_readers_without_previews_and_readers_of_other_runs_are_not_fitted() -> None:
    def names(reader: FrameReader, warm: bool) -> list[str]:
        return [phase.name for phase in Training().phases(scene_of(RAGGED, reader), 0, warm)]

    assert names(noise_reader(), False) == ["warmup", "preview", "stopping", "policy"]
    assert names(noise_reader(), True) == ["stopping", "policy"]
    assert names(noise_reader(preview=False), False) == ["warmup", "stopping", "policy"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"updates": -1}, "updates, got -1; expected a whole number from 0 to 10,000,000"),
        ({"batch_size": 0}, "batch_size, got 0; expected a whole number from 1 to 65,536"),
        ({"learning_rate": 0.0}, "learning_rate, got 0.0; expected a number above 0, at most 1"),
    ],
)
def test_settings_out_of_range(change: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as error:
        PreviewFit(**change)  # type: ignore[arg-type]
    assert str(error.value) == f"PreviewFit: {message}"


# Warming up a reader that looks anywhere.


def looks(reads: Reads, row: int) -> list[tuple[object, ...]]:
    """The observations of one clip that read anything, in order."""
    columns = (reads.tokens, reads.positions, reads.counts, reads.modes)
    steps = zip(*(column[row].tolist() for column in columns), strict=True)
    return [(tuple(t[:n]), tuple(p[:n]), n, mode) for t, p, n, mode in steps if n]


@few
@given(seeds, st.integers(1, 6))
def test_shuffled_reads_hold_the_same_observations_and_padding_stays_last(seed: int, chunk: int) -> None:
    reads = whole_reads(RAGGED, torch.arange(len(RAGGED)), chunk, 2)
    mixed = shuffled(reads, 1.0, generator(seed))
    changed = 0
    for row in range(len(RAGGED)):
        assert sorted(looks(mixed, row)) == looks(reads, row)  # whole ones rise
        changed += looks(mixed, row) != looks(reads, row)
    assert torch.equal(mixed.counts > 0, reads.counts > 0)
    assert changed > len(RAGGED) / 6


def test_a_share_is_shuffled_and_every_order_is_as_likely() -> None:
    source = clips(*[3] * 1200)
    reads = whole_reads(source, torch.arange(1200), 1, 2)
    assert all(torch.equal(a, b) for a, b in zip(shuffled(reads, 0.0, generator()), reads, strict=True))
    half = shuffled(reads, 0.5, generator()).positions[..., 0]
    orders, counts = half.unique(dim=0, return_counts=True)
    assert len(orders) == 6
    straight = (orders == torch.arange(3)).all(1)
    # half are left as they are, and of the others a sixth stays so by chance
    assert int(counts[straight]) / 1200 == pytest.approx(0.5 + 0.5 / 6, abs=0.05)
    assert (counts[~straight] / 1200 - 0.5 / 6).abs().max() < 0.03


def test_shuffling_changes_no_answer_of_a_reader_that_does_not_care_for_order() -> None:
    reader, rows = noise_reader(), torch.arange(len(RAGGED))
    assert RAGGED.labels is not None
    reads = whole_reads(RAGGED, rows, 1, 2)
    with torch.no_grad():
        one, other = (
            answer_losses(reader, r, RAGGED.labels) for r in (reads, shuffled(reads, 1.0, generator()))
        )
    torch.testing.assert_close(one[:, -1], other[:, -1], atol=1e-5, rtol=1e-5)
    assert (one[:, 1] - other[:, 1]).abs().max() > 1e-4  # on the way there they have seen other frames


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_a_share_of_observations_is_read_in_another_view(share: float) -> None:
    reader = noise_reader(views=("4px", "8px", "16px"))
    warmup = Warmup(gap_share=0.0, view_share=share)
    rows = torch.arange(len(RAGGED))
    reads, plain = warmup.reads(reader, RAGGED, rows, 1, generator()), whole_reads(RAGGED, rows, 1, 3)
    for name in ("tokens", "positions", "counts"):
        assert torch.equal(getattr(reads, name), getattr(plain, name))
    shares = torch.bincount(reads.modes[reads.counts > 0], minlength=4) / (reads.counts > 0).sum()
    expected = [0, share / 3, share / 3, 1 - share * 2 / 3]
    assert shares.tolist() == pytest.approx(expected, abs=0.06)


def test_reads_out_of_order_have_gaps_too() -> None:
    warmup = Warmup(gap_share=1.0, shuffle_share=1.0)
    rows = torch.arange(len(RAGGED))
    reads = warmup.reads(noise_reader(), RAGGED, rows, 1, generator())
    assert 0.2 < float((reads.counts > 0).sum() / RAGGED.lengths.sum()) < 0.8
    for row in range(len(RAGGED)):
        found = [places for _, places, _, _ in looks(reads, row)]
        assert len(found) == len(set(found))
    assert sum(looks(reads, row) != sorted(looks(reads, row)) for row in range(len(RAGGED))) > 20


@pytest.mark.parametrize("share", ["shuffle_share", "view_share"])
def test_shares_out_of_range(share: str) -> None:
    with pytest.raises(UserError) as error:
        Warmup(**{share: 1.5})  # type: ignore[arg-type]
    assert str(error.value) == f"Warmup: {share}, got 1.5; expected a number from 0 to 1"
