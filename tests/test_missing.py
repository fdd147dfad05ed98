"""What a video promises and does not give is found without decoding it, wherever something tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.damage import copy
from temporal.data import decoders
from temporal.data.decode import Video, VideoError
from temporal.data.decoders import Decoders, Request
from temporal.data.transport import check_transport
from tests.clips import cut, make_clip, read_indices, spoil

SIZE = (96, 160)
PACKET = 188


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("stream") / "a.ts")


def refused(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        Video(str(path))
    return str(caught.value)


def without(path: Path, target: Path, *lost: int) -> Path:
    """The video without some packets, numbered as they are stored."""
    return copy(path, target, lost=lambda number, _: number in lost)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_lost_packets_leave_a_gap_in_the_numbers_of_frames(ending: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", options={"bf": "0"})
    assert refused(without(source, tmp_path / f"b.{ending}", 20)) == "frames are lost before frame 20"
    assert refused(without(source, tmp_path / f"c.{ending}", 36, 37)) == "frames are lost before frame 36"


def test_a_lost_first_key_frame_is_told(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", options={"bf": "0"})
    assert refused(without(source, tmp_path / "b.mkv", 0)) == "no key frame before frame 11"


def test_a_bit_that_hides_the_first_key_frame_is_told(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.flv", codec="flv")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packet = next(iter(container.demux(video=0)))
        place = data.find(bytes(packet)) - 1
    assert data[place] >> 4 == 1  # a key frame
    data[place] ^= 0x30
    path.write_bytes(data)
    assert refused(path) == "no key frame before frame 12"


def test_what_perhaps_was_lost_is_told(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.avi", codec="mpeg4", options={"bf": "0"})
    with Video(str(without(source, tmp_path / "b.avi", 20, 21, 40))) as video:
        assert video.frames([0], SIZE).missing == ("perhaps 3 frames, the first after 0.63 s",)
    with Video(str(source)) as video:
        assert video.frames([0], SIZE).missing == ()


def flag(data: bytearray) -> bytes:
    """One packet of the video says that it was damaged."""
    packets = np.frombuffer(bytes(data), np.uint8).reshape(-1, PACKET).copy()
    packets[np.flatnonzero(packets[:, 1] & 31 == 1)[20], 1] |= 0x80
    return packets.tobytes()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data[: 50 * PACKET] + data[53 * PACKET :], "packets of the transport stream are missing"),
        (lambda data: data[: 50 * PACKET + 7] + data[50 * PACKET + 9 :], f"damaged at byte {51 * PACKET}"),
        (lambda data: data[: len(data) // 2 // PACKET * PACKET + 5], "cut off amid a packet of the transport stream"),
        (flag, "damaged on its way, as the transport stream says"),
    ],
)  # fmt: skip
def test_transport_streams_count_their_packets(
    change: Callable[[bytearray], bytes], expected: str, stream: Path, tmp_path: Path
) -> None:
    path = tmp_path / "b.ts"
    path.write_bytes(change(bytearray(stream.read_bytes())))
    assert refused(path) == expected


def test_a_transport_stream_cut_off_amid_a_frame_is_told(stream: Path, tmp_path: Path) -> None:
    data = np.frombuffer(stream.read_bytes(), np.uint8).reshape(-1, PACKET)
    of_video = np.flatnonzero((data[:, 1] & 31 == 1) & (data[:, 2] == 0))
    begins = of_video[(data[of_video, 1] & 0x40) > 0]
    amid = next(int(i) for i in of_video if i > begins[30] and i not in begins and i + 1 in of_video)
    path = tmp_path / "b.ts"
    path.write_bytes(data[:amid].tobytes())
    assert refused(path) == "cut off amid the last frame"


def test_joined_transport_streams_are_whole(stream: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.ts"
    path.write_bytes(2 * stream.read_bytes())
    with path.open("rb") as file:
        assert check_transport(file, 256) is None


def test_lenient_reading_says_what_is_missing(tmp_path: Path) -> None:
    path = cut(make_clip(tmp_path / "a.mkv"), 0.6)
    with Video(str(path), lenient=True) as video:
        num = video.probe.num_frames
        found = video.frames([0, 20], SIZE)
    assert 20 < num < 60
    assert read_indices(found.frames) == [0, 20]
    size = path.stat().st_size
    assert found.missing[0].startswith(f"cut off: {size} of ")


def test_lenient_reading_puts_a_key_frame_in_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4")
    spoil(path, 20)
    with Video(str(path), lenient=True) as video:
        found = video.frames([3, 22, 40], SIZE)
        assert read_indices(found.frames) == [3, 24, 40]
        assert found.missing == ("frame 22, in whose place frame 24 was shown",)
        assert video.frames([4], SIZE).missing == ()
    with Video(str(path)) as video, pytest.raises(VideoError, match=r"^damaged before or at frame 22"):
        video.frames([22], SIZE)


def test_large_pictures_are_refused(tmp_path: Path) -> None:
    path = str(make_clip(tmp_path / "a.mp4", 3))
    with pytest.raises(VideoError, match=r"^160 x 96 pixels, more than 15,000$"):
        Video(path, max_pixels=15_000)
    Video(path, max_pixels=160 * 96).close()
    # Such as the decoder must open to know what they are.
    path = str(make_clip(tmp_path / "a.mov", 1, codec="png", pix_fmt="rgb24"))
    with pytest.raises(VideoError, match=r"^pictures of more than 15,000 pixels, or of unknown size$"):
        Video(path, max_pixels=15_000)


@pytest.mark.parametrize("num", [1, 8])
def test_memory_is_estimated_by_pixels_and_references(num: int, tmp_path: Path) -> None:
    options = {"bf": "0", "x264-params": f"ref={num}"}
    with Video(str(make_clip(tmp_path / "a.mp4", 9, options=options))) as video:
        assert video.estimated_bytes == (num + 3) * 160 * 96 * 3 // 2


def make_large(path: Path, side: int) -> Path:
    """One square frame, of whatever is in memory."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = side, side, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(side, side, "yuvj420p")))
        container.mux(stream.encode())
    return path


def test_want_of_memory_costs_only_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = str(make_clip(tmp_path / "a.mp4", 3)), str(make_large(tmp_path / "b.mov", 4096))
    command = "from temporal.data import serving; serving.MEMORY_BYTES = 20 << 20; serving.serve()"
    monkeypatch.setattr(decoders, "COMMAND", command)
    with Decoders(1) as pool:
        tickets = [pool.submit(Request(path, [0], SIZE)) for path in (small, large, small)]
        assert pool.result(tickets[0]).frames.shape == (1, *SIZE, 3)
        with pytest.raises(VideoError, match=r"^decoding it takes more than 20 MB of memory$"):
            pool.result(tickets[1])
        assert pool.result(tickets[2]).frames.shape == (1, *SIZE, 3)


def test_large_files_are_closed_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import OrderedDict

    from temporal.data import serving

    videos = OrderedDict((name, Video(str(make_clip(tmp_path / f"{name}.mp4", 3)))) for name in "ab")
    assert not serving._is_too_much(videos)
    monkeypatch.setattr(serving, "OPEN_BYTES", 1000)
    assert serving._is_too_much(videos)
    videos.pop("a").close()
    assert not serving._is_too_much(videos)  # one alone may take more
    videos.pop("b").close()
