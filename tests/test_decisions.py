"""What actions mean, and which schemes are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from temporal.decisions import READ_ON, Advance, Decision, Halt, Jump, Mode, Scheme, Sift
from temporal.errors import UserError

MODES = ("copy", "skim", "full")


def test_what_no_decision_settles_has_a_default() -> None:
    choice = READ_ON.decode(torch.tensor([[0], [1]]), MODES)
    assert choice.halt.tolist() == [False, True]
    assert choice.advance.tolist() == [0, 0]
    assert choice.mode.tolist() == [2, 2]
    assert choice.sift.tolist() == [0, 0]


def test_each_column_is_one_decision_in_the_order_of_the_scheme() -> None:
    scheme = Scheme((Mode(("full", "copy")), Jump((0, 7, 40)), Sift((0.0, 0.25)), Halt()))
    choice = scheme.decode(torch.tensor([[0, 2, 0, 1], [1, 1, 1, 0]]), MODES)
    assert choice.halt.tolist() == [True, False]
    assert choice.advance.tolist() == [40, 7]
    assert choice.mode.tolist() == [2, 0]
    assert choice.sift.tolist() == [0, 0.25]
    assert scheme.num_options == (2, 3, 2, 2)
    assert scheme.halt_index == 3


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8, unique=True), st.data())
def test_jumps_go_as_far_as_they_say(sizes: list[int], data: st.DataObject) -> None:
    options = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=5))
    actions = torch.tensor(options, dtype=torch.long)[:, None]
    choice = Scheme((Jump(tuple(sizes)),)).decode(actions, MODES)
    assert choice.advance.tolist() == [sizes[option] for option in options]
    assert not choice.halt.any()


def test_advance_passes_over_as_many_as_the_option() -> None:
    scheme = Scheme((Advance(50),))
    assert scheme.num_options == (50,)
    assert scheme.decode(torch.tensor([[0], [49]]), MODES).advance.tolist() == [0, 49]


def test_a_mode_is_found_by_name_whatever_the_reader_offers() -> None:
    mode = Scheme((Mode(("full", "copy")),))
    for modes in (MODES, ("copy", "full")):
        decoded = mode.decode(torch.tensor([[0], [1]]), modes).mode.tolist()
        assert [modes[index] for index in decoded] == ["full", "copy"]


def test_a_scheme_without_halting() -> None:
    assert Scheme((Jump((0, 1)),)).halt_index is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Jump(()), "Jump: sizes, got []; expected different whole numbers from 0 up"),
        (lambda: Jump((0, -1)), "Jump: sizes, got [0, -1]; expected different whole numbers from 0 up"),
        (lambda: Jump((4, 4)), "Jump: sizes, got [4, 4]; expected different whole numbers from 0 up"),
        (lambda: Advance(0), "Advance: limit, got 0; expected a whole number from 1 up"),
        (lambda: Mode(()), "Mode: names, got []; expected different names of modes"),
        (
            lambda: Mode(("full", "full")),
            "Mode: names, got ['full', 'full']; expected different names of modes",
        ),
        (lambda: Sift(()), "Sift: levels, got []; expected different numbers from 0 to below 1"),
        (
            lambda: Sift((0.5, 1.0)),
            "Sift: levels, got [0.5, 1.0]; expected different numbers from 0 to below 1",
        ),
        (
            lambda: Sift((0.5, 0.5)),
            "Sift: levels, got [0.5, 0.5]; expected different numbers from 0 to below 1",
        ),
    ],
)
def test_a_decision_out_of_range(make: Callable[[], Decision], message: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("decisions", "names"),
    [
        ((), "[]"),
        ((Halt(), Halt()), "['halt', 'halt']"),
        ((Jump((0, 1)), Halt(), Advance(9)), "['move', 'halt', 'move']"),
    ],
)
def test_a_scheme_takes_each_kind_of_decision_once(decisions: tuple[Decision, ...], names: str) -> None:
    with pytest.raises(UserError) as error:
        Scheme(decisions)
    assert str(error.value) == f"scheme: decisions, got {names}; expected one or more, each kind at most once"


def test_a_scheme_is_checked_against_the_reader() -> None:
    scheme = Scheme((Halt(), Mode(("skm", "full"))))
    with pytest.raises(UserError) as error:
        scheme.check(MODES)
    assert str(error.value) == (
        "Mode: name, got 'skm'; expected one of the reader's modes copy, skim, full; did you mean 'skim'?"
    )
    Scheme((Halt(), Mode(("skim", "full")))).check(MODES)
