"""Which runs may be averaged, on folders that hold no more than is looked at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from temporal import pooling
from temporal.errors import UserError
from temporal.pooling import RULE, check_pool

PRINTS = {"train": "a", "validation": "b", "test": "c", "tokenizer": "d"}
CONFIG: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "chunk": 4,
    "data": {"class": "Source", "settings": {"path": "mails", "max_tokens": 40}},
}

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a folder of a run with a configuration, and what about.json says, changed here and there."""
    monkeypatch.setattr(pooling, "read_config", lambda folder: yaml.safe_load((folder / "c").read_text()))
    monkeypatch.setattr(pooling, "read_about", lambda folder: json.loads((folder / "a").read_text()))

    def make(name: str, weights: str | None = None, about: object = None, **config: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "c").write_text(yaml.safe_dump(CONFIG | config))
        (folder / "a").write_text(json.dumps({"reader_from": None, "fingerprints": PRINTS} | (about or {})))  # type: ignore[operator]
        (folder / "model.safetensors").write_text(weights or name)
        return folder

    return make


def told(*folders: Path) -> str:
    with pytest.raises(UserError) as error:
        check_pool("plot", folders)
    return str(error.value)


def test_seeds_of_one_configuration(make: Make) -> None:
    moved = {"class": "Source", "settings": {"path": "/elsewhere/mails", "max_tokens": 40}}
    check_pool("plot", [make("a")])
    check_pool("plot", [make("b"), make("c", seed=1), make("d", seed=2, device="cuda", data=moved)])


def test_the_same_folder_twice(make: Make, tmp_path: Path) -> None:
    folder = make("a")
    (tmp_path / "link").symlink_to(folder)
    for again in (tmp_path / "link", tmp_path / "a" / ".." / "a", folder):
        expected = f"plot: runs, got the same folder in {folder} and {again}; expected each run once: {RULE}"
        assert told(folder, again) == expected


def test_a_copy_by_another_seed(make: Make) -> None:
    one, two, three = make("a"), make("b", seed=1), make("c", seed=2, weights="a")
    expected = f"plot: runs, got the same weights in {one} and {three}; expected each run once: {RULE}"
    assert told(one, two, three) == expected
    shutil.rmtree(three)
    check_pool("plot", [one, two])


def test_the_same_seed_twice(make: Make) -> None:
    one, two = make("a"), make("b")
    expected = f"plot: runs, got the same seed in {one} and {two}; expected each run once: {RULE}"
    assert told(one, two) == expected


def test_other_settings(make: Make) -> None:
    longer = {"class": "Source", "settings": {"path": "mails", "max_tokens": 50}}
    one, two, three = make("a"), make("b", seed=1, data=longer), make("c", seed=2, more=True)
    assert told(one, two) == f"plot: data.max_tokens of {two}, got 50; expected 40, as in {one}: {RULE}"
    assert told(one, three) == f"plot: more of {three}, got True; expected None, as in {one}: {RULE}"


def test_other_data(make: Make) -> None:
    one, two = make("a"), make("b", seed=1, about={"fingerprints": PRINTS | {"test": "x"}})
    old = make("c", seed=2, about={"fingerprints": None})
    assert told(one, two) == f"plot: test split of {two}, got other data than in {one}; expected the same"
    assert told(one, old) == f"plot: tokenizer of {old}, got other data than in {one}; expected the same"


def test_readers_of_other_runs(make: Make) -> None:
    one, two = make("a", about={"reader_from": "x"}), make("b", seed=1, about={"reader_from": "y"})
    check_pool("plot", [one, two])
    alone = make("c", seed=2)
    expected = f"plot: --reader-from, got {alone} without; expected all runs alike: {RULE}"
    assert told(one, alone) == expected
