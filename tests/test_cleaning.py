"""What is kept of others' JSON and texts: as databases can store it, and bounded."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.rules import lines
from reelwatch.rules.cleaning import BODY_LIMIT, bounded, clean, clean_text, parse, unstorable

NESTED = st.recursive(
    st.none() | st.integers() | st.floats() | st.text("ab\x00\ud800\udfff\n忙😀", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab\x00\udc00", max_size=2), inner, max_size=3)
        | inner.map(lambda value: nested(value, 39))
    ),
)


def nested(value: object, levels: int) -> object:
    for _ in range(levels):
        value = [value]
    return value


@given(NESTED)
def test_what_cleaning_changes_is_told_and_nothing_else(value: Any) -> None:
    assert (unstorable(value) is not None) == (json.dumps(clean(value)) != json.dumps(value))


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [("a\x00b", "ab"), ("a\ud800b", "a?b"), ("\udfff", "?"), ("é忙😀\n", "é忙😀\n"), ("", "")],
    ids=ascii,
)
def test_takes_out_of_texts_what_databases_refuse(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


def test_reaches_every_key_and_value() -> None:
    dirty = {"a\x00": ["\ud800", {"b": float("nan")}, float("-inf"), 1.5, 1, None, True]}
    assert clean(dirty) == {"a": ["?", {"b": None}, None, 1.5, 1, None, True]}


def test_cuts_off_what_is_too_deep() -> None:
    value: object = "core"
    for _ in range(45):
        value = [value]
    text = json.dumps(clean(value), ensure_ascii=False)
    assert text == "[" * 40 + '"…"' + "]" * 40


def test_leaves_what_is_just_deep_enough() -> None:
    value: object = "core"
    for _ in range(40):
        value = {"a": value}
    assert clean(value) == value


def test_keeps_an_excerpt_of_what_is_too_large() -> None:
    text = "忙" * 65_534
    assert bounded(text) == text
    assert bounded(text + "x") == {
        "truncated": True,
        "characters": 65_537,
        "excerpt": '"' + "忙" * 3_999,
    }


def test_a_huge_body_is_read_with_its_huge_texts_cut_and_marked() -> None:
    long = "x" * (BODY_LIMIT + 1)
    cut = f"{long[:-1]}…"
    assert parse(json.dumps({long: [long, 1, "short"]}).encode()) == {cut: [cut, 1, "short"]}


def test_errors_that_differ_in_numbers_alone_say_the_same() -> None:
    first, again = ({"error": f"no answer within {n} s", "timestamp": n} for n in (3, 45))
    assert lines.same(first) == lines.same(again)
    assert lines.same(first) != lines.same({"error": "refused"})
    assert lines.same({"event": "a"}) != lines.same({"event": "b"})
