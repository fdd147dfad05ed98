"""The renderer of clips, and what the shipped ones promise."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from temporal.data import doom
from temporal.data.base import SPLITS
from temporal.data.doom import KINDS, SHARES, Frames, make_doom, write_clip
from temporal.data.text import SAMPLES
from temporal.errors import UserError

FOLDER = SAMPLES / "doom"
ROWS = [json.loads(line) for line in (FOLDER / "manifest.jsonl").read_text().splitlines()]
TWO = ("Demon", "LostSoul")
needs_game = pytest.mark.skipif(importlib.util.find_spec("vizdoom") is None, reason="needs vizdoom")


def decode(path: Path) -> tuple[Frames, list[int]]:
    """All frames of a clip, and which of them are key frames."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    keys = [i for i, frame in enumerate(frames) if frame.key_frame]
    return np.array([frame.to_ndarray(format="rgb24") for frame in frames]), keys


def plan(clips: int, seed: int = 0) -> list[doom.Clip]:
    pytest.importorskip("vizdoom")
    return doom._plan(clips, seed, KINDS, SHARES, 23)


# The shipped clips.


def test_counts_are_those_of_the_readme() -> None:
    readme = (FOLDER / "README.md").read_text()
    kinds = re.findall(r"^\| split \| maps \| (.*) \|$", readme, re.M)[0].split(" | ")
    for split in SPLITS:
        maps, *counts = re.findall(rf"^\| {split} \| (.*) \|$", readme, re.M)[0].split(" | ")
        rows = [row for row in ROWS if row["split"] == split]
        assert Counter(row["label"] for row in rows) == dict(zip(kinds, map(int, counts), strict=True))
        assert len({row["map"] for row in rows}) == int(maps)


def test_manifest_lists_what_is_there_in_order() -> None:
    paths = [row["path"] for row in ROWS]
    assert set(paths) == {p.relative_to(FOLDER).as_posix() for p in FOLDER.rglob("*.mp4")}
    assert paths == sorted(paths, key=lambda path: (SPLITS.index(path.split("/")[0]), path))
    assert all(row["path"].startswith(row["split"] + "/") for row in ROWS)


def test_splits_share_no_map() -> None:
    maps = {split: {row["map"] for row in ROWS if row["split"] == split} for split in SPLITS}
    assert sum(map(len, maps.values())) == len(set().union(*maps.values()))


def test_the_monster_is_seen_but_seldom() -> None:
    truth = np.array([row["truth"] for row in ROWS])
    assert truth.shape == (len(ROWS), 64)
    assert (truth.max(axis=1) >= doom.MIN_AREA).all()
    assert truth.max() <= 160 * 120
    # it comes after the fourth frame at the earliest
    assert not truth[:, :5].any()
    assert 4 <= np.median((truth > 0).sum(axis=1)) <= 7


def test_where_the_truth_says_so_the_picture_shows_a_demon() -> None:
    """Demons are pink, ghosts are not: how much pink comes with the monster, as a share of the picture."""
    gains: dict[str, list[float]] = {"Demon": [], "LostSoul": []}
    for row in [row for row in ROWS if row["label"] in gains and row["split"] == "test"][:12]:
        red, green, blue = np.moveaxis(decode(FOLDER / row["path"])[0].astype(int), -1, 0)
        pink = ((red - green > 50) & (blue - green > -5)).mean(axis=(1, 2))
        gains[row["label"]].append(pink[np.argmax(row["truth"])] - pink[:5].mean())
    assert np.median(gains["Demon"]) > 0.1
    assert np.median(gains["LostSoul"]) < 0.02


@pytest.mark.parametrize("row", ROWS[:: len(ROWS) // 4], ids=lambda row: row["path"])
def test_clips_have_64_frames_and_four_key_frames(row: dict[str, Any]) -> None:
    frames, keys = decode(FOLDER / row["path"])
    assert frames.shape == (64, 120, 160, 3)
    assert keys == [0, 16, 32, 48]


def test_the_sample_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 7e6


def test_licence_is_whole() -> None:
    text = " ".join((FOLDER / "LICENSE").read_text().split())
    assert "Copyright (c) 2001-2024 Contributors to the Freedoom project" in text
    assert text.count("Redistributions") == 2
    assert "Neither the name of the Freedoom project" in text
    assert "POSSIBILITY OF SUCH DAMAGE" in text


@needs_game
def test_a_row_remakes_its_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if version("vizdoom") != "1.3.2":
        pytest.skip("the sample was made with vizdoom 1.3.2")
    monkeypatch.chdir(tmp_path)  # where the game drops its files
    row = ROWS[0]
    with doom.open_game() as game:
        first = doom.make_walk(game, row["map"], row["label"], row["seed"])
        other = doom.make_walk(game, ROWS[5]["map"], ROWS[5]["label"], ROWS[5]["seed"])
        again = doom.make_walk(game, row["map"], row["label"], row["seed"])
    assert first.areas.tolist() == row["truth"]
    assert (first.frames == again.frames).all()
    assert other.areas.tolist() == ROWS[5]["truth"]
    # what was shipped is this walk, less what compression costs
    assert np.abs(decode(FOLDER / row["path"])[0].astype(int) - first.frames).mean() < 12


# Which clips there are to be.


def test_splits_have_their_shares_and_kinds_are_balanced() -> None:
    clips = plan(3200)
    assert Counter(clip.split for clip in clips) == {"train": 2100, "validation": 300, "test": 800}
    for split in SPLITS:
        counts = Counter(clip.kind for clip in clips if clip.split == split).values()
        assert len(counts) == 8
        assert max(counts) - min(counts) <= 1


def test_every_map_is_in_one_split() -> None:
    levels = {clip.split: clip.levels for clip in plan(100)}
    assert sorted(sum(levels.values(), ())) == sorted(doom.LEVELS)
    assert len(doom.LEVELS) == 68


def test_more_clips_begin_with_the_same_ones() -> None:
    few, many = plan(40), plan(400)
    assert set(few) < set(many)
    assert not set(plan(40, seed=1)) & set(many)


def test_splits_are_those_of_all_sources() -> None:
    assert doom.SPLITS == SPLITS


# How one is made.


def test_bytes_of_a_clip_depend_on_its_frames_alone(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    still = draw.integers(0, 255, (30, 40, 3), np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    frames = np.stack([np.roll(still, 3 * i, axis=1) for i in range(64)])
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, frames, 23, "a comment")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    shown, keys = decode(tmp_path / "a.mp4")
    assert keys == [0, 16, 32, 48]
    assert np.abs(shown.mean(axis=-1) - frames.mean(axis=-1)).mean() < 10


def test_a_walk_turns_off_where_it_is_blocked() -> None:
    free, blocked = (doom._Steering(np.random.default_rng(0)) for _ in range(2))
    drift = [free.turn(33.0) for _ in range(50)]
    assert max(map(abs, drift)) <= 5
    first = blocked.turn(0.0)
    assert 5 <= abs(first) <= 9
    # for at least two more frames, whatever it meets
    assert [blocked.turn(33.0), blocked.turn(0.0)] == [first, first]


def seen(*things: tuple[str, str, int]) -> Any:
    labels = [SimpleNamespace(object_name=n, object_category=c, width=w, height=10) for n, c, w in things]
    return SimpleNamespace(labels=labels)


@pytest.mark.parametrize(
    ("things", "area"),
    [
        ([], 0),
        ([("Demon", "Monster", 5)], 50),
        ([("Demon", "Monster", 5), ("DeadMarine", "Gore", 90), ("DeadDoomImp", "Gore", 15)], 50),
    ],
)
def test_area_is_that_of_the_monster_summoned(things: list[tuple[str, str, int]], area: int) -> None:
    assert doom._area_of(seen(*things), "Demon") == area


@pytest.mark.parametrize("thing", [("DoomImp", "Monster", 1), ("DeadDoomImp", "Gore", 16)])
def test_no_clip_shows_another_monster(thing: tuple[str, str, int]) -> None:
    with pytest.raises(doom._UnfitError):
        doom._area_of(seen(("Demon", "Monster", 5), thing), "Demon")


@needs_game
def test_interrupted_sets_are_completed_with_the_same_bytes(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    out = tmp_path / "set"
    manifest = make_doom(out, 10, 3, 2, lambda *call: calls.append(call), TWO, (0.6, 0.2, 0.2))
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["path"] for row in rows] == [
        f"{split}/{i:05}.mp4" for split, count in zip(SPLITS, (6, 2, 2), strict=True) for i in range(count)
    ]
    assert [row["label"] for row in rows] == list(TWO) * 5
    assert calls[0] == (0, 10)
    assert calls[-1] == (10, 10)
    assert not list(Path.cwd().glob("_vizdoom*"))

    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    gone, torn, kept = out / "train/00003.mp4", out / "test/00001.mp4", out / "train/00000.mp4"
    gone.unlink()
    torn.write_bytes(torn.read_bytes()[:1000])
    manifest.unlink()
    untouched = kept.stat().st_mtime_ns
    calls.clear()
    make_doom(out, 10, 3, 1, lambda *call: calls.append(call), TWO, (0.6, 0.2, 0.2))
    assert calls == [(8, 10), (10, 10)]
    assert kept.stat().st_mtime_ns == untouched
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    with pytest.raises(UserError) as caught:
        make_doom(out, 10, 4, 1, kinds=TWO, shares=(0.6, 0.2, 0.2))
    assert str(caught.value) == (
        f"make-doom: OUT, got {str(out)!r}; expected an empty folder, or a set with the same seed, kinds, shares, crf, "
        "busy and version of vizdoom"
    )


# What cannot be.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clips": 9}, "make-doom: clips, got 9; expected a whole number from 10 up"),
        ({"seed": -1}, "make-doom: seed, got -1; expected a whole number from 0 up"),
        ({"workers": 0}, "make-doom: workers, got 0; expected a whole number from 1 up"),
        ({"crf": 52}, "make-doom: crf, got 52; expected a whole number from 0 to 51"),
        ({"kinds": ["Demon"]}, "make-doom: kinds, got ['Demon']; expected two or more different names"),
        (
            {"kinds": ["Demon", "Imp"]},
            f"make-doom: kind, got 'Imp'; expected one of {', '.join(KINDS)}; did you mean 'DoomImp'?",
        ),
        (
            {"shares": (0.5, 0.5, 0.5)},
            "make-doom: shares, got (0.5, 0.5, 0.5); expected three that add up to 1 and leave no split empty",
        ),
    ],
)
@needs_game
def test_settings_out_of_range(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        make_doom(tmp_path / "set", **settings)
    assert str(caught.value) == message
    assert not (tmp_path / "set").exists()


@needs_game
def test_out_is_a_file(tmp_path: Path) -> None:
    out = tmp_path / "set"
    out.write_text("mine")
    with pytest.raises(UserError) as caught:
        make_doom(out)
    assert str(caught.value) == f"make-doom: OUT, got {str(out)!r}; expected a folder, new or begun earlier"
    assert out.read_text() == "mine"


def test_without_vizdoom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doom, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        make_doom(tmp_path / "set")
    assert str(caught.value) == (
        "make-doom: vizdoom, got none to import; expected the extra: pip install temporal-reading[doom]"
    )
