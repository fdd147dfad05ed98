import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temporal.curve import FREE
from temporal.errors import UserError
from temporal.points import Outcomes, Point, load_outcomes, read_points, save_outcomes, write_points

POINT = Point(
    task="mail",
    split="test",
    agent="prefix",
    seed=3,
    price=None,
    budget=None,
    setting=64.0,
    n=200,
    accuracy=0.9,
    accuracy_low=0.85,
    accuracy_high=0.94,
    flops_mean=1.5e6,
    flops_full=2e7,
    observations_mean=8.0,
    tokens_mean=63.5,
    seconds_mean=0.002,
    batch=64,
    frames_decoded_mean=None,
)


class TestPoints:
    def test_written_points_are_read_back(self, tmp_path: Path) -> None:
        points = [POINT, replace(POINT, price=0.1, budget=128.0, setting=None, seconds_mean=0.0)]
        write_points(tmp_path / "points.jsonl", points)
        assert read_points(tmp_path / "points.jsonl") == points
        assert [path.name for path in tmp_path.iterdir()] == ["points.jsonl"]

    def test_fields_are_the_documented_ones_in_order(self) -> None:
        assert " ".join(json.loads(POINT.to_json())) == (
            "task split agent seed price budget setting n accuracy accuracy_low accuracy_high flops_mean flops_full "
            "observations_mean tokens_mean seconds_mean batch frames_decoded_mean"
        )

    def test_truncated_line_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "points.jsonl"
        path.write_text(POINT.to_json() + "\n" + POINT.to_json()[:20])
        with pytest.raises(UserError) as error:
            read_points(path)
        expected = f'{path}:2: line, got \'{{"task": "mail", "sp\'; expected a point in JSON'
        assert str(error.value) == expected

    @pytest.mark.parametrize("line", ["[1, 2]", "3", '{"loss": 0.5}', "{}", ""])
    def test_foreign_line_is_named(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "points.jsonl"
        path.write_text(f"{line}\n{POINT.to_json()}\n")
        with pytest.raises(UserError, match=r"points\.jsonl:1: "):
            read_points(path)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("n", 0),
            ("n", 1.5),
            ("n", True),
            ("n", None),
            ("batch", 0),
            ("task", 7),
            ("price", -0.1),
            ("price", "0.1"),
            ("accuracy", 0.95),
            ("accuracy_high", 1.1),
            ("flops_mean", math.nan),
            ("flops_full", 0.0),
            ("budget", math.inf),
        ],
    )
    def test_impossible_values_are_refused(self, name: str, value: object) -> None:
        line = json.dumps(json.loads(POINT.to_json()) | {name: value})
        with pytest.raises(UserError, match=f"here: (point: .*{name}|line, got)"):
            Point.from_json(line, "here")

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"points: file, got '.*none\.jsonl'; expected a file of a run"):
            read_points(tmp_path / "none.jsonl")


class TestOutcomes:
    def test_saved_outcomes_are_loaded(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        one = Outcomes((0.5, 0.9), rng.random((2, 7)) < 0.5, rng.random((2, 7)) * 1e9)
        # `file` and `allow_pickle` are names of numpy's own arguments.
        saved = {
            "validation": {FREE: Outcomes.one(one.correct[0], 5.0), "file": one},
            "allow_pickle": {"file": one},
        }
        save_outcomes(tmp_path / "outcomes.npz", saved)
        loaded = load_outcomes(tmp_path / "outcomes.npz")
        assert {split: list(agents) for split, agents in loaded.items()} == {
            "validation": [FREE, "file"],
            "allow_pickle": ["file"],
        }
        assert loaded["validation"][FREE].settings == (None,)
        found = loaded["allow_pickle"]["file"]
        assert found.settings == one.settings
        np.testing.assert_array_equal(found.correct, one.correct)
        np.testing.assert_array_equal(found.flops, one.flops)
        assert [path.name for path in tmp_path.iterdir()] == ["outcomes.npz"]

    @pytest.mark.parametrize("damage", ["cut", "empty", "text", "pickle", "flipped", "missing", "foreign"])
    def test_other_files_are_refused(self, tmp_path: Path, damage: str) -> None:
        path = tmp_path / "outcomes.npz"
        one = Outcomes((1.0,), np.ones((1, 500), bool), np.random.default_rng(0).random((1, 500)))
        save_outcomes(path, {"test": {"agent": one}})
        content = path.read_bytes()
        if damage == "cut":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "flipped":
            middle = len(content) // 2
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
        elif damage == "pickle":
            np.savez(path, **{"test/agent/settings": np.array([{}], dtype=object)})
        elif damage == "foreign":
            np.savez(path, weights=np.zeros(3))
        elif damage == "missing":
            path.unlink()
        else:
            path.write_bytes(b"" if damage == "empty" else b"not an archive")
        with pytest.raises(
            UserError, match=r"outcomes: file, got '.*outcomes\.npz'; expected a file of (outcomes|a run) \("
        ):
            load_outcomes(path)

    @pytest.mark.parametrize(
        ("settings", "correct", "flops"),
        [
            ((1.0,), np.ones((2, 3), bool), np.ones((2, 3))),
            ((1.0, 2.0), np.ones((2, 3), bool), np.ones((2, 4))),
            ((1.0,), np.ones(3, bool), np.ones(3)),
            ((1.0,), np.ones((1, 0), bool), np.ones((1, 0))),
            ((1.0,), np.ones((1, 3)), np.ones((1, 3))),
            ((1.0,), np.ones((1, 3), bool), -np.ones((1, 3))),
            ((1.0,), np.ones((1, 3), bool), np.full((1, 3), np.nan)),
        ],
    )
    def test_impossible_values_are_refused(
        self, settings: tuple, correct: np.ndarray, flops: np.ndarray
    ) -> None:
        with pytest.raises(UserError, match="outcomes: "):
            Outcomes(settings, correct, flops)

    def test_joining_needs_the_same_sequences(self) -> None:
        three, four = (Outcomes.one(np.ones(n, bool), 1.0) for n in (3, 4))
        with pytest.raises(UserError) as error:
            three.joined(four)
        assert str(error.value) == "outcomes: sequences, got (3, 4); expected as many in both"
