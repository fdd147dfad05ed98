"""What comes and goes in busy walks: by seed, often enough, and light that is normal again."""

from __future__ import annotations

from collections import Counter

from temporal.data.bustle import NORMAL, THINGS, Bustle

FRAMES = 2000


def happenings(seed: int) -> list[list[str]]:
    bustle = Bustle(seed)
    return [bustle.begin(), *(bustle.commands() for _ in range(FRAMES))]


def test_the_same_seed_brings_the_same() -> None:
    assert happenings(3) == happenings(3) != happenings(4)


def test_things_of_every_sort_come_as_often() -> None:
    summoned = [c.split()[1] for commands in happenings(0) for c in commands if c.startswith("summon ")]
    sorts = Counter(sort for name in summoned for sort, names in THINGS.items() if name in names.split())
    assert 0.18 < len(summoned) / FRAMES < 0.22
    assert min(sorts.values()) > 0.28 * len(summoned)
    assert sum(sorts.values()) == len(summoned)


def test_the_light_is_normal_again_within_three_frames() -> None:
    first, *frames = ([c for c in commands if "visibility" in c] for commands in happenings(1))
    normal = f"r_visibility {NORMAL:g}"
    assert first == [normal]
    changed = None
    flickers = 0
    for number, commands in enumerate(frames):
        assert len(commands) <= 1
        if commands and changed is None:
            assert commands != [normal]
            changed, flickers = number, flickers + 1
        elif commands:
            assert commands == [normal]
            assert number - changed <= 3
            changed = None
    assert 60 < flickers < 140
