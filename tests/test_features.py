"""What is kept of frames: found again by content, the same as computed anew, whole after a kill."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from temporal.data.clips import Span, VideoSequences
from temporal.data.decode import Video
from temporal.data.features import CachedFrames
from temporal.data.manifests import Clip
from temporal.data.pool import Pool, digest
from temporal.errors import UserError
from temporal.readers.base import Task
from temporal.readers.frames import thumbnail
from temporal.readers.video import FrameReader
from tests.clips import cut, make_clip, read_index
from tests.footage import SIDE, THUMBNAIL, make_frame_reader

NUM_FRAMES = 6
TASK = Task(1, ("a", "b"), NUM_FRAMES, NUM_FRAMES)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEMPORAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [make_clip(folder / f"{num}.mp4", num, size=(32, 64)) for num in (12, 20)]


def clips_of(paths: list[Path]) -> VideoSequences:
    spans = []
    for path in paths:
        with Video(str(path)) as video:
            spans.append(Span(0, video.probe.num_frames))
    return VideoSequences([Clip(str(p), None, None) for p in paths], spans, NUM_FRAMES)


def count_encoded(monkeypatch: pytest.MonkeyPatch, reader: FrameReader) -> list[int]:
    """Frames in each call of the encoder from now on."""
    calls: list[int] = []
    encode = reader.encoder.encode
    monkeypatch.setattr(
        reader.encoder, "encode", lambda pixels: (calls.append(len(pixels)), encode(pixels))[1]
    )
    return calls


def test_what_is_kept_is_what_the_encoder_makes_of_the_frames(videos: list[Path]) -> None:
    reader, clips = make_frame_reader(TASK).eval(), clips_of(videos)
    kept = CachedFrames(clips, reader)
    for number, path in enumerate(videos):
        indices = clips.frame_indices(number)
        with Video(str(path)) as video:
            frames = video.frames(indices.tolist(), (SIDE, SIDE)).frames
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
        ids = 1 + clips.first[number] + torch.arange(len(indices))
        assert torch.equal(kept.pixels(ids), pixels)
        assert torch.equal(kept.thumbnails(ids), thumbnail(pixels, *THUMBNAIL))
        for view in reader.views:
            expected = reader.encoder(view.cut(pixels))
            torch.testing.assert_close(
                kept.features(ids, view, reader.encoder), expected, atol=0.01, rtol=1e-3
            )
    some = torch.tensor([9, 1, 9, 12])
    alone = torch.cat([kept.features(i[None], reader.views[0], reader.encoder) for i in some])
    assert torch.equal(kept.features(some, reader.views[0], reader.encoder), alone)


def test_the_frames_are_those_of_the_positions(tmp_path: Path) -> None:
    clips = clips_of([make_clip(tmp_path / "a.mp4", 40)])
    reader = make_frame_reader(TASK, frame_size=64)
    pixels = CachedFrames(clips, reader).pixels(torch.arange(1, 7))
    shown = [read_index(frame.permute(1, 2, 0).numpy()) for frame in pixels]
    assert shown == clips.frame_indices(0).tolist() == [3, 10, 16, 23, 30, 36]


def test_a_frame_is_encoded_once_wherever_its_file_lies(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = make_frame_reader(TASK).eval()
    calls = count_encoded(monkeypatch, reader)
    CachedFrames(clips_of(videos), reader)
    assert sum(calls) == 2 * len(videos) * NUM_FRAMES  # two views
    moved = [Path(shutil.copy(path, tmp_path / f"moved{i}.mp4")) for i, path in enumerate(videos)]
    CachedFrames(clips_of(moved), reader)
    assert sum(calls) == 2 * len(videos) * NUM_FRAMES
    make_clip(moved[0], 12, size=(32, 64), gop=3)  # another content under the same name
    CachedFrames(clips_of(moved), reader)
    assert sum(calls) == 2 * (len(videos) + 1) * NUM_FRAMES


def test_other_weights_or_sizes_are_other_features(videos: list[Path]) -> None:
    clips, ids = clips_of(videos), torch.arange(1, 13)
    torch.manual_seed(0)
    first, second = make_frame_reader(TASK), make_frame_reader(TASK)
    one, two = (CachedFrames(clips, r).features(ids, r.views[0], r.encoder) for r in (first, second))
    assert not torch.equal(one, two)
    again = CachedFrames(clips, first).features(ids, first.views[0], first.encoder)
    assert torch.equal(again, one)


def test_an_encoder_that_learns_leaves_nothing_behind(videos: list[Path]) -> None:
    reader, clips = make_frame_reader(TASK, frozen=False).eval(), clips_of(videos)
    kept, ids = CachedFrames(clips, reader), torch.tensor([2, 8])
    before = kept.features(ids, reader.views[0], reader.encoder)
    with torch.no_grad():
        reader.encoder.network.weight.mul_(2)
    assert not torch.allclose(kept.features(ids, reader.views[0], reader.encoder), before)


def test_a_video_that_cannot_be_decoded_is_named(videos: list[Path], tmp_path: Path) -> None:
    clips = clips_of([videos[0], Path(shutil.copy(videos[1], tmp_path / "bad.mp4"))])
    cut(tmp_path / "bad.mp4", 0.3)
    with pytest.raises(UserError) as error:
        CachedFrames(clips, make_frame_reader(TASK))
    told = str(error.value)
    assert told.startswith(f"data: video {tmp_path / 'bad.mp4'}, got ")
    assert told.endswith("; expected a file that can be decoded")


def rows(value: int, num: int) -> np.ndarray:
    return np.full((num, 2), value, np.float16)


def test_a_pool_goes_on_after_a_kill(tmp_path: Path) -> None:
    pool = Pool(tmp_path / "pool", (2,), np.float16)
    pool.add("a", rows(1, 3))
    with (tmp_path / "pool" / "rows.bin").open("ab") as file:  # killed before the index was written
        file.write(b"half of some rows")
    with (tmp_path / "pool" / "index.jsonl").open("a") as file:  # and once amid writing it
        file.write('{"key": "b", "ro')
    again = Pool(tmp_path / "pool", (2,), np.float16)
    assert (again.span("a"), again.span("b")) == ((0, 3), None)
    again.add("b", rows(2, 1))
    last = Pool(tmp_path / "pool", (2,), np.float16)
    assert last.span("b") == (3, 1)
    assert last.rows().tolist() == [[1, 1]] * 3 + [[2, 2]]


def test_a_pool_sees_what_others_add_when_it_looks_again(tmp_path: Path) -> None:
    one, two = (Pool(tmp_path, (2,), np.float16) for _ in range(2))
    assert one.rows().shape == (0, 2)
    one.add("a", rows(1, 2))
    assert two.span("a") is None
    with two.lock:
        two.refresh()
        two.add("b", rows(5, 1))
    one.refresh()
    assert (one.span("a"), one.span("b")) == ((0, 2), (2, 1))
    assert one.rows()[:, 0].tolist() == [1, 1, 5]


def test_keys_are_of_content_and_settings(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"same")
    two.write_bytes(b"same")
    assert digest(one) == digest(two) != digest(one, "other")
    two.write_bytes(b"else")
    assert digest(one) != digest(two)
