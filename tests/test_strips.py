"""Film strips: what was looked at is bright, numbered and in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from temporal.errors import UserError
from temporal.strips import COLUMNS, Strip, plot_strips


def make_strip(num: int = 20, looked: tuple[int, ...] = (3, 17)) -> Strip:
    frames = np.full((num, 30, 40, 3), 200, np.uint8)
    return Strip("a strip", frames, looked, np.arange(num, dtype=float))


def test_a_picture_is_drawn_and_the_same_again(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.svg"):
        plot_strips([make_strip(), make_strip(5, ())], tmp_path / name, "two strips")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert "two strips" in (tmp_path / "c.svg").read_text()
    assert imread(tmp_path / "a.png").shape[1] > 20 * COLUMNS
    assert not list(tmp_path.glob("*.part"))


def test_frames_that_were_looked_at_stand_out(tmp_path: Path) -> None:
    plain, looked = tmp_path / "plain.png", tmp_path / "looked.png"
    plot_strips([make_strip(looked=())], plain, "x")
    plot_strips([make_strip(looked=(0, 5))], looked, "x")
    orange = [np.abs(imread(p)[..., :3] - [0.902, 0.624, 0.0]).max(-1) < 0.02 for p in (plain, looked)]
    assert orange[0].sum() == 0
    assert orange[1].sum() > 200


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda out: plot_strips([], out / "a.png", ""), "plot: strips, got 0; expected one or more"),
        (
            lambda out: plot_strips([make_strip()], out / "a.gif", ""),
            "plot: --out, got '{out}/a.gif'; expected a file ending in .png or .svg",
        ),
        (lambda out: make_strip(4, (4,)), "strip: looked, got (4,); expected positions below 4"),
    ],
)
def test_what_cannot_be_drawn(draw: object, message: str, tmp_path: Path) -> None:
    assert callable(draw)
    with pytest.raises(UserError) as error:
        draw(tmp_path)
    assert str(error.value) == message.format(out=tmp_path)
