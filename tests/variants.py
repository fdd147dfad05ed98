"""Good videos of many kinds: codec, container, beginning, edit list, turn, order of storing, rate."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import av
from av.packet import Packet

from tests.clips import make_clip, trim

Maker = Callable[[Path], Path]
"""Makes a video in a folder."""

FAST_VPX = {"deadline": "realtime", "cpu-used": "8"}
ALT_REF = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "5"}
SVT = {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "keyint=12"}}
SVT_LAYERS = {
    "codec": "libsvtav1",
    "options": {"preset": "10", "svtav1-params": "keyint=30:hierarchical-levels=4"},
}
X265 = "log-level=none:keyint=12:min-keyint=12"
HEVC = {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": X265}}
HEVC_OPEN = {"codec": "libx265", "options": {"preset": "fast", "x265-params": f"{X265}:open-gop=1:bframes=4"}}
VP9 = {"codec": "libvpx-vp9", "options": FAST_VPX}
OPEN_GOP = {"options": {"x264-params": "open-gop=1:bframes=3:b-pyramid=2:keyint=12"}}
JUMPS = [i + 900 * (i // 20) for i in range(60)]  # half a minute of nothing, twice
SQUARES = [i * i for i in range(60)]


def clip(name: str, **settings: object) -> Maker:
    """What `make_clip` encodes."""
    return lambda folder: make_clip(folder / name, **settings)  # type: ignore[arg-type]


def cut_by_edit(name: str, start: int, **settings: object) -> Maker:
    """Packets from a key frame on, of which an edit list hides those before frame `start`."""
    return lambda folder: trim(make_clip(folder / f"whole.{name}", **settings), folder / name, start)  # type: ignore[arg-type]


def hidden(name: str, num: int, **settings: object) -> Maker:
    """All packets of a clip, of which an edit list hides the first `num` frames, whole groups among them."""
    return lambda folder: trim(
        make_clip(folder / f"whole.{name}", **settings),
        folder / name,
        num,
        whole=True,  # type: ignore[arg-type]
    )


def segment(name: str, first: int = 24, last: int = 1 << 30, source: str = "", **settings: object) -> Maker:
    """Packets from a key frame on, which keep their times, in a container of their own."""

    def make(folder: Path) -> Path:
        return copy_packets(
            make_clip(folder / f"whole.{source or name}", **settings), folder / name, first, last
        )  # type: ignore[arg-type]

    return make


def copy_packets(source: Path, target: Path, first: int, last: int = 1 << 30) -> Path:
    """Copy packets with their times, from the first key frame stored as number `first` or later to before `last`."""
    with (
        av.open(str(source)) as read,
        av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as write,
    ):
        stream = write.add_stream_from_template(read.streams.video[0], opaque=True)
        packets: list[Packet] = [p for p in read.demux(video=0) if p.dts is not None or p.size]
        begin = next(i for i, packet in enumerate(packets) if i >= first and packet.is_keyframe)
        for packet in packets[begin:last]:
            packet.stream = stream
            write.mux(packet)
    return target


def with_picture(name: str) -> Maker:
    """A video with a picture on its cover, which is a video stream too."""

    def make(folder: Path) -> Path:
        source, cover = (
            make_clip(folder / f"whole.{name}"),
            make_clip(folder / "cover.mov", 1, codec="png", pix_fmt="rgb24"),
        )
        with (
            av.open(str(source)) as read,
            av.open(str(cover)) as picture,
            av.open(str(folder / name), "w") as write,
        ):
            front = write.add_stream_from_template(picture.streams.video[0], opaque=True)
            front.disposition = av.stream.Disposition.attached_pic
            stream = write.add_stream_from_template(read.streams.video[0], opaque=True)
            for container, into in ((picture, front), (read, stream)):
                for packet in container.demux(video=0):
                    if packet.dts is not None:
                        packet.stream = into
                        write.mux(packet)
        return folder / name

    return make


def live(name: str, **settings: object) -> Maker:
    """Written to where nothing can be corrected: sizes and durations are missing."""
    return clip(name, container_options={"live": "1"}, **settings)


def renamed(maker: Maker, name: str) -> Maker:
    """The same file under a name that promises another container."""
    return lambda folder: Path(shutil.move(maker(folder), folder / name))


VARIANTS: dict[str, Maker] = {
    # h264 in mp4 and mov
    "h264 mp4": clip("a.mp4"),
    "h264 mp4, no B-frames": clip("a.mp4", options={"bf": "0"}),
    "h264 mp4, open GOP": clip("a.mp4", **OPEN_GOP),
    "h264 mp4, all key frames": clip("a.mp4", gop=1),
    "h264 mp4, one key frame": clip("a.mp4", gop=60),
    "h264 mp4, index first": clip("a.mp4", container_options={"movflags": "faststart"}),
    "h264 mp4, fragments": clip("a.mp4", container_options={"movflags": "frag_keyframe+empty_moov"}),
    "h264 mp4, fragments with an index": clip("a.mp4", container_options={"movflags": "dash+global_sidx"}),
    "h264 mp4, negative offsets": clip("a.mp4", container_options={"movflags": "negative_cts_offsets"}),
    "h264 mp4, no edit list": clip("a.mp4", container_options={"use_editlist": "0"}),
    "h264 mp4, uneven rate": clip("a.mp4", times=SQUARES),
    "h264 mp4, gaps": clip("a.mp4", times=JUMPS),
    "h264 mp4, from 10 s": clip("a.mp4", offset=300),
    "h264 mp4, from 100 s": clip("a.mp4", offset=3000),
    "h264 mp4, turned 90": clip("a.mp4", rotation=90),
    "h264 mp4, turned 180": clip("a.mp4", rotation=180),
    "h264 mp4, turned 270": clip("a.mp4", rotation=270),
    "h264 mp4, edit list skips 1": cut_by_edit("a.mp4", 13),
    "h264 mp4, edit list skips 11": cut_by_edit("a.mp4", 23),
    "h264 mp4, edit list skips 40": cut_by_edit("a.mp4", 40, gop=60),
    "h264 mp4, edit list skips a group": hidden("a.mp4", 12),
    "h264 mp4, edit list skips a group and 1": hidden("a.mp4", 13),
    "h264 mp4, edit list skips 3 groups and 5": hidden("a.mp4", 41),
    "h264 mp4, edit list skips a group, open GOP": hidden("a.mp4", 13, **OPEN_GOP),
    "h264 mov, edit list skips 2 groups": hidden("a.mov", 25, options={"bf": "0"}),
    "h264 mp4, edit list skips 131": cut_by_edit("a.mp4", 131, num=150, gop=150),
    "h264 mp4, edit list skips 40, turned": cut_by_edit("a.mp4", 40, gop=60, rotation=90),
    "h264 mp4, edit list skips 20, open GOP": cut_by_edit("a.mp4", 20, **OPEN_GOP),
    "h264 mp4, sound": clip("a.mp4", sound=1.0),
    "h264 mp4, longer sound": clip("a.mp4", sound=3.0),
    "h264 mp4, interlaced": clip("a.mp4", options={"flags": "+ildct+ilme", "x264-params": "tff=1"}),
    "h264 mp4, one frame": clip("a.mp4", num=1),
    "h264 mp4, two frames": clip("a.mp4", num=2),
    "h264 mp4, cover picture": with_picture("a.mp4"),
    "h264 mov": clip("a.mov"),
    "h264 mp4 named mkv": renamed(clip("a.mp4"), "b.mkv"),
    # h264 elsewhere
    "h264 mkv": clip("a.mkv"),
    "h264 mkv, from 1 s": clip("a.mkv", offset=30),
    "h264 mkv, from 10 s": clip("a.mkv", offset=300),
    "h264 mkv, from 100 s": clip("a.mkv", offset=3000),
    "h264 mkv, segment": segment("a.mkv"),
    "h264 mkv, late segment": segment("a.mkv", 240, num=300),
    "h264 mkv, segment, open GOP": segment("a.mkv", **OPEN_GOP),
    "h264 mkv, segment of mp4": segment("a.mkv", source="mp4"),
    "h264 mkv, gaps": clip("a.mkv", times=JUMPS),
    "h264 mkv, ten hours": clip("a.mkv", times=[i * 18000 for i in range(60)]),
    "h264 mkv, live": live("a.mkv"),
    "h264 mkv, bit by bit": clip("a.mkv", options={"x264-params": "intra-refresh=1:keyint=12"}),
    "h264 mkv, odd size, 4:4:4": clip("a.mkv", size=(97, 161), pix_fmt="yuv444p"),
    "h264 mkv, sound": clip("a.mkv", sound=1.0),
    "h264 ts": clip("a.ts"),
    "h264 ts, from 100 s": clip("a.ts", offset=3000),
    "h264 ts, open GOP": clip("a.ts", **OPEN_GOP),
    "h264 ts, segment": segment("a.ts"),
    "h264 ts, sound": clip("a.ts", sound=2.0),
    "h264 ts, uneven rate": clip("a.ts", times=SQUARES),
    "h264 ts, clock wraps": clip("a.ts", offset=int(95443.0 * 30)),
    "h264 flv": clip("a.flv"),
    "h264 flv, from 10 s": clip("a.flv", offset=300),
    "h264 avi": clip("a.avi"),
    "h264 nut": clip("a.nut"),
    "h264 nut, from 10 s": clip("a.nut", offset=300),
    "h264 nut, from 100 s": clip("a.nut", offset=3000),
    "h264 nut, segment": segment("a.nut"),
    # hevc
    "hevc mp4": clip("a.mp4", **HEVC),
    "hevc mp4, open GOP": clip("a.mp4", **HEVC_OPEN),
    "hevc mp4, ten bits": clip("a.mp4", pix_fmt="yuv420p10le", **HEVC),
    "hevc mp4, edit list skips 40": cut_by_edit("a.mp4", 40, codec="libx265",
        options={"preset": "ultrafast", "x265-params": "log-level=none:keyint=60:min-keyint=60"}),
    "hevc mkv, from 10 s": clip("a.mkv", offset=300, **HEVC),
    "hevc mkv, segment, open GOP": segment("a.mkv", **HEVC_OPEN),
    "hevc ts": clip("a.ts", **HEVC),
    # av1
    "av1 mp4": clip("a.mp4", **SVT),
    "av1 mp4, layers": clip("a.mp4", **SVT_LAYERS),
    "av1 mp4, edit list skips 20": cut_by_edit("a.mp4", 20, **SVT_LAYERS),
    "av1 mkv": clip("a.mkv", **SVT_LAYERS),
    "av1 webm, from 10 s": clip("a.webm", offset=300, **SVT),
    # vp8, vp9
    "vp8 webm": clip("a.webm", codec="libvpx", options=FAST_VPX),
    "vp8 webm, hidden frames": clip("a.webm", codec="libvpx", options=ALT_REF),
    "vp9 webm": clip("a.webm", **VP9),
    "vp9 webm, hidden frames": clip("a.webm", codec="libvpx-vp9", options=ALT_REF),
    "vp9 webm, from 1 s": clip("a.webm", offset=30, **VP9),
    "vp9 webm, from 100 s": clip("a.webm", offset=3000, **VP9),
    "vp9 webm, segment": segment("a.webm", **VP9),
    "vp9 webm, live": live("a.webm", **VP9),
    "vp9 mp4": clip("a.mp4", **VP9),
    # older ones
    "mpeg4 avi": clip("a.avi", codec="mpeg4", options={"bf": "0"}),
    "mpeg4 avi, B-frames": clip("a.avi", codec="mpeg4", options={"bf": "2"}),
    "mpeg4 mp4, B-frames": clip("a.mp4", codec="mpeg4", options={"bf": "2"}),
    "mpeg4 mkv, from 10 s": clip("a.mkv", codec="mpeg4", options={"bf": "2"}, offset=300),
    "mpeg2 mpg": clip("a.mpg", codec="mpeg2video"),
    "mpeg2 mpg, B-frames": clip("a.mpg", codec="mpeg2video", options={"bf": "2"}),
    "mpeg2 ts, B-frames": clip("a.ts", codec="mpeg2video", options={"bf": "2"}),
    "mpeg2 ts, interlaced": clip("a.ts", codec="mpeg2video", options={"bf": "2", "flags": "+ildct+ilme"}),
    "mpeg2 mkv, segment": segment("a.mkv", codec="mpeg2video", options={"bf": "2"}),
    "mpeg1 mpg": clip("a.mpg", codec="mpeg1video", options={"bf": "2"}),
    "h263 mov": clip("a.mov", codec="h263", size=(288, 352)),
    "flv1 flv": clip("a.flv", codec="flv"),
    "wmv2 wmv": clip("a.wmv", codec="wmv2"),
    "wmv2 wmv, from 10 s": clip("a.wmv", codec="wmv2", offset=300),
    # every frame by itself
    "mjpeg avi": clip("a.avi", codec="mjpeg", pix_fmt="yuvj420p"),
    "mjpeg mov": clip("a.mov", codec="mjpeg", pix_fmt="yuvj420p"),
    "prores mov": clip("a.mov", codec="prores", pix_fmt="yuv422p10le"),
    "dnxhd mxf": clip("a.mxf", codec="dnxhd", pix_fmt="yuv422p", size=(1080, 1920), num=12, fps=25,
        options={"b": "36000000"}),
    "ffv1 mkv": clip("a.mkv", codec="ffv1", options={"slicecrc": "1"}),
    "ffv1 mkv, from 10 s": clip("a.mkv", codec="ffv1", offset=300),
    "huffyuv avi": clip("a.avi", codec="huffyuv", pix_fmt="yuv422p"),
    "png mov": clip("a.mov", codec="png", pix_fmt="rgb24"),
    "raw avi": clip("a.avi", codec="rawvideo", pix_fmt="yuv420p"),
}  # fmt: skip
