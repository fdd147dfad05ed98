"""Sources of videos: the ways they are listed, which frames positions stand for, the index, what is said of errors.

Files here are no videos: a stand-in for the decoder reads "frames seconds" out of them.
"""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from temporal.data import video
from temporal.data.base import SPLITS
from temporal.data.clips import Span, VideoSequences
from temporal.data.decode import Probe
from temporal.data.decoders import VideoError
from temporal.data.manifests import Clip, find_clips
from temporal.data.probes import Extent, measure, probe_all
from temporal.data.video import VideoSource
from temporal.errors import UserError

ENDINGS = ".avi, .flv, .m4v, .mkv, .mov, .mp4, .mpeg, .mpg, .ts, .webm, .wmv"
MEND = "; mend it or set data.skip_bad to true"
OPENED = "expected frames that can be read"
PROBED: list[str] = []


def probe_texts(clips: Sequence[Clip], max_pixels: int = 0) -> Iterator[Probe | VideoError]:
    for clip in clips:
        PROBED.append(clip.path)
        try:
            frames, seconds = (float(number) for number in Path(clip.path).read_text().split())
        except (ValueError, OSError):
            yield VideoError("no video stream")
            continue
        if clip.start and clip.start >= seconds:
            yield VideoError("nothing there")
            continue
        stop = frames if clip.end is None or clip.end > seconds else clip.end * frames / seconds
        span = (int((clip.start or 0) * frames / (seconds or 1)), int(stop))
        yield Probe(int(frames), seconds, 8, 8, (0,), span)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEMPORAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(video, "probe_all", probe_texts)
    PROBED.clear()
    return tmp_path / "cache"


def film(file: Path, content: str = "100 10.0") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def films(folder: Path, *names: str, content: str = "100 10.0") -> Path:
    for name in names:
        film(folder / name, content)
    return folder


def jsonl(file: Path, *rows: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def listed(source: VideoSource) -> dict[str, list[tuple[str, str]]]:
    """Name and class of each clip of each split."""
    names = source.task.class_names
    return {
        split: [
            (Path(clip.path).name, names[label])
            for clip, label in zip(source.split(split).clips, source.split(split).labels, strict=True)  # type: ignore[arg-type]
        ]
        for split in SPLITS
    }


def fails(*arguments: Any, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        VideoSource(*arguments, **settings)
    return str(error.value)


THREE = {
    "train": [("a.mp4", "x"), ("b.mp4", "y")],
    "validation": [("c.mp4", "x")],
    "test": [("d.mp4", "y")],
}
ROWS = [
    {"path": f"{name}", "label": label, "split": split}
    for split, pairs in THREE.items()
    for name, label in pairs
]


def three(folder: Path) -> Path:
    """A folder with a manifest of four clips in three splits."""
    films(folder, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
    jsonl(folder / "manifest.jsonl", *ROWS)
    return folder


# Ways in which videos are listed.


def test_a_folder_with_a_manifest(tmp_path: Path) -> None:
    source = VideoSource(str(three(tmp_path / "walks")), num_frames=16)
    assert listed(source) == THREE
    assert source.name == "walks"
    assert [Path(clip.path).name for clip in source.clips] == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    task = source.task
    assert (task.vocabulary_size, task.mean_length, task.max_length) == (1, 16.0, 16)


def test_folders_of_splits_and_classes(tmp_path: Path) -> None:
    films(tmp_path, "train/x/a.mp4", "train/y/deep/b.MP4", "val/x/c.mkv", "test/y/d.avi", "train/x/notes.md")
    films(tmp_path, "other/x/e.mp4")
    found = listed(VideoSource(str(tmp_path)))
    assert found == {
        "train": [("a.mp4", "x"), ("b.MP4", "y")],
        "validation": [("c.mkv", "x")],
        "test": [("d.avi", "y")],
    }


def test_class_folders_are_set_aside_by_seed(tmp_path: Path) -> None:
    names = [f"{'xy'[i % 2]}/{i:02}.mp4" for i in range(50)]
    films(tmp_path, *names)
    first, again = (listed(VideoSource(str(tmp_path), test_share=0.3)) for _ in range(2))
    other = listed(VideoSource(str(tmp_path), test_share=0.3, seed=1))
    assert [len(first[s]) for s in SPLITS] == [31, 4, 15]
    assert sorted(f"{label}/{name}" for pairs in first.values() for name, label in pairs) == sorted(names)
    assert first == again
    assert first["test"] != other["test"]


def test_clips_of_one_file_are_set_aside_together(tmp_path: Path) -> None:
    films(tmp_path, *(f"{i}.mp4" for i in range(20)))
    rows = [
        {"path": f"{i}.mp4", "label": "xy"[part], "start": 5 * part, "end": 5 * part + 5}
        for i in range(20)
        for part in range(2)
    ]
    source = VideoSource(str(jsonl(tmp_path / "all.jsonl", *rows)))
    files = [{clip.path for clip in source.split(s).clips} for s in SPLITS]
    assert [len(f) for f in files] == [14, 2, 4]
    assert len(set.union(*files)) == 20
    assert len(source.clips) == 40


def test_lists_as_ucf101_comes(tmp_path: Path) -> None:
    films(tmp_path / "UCF", "Eye Makeup/v_1.avi", "Eye Makeup/v_2.avi", "YoYo/v_3.avi", "YoYo/v_4.avi")
    films(tmp_path / "UCF", "YoYo/v_5.avi", "YoYo/v_6.avi", "YoYo/v_7.avi")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Eye Makeup\r\n2 YoYo\r\n")
    (lists / "trainlist01.txt").write_text(
        "Eye Makeup/v_1.avi 1\r\nYoYo/v_3.avi 2\r\n"
        + "".join(f"YoYo/v_{i}.avi 2\r\n" for i in range(4, 8))
        + "\r\n"
    )
    (lists / "testlist01.txt").write_text("Eye Makeup/v_2.avi\r\nYoYo/v_4.avi\r\n")
    (lists / "trainlist02.txt").write_text("Eye Makeup/v_2.avi 1\r\n")
    (lists / "testlist02.txt").write_text("Eye Makeup/v_1.avi\r\n")
    source = VideoSource(str(lists / "trainlist01.txt"), root=str(tmp_path / "UCF"), validation_share=0.2)
    found = listed(source)
    assert found["test"] == [("v_2.avi", "Eye Makeup"), ("v_4.avi", "YoYo")]
    assert len(found["train"]) == 5
    assert len(found["validation"]) == 1
    assert source.task.class_names == ("Eye Makeup", "YoYo")
    assert fails(str(lists)) == (
        f"data: lists of train in {lists}, got 'trainlist01.txt, trainlist02.txt'; expected one; path can name it"
    )


def test_lists_as_kinetics_comes(tmp_path: Path) -> None:
    films(tmp_path / "k", "train/ab-1_000010_000020.mp4", "train/clap hands/cd_000000_000010.mp4")
    films(tmp_path / "k", "val/ef_000005_000015.mp4", "gh_000123_000133.mp4")
    header = "label,youtube_id,time_start,time_end,split"
    for name, lines in {
        "train": ["yawn,ab-1,10,20,train", '"clap hands",cd,0.0,10.0,train'],
        "validate": ["yawn,ef,5,15,validate"],
        "test": ["yawn,gh,123,133,test", "yawn,gone,1,11,test", "yawn,bad,,1,test"],
    }.items():
        (tmp_path / "k" / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")
    source = VideoSource(str(tmp_path / "k"), skip_bad=True)
    assert listed(source) == {
        "train": [("ab-1_000010_000020.mp4", "yawn"), ("cd_000000_000010.mp4", "clap hands")],
        "validation": [("ef_000005_000015.mp4", "yawn")],
        "test": [("gh_000123_000133.mp4", "yawn")],
    }
    assert source.num_skipped == 2
    assert source.clips[0][1:] == (None, None)
    rows = tmp_path / "k" / "test.csv"
    rows.write_text(rows.read_text().replace("yawn,bad,,1,test\n", ""))
    assert fails(str(tmp_path / "k")) == (
        f"data: {rows} row 1: video {tmp_path}/k/gone_000001_000011.mp4, got 'No such file or directory'; "
        + OPENED
        + MEND
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("all.txt", "{0} x\n{1}\ty\n"),
        ("all.txt", "\ufeff{0}, x\n\n{1};y  \n"),
        ("all.csv", "{0},x\n{1},y\n"),
        ("all.csv", '"{0}","x"\n"{1}","y"\n'),
        ("all.csv", "{0} x\n{1} y"),
        ("all.csv", 'id,path,label\n0,{0},x\n1,"{1}",y\n'),
        ("all.CSV", "path,label,start,end,split\n{0},x,,,\n{1},y,,,\n"),
        ("all.jsonl", '{{"path": "{0}", "label": "x"}}\n\n{{"label": "y", "path": "{1}", "other": 1}}\n'),
    ],
)
def test_all_lists_say_the_same(name: str, text: str, tmp_path: Path) -> None:
    names = [f"my films/{i}.v2.mp4" for i in range(12)]
    films(tmp_path, *names)
    lines = text.format(*names[:2]) + ("\n" if not text.endswith("\n") else "")
    head = "" if "path" not in lines or "jsonl" in name else lines.split("\n")[0] + "\n"
    body = lines[len(head) :]
    for i in range(2, 12, 2):
        body += text[len(head) :].lstrip("\ufeff").format(*names[i : i + 2]).rstrip("\n") + "\n"
    (tmp_path / name).write_text(head + body)
    source = VideoSource(str(tmp_path / name))
    found = [pair for pairs in listed(source).values() for pair in pairs]
    assert sorted(found) == sorted((Path(n).name, "xy"[i % 2]) for i, n in enumerate(names))


def test_tables_of_datasets(tmp_path: Path, cache: Path) -> None:
    """Files that a table holds are written out once; a ClassLabel has names."""
    names = ["zebra", "ant"]
    features = datasets.Features(
        {"video": datasets.Video(decode=False), "label": datasets.ClassLabel(names=names)}
    )
    rows = datasets.Dataset.from_dict(
        {
            "video": [{"bytes": f"{10 + i} 1.0".encode(), "path": f"v{i}.mkv"} for i in range(20)],
            "label": [i % 2 for i in range(20)],
        },
        features=features,
    )
    rows.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "parts").mkdir()
    rows.select(range(14)).to_parquet(str(tmp_path / "parts" / "train-00000-of-00002.parquet"))
    rows.select(range(14, 18)).to_parquet(str(tmp_path / "parts" / "train-00001-of-00002.parquet"))
    rows.select(range(18, 20)).to_parquet(str(tmp_path / "parts" / "test.parquet"))
    saved, parts = VideoSource(str(tmp_path / "saved")), VideoSource(str(tmp_path / "parts"))
    assert {*saved.clips} == {*parts.clips}
    assert sorted(stop for _, stop in saved.whole.spans) == list(range(10, 30))
    for source in (saved, parts):
        labels = source.whole.labels
        assert labels is not None
        for clip, (_, stop), label in zip(source.clips, source.whole.spans, labels.tolist(), strict=True):
            assert clip.path.endswith(".mkv")
            assert source.task.class_names[label] == names[(stop - 10) % 2]
    assert len(list((cache / "video" / "files").iterdir())) == 20
    assert [len(parts.split(s)) for s in SPLITS] == [16, 2, 2]


def test_tables_of_paths(tmp_path: Path) -> None:
    names = [f"{i}.mp4" for i in range(10)]
    films(tmp_path, *names)
    pq.write_table(pa.table({"file": names, "kind": ["x", "y"] * 5}), tmp_path / "all.parquet")
    source = VideoSource(str(tmp_path / "all.parquet"), path_column="file", label_column="kind")
    assert sorted(clip.path for clip in source.clips) == [str(tmp_path / name) for name in names]
    assert fails(str(tmp_path / "all.parquet"), path_column="file") == (
        f"data: {tmp_path}/all.parquet: column, got 'label'; expected one of file, kind"
    )


def test_a_shipped_sample_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three(tmp_path / "samples" / "walks")
    monkeypatch.setattr("temporal.data.layouts.SAMPLES", tmp_path / "samples")
    assert listed(VideoSource("walks")) == THREE


def test_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    films(tmp_path, *(f"{i}.mp4" for i in range(30)))
    rows = [{"path": f"{i}.mp4", "label": (10, 9, -1)[i % 3]} for i in range(30)]
    assert VideoSource(str(jsonl(tmp_path / "n.jsonl", *rows))).task.class_names == ("-1", "9", "10")


# Positions, frames and ids.


def test_positions_are_evenly_spread(tmp_path: Path) -> None:
    films(tmp_path, "a.mp4", content="130 13.0")
    films(tmp_path, "b.mp4", "c.mp4", content="5 1.0")
    films(tmp_path, "d.mp4", content="1 0.0")
    jsonl(tmp_path / "manifest.jsonl", *ROWS)
    source = VideoSource(str(tmp_path), num_frames=8)
    assert source.whole.lengths.tolist() == [8, 5, 5, 1]
    assert source.task.mean_length == 6.5
    assert [source.whole.frame_indices(i).tolist() for i in range(4)] == [
        [8, 24, 40, 56, 73, 89, 105, 121],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4],
        [0],
    ]
    assert source.whole.frame_indices(0).tolist() == [int((i + 0.5) * 130 / 8) for i in range(8)]


def test_ids_run_on_over_all_splits(tmp_path: Path) -> None:
    source = VideoSource(str(three(tmp_path)), num_frames=4)
    assert source.whole.first.tolist() == [0, 4, 8, 12]
    assert source.split("train").first.tolist() == [0, 4]
    test = source.split("test")
    assert test.first.tolist() == [12]
    row = torch.zeros(2, dtype=torch.long)
    chunk = test.fetch(row, torch.tensor([1, 4]), torch.tensor([2, 0]), 3)
    assert chunk.tokens.tolist() == [[14, 15, 0], [0, 0, 0]]
    assert chunk.positions.tolist() == [[1, 2, 0], [0, 0, 0]]
    assert chunk.counts.tolist() == [2, 0]
    assert chunk.tokens.dtype == torch.int64
    everything = torch.arange(1, 17)
    clips, positions = source.whole.locate(everything)
    assert clips.tolist() == [i // 4 for i in range(16)]
    assert positions.tolist() == [i % 4 for i in range(16)]
    assert [part.tolist() for part in test.locate(torch.tensor([16]))] == [[0], [3]]
    with pytest.raises(UserError, match=r"^data: frame ids, got \(12, 12\); expected numbers from 13 to 16$"):
        test.locate(torch.tensor([12]))
    with pytest.raises(UserError, match=r"^data: frame ids, got \(0, 3\); expected numbers from 1 to 16$"):
        source.whole.locate(torch.tensor([3, 0]))


def test_truth_follows_the_frames(tmp_path: Path) -> None:
    films(tmp_path, "a.mp4", "b.mp4", content="10 1.0")
    films(tmp_path, "c.mp4", "d.mp4", content="3 0.3")
    rows = [dict(row) for row in ROWS]
    rows[0]["truth"] = list(range(10))  # type: ignore[assignment]
    rows[1] |= {"truth": [5] * 5 + [6] * 5, "start": 0.4, "end": 0.6}  # type: ignore[dict-item]
    rows[3]["truth"] = "[7, 8, 9]"
    jsonl(tmp_path / "manifest.jsonl", *rows)
    source = VideoSource(str(tmp_path), num_frames=4)
    train, test = source.split("train").truth, source.split("test").truth
    assert train is not None
    assert test is not None
    assert train.tolist() == [[1, 3, 6, 8], [5, 6, 0, 0]]
    assert source.split("validation").truth is None
    assert test.tolist() == [[7, 8, 9, 0]]
    assert VideoSource(str(three(tmp_path / "none"))).whole.truth is None


def test_memory_holds_no_ids() -> None:
    clips, spans = [Clip("a.mp4")] * 20000, [Span(0, 500)] * 20000
    tracemalloc.start()
    sequences = VideoSequences(clips, spans, 500)
    assert tracemalloc.get_traced_memory()[1] < 5e6  # ids of 10 million positions would be 80 MB
    tracemalloc.stop()
    assert int(sequences.lengths.sum()) == 10_000_000


# The index.


def test_each_video_is_opened_once(tmp_path: Path) -> None:
    films(tmp_path / "d", "a.mp4", "b.mp4", "c.mp4", "d.mp4")
    jsonl(tmp_path / "d" / "manifest.jsonl", *ROWS, ROWS[0] | {"start": 1.0})
    VideoSource(str(tmp_path / "d"))
    assert [Path(p).name for p in PROBED] == ["a.mp4", "b.mp4", "a.mp4", "c.mp4", "d.mp4"]
    VideoSource(str(tmp_path / "d"), num_frames=3)
    assert len(PROBED) == 5
    film(tmp_path / "d" / "c.mp4", "7 1.0")
    os.utime(tmp_path / "d" / "b.mp4", (1, 1))
    source = VideoSource(str(tmp_path / "d"))
    assert [Path(p).name for p in PROBED[5:]] == ["b.mp4", "c.mp4"]
    assert source.split("validation").lengths.tolist() == [7]


def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    clips = [Clip(str(film(tmp_path / f"{i}.mp4", f"{i + 1} 1.0"))) for i in range(3)]
    index, told = tmp_path / "deep" / "index.jsonl", []
    expected = {clip: Extent(i + 1, 0, i + 1) for i, clip in enumerate(clips)}
    assert measure(clips, index, probe_texts, lambda done, num: told.append((done, num))) == expected
    assert told == [(1, 3), (2, 3), (3, 3)]
    whole = index.read_bytes()
    index.write_bytes(whole[:-9])
    assert measure(clips, index, probe_texts) == expected
    assert PROBED[3:] == [clips[2].path]
    index.write_bytes(b'\xff\xfe\n[1, 2]\n{"a": 1}\n[[], 1, 2, 3, 4]\nnull\n' + whole)
    assert measure(clips, index, probe_texts) == expected
    assert len(PROBED) == 4


def test_an_interruption_keeps_what_was_found(tmp_path: Path) -> None:
    clips = [Clip(str(film(tmp_path / f"{i}.mp4"))) for i in range(3)]

    def stop(clips: Sequence[Clip]) -> Iterator[Probe | VideoError]:
        yield from probe_texts(clips[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(clips, tmp_path / "index", stop)
    measure(clips, tmp_path / "index", probe_texts)
    assert [clip.path for clip in clips] == PROBED


def test_what_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    clip, gone = Clip(str(film(tmp_path / "a.mp4", "broken"))), Clip(str(tmp_path / "gone.mp4"))
    assert measure([clip], tmp_path / "index", probe_texts) == {clip: "no video stream"}
    found = measure([clip, gone], tmp_path / "index", probe_texts)
    assert found == {clip: "no video stream", gone: "No such file or directory"}
    assert [clip.path] * 2 == PROBED


def test_real_videos_are_opened(tmp_path: Path) -> None:
    """What the decoders themselves say; all else is their tests' matter."""
    file = tmp_path / "real.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    broken = film(tmp_path / "broken.mp4")
    whole, part = Clip(str(file)), Clip(str(file), 0.5, 1.0)
    found = measure([whole, Clip(str(broken)), part], tmp_path / "index", probe_all)
    assert [found[clip] for clip in (whole, part)] == [Extent(20, 0, 20), Extent(20, 5, 10)]
    assert found[Clip(str(broken))] == "invalid data found when processing input"


# What is said of errors.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": None}, "label, got nothing; expected the name of a class"),
        ({"label": ""}, "label, got nothing; expected the name of a class"),
        ({"path": ""}, "path, got ''; expected the path of a video"),
        ({"path": None}, "path, got None; expected the path of a video"),
        ({"path": "a\0.mp4"}, None),
        ({"start": "soon"}, "start, got 'soon'; expected seconds from 0 up"),
        ({"end": -1}, "end, got -1; expected seconds from 0 up"),
        ({"start": 5, "end": 5.0}, "start and end, got (5.0, 5.0); expected a start before the end"),
        ({"end": 0}, "start and end, got (None, 0.0); expected a start before the end"),
        ({"start": 10}, "video {}/a.mp4, got 'nothing there'; expected frames that can be read"),
        (
            {"split": "tset"},
            "split, got 'tset'; expected one of train, validation, test; did you mean 'test'?",
        ),
        ({"truth": "many"}, "truth, got 'many'; expected a list of numbers"),
        ({"truth": [[1]]}, "truth, got [[1]]; expected a list of numbers"),
        ({"truth": [1, 2]}, "numbers in truth, got 2; expected 100, one for each frame of the file"),
        ({"split": "test", "label": "z"}, "label, got 'z', unseen in train; expected one of x, y"),
    ],
)
def test_a_bad_row_is_named_or_left_out(change: dict[str, Any], said: str | None, tmp_path: Path) -> None:
    folder = three(tmp_path)
    extra = ROWS[0] | change
    jsonl(folder / "manifest.jsonl", *ROWS, extra)
    said = said.format(folder) if said and "{}" in said else said
    said = said or f"path, got {str(folder) + '/a' + chr(0) + '.mp4'!r:.60}; expected the path of a video"
    assert fails(str(folder)) == f"data: {folder}/manifest.jsonl row 4: {said}{MEND}"
    source = VideoSource(str(folder), skip_bad=True)
    assert listed(source) == THREE
    assert source.num_skipped == 1


def test_lines_that_are_none(tmp_path: Path) -> None:
    folder = three(tmp_path)
    manifest = folder / "manifest.jsonl"
    manifest.write_text(manifest.read_text() + '{"path": "a.mp4"\n[1]\n')
    expected = f'data: {manifest} row 4: line, got \'{{"path": "a.mp4"\'; expected a JSON object{MEND}'
    assert fails(str(folder)) == expected
    assert VideoSource(str(folder), skip_bad=True).num_skipped == 2
    text = tmp_path / "all.txt"
    text.write_text("a.mp4 x\nwhat is this\n")
    expected = f"data: {text} row 1: line, got 'what is this'; expected the path of a video and a label{MEND}"
    assert fails(str(text)) == expected


def test_a_video_that_cannot_be_opened_is_named_with_its_row(tmp_path: Path) -> None:
    folder = three(tmp_path)
    film(folder / "b.mp4", "broken")
    assert fails(str(folder)) == (
        f"data: {folder}/manifest.jsonl row 1: video {folder}/b.mp4, got 'no video stream'; {OPENED}{MEND}"
    )
    films(tmp_path / "f", "train/x/0.mp4", "train/y/1.mp4", "val/x/2.mp4", "test/y/3.mp4")
    os.symlink(tmp_path / "nowhere", tmp_path / "f/train/x/dangling.mp4")
    (tmp_path / "f/train/x/folder.mp4").mkdir()
    assert fails(str(tmp_path / "f")) == (
        f"data: {tmp_path}/f/train/x/dangling.mp4: video, got 'No such file or directory'; {OPENED}{MEND}"
    )
    source = VideoSource(str(tmp_path / "f"), skip_bad=True)
    assert (source.num_skipped, len(source.clips)) == (2, 4)


def test_columns_that_are_missing(tmp_path: Path) -> None:
    folder = three(tmp_path)
    where = f"data: {folder}/manifest.jsonl"
    assert fails(str(folder), path_column="paht") == (
        f"{where}: column, got 'paht'; expected one of path, label, split; did you mean 'path'?"
    )
    assert fails(str(folder), truth_column="box") == (
        f"{where}: column, got 'box'; expected one of path, label, split"
    )
    (tmp_path / "all.csv").write_text("path,class\na.mp4,x\n")
    assert fails(str(tmp_path / "all.csv")) == (
        f"data: {tmp_path}/all.csv: column, got 'label'; expected one of path, class"
    )


def test_sources_that_are_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fails(str(empty)) == (
        f"data: path, got '{empty}'; expected a folder with one folder of videos per class, with lists named train, "
        "or with a manifest.jsonl"
    )
    assert fails(str(tmp_path / "gone")) == (
        f"data: path, got '{tmp_path}/gone'; expected a file or folder that exists"
    )
    assert fails("gone.csv") == "data: path, got 'gone.csv'; expected a file or folder that exists"
    single = str(film(tmp_path / "a.mp4"))
    assert fails(single) == (
        "data: format of path, got 'a.mp4'; expected a list ending in .csv, .jsonl, .txt, .parquet"
    )
    (tmp_path / "none.txt").write_text("\n")
    assert fails(str(tmp_path / "none.txt")) == (
        f"data: {tmp_path}/none.txt, got no row; expected one or more videos"
    )
    assert fails(str(empty), root="nowhere") == "data: root, got 'nowhere'; expected a folder that exists"
    assert (
        fails(str(empty), num_frames=0)
        == "VideoSource: num_frames, got 0; expected a whole number from 1 to 1,000,000"
    )
    assert (
        fails(str(empty), test_share=1)
        == "VideoSource: test_share, got 1; expected a number above 0 and below 1"
    )


def test_splits_and_classes_that_do_not_do(tmp_path: Path) -> None:
    folder = three(tmp_path)
    manifest = folder / "manifest.jsonl"
    assert fails(str(folder), test_share=0.3) == (
        "data: test_share, got 0.3; expected no value: there is a test split"
    )
    jsonl(manifest, *ROWS, {"path": "a.mp4", "label": "x"})
    assert (
        fails(str(folder))
        == f"data: {manifest} row 4: split, got nothing; expected one of train, validation, test"
    )
    jsonl(manifest, ROWS[2], ROWS[3])
    assert fails(str(folder)) == "data: splits, got ['test', 'validation']; expected one named train"
    jsonl(manifest, ROWS[0], *ROWS[2:])
    assert fails(str(folder)) == "data: classes of train, got ['x']; expected two or more"
    jsonl(manifest, *ROWS[:3])
    assert fails(str(folder)) == "data: videos of train, got 2; expected enough to set a test split aside"
    film(folder / "d.mp4", "broken")
    jsonl(manifest, *ROWS)
    assert fails(str(folder), skip_bad=True) == "data: clips of test, got 0; expected one or more"


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_CACHE", str(film(tmp_path / "file")))
    assert fails(str(three(tmp_path / "d"))) == (
        f"data: cache folder, got '{tmp_path}/file/video'; expected a folder that can be written (Not a directory); "
        "TEMPORAL_CACHE names another"
    )


# Clips to score.


def test_folders_files_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films(tmp_path, "b.mp4", "a/2.MKV", "a/1.webm", "a/b/3.avi", "c.mp4.part", "a/notes.txt", "odd.bin")
    monkeypatch.chdir(tmp_path)

    def paths(*inputs: str) -> list[str]:
        clips = find_clips(list(inputs))
        assert all(clip[1:] == (None, None) for clip in clips)
        return [clip.path for clip in clips]

    inside = ["a/1.webm", "a/2.MKV", "a/b/3.avi"]
    assert paths(".") == [f"./{name}" for name in [*inside, "b.mp4"]]
    assert paths("b.mp4", "a") == ["b.mp4", *inside]
    assert paths("*") == [*inside, "b.mp4"]
    assert paths("**/*.*") == ["a/1.webm", "a/2.MKV", "a/b/3.avi", "b.mp4"]
    assert paths("b.mp4", "b.mp4", "a/1.webm", "a") == ["b.mp4", *inside]
    assert paths("odd.bin") == ["odd.bin"]
    film(tmp_path / "[x].mp4")
    assert paths("[x].mp4") == ["[x].mp4"]


def test_what_is_broken_is_kept(tmp_path: Path) -> None:
    films(tmp_path / "d", "a.mp4", "folder.mp4/inside.mp4")
    os.symlink(tmp_path / "nowhere", tmp_path / "d" / "dangling.mp4")
    os.symlink(tmp_path / "d", tmp_path / "d" / "loop")
    films(tmp_path / "elsewhere", "z.mp4")
    os.symlink(tmp_path / "elsewhere", tmp_path / "d" / "other")
    found = [os.path.relpath(clip.path, tmp_path / "d") for clip in find_clips([str(tmp_path / "d")])]
    assert found == ["a.mp4", "dangling.mp4", "folder.mp4", "other/z.mp4"]
    assert len(find_clips([str(tmp_path / "d" / "*.mp4")])) == 3
    assert len(find_clips([str(tmp_path / "d" / name) for name in ("dangling.mp4", "folder.mp4")])) == 2


def test_a_folder_that_may_not_be_listed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films(tmp_path, "a.mp4", "locked/b.mp4")
    list_folder = os.listdir

    def listdir(path: str) -> list[str]:  # permissions do not stop the superuser, who may run the tests
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return list_folder(path)

    monkeypatch.setattr(os, "listdir", listdir)
    assert find_clips([str(tmp_path)]) == [Clip(f"{tmp_path}/a.mp4"), Clip(f"{tmp_path}/locked")]


def test_lists_to_score_need_no_labels(tmp_path: Path) -> None:
    """Videos that a list names need not be there: that is found out, and reported, when they are scored."""
    (tmp_path / "l.csv").write_text("path,start,end\nx.mp4,1,2.5\nx.mp4,1,2.5\n/y.mp4,,\n")
    (tmp_path / "l.txt").write_text("x.mp4\ny z.mp4 label\n")
    jsonl(tmp_path / "l.jsonl", {"path": "x.mp4", "end": 3})
    x = f"{tmp_path}/x.mp4"
    assert find_clips([str(tmp_path / "l.csv")]) == [Clip(x, 1.0, 2.5), Clip("/y.mp4")]
    assert find_clips([str(tmp_path / "l.txt")]) == [Clip(x), Clip(f"{tmp_path}/y z.mp4")]
    assert find_clips([str(tmp_path / "*.jsonl")]) == [Clip(x, None, 3.0)]


def test_inputs_that_are_none(tmp_path: Path) -> None:
    def said(given: str) -> str:
        with pytest.raises(UserError) as error:
            find_clips([given])
        return str(error.value)

    exists = "expected a file or folder that exists, or a pattern that matches videos"
    assert said("gone.mp4") == f"score: input, got 'gone.mp4'; {exists}"
    assert said(f"{tmp_path}/*.mp4") == f"score: input, got '{tmp_path}/*.mp4'; {exists}"
    assert (
        said(str(tmp_path))
        == f"score: input, got '{tmp_path}'; expected a folder with files ending in {ENDINGS}"
    )
    (tmp_path / "l.csv").write_text("file\nx.mp4\n")
    assert said(f"{tmp_path}/l.csv") == f"score: {tmp_path}/l.csv: column, got 'path'; expected one of file"
    jsonl(tmp_path / "l.jsonl", {"path": "x.mp4", "start": 3, "end": 1})
    assert said(f"{tmp_path}/l.jsonl") == (
        f"score: {tmp_path}/l.jsonl row 0: start and end, got (3.0, 1.0); expected a start before the end"
    )


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ('a.mp4,1\n"b.mp4,2\nc.mp4",3\n', "row 1: cell, got 'b.mp4,2\\nc.mp4'; expected one line: an open quote?"),
        ("a.mp4,1\nb,c.mp4,2\n", "row 1: more cells than the header, got '2'; expected as many"),
        ('a.mp4,1\n"b.mp4,2\n', ": table, got 'unexpected end of data'; expected comma-separated values"),
        ('a.mp4,1\n"b.mp4"x,2\n', r""": table, got '\',\' expected after \'"\''; expected comma-separated values"""),
    ],
)  # fmt: skip
def test_a_table_of_clips_loses_no_row(rows: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("path,label\n" + rows)
    with pytest.raises(UserError) as caught:
        find_clips([str(file)])
    assert str(caught.value) == f"score: {file}{' ' * told.startswith('row')}{told}"
