"""Cursors of the feed: texts that come back as what they were, and nothing else passes for one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.errors import Refused
from reelwatch.rules import cursors
from reelwatch.rules.cursors import PLACE_MOST, Cursor

HERE = "5f0c7a52-9d6e-4b5e-8f3a-0b1c2d3e4f50"
ELSEWHERE = "00000000-9d6e-4b5e-8f3a-0b1c2d3e4f50"
places = st.integers(0, PLACE_MOST)


@given(places, places)
def test_a_cursor_comes_back_as_it_was(position: int, known: int) -> None:
    cursor = Cursor(HERE, position, known)
    assert cursors.read(str(cursor), HERE) == cursor
    assert re.fullmatch(r"[A-Za-z0-9_-]+", str(cursor))


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="after: this"):
        cursors.read(text, HERE)


@pytest.mark.parametrize("place", [-1, PLACE_MOST + 1])
def test_a_place_that_no_feed_can_have_is_refused(place: int) -> None:
    for cursor in (Cursor(HERE, place), Cursor(HERE, 0, place)):
        with pytest.raises(Refused, match="no cursor"):
            cursors.read(str(cursor), HERE)


def test_another_databases_cursor_is_told_apart() -> None:
    with pytest.raises(Refused, match="another database's"):
        cursors.read(str(Cursor(ELSEWHERE, 7)), HERE)


@pytest.mark.parametrize(
    ("position", "known", "pruned", "missed"),
    [
        (5, 0, 0, False),  # nothing was deleted
        (5, 0, 4, False),  # what was deleted had been read
        (5, 0, 5, False),
        (5, 0, 6, True),
        (5, 6, 6, False),  # its reader was told
        (5, 6, 7, True),  # and since then more was deleted
    ],
)
def test_who_has_missed_deleted_events(
    position: int, known: int, pruned: int, missed: bool
) -> None:
    assert Cursor(HERE, position, known).misses(pruned) is missed
