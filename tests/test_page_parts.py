"""What pages are made of: the timeline, what changed, words, the ends of signed URLs."""

import gzip
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.rules import wording
from reelwatch.rules.signed_urls import ends_at
from reelwatch.web.pages import assets, differences, timeline, words

BEGAN = datetime(2026, 2, 6, 3, 54, 42, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def story(**job: Any) -> dict[str, Any]:
    return {
        "job": {
            "tracked_at": BEGAN,
            "upstream_created_at": None,
            "finished_at": None,
            "abandoned_at": None,
            "deadline_at": after(3_600),
            "next_poll_at": None,
            **job,
        },
        "transitions": [],
        "poll_errors": [],
        "deliveries": [],
    }


def change(seconds: float, state: str, status: str) -> dict[str, Any]:
    return {"at": after(seconds), "to_state": state, "to_status": status}


# ----------------------------------------------------------------- timeline


def test_a_bar_is_as_long_as_upstream_stood_at_that_status() -> None:
    told = story(finished_at=after(100))
    told["transitions"] = [
        change(20, "running", "generating"),
        change(100, "completed", "completed"),
    ]
    waiting, generating = timeline.drawn(told, after(500)).statuses
    assert generating.width == pytest.approx(4 * waiting.width, abs=0.05)
    assert generating.left == pytest.approx(waiting.width, abs=0.05)
    assert generating.label == "generating"


def test_before_the_first_status_it_says_whether_there_were_polls() -> None:
    told = story(next_poll_at=after(65))
    assert timeline.drawn(told, after(60)).statuses[0].label == "waits for its first poll"
    told["poll_errors"] = [
        {"kind": "timeout", "count": 1, "first_at": after(9), "last_at": after(9)}
    ]
    assert timeline.drawn(told, after(60)).statuses[0].label == "no status yet"


def test_what_goes_on_is_drawn_until_now() -> None:
    told = story(next_poll_at=after(65))
    told["transitions"] = [change(10, "running", "generating")]
    line = timeline.drawn(told, after(60))
    assert line.now is not None
    last = line.statuses[-1]
    assert last.left + last.width == pytest.approx(line.now, abs=0.05)


def test_the_timeline_reaches_to_the_last_attempt_or_to_the_end_of_the_job() -> None:
    told = story(finished_at=after(100))
    tried = {"at": after(1_000), "error": "502 Bad Gateway"}
    event = {"event_type": "video.completed", "state": "dead", "target": "https://hooks.example/x"}
    told["deliveries"] = [{**event, "attempts_log": [tried]}]
    whole, short = (timeline.drawn(told, after(5_000), until_end=end) for end in (False, True))
    assert [mark.kind for mark in whole.attempts] == ["bad"]
    assert whole.seconds > 1_000 > short.seconds > 100
    assert short.attempts == []
    assert short.shortened
    assert not whole.shortened


@given(st.floats(1, 10_000_000))
def test_ticks_are_few_round_and_within(seconds: float) -> None:
    line = timeline.drawn(story(finished_at=after(seconds)), after(seconds))
    assert 1 <= len(line.ticks) <= timeline.TICKS_MOST + 1
    assert all(0 <= left <= 100 for left, _ in line.ticks)


def test_nothing_is_drawn_outside_whatever_the_clocks_said() -> None:
    told = story(finished_at=after(10), upstream_created_at=after(-5))
    told["transitions"] = [change(-60, "running", "early"), change(50, "completed", "late")]
    line = timeline.drawn(told, after(10))
    assert all(0 <= bar.left <= 100 for bar in line.statuses)


# -------------------------------------------------------------- differences


def test_only_what_changed_in_an_answer_is_told() -> None:
    before = {"status": "running", "progress": 10, "detail": {"id": 7}, "old": True}
    later = {"status": "done", "progress": 10, "detail": {"id": 7, "urls": ["a", "b"]}}
    assert [
        (each.path, each.before, each.after) for each in differences.differences(before, later)
    ] == [
        ("status", "running", "done"),
        ("detail.urls[0]", None, "a"),
        ("detail.urls[1]", None, "b"),
        ("old", "true", None),
    ]


def test_no_text_turns_the_json_around_it() -> None:
    """A mark that makes what follows run from right to left is written out, all else as it is."""
    shown = words.document({"a\u202e": ["\u2066b", "\u05e9\u05dc\u05d5\u05dd \U0001f3ac"]})
    assert '"a\\u202e"' in shown
    assert '"\\u2066b"' in shown
    assert "\u05e9\u05dc\u05d5\u05dd \U0001f3ac" in shown


def test_an_answer_without_end_brings_differences_with_one() -> None:
    huge = {str(number): "x" * 5_000 for number in range(1_000)}
    found = differences.differences({}, huge)
    assert len(found) == differences.MOST
    assert all(len(each.after or "") <= differences.LONGEST + 1 for each in found)


# -------------------------------------------------------------------- words


def test_where_room_is_short_the_mark_of_an_endpoint_stays() -> None:
    named = words.endpoint("https://hooks.example.com/in?token=1")
    host, mark = words.marked(named)
    assert (host, host + mark) == ("hooks.example.com", named)
    assert words.marked("app.told in videos") == ("app.told in videos", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "now"), (-42, "42s ago"), (185, "in 3m05s"), (0.9999, "now"), (1.2, "in 2s")],
)
def test_times_are_told_from_now(seconds: float, text: str) -> None:
    assert words.relative(after(seconds), BEGAN) == text


def test_the_exact_time_stands_on_hover_with_its_zone() -> None:
    assert 'title="2026-02-06 03:54:42 UTC"' in words.when(BEGAN, after(5))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://user:secret@hooks.example.com:8443/in?token=s3cret", "hooks.example.com:8443"),
        ("https://cdn.example.com/v.mp4?Signature=abc", "cdn.example.com"),
        ("https://[half", "an address that can't be read"),
        (None, ""),
    ],
)
def test_of_a_url_only_the_host_is_shown(url: str | None, host: str) -> None:
    assert wording.host(url) == host


# -------------------------------------------------------------- signed URLs


@pytest.mark.parametrize(
    ("query", "end"),
    [
        ("Expires=1770354482&Signature=x", datetime(2026, 2, 6, 5, 8, 2, tzinfo=UTC)),
        (
            "X-Amz-Date=20260206T035849Z&X-Amz-Expires=3600",
            datetime(2026, 2, 6, 4, 58, 49, tzinfo=UTC),
        ),
        (
            "X-Goog-Date=20260206T035849Z&X-Goog-Expires=60",
            datetime(2026, 2, 6, 3, 59, 49, tzinfo=UTC),
        ),
        ("sv=1&se=2026-02-06T05%3A00%3A00Z&sig=x", datetime(2026, 2, 6, 5, 0, tzinfo=UTC)),
        ("exp=1770354482", datetime(2026, 2, 6, 5, 8, 2, tzinfo=UTC)),
        ("Expires=soon", None),
        ("Expires=99999999999999", None),
        ("X-Amz-Date=20261399T999999Z&X-Amz-Expires=3600", None),
        ("e=5", None),
        ("", None),
    ],
)
def test_a_signed_url_says_until_when_it_works(query: str, end: datetime | None) -> None:
    assert ends_at(f"https://cdn.example.com/v.mp4?{query}") == end


def test_what_is_no_url_has_no_end() -> None:
    assert ends_at("https://[half?Expires=1770354482") is None


# ------------------------------------------------------------------- assets


def test_all_assets_together_weigh_at_most_60_kilobytes() -> None:
    served = assets.assets().values()
    assert sum(len(each.packed) for each in served) <= 60_000
    assert all(gzip.decompress(each.packed) == each.body for each in served)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://hooks.example.com", "hooks.example.com"),
        ("https://hooks.example.com:8443/", "hooks.example.com:8443"),
        ("https://hooks.example.com/a", "hooks.example.com/…8783"),
        ("https://[x/a", "an address that can't be read"),
    ],
)
def test_a_callback_url_is_named_by_its_host_and_a_mark(url: str, name: str) -> None:
    assert wording.short_name(url) == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!DOCTYPE html><title>502 Bad Gateway</title>", "a page, titled '502 Bad Gateway'"),
        (" <html><body>no</body></html>", "a page"),
        ("<!-- made by a proxy --><html></html>", "a page"),
        ("<b>size</b> must be 720p", "<b>size</b> must be 720p"),
        ("<html is no text of ours", "a page"),
        ("a > b <html>", "a > b <html>"),
    ],
)
def test_a_page_is_named_by_its_title_and_a_text_with_marks_is_a_text(text: str, said: str) -> None:
    assert wording.page_in_short(text, None) == said
