"""What actions mean, and which schemes are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from temporal.decisions import (
    READ_ON,
    Advance,
    Choice,
    Decision,
    Halt,
    Jump,
    Mode,
    Order,
    Place,
    Scheme,
    Sift,
    Situation,
    coarse_to_fine,
)
from temporal.errors import UserError

MODES = ("copy", "skim", "full")


def decode(
    scheme: Scheme, actions: torch.Tensor, modes: Sequence[str] = MODES, length: int = 10, seen: int = 0
) -> Choice:
    here = torch.ones(len(actions), dtype=torch.long)
    return scheme.decode(actions, Situation(modes, len(modes) - 1, length * here, seen * here))


def test_what_no_decision_settles_has_a_default() -> None:
    choice = decode(READ_ON, torch.tensor([[0], [1]]), MODES)
    assert choice.halt.tolist() == [False, True]
    assert choice.advance.tolist() == [0, 0]
    assert choice.mode.tolist() == [2, 2]
    assert choice.sift.tolist() == [0, 0]


def test_each_column_is_one_decision_in_the_order_of_the_scheme() -> None:
    scheme = Scheme((Mode(("full", "copy")), Jump((0, 7, 40)), Sift((0.0, 0.25)), Halt()))
    choice = decode(scheme, torch.tensor([[0, 2, 0, 1], [1, 1, 1, 0]]), MODES)
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
    choice = decode(Scheme((Jump(tuple(sizes)),)), actions, MODES)
    assert choice.advance.tolist() == [sizes[option] for option in options]
    assert not choice.halt.any()


def test_advance_passes_over_as_many_as_the_option() -> None:
    scheme = Scheme((Advance(50),))
    assert scheme.num_options == (50,)
    assert decode(scheme, torch.tensor([[0], [49]]), MODES).advance.tolist() == [0, 49]


def test_a_mode_is_found_by_name_whatever_the_reader_offers() -> None:
    mode = Scheme((Mode(("full", "copy")),))
    for modes in (MODES, ("copy", "full")):
        decoded = decode(mode, torch.tensor([[0], [1]]), modes).mode.tolist()
        assert [modes[index] for index in decoded] == ["full", "copy"]


@given(st.integers(1, 100), st.integers(1, 100))
def test_places_divide_a_sequence_of_any_length(num: int, length: int) -> None:
    place = Place(num)
    choice = decode(Scheme((place,)), torch.arange(num)[:, None], length=length)
    assert choice.place.tolist() == [i * length // num for i in range(num)]
    assert choice.place.tolist() == place.positions(torch.tensor([length]))[0].tolist()
    assert set(choice.place.tolist()) <= set(range(length))
    assert num < length or set(choice.place.tolist()) == set(range(length))


@given(st.integers(0, 200))
def test_coarse_to_fine_goes_everywhere_once(length: int) -> None:
    order = coarse_to_fine(length)
    assert sorted(order) == list(range(length))


def test_coarse_to_fine_halves_the_gaps() -> None:
    gaps = []
    for seen in (1, 2, 4, 8, 16, 32, 64):
        places = sorted(coarse_to_fine(64)[:seen])
        gaps.append(max(b - a for a, b in zip([-1, *places], [*places, 64], strict=True)))
    assert gaps == [33, 32, 16, 8, 4, 2, 1]


def test_an_order_goes_on_from_what_was_read() -> None:
    scheme = Scheme((Halt(), Order()))
    found = [decode(scheme, torch.tensor([[0, 0]]), length=8, seen=n).place.item() for n in range(9)]
    assert found == [*coarse_to_fine(8), 3]
    assert decode(scheme, torch.tensor([[0, 0]]), length=0).place.item() == 0
    assert not scheme.forward
    assert READ_ON.forward


def test_a_scheme_without_halting() -> None:
    assert Scheme((Jump((0, 1)),)).halt_index is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Jump(()), "Jump: sizes, got []; expected one or more, all different"),
        (
            lambda: Jump((0, -1)),
            "Jump: sizes, got [0, -1]; expected a list of whole numbers from 0 to 1,000,000",
        ),
        (lambda: Jump((4, 4)), "Jump: sizes, got [4, 4]; expected one or more, all different"),
        (lambda: Advance(0), "Advance: limit, got 0; expected a whole number from 1 to 1,000,001"),
        (lambda: Mode(()), "Mode: names, got []; expected one or more, all different"),
        (
            lambda: Mode(("full", "full")),
            "Mode: names, got ['full', 'full']; expected one or more, all different",
        ),
        (lambda: Sift(()), "Sift: levels, got []; expected one or more, all different"),
        (
            lambda: Sift((0.5, 1.0)),
            "Sift: levels, got [0.5, 1.0]; expected a list of numbers from 0 to below 1",
        ),
        (
            lambda: Sift((0.5, 0.5)),
            "Sift: levels, got [0.5, 0.5]; expected one or more, all different",
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
