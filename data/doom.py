"""Clips with exact truth, rendered by ViZDoom from Freedoom's maps: which monster stands in a first-person walk?"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import av
import numpy as np
from jaxtyping import Int64, UInt8

from temporal.data.bustle import Bustle
from temporal.errors import UserError, bad, reason

if TYPE_CHECKING:
    from vizdoom import DoomGame, GameState

    from temporal.data.base import Split

# Those of temporal.data.base, which loads torch, and every worker would have to wait for that.
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
KINDS = (
    "Zombieman",
    "ShotgunGuy",
    "DoomImp",
    "Demon",
    "Cacodemon",
    "BaronOfHell",
    "LostSoul",
    "Revenant",
)
SHARES = (0.65625, 0.09375, 0.25)  # train, validation, test: 2,100, 300 and 800 of 3,200
CRF = 23
LEVELS = tuple(f"E{e}M{m}" for e in range(1, 5) for m in range(1, 10)) + tuple(
    f"MAP{m:02}" for m in range(1, 33)
)
NUM_FRAMES = 64
WIDTH, HEIGHT = 160, 120
KEY_EVERY = 16
TICS = 4  # between frames; the game has 35 a second
FRAME_RATE = Fraction(35, TICS)
MIN_AREA = 150  # pixels of a box that counts as seen
MIN_PATH = 600  # map units walked in a clip; a corridor is about 128 wide
STOP = "stop"  # a file beside the workers' folders
BLOCKED = 8  # map units in one frame below which something is in the way; a free step makes 33
MAX_ATTEMPTS = 200
PART = 16  # clips made by one start of the game, which takes as long as a clip
PLACES = ("Ammo", "Armor", "Health", "Key", "Weapon")  # things that a player can stand on
ARGUMENTS = "-nomonsters +sv_cheats 1 +set cl_showsecretmessage 0"
Frames = UInt8[np.ndarray, "frames height width 3"]
Areas = Int64[np.ndarray, " frames"]


class Walk(NamedTuple):
    """One walk: its frames, and the monster's box in each, in pixels (0 where it is not seen)."""

    frames: Frames
    areas: Areas


@dataclass(frozen=True)
class Clip:
    """One clip to be made.

    Args:
        path: relative to the folder of the set.
        kind: the monster to be summoned; the label.
        split: train, validation or test.
        levels: maps of that split, of which one is drawn.
        entropy: makes the clip, and no other clip has the same.
        crf: of H.264: higher is smaller and worse.
        made: what all clips of the set have in common, kept in each file.
        busy: other things come and go, too.
    """

    path: str
    kind: str
    split: Split
    levels: tuple[str, ...]
    entropy: tuple[int, ...]
    crf: int
    made: str
    busy: bool = False


class _UnfitError(Exception):
    """The walk just made does not make a clip."""


def make_doom(
    out: Path,
    clips: int = 4000,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
    kinds: Sequence[str] = KINDS,
    shares: tuple[float, float, float] = SHARES,
    crf: int = CRF,
    busy: bool = False,
) -> Path:
    """Render the set into the folder `out`, clips that are there excepted, and return its manifest.

    A clip has 64 frames of 160x120, 8.75 a second, with a key frame every 16. The player walks through a map without
    monsters; at a random moment ONE is summoned, and which is the label. The same seed gives the same bytes,
    however many workers there are, and more clips with the same seed begin with the same ones in each split.

    `manifest.jsonl` has a line a clip: path, label, split, map, seed (of that walk), and truth: the area in pixels of
    the monster's box in each frame.

    Args:
        out: made if missing.
        clips: in all three splits; the splits have different maps.
        seed: 0 or more.
        workers: processes that render.
        progress: called with clips done and clips in all.
        kinds: monsters by their names in ZDoom, equally frequent in each split.
        shares: of train, validation and test, in clips and in maps.
        crf: of H.264, 0 to 51: higher is smaller and worse.
        busy: let other things come and go as the monster does, and the light flicker, and encode with one quantiser
            (crf) throughout, so that the sizes of packets alone do not tell where the monster is.

    Raises:
        UserError: without vizdoom, for a setting out of range, and where `out` is a file or holds another set.
    """
    _check(out, clips, seed, workers, kinds, crf)
    plan = _plan(clips, seed, tuple(kinds), shares, crf, busy)
    try:
        for split in SPLITS:
            (out / split).mkdir(parents=True, exist_ok=True)
        rows = {clip.path: row for clip in plan if (row := _row_of(out, clip))}
        missing = [clip for clip in plan if clip.path not in rows]
        progress(len(rows), clips)
        with _pool(workers) as pool:
            parts = [missing[i : i + PART] for i in range(0, len(missing), PART)]
            for future in as_completed([pool.submit(_make_part, out.resolve(), part) for part in parts]):
                rows |= future.result()
                progress(len(rows), clips)
        return _write_manifest(out, [rows[clip.path] for clip in plan])
    except OSError as error:
        raise bad("make-doom", "OUT", str(out), f"a folder to write to ({reason(error)})") from error


def _check(out: Path, clips: int, seed: int, workers: int, kinds: Sequence[str], crf: int) -> None:
    """Raise for what cannot be made."""
    if find_spec("vizdoom") is None:
        expected = "the extra: pip install temporal-reading[doom]"
        raise UserError(f"make-doom: vizdoom, got none to import; expected {expected}")
    if out.exists() and not out.is_dir():
        raise bad("make-doom", "OUT", str(out), "a folder, new or begun earlier")
    for what, value, low in (("clips", clips, 10), ("seed", seed, 0), ("workers", workers, 1)):
        if value < low:
            raise bad("make-doom", what, value, f"a whole number from {low} up")
    if not 0 <= crf <= 51:
        raise bad("make-doom", "crf", crf, "a whole number from 0 to 51")
    if len(set(kinds)) < max(len(kinds), 2):
        raise bad("make-doom", "kinds", list(kinds), "two or more different names")
    for kind in kinds:
        if kind not in KINDS:
            raise bad("make-doom", "kind", kind, f"one of {', '.join(KINDS)}", KINDS)


def _plan(
    clips: int,
    seed: int,
    kinds: tuple[str, ...],
    shares: tuple[float, float, float],
    crf: int,
    busy: bool = False,
) -> list[Clip]:
    """All clips of the set, split after split. A split's first clips do not depend on how many there are."""
    if abs(sum(shares) - 1) > 1e-6 or min(round(share * clips) for share in shares) < 1:
        raise bad("make-doom", "shares", shares, "three that add up to 1 and leave no split empty")
    order = [LEVELS[i] for i in np.random.default_rng(seed).permutation(len(LEVELS))]
    made = json.dumps([seed, kinds, shares, crf, version("vizdoom"), *(["busy"] if busy else [])])
    levels, counts = _shared(len(order), shares), _shared(clips, shares)
    plan: list[Clip] = []
    for s, split in enumerate(SPLITS):
        own = tuple(order[sum(levels[:s]) : sum(levels[: s + 1])])
        plan += [
            Clip(f"{split}/{i:05}.mp4", kinds[i % len(kinds)], split, own, (seed, s, i), crf, made, busy)
            for i in range(counts[s])
        ]
    return plan


def _shared(number: int, shares: tuple[float, float, float]) -> list[int]:
    """Divide a number of things; what rounding leaves goes to train.

    >>> _shared(3200, SHARES), _shared(68, SHARES)
    ([2100, 300, 800], [45, 6, 17])
    """
    held_out = [max(1, round(share * number)) for share in shares[1:]]
    return [number - sum(held_out), *held_out]


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that each work in a temporary folder of their own, where the game drops its files."""
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(workers, context, initializer=_enter, initargs=(folder,)) as pool,
    ):
        try:
            yield pool
        finally:
            (Path(folder) / STOP).touch()
            pool.shutdown(cancel_futures=True)


def _enter(folder: str) -> None:
    """Begin a worker."""
    os.chdir(tempfile.mkdtemp(dir=folder))
    # Now and then the game crashes while it closes, which it tells at length.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if sys.platform != "win32":
        # Apart from the parent, so that Ctrl-C reaches neither the worker nor its game: what is begun is finished.
        os.setpgrp()
        threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End a worker and its game when the parent is gone."""
    if sys.platform != "win32" and (parent := multiprocessing.parent_process()):
        parent.join()
        os.killpg(0, signal.SIGKILL)


def _make_part(out: Path, clips: list[Clip]) -> dict[str, dict[str, Any]]:
    """Make clips, and return the manifest's row of each path; fewer of them once the parent wants an end."""
    with open_game() as game:
        return {clip.path: make_clip(game, out, clip) for clip in clips if not Path("..", STOP).exists()}


def make_clip(game: DoomGame, out: Path, clip: Clip) -> dict[str, Any]:
    """Render walks until one makes the clip, write it under `out`, and return its row of the manifest."""
    for attempt in range(MAX_ATTEMPTS):
        seed = int(np.random.SeedSequence([*clip.entropy, attempt]).generate_state(1)[0]) >> 1
        level = clip.levels[seed % len(clip.levels)]
        try:
            walk = make_walk(game, level, clip.kind, seed, clip.busy)
        except _UnfitError:
            continue
        names = {"path": clip.path, "label": clip.kind, "split": clip.split, "map": level, "seed": seed}
        row = {**names, "truth": walk.areas.tolist()}
        # A name that is there is a clip that is whole, whenever the process was stopped.
        part = out / f"{clip.path}.part"
        write_clip(part, walk.frames, clip.crf, _comment(clip.made, row), "qp" if clip.busy else "crf")
        part.replace(out / clip.path)
        return row
    raise bad("make-doom", f"walks for {clip.path}", MAX_ATTEMPTS, f"one that shows a {clip.kind}")


def make_walk(game: DoomGame, level: str, kind: str, seed: int, busy: bool = False) -> Walk:
    """Walk through a map for 64 frames, with a monster of that kind summoned on the way, or among much else if busy.

    The same arguments make the same walk, whatever was played before.

    Raises:
        _UnfitError: where the monster is hardly seen, or another one is; where the walk gets stuck or leaves the map.
    """
    draw = np.random.default_rng(seed)
    game.set_doom_map(level)
    game.set_seed(seed)
    game.new_episode()
    _begin(game, draw)
    frames, areas, path = _record(game, kind, draw, Bustle(seed) if busy else None)
    if areas.max() < MIN_AREA or path < MIN_PATH:
        raise _UnfitError
    return Walk(frames, areas)


@contextmanager
def open_game() -> Iterator[DoomGame]:
    """The game with the maps of both parts of Freedoom, without monsters, weapon, display and text in the picture."""
    import vizdoom

    wads = Path(vizdoom.__file__).parent
    game = vizdoom.DoomGame()
    # The second part alone has pictures of all kinds; the first adds its maps.
    game.set_doom_game_path(str(wads / "freedoom2.wad"))
    game.set_doom_scenario_path(str(wads / "freedoom1.wad"))
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_labels_buffer_enabled(True)
    game.set_objects_info_enabled(True)
    for hide in (game.set_render_hud, game.set_render_weapon, game.set_render_crosshair):
        hide(False)
    game.set_render_screen_flashes(False)
    game.set_window_visible(False)
    buttons = vizdoom.Button.MOVE_FORWARD, vizdoom.Button.TURN_LEFT_RIGHT_DELTA, vizdoom.Button.USE
    game.set_available_buttons(list(buttons))
    variables = vizdoom.GameVariable.POSITION_X, vizdoom.GameVariable.POSITION_Y
    game.set_available_game_variables(list(variables))
    game.add_game_args(ARGUMENTS)
    game.init()
    try:
        yield game
    finally:
        game.close()


def _begin(game: DoomGame, draw: np.random.Generator) -> None:
    """Go to a random place of the map and face a random way."""
    places = [thing for thing in _state(game).objects or () if thing.category in PLACES]
    if places:
        place = places[draw.integers(len(places))]
        game.send_game_command(f"warp {place.position_x} {place.position_y}")
    # Nothing hurts the player, and the monster takes no notice of him.
    for command in ("god", "notarget"):
        game.send_game_command(command)
    game.make_action([0, float(draw.uniform(-18, 18)), 0], 10)


def _record(
    game: DoomGame, kind: str, draw: np.random.Generator, bustle: Bustle | None
) -> tuple[Frames, Areas, float]:
    """Frames, areas of the monster's box, and how far the walk went in map units."""
    frames = np.empty((NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    areas = np.zeros(NUM_FRAMES, np.int64)
    steering, moment = _Steering(draw), draw.integers(4, NUM_FRAMES - 8)
    path, before = 0.0, np.asarray(_state(game).game_variables)
    _send(game, bustle.begin() if bustle else [])
    for i in range(NUM_FRAMES):
        state = _state(game)
        frames[i], areas[i] = state.screen_buffer, _area_of(state, kind)
        here = np.asarray(state.game_variables)
        moved = float(np.hypot(*(here - before)))
        path, before = path + moved, here
        # Where there is no room for it nothing comes, so it is tried again.
        if i >= moment and not any(thing.name == kind for thing in state.objects or ()):
            game.send_game_command(f"summon {kind}")
        _send(game, bustle.commands() if bustle else [])
        # Now and then a door is in the way.
        game.make_action([1, steering.turn(moved), float(i % 4 == 0)], TICS)
    return frames, areas, path


def _send(game: DoomGame, commands: list[str]) -> None:
    for command in commands:
        game.send_game_command(command)


class _Steering:
    """How a walk turns: it drifts, and where something blocks the way it turns off for a few frames."""

    def __init__(self, draw: np.random.Generator) -> None:
        self._draw = draw
        self._turn = 0.0
        self._left = 0

    def turn(self, moved: float) -> float:
        """Degrees a tic, after a frame in which the player came so many map units far."""
        if self._left > 0:
            self._left -= 1
        elif moved < BLOCKED:
            self._turn = float(self._draw.choice([-1, 1]) * self._draw.uniform(5, 9))
            self._left = int(self._draw.integers(2, 6))
        else:
            self._turn = float(np.clip(0.7 * self._turn + self._draw.normal(0, 1.2), -5, 5))
        return self._turn


def _state(game: DoomGame) -> GameState:
    """What is seen now; there is none after the end of the map."""
    if game.is_episode_finished():
        raise _UnfitError
    return game.get_state()


def _area_of(state: GameState, kind: str) -> int:
    """Pixels of the monster's box, and no clip where another kind is seen, alive or (as decoration) dead."""
    area = 0
    for label in state.labels or ():
        pixels = label.width * label.height
        if label.object_name == kind:
            area += pixels
        elif label.object_category == "Monster" or (_is_corpse(label.object_name) and pixels > MIN_AREA):
            raise _UnfitError
    return area


def _is_corpse(name: str) -> bool:
    """A dead monster that decorates the map, such as DeadDoomImp; a dead marine is none."""
    return name.startswith("Dead") and name != "DeadMarine"


def write_clip(
    path: Path, frames: Frames, quality: int, comment: str, control: Literal["crf", "qp"] = "crf"
) -> None:
    """Encode frames as H.264 in mp4, with a comment; the same frames give the same bytes.

    Args:
        path: of the file.
        frames: of the clip.
        quality: 0 to 51: higher is smaller and worse.
        comment: kept in the file.
        control: crf saves where much changes; qp is the same quantiser throughout.
    """
    # With more threads, and with mbtree over B-frames even on one, x264 gives other bytes each time.
    fixed = f"keyint={KEY_EVERY}:scenecut=0:bframes=0:mbtree=0:threads=1"
    options = {control: str(quality), "preset": "fast", "x264-params": fixed}
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=FRAME_RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _row_of(out: Path, clip: Clip) -> dict[str, Any] | None:
    """The manifest's row as the clip's own file keeps it; None where there is no such file, or a damaged one."""
    if not (out / clip.path).exists():
        return None
    try:
        with av.open(str(out / clip.path)) as container:
            comment = container.metadata.get("comment", "")
    except av.error.FFmpegError:
        return None
    if not comment.startswith(_comment(clip.made, {})[:-2]):
        expected = (
            "an empty folder, or a set with the same seed, kinds, shares, crf, busy and version of vizdoom"
        )
        raise bad("make-doom", "OUT", str(out), expected)
    row: dict[str, Any] = json.loads(comment)["row"]
    return row


def _comment(made: str, row: dict[str, Any]) -> str:
    """What a clip's file says of it: what all of the set have in common, and its row."""
    return json.dumps({"made": made, "row": row})


def _write_manifest(out: Path, rows: list[dict[str, Any]]) -> Path:
    """One JSON line a clip, in the order of the plan."""
    part = out / "manifest.jsonl.part"
    part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return part.replace(out / "manifest.jsonl")
