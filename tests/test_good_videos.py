"""Good videos of odd kinds are read, frame by frame as decoded in order; `benchmarks.good_videos` has all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.good_videos import compare
from tests.variants import VARIANTS

CHOSEN = {
    "av1 mp4, edit list skips 20": 40,
    "h264 mkv, from 100 s": 60,
    "h264 mkv, segment, open GOP": 24,
    "h264 mp4, edit list skips 3 groups and 5": 19,
    "h264 nut, segment": 36,
    "h264 ts, clock wraps": 60,
    "hevc mkv, segment, open GOP": 24,
    "vp9 webm, from 1 s": 60,
    "wmv2 wmv, from 10 s": 60,
}


@pytest.mark.parametrize("name", CHOSEN)
def test_good_videos_are_read(name: str, tmp_path: Path) -> None:
    assert compare(VARIANTS[name](tmp_path), 0) == (CHOSEN[name], 0, "", "")


def test_gaps_are_told_and_no_fault(tmp_path: Path) -> None:
    found = compare(VARIANTS["h264 mkv, gaps"](tmp_path), 0)
    assert found == (60, 0, "", "perhaps 1800 frames, the first after 0.63 s")
