"""Frames are those asked for, whatever the file is like; what cannot be trusted is an error; nothing hangs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from temporal.data import decoders as decoders_module
from temporal.data.decode import Decoder, Video, VideoError, spread
from temporal.data.decoders import Decoders, Request
from tests.clips import HANGING, cut, damage, make_clip, make_sound, picture, read_index, read_indices, trim

try:
    import decord
except ImportError:
    decord = None

needs_decord = pytest.mark.skipif(decord is None, reason="decord has no build for this platform")
SIZE = (96, 160)
FAST_VPX = {"deadline": "realtime", "cpu-used": "8"}
QUIET_X265 = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=12"}
UNEVEN = [i * i for i in range(60)]

KINDS = {
    "plain.mp4": {},
    "plain.mkv": {},
    "plain.ts": {},
    "plain.flv": {},
    "reordered.avi": {},
    "xvid.avi": {"codec": "mpeg4", "options": {"bf": "0"}},
    "xvid_b.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": FAST_VPX},
    "vp8.webm": {"codec": "libvpx", "options": FAST_VPX | {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "hevc.mp4": {"codec": "libx265", "options": QUIET_X265},
    "open.mp4": {"options": {"x264-params": "open-gop=1:bframes=3:b-pyramid=2"}},
    "refresh.mkv": {"options": {"x264-params": "intra-refresh=1:keyint=12"}},
    "all_keys.mp4": {"gop": 1},
    "one_key.mp4": {"gop": 60},
    "uneven.mp4": {"times": UNEVEN},
    "uneven.mkv": {"times": [i * 3 + i % 2 for i in range(60)]},
    "ten_hours.mkv": {"times": [i * 18000 for i in range(60)]},
    "odd.mkv": {"size": (97, 161), "pix_fmt": "yuv444p"},
    "one.mp4": {"num": 1},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("plain") / "plain.mp4")


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames 131 to 299 of a clip with one key frame: it has 300 packets, of which 169 are shown."""
    folder = tmp_path_factory.mktemp("trimmed")
    return trim(make_clip(folder / "whole.mp4", 300, gop=300), folder / "trimmed.mp4", 131)


def copied(path: Path, folder: Path) -> Path:
    (folder / path.name).write_bytes(path.read_bytes())
    return folder / path.name


def refused(path: Path, indices: list[int] | None = None, decoder: Decoder = "pyav") -> str:
    """The reason why frames, by default all, cannot be had."""
    with pytest.raises(VideoError) as caught, Video(str(path), decoder) as video:
        video.frames(range(video.probe.num_frames) if indices is None else indices, SIZE)
    return str(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_asked_for(name: str, tmp_path: Path) -> None:
    path = make_clip(tmp_path / name, **KINDS[name])  # type: ignore[arg-type]
    drawn = np.random.default_rng(0)
    for decoder in ("pyav", "decord"):
        with Video(str(path), decoder) as video:
            num = video.probe.num_frames
            assert num == (1 if name == "one.mp4" else 60)
            few = drawn.integers(0, num, 7).tolist()
            for indices in ([num - 1], list(range(num)), few, sorted(few), [0], [num // 2] * 2):
                found = video.frames(indices, SIZE)
                assert read_indices(found.frames) == indices == found.indices.tolist()
            for index in range(0, num, 5):  # one by one, as an agent reads
                assert read_indices(video.frames([index], SIZE).frames) == [index]


def test_frames_have_the_size_asked_for(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "odd.mkv", 3, size=(97, 161), pix_fmt="yuv444p")
    with Video(str(path)) as video:
        assert (video.probe.height, video.probe.width) == (97, 161)
        assert video.frames([0]).frames.shape == (1, 97, 161, 3)
        found = video.frames([2, 0], (64, 32)).frames
        assert found.shape == (2, 64, 32, 3)
        assert found.dtype == np.uint8
        assert video.frames([], (64, 32)).frames.shape == (0, 64, 32, 3)


def test_pictures_are_right(plain: Path) -> None:
    with Video(str(plain)) as video:
        found = video.frames([40]).frames[0]
    assert np.abs(found.astype(int) - picture(40, *SIZE)).mean() < 8  # what compression leaves


@needs_decord
def test_both_decoders_give_the_same_pictures(plain: Path) -> None:
    with Video(str(plain)) as video, Video(str(plain), "decord") as other:
        first, second = video.frames([7, 40], (64, 64)), other.frames([7, 40], (64, 64))
        assert other.decoder == "decord"
    # decord scales by another filter; a wrong frame differs by 30 and more
    assert np.abs(first.frames.astype(int) - second.frames).mean() < 4
    assert np.array_equal(first.seconds, second.seconds)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_files_are_shown_upright(degrees: int, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "turned.mp4", 5, rotation=degrees)
    for decoder in ("pyav", "decord"):
        with Video(str(path), decoder) as video:
            small, native = video.frames([3], (64, 80)).frames[0], video.frames([3]).frames[0]
        # degrees count against the clock; turned back, the bars can be read
        assert small.shape == (64, 80, 3)
        assert native.shape == ((160, 96, 3) if degrees % 180 else (96, 160, 3))
        assert read_index(np.rot90(small, -degrees // 90)) == 3
        assert read_index(np.rot90(native, -degrees // 90)) == 3


def test_times_are_those_of_showing(tmp_path: Path) -> None:
    with Video(str(make_clip(tmp_path / "uneven.mp4", times=UNEVEN, fps=10))) as video:
        found = video.frames([0, 3, 59], SIZE)
        assert found.seconds == pytest.approx([0, 0.9, 348.1])
        index_at = video.timeline.index_at
        assert [index_at(s) for s in (-1, 0, 0.09, 0.1, 0.39, 0.4, 348, 1e9)] == [0, 0, 0, 1, 1, 2, 58, 59]
        assert video.timeline.span(None, None) == (0, 60)
        assert video.timeline.span(0.4, 2.5) == (2, 5)
        assert video.timeline.span(0.5, 0.6) == (2, 3)
        with pytest.raises(VideoError, match=r"^nothing at 400 s: it lasts 348\.\d+ s$"):
            video.timeline.span(400, None)


def test_positions_are_spread_evenly() -> None:
    for first, stop, num in ((0, 300, 64), (5, 7, 64), (0, 64, 64), (10, 75, 64), (3, 4, 1)):
        found = spread((first, stop), num)
        n = min(num, stop - first)
        assert found.tolist() == [first + int((i + 0.5) * (stop - first) / n) for i in range(n)]


def test_no_more_is_decoded_than_needed(tmp_path: Path) -> None:
    with Video(str(make_clip(tmp_path / "long.mp4", 240, gop=24))) as video:
        assert video.probe.key_frames == tuple(range(0, 240, 24))
        assert video.frames(range(240), SIZE).num_decoded == 240
        on_keys = video.frames(range(0, 240, 48), SIZE)
        # each key frame alone, but for the last, behind which the next frames wait to be asked for
        assert 5 <= on_keys.num_decoded <= 9
        assert video.frames([230], SIZE).num_decoded < 24
        assert video.frames([231], SIZE).num_decoded <= 3


@needs_decord
def test_edit_lists_do_not_shift_frames(trimmed: Path) -> None:
    assert decord is not None
    assert len(decord.VideoReader(str(trimmed))) == 300  # the hazard: it counts frames that are never shown
    for decoder in ("pyav", "decord"):
        with Video(str(trimmed), decoder) as video:
            assert video.probe.num_frames == 169
            assert read_indices(video.frames([0, 37, 168], SIZE).frames) == [131, 168, 299]
            assert video.frames([0], SIZE).seconds == [0]
            assert video.decoder == "pyav"


@needs_decord
def test_decord_is_not_trusted_with_frames_shown_before_their_key_frame(tmp_path: Path) -> None:
    assert decord is not None
    path = str(make_clip(tmp_path / "hevc.mp4", codec="libx265", options=QUIET_X265))
    indices = [8, 16, 20, 27, 42, 34, 51]
    alone = decord.VideoReader(path).get_batch(sorted(indices)).asnumpy()
    assert read_indices(alone) != sorted(indices)  # the hazard: times are right, frames are not
    with Video(path, "decord") as video:
        assert read_indices(video.frames(indices, SIZE).frames) == indices
        assert video.decoder == "pyav"


def test_pyav_takes_over_where_decord_is_missing(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)  # importing it raises ImportError
    with Video(str(plain), "decord") as video:
        assert read_indices(video.frames([5], SIZE).frames) == [5]
        assert video.decoder == "pyav"


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv", "xvid.avi"])
def test_damage_is_an_error(name: str, decoder: Decoder, tmp_path: Path) -> None:
    path = damage(make_clip(tmp_path / name, **KINDS[name]), 30)  # type: ignore[arg-type]
    assert re.match(r"damaged|frame \d+ of 60 cannot|invalid data", refused(path, decoder=decoder))


def test_damage_elsewhere_does_not_matter(tmp_path: Path) -> None:
    path = damage(make_clip(tmp_path / "plain.mp4"), 30)
    with Video(str(path)) as video:
        assert read_indices(video.frames([0, 3, 59], SIZE).frames) == [0, 3, 59]
        with pytest.raises(VideoError):
            video.frames([30], SIZE)
        assert read_indices(video.frames([3], SIZE).frames) == [3]


@pytest.mark.parametrize("name", ["plain.mkv", "xvid.avi", "vp9.webm"])
def test_files_cut_short_are_errors(name: str, tmp_path: Path) -> None:
    path = cut(make_clip(tmp_path / name, **KINDS[name]), 0.5)  # type: ignore[arg-type]
    assert re.match(r"cut off: \d+ of \d+ bytes are there$", refused(path))


def test_a_duration_that_is_not_kept_is_an_error(tmp_path: Path) -> None:
    path = cut(make_clip(tmp_path / "plain.flv"), 0.5)
    assert re.match(r"cut off: ends at \d\.\d of 2\.\d s$|damaged or cut off at frame", refused(path))


@pytest.mark.parametrize("name", ["plain.mkv", "vp9.webm"])
def test_bytes_lost_amid_a_matroska_file_are_an_error(name: str, tmp_path: Path) -> None:
    path = make_clip(tmp_path / name, **KINDS[name])  # type: ignore[arg-type]
    data = path.read_bytes()
    path.write_bytes(data[:3000] + data[3100:])
    assert re.match(r"damaged at byte \d+$|cut off: \d+ of \d+ bytes are there$", refused(path))
    path.write_bytes(data[:3000] + bytes(500) + data[3500:])
    assert re.match(r"damaged", refused(path))


def test_a_matroska_file_written_live_can_be_read(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "live.webm", **KINDS["vp9.webm"], container_options={"live": "1"})  # type: ignore[arg-type]
    with Video(str(path)) as video:
        assert read_indices(video.frames([0, 30, 59], SIZE).frames) == [0, 30, 59]


def test_an_mp4_cut_short_is_an_error(plain: Path, tmp_path: Path) -> None:
    assert refused(cut(copied(plain, tmp_path), 0.5)) == "invalid data found when processing input"
    fast = make_clip(tmp_path / "fast.mp4", container_options={"movflags": "faststart"})
    assert re.match(r"cut off: \d+ of \d+ bytes are there$", refused(cut(fast, 0.7)))


def test_what_is_no_video_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n")
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "gone")
    (tmp_path / "folder.mp4").mkdir()
    invalid = "invalid data found when processing input"
    assert refused(tmp_path / "empty.mp4") == invalid
    assert refused(tmp_path / "text.mp4") == invalid
    assert refused(tmp_path / "list.mp4") == invalid
    assert refused(tmp_path / "dangling.mp4") == "no such file or directory"
    assert refused(tmp_path / "folder.mp4") == "is a directory"
    assert refused(tmp_path / "missing\0.mp4") == "not a path"
    assert refused(make_sound(tmp_path / "sound.mp4")) == "no video in it"


def test_indices_beyond_the_end_are_errors(plain: Path) -> None:
    assert refused(plain, [3, 60]) == "no frame 60: there are 60"
    assert refused(plain, [-1, 3]) == "no frame -1: there are 60"


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(2) as pool:
        yield pool


def test_workers_answer_in_order_with_errors_among_them(
    decoders: Decoders, plain: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    requests = [Request(str(plain), [i], SIZE) for i in range(20)]
    requests.insert(7, Request(str(tmp_path / "text.mp4")))
    found = [
        str(answer) if isinstance(answer, VideoError) else read_index(answer.frames[0])
        for answer in decoders.map(iter(requests))
    ]
    assert found == [*range(7), "invalid data found when processing input", *range(7, 20)]


def test_workers_probe_and_spread(decoders: Decoders, plain: Path) -> None:
    probe = decoders.result(decoders.submit(Request(str(plain)))).probe
    assert probe == (60, 2.0, 160, 96, (0, 12, 24, 36, 48), (0, 60))
    found = decoders.result(decoders.submit(Request(str(plain), size=SIZE, num_positions=4)))
    assert read_indices(found.frames) == found.indices.tolist() == [7, 22, 37, 52]
    part = decoders.result(decoders.submit(Request(str(plain), None, SIZE, 64, start=0.5, end=0.7)))
    assert read_indices(part.frames) == [15, 16, 17, 18, 19, 20]
    assert part.probe.span == (15, 21)
    assert part.seconds == pytest.approx(np.arange(15, 21) / 30)


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> str:
    """A file that is never opened to the end."""
    monkeypatch.setattr(decoders_module, "COMMAND", HANGING)
    return "hangs.mp4"


def test_a_file_that_hangs_is_given_up(plain: Path, hangs: str) -> None:
    with Decoders(1, limit_seconds=3) as pool:
        tickets = [pool.submit(Request(path, [9], SIZE)) for path in (str(plain), hangs, hangs, str(plain))]
        assert read_indices(pool.result(tickets[0]).frames) == [9]
        for ticket in tickets[1:3]:  # the second time at once
            with pytest.raises(VideoError, match=r"^no answer within 3 s$"):
                pool.result(ticket)
        assert read_indices(pool.result(tickets[3]).frames) == [9]


def test_a_crash_costs_only_its_file(plain: Path, hangs: str) -> None:
    others = children()
    with Decoders(1) as pool:
        pool.result(pool.submit(Request(str(plain))))
        ticket = pool.submit(Request(hangs))
        for _ in range(2):
            crash(others)
        with pytest.raises(VideoError, match=r"^the decoder crashed, twice$"):
            pool.result(ticket)
        assert read_indices(pool.result(pool.submit(Request(str(plain), [9], SIZE))).frames) == [9]
        # killed while it has nothing to do: nobody's fault
        crash(others)
        assert read_indices(pool.result(pool.submit(Request(str(plain), [8], SIZE))).frames) == [8]
    assert children() == others


def test_closing_ends_what_hangs(hangs: str) -> None:
    with Decoders(1) as pool:
        tickets = [pool.submit(Request(hangs)) for _ in range(2)]
    tickets.append(pool.submit(Request("too late")))
    for ticket in tickets:
        with pytest.raises(VideoError, match=r"^the decoders were closed$"):
            pool.result(ticket)


def children() -> set[int]:
    """Workers of this process that are alive."""
    listed = subprocess.run(["ps", "-wweo", "pid,ppid,stat,args"], capture_output=True, text=True, check=True)
    rows = [line.split(None, 3) for line in listed.stdout.splitlines()[1:]]
    return {int(r[0]) for r in rows if int(r[1]) == os.getpid() and "Z" not in r[2] and "serve()" in r[3]}


def crash(others: set[int]) -> None:
    """Kill the one worker there is besides others, as soon as there is one, and wait until it is gone."""
    while not (workers := children() - others):
        time.sleep(0.02)
    (worker,) = workers
    os.kill(worker, signal.SIGSEGV)
    while worker in children():
        time.sleep(0.02)


def script(text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_workers_end_with_a_parent_that_is_killed() -> None:
    done = script(
        """
        import os, signal, subprocess, sys, time
        from temporal.data import decoders
        decoders.COMMAND = sys.argv[1]
        pool = decoders.Decoders(1)
        pool.submit(decoders.Request("hangs.mp4"))
        while (process := pool._workers[0]._process) is None:
            time.sleep(0.01)
        time.sleep(1)  # until it hangs
        print(process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        HANGING,
    )
    worker = int(done.stdout)
    for _ in range(200):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        state = Path(f"/proc/{worker}/stat")
        if state.exists() and state.read_text().split()[2] == "Z":
            return  # dead, and nobody there who asks
        time.sleep(0.05)
    pytest.fail("the worker lives on")


def test_a_fork_has_workers_of_its_own(plain: Path) -> None:
    done = script(
        """
        import os, sys
        from temporal.data.decoders import Decoders, Request
        pool = Decoders(1)
        pool.result(pool.submit(Request(sys.argv[1])))
        child = os.fork()
        shape = pool.result(pool.submit(Request(sys.argv[1], [3], (8, 8)))).frames.shape
        if not child:
            os._exit(0 if shape == (1, 8, 8, 3) else 1)
        sys.exit(os.waitpid(child, 0)[1] or shape != (1, 8, 8, 3))
        """,
        plain,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_workers_load_neither_torch_nor_decord() -> None:
    # decord before torch crashes where CUDA is used; without torch a worker starts sooner
    done = script("import temporal.data.decoders, sys; print({'torch', 'decord'} & set(sys.modules))")
    assert done.stdout == "set()\n"


@needs_decord
def test_decord_does_not_decode_ahead(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "long.mp4", 120, size=(480, 640), gop=120)
    done = script(
        """
        import sys, time
        from temporal.data.decode import Video
        from temporal.data.decord_video import import_decord

        def megabytes():
            return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

        video = Video(sys.argv[1], "decord")
        video.frames([0])
        assert video.decoder == "decord"
        before = megabytes()
        time.sleep(1)
        print(megabytes() - before)
        reader = import_decord().VideoReader(sys.argv[1])
        reader[0]
        before = megabytes()
        for _ in range(100):
            time.sleep(0.1)
            if megabytes() - before > 60:
                break
        print(megabytes() - before)
        """,
        path,
    )
    assert done.stderr == ""
    ours, alone = map(float, done.stdout.split())
    assert alone > 60  # the hazard
    assert ours < 20
