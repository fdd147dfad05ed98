"""Every setting of every class that a YAML can name states its range, and holds to it."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from jsonargparse import Namespace

from temporal.errors import UserError
from temporal.experiment import FILLED, check_ranges, concrete, instantiate, nameable, parse
from temporal.ranges import (
    BelowOne,
    Checked,
    Inner,
    Positive,
    Range,
    Share,
    Text,
    Units,
    bare,
    fits,
    option,
    parts,
    settings,
    words,
)
from temporal.readers.video import FrameReader
from tests.footage import TinyEncoder, make_frame_reader
from tests.needle import TASK, make_reader

VALUES: tuple[object, ...] = (
    math.nan, math.inf, -math.inf, -1, 0, 10**18, 1e18, 10**400, 2.5, True, None, "x", "a\0b", "\ud800", [], [math.nan],
    {}, ["x", "x"], [0, 0],
)  # fmt: skip
"""What is tried on every setting; some of it fits some of them."""

LINE = re.compile(r"[\w .,*/-]+: .+, got .+; expected .+", re.DOTALL)

CONFIG = """
data: {class_path: NeedleSource, init_args: {num_sequences: 8, length: 4}}
reader: {class_path: RecurrentReader, init_args: {hidden_size: 4, skim_size: 2, embedding_size: 4}}
agent: {class_path: PolicyAgent, init_args: {scheme: [{class_path: Halt}, {class_path: Jump}]}}
device: cpu
"""


def tried(kind: type) -> list[tuple[str, Any]]:
    return [(name, each) for name, each in settings(kind).items() if name not in FILLED]


@pytest.mark.parametrize("kind", nameable(), ids=lambda kind: kind.__name__)
def test_every_number_and_text_states_its_range(kind: type) -> None:
    assert {name for name, each in tried(kind) if list(bare(each))} == set()
    # what has no type is not looked at
    assert {*inspect.signature(kind).parameters} - {*FILLED} == {name for name, _ in tried(kind)}


@pytest.mark.parametrize("kind", nameable(), ids=lambda kind: kind.__name__)
def test_defaults_are_within_their_ranges(kind: type) -> None:
    defaults = {n: p.default for n, p in inspect.signature(kind).parameters.items()}
    for name, each in tried(kind):
        default = defaults[name]
        assert default is inspect.Parameter.empty or "factory" in repr(default) or fits(each, default), name


def arguments(kind: type, mails: Path) -> dict[str, Any]:
    """What a constructor cannot do without."""
    known = inspect.signature(kind).parameters
    frames = kind.__module__.startswith("temporal.agents.") and kind.__name__ != "PolicyAgent"
    reader = make_frame_reader(TASK, views=("8px", "8px_2x1")) if frames else make_reader()
    own = {
        "task": TASK, "reader": reader, "encoder": TinyEncoder(), "path": str(mails), "limit": 4, "model": "none",
        "patches": "8px_2x1", "views": ("8px",), "frame_size": 16, "num_heads": 2, "width": 8, "hidden_size": 8,
        "skim_size": 2, "channels": (4,), "data": None, "agent": None,
    }  # fmt: skip
    return {name: value for name, value in own.items() if name in known}


def refusal(kind: type, given: dict[str, Any]) -> str | None:
    try:
        kind(**given)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", nameable(), ids=lambda kind: kind.__name__)
def test_whatever_is_given_is_refused_in_one_line_or_fits(kind: type, mails: Path) -> None:
    needed = arguments(kind, mails)
    for name, each in tried(kind):
        if list(parts(each)):
            continue  # what is made by a class is tried by itself
        for value in VALUES:
            if fits(each, value) and (isinstance(value, str) or kind.__name__ in SLOW):
                continue  # names of files and models
            refused = refusal(kind, needed | {name: value})
            assert fits(each, value) if refused is None else LINE.fullmatch(refused), (name, value, refused)


SLOW = ("TextSource", "VideoSource", "EfficientNetLite0", "ImageModel", "Experiment")
"""Files are opened by these; what fits them is tried by their own tests."""


def leaves(given: Namespace, key: str = "") -> Iterator[tuple[Namespace, str, str]]:
    """Every setting of a parsed configuration: where it is kept, its name there, and its name for the user."""
    for name, value in vars(given).items():
        own = key if name == "init_args" else f"{key}.{name}".lstrip(".")
        if isinstance(value, Namespace):
            yield from leaves(value, own)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Namespace):
            for place, each in enumerate(value):
                yield from leaves(each, f"{own}[{place}]")
        elif name not in ("class_path", "config"):
            yield given, name, own


def test_a_setting_is_called_by_the_name_that_it_has_in_the_yaml(tmp_path: Path) -> None:
    file = tmp_path / "needle.yaml"
    file.write_text(CONFIG)
    parsed = parse(["--config", str(file)])
    names = []
    for place, name, own in leaves(parsed):
        before, place[name] = place[name], {}
        with pytest.raises(UserError) as error:
            check_ranges(parsed)
        assert str(error.value).startswith(f"config: {own}, got {{}}; expected ")
        place[name] = before
        names.append(own)
    check_ranges(parsed)
    assert {"chunk", "agent.scheme[1].sizes", "agent.dropout", "training.warmup.gap_share"} <= {*names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk": math.nan}, "chunk, got 'nan'; expected a whole number"),
        ({"seed": 2**64}, f"seed, got {2**64}; expected a whole number from 0 to 9,223,372,036,854,775,807"),
        ({"device": "a\0b"}, f"device, got 'a\\x00b'; expected {words(Text)}"),
        ({"agent": {"dropout": math.nan}}, "agent.dropout, got nan; expected a number from 0 to below 1"),
        ({"reader": {"hidden_size": None}}, "reader.hidden_size, got None; expected a whole number from 1 to 8,192"),
        ({"data": {"length": 10**18}}, f"data.length, got {10**18}; expected a whole number from 1 to 1,000,000"),
    ],
)  # fmt: skip
def test_a_yaml_with_a_setting_out_of_range(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = yaml.safe_load(CONFIG)
    for key, value in change.items():
        if isinstance(value, dict):
            config[key].setdefault("init_args", {}).update(value)
        else:
            config[key] = value
    file = tmp_path / "needle.yaml"
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError) as error:
        instantiate(parse(["--config", str(file)]))
    assert str(error.value) == f"config: {message}"


def test_classes_that_make_frames_are_among_those_that_are_tried() -> None:
    assert {*concrete(FrameReader)} <= {*nameable()}
    assert {"Thumbnail", "Warmup", "GateFit", "Experiment"} <= {kind.__name__ for kind in nameable()}


# Ranges themselves.


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (Share, (0, 1, 0.5), (-1e-9, 1.1, math.nan, True, "0.5", None)),
        (BelowOne, (0.0, 0.999), (1, -0.1)),
        (Inner, (1e-9, 0.999), (0, 1)),
        (Positive, (1e-300, 10**6), (0, math.inf, 10**400)),
        (Units, (1, 8192), (0, 1.0, 8193, False)),
        (tuple[Share, Share], ([0, 1], (0.5, 0.5)), ([0], [0, 1, 1], [0, 2], "01", {})),
        (tuple[Literal["a", "b"], ...], ((), ["a", "b"]), ("a", ["c"], [["a"]])),
        (Units | None, (None, 3), (0, "null")),
        (bool, (True, False), (0, 1, "true", None)),
    ],
)
def test_what_lies_in_a_range(kind: Any, inside: tuple[object, ...], outside: tuple[object, ...]) -> None:
    assert [value for value in inside if not fits(kind, value)] == []
    assert [value for value in outside if fits(kind, value)] == []


@pytest.mark.parametrize("kind", [Share, BelowOne, Inner, Positive, Units])
def test_others_that_know_annotated_types_understand_a_range(kind: Any) -> None:
    @effort(max_examples=20, deadline=None, database=None)
    @given(st.from_type(kind))
    def drawn(value: object) -> None:
        assert fits(kind, value)

    drawn()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Share, "a number from 0 to 1"),
        (BelowOne, "a number from 0 to below 1"),
        (Inner, "a number above 0 and below 1"),
        (Positive, "a number above 0, at most 1,000,000"),
        (tuple[Units, ...] | None, "a list of whole numbers from 1 to 8,192, or null"),
        (tuple[Share, Share], "a list of 2 numbers from 0 to 1"),
        (tuple[Literal["a", "b"], ...], "some of a, b"),
        (Annotated[float, Range(ge=1, le=1e18)], "a number from 1 to 1e+18"),
    ],
)
def test_a_range_in_words(kind: Any, text: str) -> None:
    assert words(kind) == text


def test_a_class_that_forgets_a_range_is_found() -> None:
    class Forgetful(Checked):
        def __init__(self, good: Share, bad: tuple[int, ...], worse: float | None, name: str) -> None: ...

    assert {name: list(bare(each)) for name, each in settings(Forgetful).items()} == {
        "good": [], "bad": [int], "worse": [float], "name": [str],
    }  # fmt: skip


def test_an_argument_that_a_constructor_does_not_know_is_its_own_mistake() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        TinyEncoder(x=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("text", ["nan", "inf", "1e18", "0", "2.5", "-1", "true", ""])
def test_an_option_of_the_command_line_is_held_to_its_range(text: str) -> None:
    with pytest.raises(Exception, match=r"got .*; expected a whole number from 1 to 8,192"):
        option(Units)(text)
    assert [option(Units)(text) for text in ("12", "1e3")] == [12, 1000]
