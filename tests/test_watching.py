"""Scoring videos by a trained run, through the command line: rows, budgets, broken files, going on where it stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from temporal import runs, watching
from temporal.agents.rollout import SpanRecorder
from temporal.data import decoders
from temporal.data.decoders import Decoders, Request
from temporal.data.manifests import Clip
from temporal.data.text import SAMPLES
from temporal.episodes import Plan
from temporal.errors import UserError
from temporal.parts import Part, Parts
from temporal.reading import read
from temporal.report import draw_strips
from tests.clips import HANGING, cut, make_clip, make_sound, spoil
from tests.mails import call, complaint

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
Rows = list[dict[str, Any]]
CONFIG = """
data: {class_path: temporal.data.video.VideoSource, init_args: {path: %s, num_frames: 12}}
reader:
  class_path: temporal.readers.AttentiveFrameReader
  init_args:
    encoder: {class_path: tests.footage.TinyEncoder}
    views: [32px]
    frame_size: 32
    hidden_size: 16
    preview: {class_path: temporal.readers.frames.Thumbnail, init_args: {height: 24, width: 32}}
agent: {class_path: temporal.agents.glimpse.GlimpseAgent, init_args: {num_places: 12, preview: %s, hidden_size: 16}}
training:
  class_path: temporal.agents.train.Training
  init_args:
    warmup: {class_path: temporal.agents.warmup.Warmup, init_args: {epochs: 2, shuffle_share: 1.0}}
    preview: {class_path: temporal.agents.preview.PreviewFit, init_args: {updates: 1, batch_size: 4}}
    stopping: {class_path: temporal.agents.stopping.StoppingFit, init_args: {updates: 20, learning_rate: 0.02}}
    updates: 1
    episodes: 8
    prices: [0.01, 30.0]
chunk: 1
device: cpu
"""
TRAINED = {"train": 8, "validation": 2, "test": 4}  # clips of the sample
FRAMES = 12
SECONDS = re.compile(r"(temporal: --trust imports .*\n)?(scoring: \d+/\d+, \d+\.\d videos/s\n)+")
VARYING = {"seconds": None}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of a few clips of the sample."""
    file = tmp_path_factory.mktemp("data") / "few.jsonl"
    rows = [json.loads(line) for line in (SAMPLES / "doom" / "manifest.jsonl").read_text().splitlines()]
    chosen = [row for s, num in TRAINED.items() for row in [r for r in rows if r["split"] == s][:num]]
    labels = {name: str(i % 2) for i, name in enumerate(sorted({row["label"] for row in chosen}))}
    keep = (
        {**row, "path": str(SAMPLES / "doom" / row["path"]), "label": labels[row["label"]]} for row in chosen
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in keep))
    return file


def train(data: Path, folder: Path, preview: bool, config: str = CONFIG) -> Path:
    from temporal.cli import main

    file = folder.with_suffix(".yaml")
    file.write_text(config % (data, str(preview).lower()))
    assert main(["train", str(file), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def eager(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent that sees previews and halts after a frame or two."""
    return train(data, tmp_path_factory.mktemp("runs") / "eager", True)


@pytest.fixture(scope="module")
def demuxing(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent whose previews are made of packets: nothing is decoded for them. It halts at the end only."""
    folder = tmp_path_factory.mktemp("runs") / "demuxing"
    thumbnail = "{class_path: temporal.readers.frames.Thumbnail, init_args: {height: 24, width: 32}}"
    assert thumbnail in CONFIG
    config = CONFIG.replace(thumbnail, "{class_path: temporal.readers.packets.PacketSizes}")
    return never_halting(train(data, folder, True, config))


def never_halting(folder: Path) -> Path:
    """The same run with an agent that would rather not halt."""
    weights = load_file(folder / "model.safetensors")
    weights["agent.heads.bias"][1] -= 1e6
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(eager: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent that sees previews: every position is decoded when a file is opened. It halts at the end only."""
    return never_halting(shutil.copytree(eager, tmp_path_factory.mktemp("runs") / "seeing"))


@pytest.fixture(scope="module")
def blind(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent without previews: frames are decoded as it asks for them. It halts at the end only."""
    return never_halting(train(data, tmp_path_factory.mktemp("runs") / "blind", False))


@pytest.fixture(params=["run", "blind"])
def either(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips, of 40 frames, 5 and 1 among them, in four containers."""
    folder = tmp_path_factory.mktemp("films")
    for index in range(10):
        num, ending = {3: 5, 6: 1}.get(index, 40), (".mp4", ".mkv", ".avi", ".mov")[index % 4]
        options = {"codec": "mpeg4", "options": {"bf": "0"}} if ending == ".avi" else {}
        make_clip(folder / f"{index}{ending}", num, size=(48 + 2 * index, 64), **options)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def pool() -> Iterator[Decoders]:
    with Decoders(1) as decoders:
        yield decoders


LOAD = cache(runs.load)


@pytest.fixture(autouse=True)
def shared(pool: Decoders, monkeypatch: Patch) -> None:
    """Processes take long to start, and runs to load: most tests share them."""
    monkeypatch.setattr(watching, "Decoders", lambda *_, **__: nullcontext(pool))
    monkeypatch.setattr(runs, "load", LOAD)


@pytest.fixture
def own_decoders(monkeypatch: Patch) -> None:
    monkeypatch.setattr(watching, "Decoders", Decoders)


@pytest.fixture
def small_batches(monkeypatch: Patch) -> None:
    monkeypatch.setattr(watching, "BATCH", 3)
    monkeypatch.setattr(watching, "AHEAD", 2)


@pytest.fixture
def requests(monkeypatch: Patch) -> list[Request]:
    """What the decoders are asked for."""
    asked: list[Request] = []
    submit = Decoders.submit

    def counted(self: Decoders, request: Request) -> int:
        asked.append(request)
        return submit(self, request)

    monkeypatch.setattr(Decoders, "submit", counted)
    return asked


def score(capsys: Capture, run: Path, *arguments: object, out: Path, workers: int = 1) -> Rows:
    """Rows of a call that must succeed; its results must be on stdout and its progress on stderr."""
    code, told, progress = call(
        capsys, "score", "--trust", run, *arguments, "--workers", workers, "--out", out
    )
    assert (code, progress[-len(told) :] if code else "") == (0, "")
    rows: Rows = pq.read_table(out).to_pylist()
    assert re.fullmatch(
        rf"{out}: {len(rows)} videos scored at \d+\.\d% of a full reading on average, "
        rf"\d+\.\d frames decoded of each(; \d+ could not be, see .*\.errors\.jsonl)?\n",
        told,
    )
    assert SECONDS.fullmatch(progress)
    assert list(out.parent.glob("*.parts*")) == []
    return rows


def failures(out: Path) -> list[tuple[str, str]]:
    """File and reason of each line of the list of errors."""
    lines = map(json.loads, out.with_suffix(".errors.jsonl").read_text().splitlines())
    return [(Path(line["input"]).name, line["reason"]) for line in lines]


def stable(rows: Rows) -> Rows:
    """Rows without what the clock says."""
    return [row | VARYING for row in rows]


def named(rows: Rows) -> list[str]:
    return [Path(row["input"]).name for row in rows]


# Rows.


def evaluated(folder: Path, price: float, budget: float | None) -> tuple[Any, list[list[int]], Any]:
    """What evaluation makes of the test clips: the same agent over cached features."""
    loaded = runs.load(folder, True)
    experiment = loaded.experiment()
    experiment.data.equip(loaded.reader)
    source = experiment.data.split("test")
    plan = Plan.of(torch.arange(len(source)), price, budget)
    recorder = SpanRecorder(len(source))
    outcome = read(source, loaded.reader, loaded.agent, plan, 64, 1, recorder)
    return outcome, list(map(list, recorder.positions)), source


@pytest.mark.parametrize(
    ("name", "budget", "stopped"),
    [
        ("eager", None, "agent"),
        ("run", None, "end"),
        ("run", 5, "budget"),
        ("blind", None, "end"),
        ("blind", 5, "budget"),
    ],
)
def test_rows_agree_with_evaluation(
    name: str,
    budget: int | None,
    stopped: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    either: Path = request.getfixturevalue(name)
    outcome, positions, source = evaluated(either, 0.3, budget)
    inputs = [clip.path for clip in source.clips]
    given = ["--price", "0.3", *(["--frames", budget] if budget else [])]
    rows = score(capsys, either, *inputs, *given, out=tmp_path / "s.parquet")
    assert [row["input"] for row in rows] == inputs
    assert [row["flops"] for row in rows] == outcome.flops.tolist()
    found = torch.tensor([row["probabilities"] for row in rows])
    torch.testing.assert_close(
        found, outcome.probabilities, atol=2e-3, rtol=0
    )  # features are cached in halves
    names = runs.load(either, True).task.class_names
    for i, row in enumerate(rows):
        indices = source.frame_indices(i)[positions[i]].tolist()
        assert row["frames"] == indices
        assert len(indices) == row["frames_looked_at"] == int(outcome.tokens[i])
        assert row["frame_seconds"] == pytest.approx([index / 8.75 for index in indices])
        assert row["label"] == names[int(found[i].argmax())]
        assert row["stopped"] == stopped
        assert (row["frames_total"], row["start"], row["end"]) == (64, None, None)
        assert row["seconds"] > 0


def test_frames_decoded_are_counted(
    run: Path, blind: Path, films: Path, tmp_path: Path, capsys: Capture
) -> None:
    seen = score(capsys, run, films, "--frames", 1, out=tmp_path / "a.parquet")
    for row in seen:  # previews need every position, and positions what lies between
        assert min(row["frames_total"], FRAMES) <= row["frames_decoded"] <= row["frames_total"]
    unseen = score(capsys, blind, films, "--frames", 1, out=tmp_path / "b.parquet")
    for row in unseen:
        assert len(row["frames"]) == 1
        assert 1 <= row["frames_decoded"] <= row["frames"][0] % 12 + 1  # from the key frame before it
    assert sum(r["frames_decoded"] for r in unseen) < sum(r["frames_decoded"] for r in seen) / 3


def test_previews_of_packets_have_nothing_decoded(
    demuxing: Path, run: Path, films: Path, tmp_path: Path, capsys: Capture
) -> None:
    rows = score(capsys, demuxing, films, "--frames", 1, out=tmp_path / "a.parquet")
    for row in rows:
        assert len(row["frames"]) == 1
        assert 1 <= row["frames_decoded"] <= row["frames"][0] % 12 + 1  # from the key frame before it
    reader = runs.load(demuxing, True).reader
    previews = [min(row["frames_total"], FRAMES) * reader.preview_flops for row in rows]
    assert reader.preview_flops < runs.load(run, True).reader.preview_flops / 100
    assert all(row["flops"] > flops for row, flops in zip(rows, previews, strict=True))


def test_short_videos_are_read_whole(either: Path, films: Path, tmp_path: Path, capsys: Capture) -> None:
    rows = score(capsys, either, films, "--frames", 8, out=tmp_path / "s.parquet")
    by_name = dict(zip(named(rows), rows, strict=True))
    for name, num in (("3.mov", 5), ("6.avi", 1)):
        row = by_name.pop(name)
        assert (sorted(row["frames"]), row["frames_total"], row["stopped"]) == ([*range(num)], num, "end")
    assert {row["stopped"] for row in by_name.values()} == {"budget"}


# Inputs.


def test_inputs_of_every_kind(run: Path, films: Path, tmp_path: Path, capsys: Capture) -> None:
    paths = sorted(str(path) for path in films.iterdir())
    (tmp_path / "list.txt").write_text("".join(f"{path} some label\n" for path in paths))
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{path}\n" for path in paths))
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"path": path}) + "\n" for path in paths))
    expected = score(capsys, run, films, "--frames", 2, out=tmp_path / "s.parquet")
    assert [row["input"] for row in expected] == paths
    for given in (f"{films}/*", *(tmp_path / f"list.{ending}" for ending in ("txt", "csv", "jsonl"))):
        assert stable(score(capsys, run, given, "--frames", 2, out=tmp_path / "t.parquet")) == stable(
            expected
        )


def test_clips_of_a_file(either: Path, tmp_path: Path, capsys: Capture) -> None:
    path = make_clip(tmp_path / "a.mp4", 90)
    (tmp_path / "list.csv").write_text("path,start,end\na.mp4,,\na.mp4,1,2\na.mp4,2,\na.mp4,9,\n")
    rows = score(
        capsys, either, tmp_path / "list.csv", "--frames", 4, "--price", 0, out=tmp_path / "s.parquet"
    )
    assert [(r["input"], r["start"], r["end"]) for r in rows] == [
        (str(path), None, None), (str(path), 1, 2), (str(path), 2, None)
    ]  # fmt: skip
    assert [row["frames_total"] for row in rows] == [90, 30, 30]
    assert all(30 <= frame < 60 for frame in rows[1]["frames"])
    assert rows[2]["frame_seconds"] == pytest.approx([frame / 30 for frame in rows[2]["frames"]])
    assert min(rows[2]["frames"]) >= 60
    (failure,) = map(json.loads, (tmp_path / "s.errors.jsonl").read_text().splitlines())
    assert failure == {
        "input": str(path),
        "start": 9.0,
        "end": None,
        "reason": "nothing at 9 s: it lasts 3 s",
    }


def test_names_of_any_bytes(run: Path, films: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    shutil.copy(films / "0.mp4", os.fsencode(folder) + b"/\xff 1.mp4")
    (folder / "\udcfe.mp4").write_text("no video")
    rows = score(capsys, run, folder, "--frames", 1, out=tmp_path / "s.parquet")
    assert named(rows) == ["\\xff 1.mp4"]
    assert [name for name, _ in failures(tmp_path / "s.parquet")] == ["\\xfe.mp4"]


# Budgets.


@pytest.mark.parametrize(
    ("either", "budget"),
    [("run", 1), ("run", 2), ("run", 8), ("run", 64), ("run", 1000), ("blind", 1), ("blind", 8)],
    indirect=["either"],
)
def test_a_budget_in_frames_is_never_exceeded(
    budget: int, either: Path, films: Path, tmp_path: Path, capsys: Capture
) -> None:
    rows = score(capsys, either, films, "--frames", budget, "--price", 0, out=tmp_path / "s.parquet")
    for row in rows:
        positions = min(row["frames_total"], FRAMES)
        assert (
            len(row["frames"]) == len(set(row["frames"])) == row["frames_looked_at"] == min(budget, positions)
        )
        assert row["stopped"] == ("budget" if budget < positions else "end")


@pytest.mark.parametrize("looks", [0, 1, 3.5, 100])
def test_a_budget_in_flops_is_never_exceeded(
    looks: float, either: Path, films: Path, tmp_path: Path, capsys: Capture
) -> None:
    loaded = runs.load(either, True)
    one = torch.ones(1, dtype=torch.long)
    look = float(loaded.reader.read_flops(one, one, one)) + loaded.agent.decision_flops
    least = loaded.reader.predict_flops
    least += FRAMES * loaded.reader.preview_flops if "preview" in loaded.agent.needs else 0
    budget = least + looks * (look + 2 * loaded.reader.predict_flops)
    rows = score(capsys, either, films, "--flops", budget, "--price", 0, out=tmp_path / "s.parquet")
    assert max(row["flops"] for row in rows) <= budget
    for row in rows:
        positions = min(row["frames_total"], FRAMES)
        # Videos with fewer frames have fewer previews to pay.
        assert row["frames_looked_at"] >= min(int(looks), positions)
        if positions == FRAMES:
            assert row["frames_looked_at"] <= looks + 1
        assert row["stopped"] == ("budget" if row["frames_looked_at"] < positions else "end")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frames", "0"], "score: --frames, got 0; expected a whole number from 1 to 1,000,000,000"),
        (["--frames", "2.5"], "score: --frames, got '2.5'; expected a whole number from 1 to 1,000,000,000"),
        (["--frames", "1", "--flops", "1e9"], "score: --flops, got --frames as well; expected one of them"),
        (["--tokens", "3"], "score: --tokens, got 3; expected no such option, for the run reads videos"),
        (
            ["--text-column", "x"],
            "score: --text-column, got 'x'; expected no such option, for the run reads videos",
        ),
        (["--workers", "0"], "score: --workers, got 0; expected a whole number from 1 to 256"),
        (
            ["--seconds-per-file", "0"],
            "score: --seconds-per-file, got 0.0; expected a number above 0, at most 1,000,000",
        ),
        (
            ["--seconds-per-file", "nan"],
            "score: --seconds-per-file, got nan; expected a number above 0, at most 1,000,000",
        ),
        (["--price", "-1"], "score: --price, got -1.0; expected a number from 0 to 1,000,000"),
    ],
)
def test_mistakes_in_options(
    options: list[str], message: str, run: Path, films: Path, tmp_path: Path, capsys: Capture
) -> None:
    given = ("score", "--trust", run, films, *options, "--out", tmp_path / "s.parquet")
    assert complaint(capsys, *given) == message
    assert list(tmp_path.iterdir()) == []


def test_a_budget_too_small_for_an_answer(
    run: Path, blind: Path, films: Path, tmp_path: Path, capsys: Capture
) -> None:
    reader = runs.load(run, True).reader
    least = reader.predict_flops + FRAMES * reader.preview_flops
    for folder, needed, what in (
        (run, least, "one answer and the previews"),
        (blind, reader.predict_flops, "one answer"),
    ):
        line = complaint(
            capsys, "score", "--trust", folder, films, "--flops", needed - 1, "--out", tmp_path / "s.parquet"
        )
        assert line == f"score: --flops, got {needed - 1:.1f}; expected {needed} or more, the cost of {what}"


def test_options_of_videos_do_not_go_with_texts(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    of_texts = replace(runs.load(run, True), reader=torch.nn.Identity())  # type: ignore[arg-type]
    monkeypatch.setattr(runs, "load", lambda *_: of_texts)
    (tmp_path / "a.txt").write_text("cheap pills")
    given = ("score", run, tmp_path / "a.txt", "--out", tmp_path / "s.parquet")
    for option, value in (
        ("--frames", 3),
        ("--workers", 2),
        ("--seconds-per-file", 5.0),
        ("--max-pixels", 9),
    ):
        line = complaint(capsys, *given, option, value)
        assert line == f"score: {option}, got {value}; expected no such option, for the run reads texts"
    line = complaint(capsys, *given, "--lenient")
    assert line == "score: --lenient, got True; expected no such option, for the run reads texts"


# Broken files.


def break_some(films: Path, folder: Path) -> list[str]:
    """Good films with broken ones between them; the names of those that are broken, in order."""
    folder.mkdir()
    for path in films.iterdir():
        shutil.copy(path, folder)
    (folder / "0a.mp4").write_bytes(b"")
    (folder / "0b.mkv").write_text("no video")
    (folder / "0c.avi").mkdir()
    (folder / "0d.mp4").symlink_to("nowhere")
    for name in ("1a.mp4", "3a.mp4", "3b.mp4", "8a.mp4"):  # opens, and fails in decoding
        spoil(make_clip(folder / name, 40, gop=4))
    cut(make_clip(folder / "4a.mkv", 40), 0.5)
    make_sound(folder / "9a.mp4")
    return sorted(p.name for p in folder.iterdir() if not p.stem.isdigit())


@pytest.mark.parametrize(("either", "workers"), [("run", 1), ("blind", 3)], indirect=["either"])
@pytest.mark.usefixtures("small_batches", "own_decoders")
def test_broken_files_change_nothing_for_others(
    workers: int, either: Path, films: Path, tmp_path: Path, capsys: Capture
) -> None:
    expected = score(capsys, either, films, "--frames", 6, "--price", 0, out=tmp_path / "a.parquet")
    assert not (tmp_path / "a.errors.jsonl").exists()
    broken = break_some(films, tmp_path / "mixed")
    rows = score(
        capsys,
        either,
        tmp_path / "mixed",
        "--frames",
        6,
        "--price",
        0,
        out=tmp_path / "b.parquet",
        workers=workers,
    )
    assert named(rows) == named(expected)
    assert [row | {"input": None} for row in stable(rows)] == [
        row | {"input": None} for row in stable(expected)
    ]
    listed = failures(tmp_path / "b.parquet")
    assert sorted(name for name, _ in listed) == broken
    reasons = dict(listed)
    assert reasons["0a.mp4"] == "invalid data found when processing input"
    assert reasons["0c.avi"] == "is a directory"
    assert reasons["0d.mp4"] == "no such file or directory"
    assert reasons["9a.mp4"] == "no video in it"
    assert reasons["4a.mkv"].startswith("cut off")
    assert all(
        reasons[name].startswith("damaged before or at frame")
        for name in broken
        if name in "1a.mp4 3a.mp4 3b.mp4 8a.mp4"
    )


@pytest.mark.usefixtures("own_decoders")
def test_lenient_scoring_says_what_is_missing(
    run: Path, films: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    shutil.copy(films / "0.mp4", folder)
    size = cut(make_clip(folder / "1.mkv"), 0.6).stat().st_size
    spoil(make_clip(folder / "2.mp4", 40), 17)  # shown as frame 17
    (folder / "3.mp4").write_text("no video")
    out = tmp_path / "s.parquet"
    strict = score(capsys, run, folder, "--frames", 3, out=out)
    assert [(row["input"][-5:], row["missing"]) for row in strict] == [("0.mp4", None)]
    lenient = score(capsys, run, folder, "--frames", 3, "--lenient", out=out)
    assert (lenient[0]["frames"], lenient[0]["missing"]) == (strict[0]["frames"], None)
    assert [name for name, _ in failures(out)] == ["3.mp4"]
    assert [row["input"][-5:] for row in lenient] == ["0.mp4", "1.mkv", "2.mp4"]
    assert re.match(rf"cut off: {size} of \d+ bytes are there; ", lenient[1]["missing"])
    assert re.match(r"frame \d+, in whose place frame \d+ was shown", lenient[2]["missing"])


@pytest.mark.usefixtures("own_decoders")
def test_what_is_no_file_is_listed_at_once(run: Path, films: Path, tmp_path: Path, capsys: Capture) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    given = (tmp_path / "pipe.mp4", tmp_path / "zero.mp4", films / "0.mp4")
    assert named(score(capsys, run, *given, "--frames", 1, out=tmp_path / "s.parquet")) == ["0.mp4"]
    assert failures(tmp_path / "s.parquet") == [("pipe.mp4", "not a file"), ("zero.mp4", "not a file")]


def test_lists_that_are_no_files(run: Path, tmp_path: Path, capsys: Capture) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    with (tmp_path / "huge.jsonl").open("wb") as file:
        file.truncate(1 << 40)
    for name, why in (
        ("pipe.csv", "not a file"),
        ("zero.txt", "not a file"),
        ("huge.jsonl", "more than 256 MB"),
    ):
        path = str(tmp_path / name)
        line = complaint(capsys, "score", "--trust", run, path, "--out", tmp_path / "s.parquet")
        assert line == f"score: path, got {path!r}; expected a file that can be read ({why})"


@pytest.mark.usefixtures("own_decoders")
def test_large_pictures_are_listed(run: Path, films: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "s.parquet"
    rows = score(capsys, run, films / "0.mp4", films / "9.mkv", "--max-pixels", 4000, out=out)
    assert named(rows) == ["0.mp4"]
    assert failures(out) == [("9.mkv", "64 x 66 pixels, more than 4,000")]
    line = complaint(capsys, "score", "--trust", run, films, "--max-pixels", 0, "--out", out)
    assert line == "score: --max-pixels, got 0; expected a whole number from 1 to 1,000,000,000"


@pytest.mark.usefixtures("own_decoders")
def test_files_that_take_too_long_are_given_up(
    run: Path, films: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(decoders, "COMMAND", HANGING)
    (tmp_path / "hangs.mp4").touch()
    limit = ("--seconds-per-file", 1.5)
    rows = score(
        capsys,
        run,
        films / "0.mp4",
        tmp_path / "hangs.mp4",
        films / "1.mkv",
        *limit,
        out=tmp_path / "s.parquet",
    )
    assert named(rows) == ["0.mp4", "1.mkv"]
    assert failures(tmp_path / "s.parquet") == [("hangs.mp4", "no answer within 1.5 s")]


@pytest.mark.usefixtures("small_batches", "own_decoders")
def test_workers_change_nothing(either: Path, films: Path, tmp_path: Path, capsys: Capture) -> None:
    one, three = (
        score(capsys, either, films, "--frames", 3, out=tmp_path / "s.parquet", workers=workers)
        for workers in (1, 3)
    )
    assert stable(one) == stable(three)


def test_nothing_that_can_be_scored(run: Path, films: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "s.parquet"
    before = score(capsys, run, films, "--frames", 1, out=out)
    (tmp_path / "bad.mp4").write_text("no video")
    code, told, shown = call(capsys, "score", "--trust", run, tmp_path / "bad.mp4", "--out", out)
    assert (code, told) == (2, "")
    why = "invalid data found when processing input"
    expected = "expected one video or more that can be scored"
    line = f"temporal: score: inputs, got {why} in {tmp_path / 'bad.mp4'}; {expected}\n"
    assert shown.endswith("videos/s\n" + line)
    assert pq.read_table(out).to_pylist() == before
    assert failures(out) == [("bad.mp4", why)]
    score(capsys, run, films, "--frames", 1, out=out)
    assert not out.with_suffix(".errors.jsonl").exists()


# Where results go.


def test_outputs_that_cannot_be_written(run: Path, films: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.parquet").mkdir()
    for name, why in (
        ("s.csv", "a file ending in .parquet"),
        ("folder.parquet", "a file ending in .parquet"),
        ("\udcfe.parquet", "a name in UTF-8"),
        ("file/s.parquet", "a file that can be written (Not a directory)"),
    ):
        out = tmp_path / name
        assert (
            complaint(capsys, "score", "--trust", run, films, "--out", out)
            == f"score: --out, got {str(out)!r}; expected {why}"
        )


def test_a_full_disk(run: Path, films: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    out = tmp_path / "s.parquet"
    code, _, shown = call(capsys, "score", "--trust", run, films, "--out", out)
    last = shown.splitlines()[-1]
    assert (code, last) == (
        2,
        f"temporal: score: --out, got {str(out)!r}; expected a file that can be written (No space left on device)",
    )


# Going on.


class Stop(BaseException):
    """Ends a process, as far as a test can."""


def killed(capsys: Capture, *arguments: object) -> None:
    """Score until `Stop`."""
    with pytest.raises(Stop):
        call(capsys, "score", "--trust", *arguments)


def stop_after(num: int, monkeypatch: Patch, error: type[BaseException]) -> None:
    """Have scoring end when it is about to keep another batch after so many."""
    add = Parts.add

    def limited(self: Parts, part: Part) -> None:
        if len(self._stops) == num:
            raise error
        add(self, part)

    monkeypatch.setattr(Parts, "add", limited)


@pytest.mark.parametrize(("either", "num"), [("run", 1), ("blind", 0), ("blind", 3)], indirect=["either"])
@pytest.mark.usefixtures("small_batches")
def test_a_killed_scoring_goes_on(
    num: int,
    either: Path,
    films: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: Patch,
    requests: list[Request],
) -> None:
    broken = break_some(films, tmp_path / "mixed")
    given = (either, tmp_path / "mixed", "--frames", 4)
    expected = score(capsys, *given, out=tmp_path / "whole.parquet")
    out = tmp_path / "s.parquet"
    with monkeypatch.context() as patch:
        stop_after(num, patch, Stop)
        killed(capsys, *given, "--out", out)
    assert not out.exists()
    (parts,) = tmp_path.glob("s.parquet.*.parts")
    kept = [
        name for file in sorted(parts.glob("*.parquet")) for name in named(pq.read_table(file).to_pylist())
    ]
    assert kept == named(expected)[: len(kept)]
    assert len(kept) == 3 * num
    (parts / "000000099.77.unfinished").write_bytes(b"what was being written")
    requests.clear()
    assert stable(score(capsys, *given, out=out)) == stable(expected)
    assert {Path(r.path).name for r in requests}.isdisjoint(kept)
    assert sorted(name for name, _ in failures(out)) == broken


@pytest.mark.usefixtures("small_batches")
def test_a_scoring_killed_at_the_very_end_goes_on(
    run: Path, films: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch, requests: list[Request]
) -> None:
    out = tmp_path / "s.parquet"

    def stop(*_: object, **__: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda a, b: stop() if Path(b) == out else shutil.move(a, b))
        killed(capsys, run, films, "--frames", 2, "--out", out)
    requests.clear()
    rows = score(capsys, run, films, "--frames", 2, out=out)
    assert (len(rows), requests) == (10, [])
    # Killed while the parts are removed, it starts anew rather than take the rest of them for all.
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, **_: stop() if any(Path(path).glob("*")) else None)
        killed(capsys, run, films, "--frames", 2, "--out", out)
    assert stable(score(capsys, run, films, "--frames", 2, out=out)) == stable(rows)


@pytest.mark.usefixtures("small_batches")
def test_ctrl_c_keeps_what_is_finished(
    run: Path, films: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch, requests: list[Request]
) -> None:
    out = tmp_path / "s.parquet"
    with monkeypatch.context() as patch:
        stop_after(2, patch, KeyboardInterrupt)
        code, told, shown = call(capsys, "score", "--trust", run, films, "--frames", 2, "--out", out)
    assert (code, told) == (130, "")
    assert shown.endswith("temporal: interrupted; what was finished is kept\n")
    requests.clear()
    assert len(score(capsys, run, films, "--frames", 2, out=out)) == 10
    assert len({request.path for request in requests}) == 4


@pytest.mark.usefixtures("small_batches")
def test_another_command_keeps_parts_of_its_own(
    run: Path, blind: Path, films: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    out = tmp_path / "s.parquet"
    commands = [
        (run, films, "--frames", 2),
        (run, films, "--frames", 3),
        (run, films, "--frames", 2, "--price", 1),
        (run, films / "0.mp4", films / "[1-9]*", films / "0.mp4", "--flops", 1e9),
        (blind, films, "--frames", 2),
    ]
    with monkeypatch.context() as patch:
        stop_after(1, patch, Stop)
        for given in commands:
            killed(capsys, *given, "--out", out)
    assert len(list(tmp_path.glob("*.parts"))) == len(commands)
    code, _, _ = call(capsys, "score", "--trust", *commands[1], "--out", out)
    assert (code, len(list(tmp_path.glob("*.parts")))) == (0, len(commands) - 1)
    assert max(row["frames_looked_at"] for row in pq.read_table(out).to_pylist()) == 3


@pytest.mark.usefixtures("small_batches")
def test_a_damaged_part_is_named(
    run: Path, films: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    out = tmp_path / "s.parquet"
    with monkeypatch.context() as patch:
        stop_after(1, patch, Stop)
        killed(capsys, run, films, "--frames", 2, "--out", out)
    (part,) = tmp_path.glob("s.parquet.*.parts/*.parquet")
    part.write_bytes(b"gone")
    code, _, shown = call(capsys, "score", "--trust", run, films, "--frames", 2, "--out", out)
    expected = "expected a part of the results; remove the folder to start anew"
    assert (code, shown.splitlines()[-1]) == (2, f"temporal: score: {part}, got a damaged file; {expected}")


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_worker(run: Path, films: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs.mp4")  # so that a worker is busy for sure
    command = [
        sys.executable,
        "-m",
        "temporal",
        "score",
        "--trust",
        run,
        tmp_path / "hangs.mp4",
        films,
        "--out",
        tmp_path / "s.parquet",
    ]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL) as process:
        workers = wait_for(lambda: children(process.pid))
        assert workers
        process.send_signal(signal.SIGKILL)
    assert wait_for(lambda: not any(alive(pid) for pid in workers))


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(number) for number in found.stdout.split()]


def alive(pid: int) -> bool:
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return bool(state.strip()) and not state.startswith("Z")


def wait_for(found: Any, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


def test_strips_decode_frames_of_as_many_pixels_as_the_data_may_have(run: Path, tmp_path: Path) -> None:
    loaded = runs.load(run, True)
    experiment = loaded.experiment()
    experiment.data.equip(loaded.reader)
    experiment.data.max_pixels = 10  # type: ignore[attr-defined]
    told = r"^data: video .*\.mp4, got \d+ x \d+ pixels, more than 10; expected a file that can be decoded$"
    with pytest.raises(UserError, match=told):
        draw_strips(loaded, experiment, tmp_path / "a.png", 1, None, 1)


def test_a_file_that_was_replaced_is_scored_anew(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    file = tmp_path / "a.mp4"
    run, clips = SimpleNamespace(folder=tmp_path, config={}), [Clip(str(file)), Clip(str(file), 1.0)]
    budget, reading = watching.Budget(None, None, 0.1), watching.Reading(1, 60)
    found: set[str] = set()
    for content in (None, b"one", b"other"):
        if content is not None:
            file.write_bytes(content)
        prints = {watching._fingerprint(run, clips, budget, reading) for _ in range(2)}  # type: ignore[arg-type]
        assert len(prints) == 1
        found |= prints
    assert len(found) == 3
